"""The report: a table for the terminal, `report.json`, and one HTML page that needs no other file.

The page and the table are made from the numbers of `report.json` alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2
import rich.box
import rich.markup
import rich.table

from guim_tf.evaluation import plots, tables
from guim_tf.evaluation.curves import Curves
from guim_tf.evaluation.examples import Example

JSON_FILE, HTML_FILE = "report.json", "report.html"
_TEMPLATE = "report.html"


@dataclasses.dataclass(frozen=True)
class EvalReport:
    """What `evaluate` found: the content of `report.json`, and where it was written."""

    document: dict[str, Any]
    json_path: pathlib.Path
    html_path: pathlib.Path

    def mean(self, method: str, task: str, metric: str) -> float:
        """A number of the table, such as `report.mean("EASE", "CMP-L", "recall@100")`."""
        found = {x["name"]: x for x in self.document["methods"]}
        return found[method]["tasks"][task][metric]["mean"]


def terminal_table(document: dict[str, Any]) -> rich.table.Table:
    """All methods on all tasks, a task a section; the best of a column has a star."""
    laid_out = tables.main_table(document)
    protocol = document["protocol"]
    table = rich.table.Table(
        title=f"As of {protocol['as_of']}: {protocol['users']:,} users, "
        f"{protocol['candidates']:,} candidates, full ranking",
        caption="* best of the column",
        box=rich.box.SIMPLE_HEAD,
    )
    start = 0
    for i, (task, note, count) in enumerate(laid_out.groups):
        if i == 0:
            table.add_column("", overflow="fold")
            for metric, _ in laid_out.columns[:count]:
                table.add_column(metric, justify="right", no_wrap=True)
        table.add_row(f"[bold]{task}[/bold], {note}")
        for row in laid_out.rows:
            cells = [
                f"[bold]{cell.text}*[/bold]" if cell.best else f"{cell.text} "
                for cell in row.cells[start : start + count]
            ]
            style = "cyan" if row.is_model else ""
            table.add_row(f"  {rich.markup.escape(row.name)}", *cells, style=style)
        start += count
        table.add_section()
    return table


def render_page(
    document: dict[str, Any], *, curves: Curves | None, examples: Sequence[Example]
) -> str:
    """The HTML page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    methods = document["methods"]
    models = [method for method in methods if method["kind"] == "model"]
    metric = methods[0]["slice_metric"]
    tasks = document["protocol"]["tasks"]
    return environment.get_template(_TEMPLATE).render(
        document=document,
        metric=metric,
        models=models,
        main=tables.main_table(document),
        slices={task: tables.slice_table(document, task) for task in tasks},
        number=tables.number,
        signed=tables.signed,
        means_plot=plots.plot_means(
            {
                task: {method["name"]: method["tasks"][task][metric] for method in methods}
                for task, of in tasks.items()
                if of["users"]
            },
            models=[method["name"] for method in models],
            label=f"mean {metric}",
        ),
        curves=curves,
        curves_plot=plots.plot_curves(curves) if curves and curves.series else None,
        interest_plots={
            method["name"]: plots.plot_interests(method["interests"])
            for method in models
            if len(method["interests"]["recommended"]) > 1
        },
        examples=examples,
    )


def write_report(output: str | pathlib.Path, *, document: dict[str, Any], page: str) -> EvalReport:
    """Writes both files; each appears under its name only when it is complete."""
    folder = pathlib.Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    report = EvalReport(document, folder / JSON_FILE, folder / HTML_FILE)
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    for path, content in ((report.json_path, text), (report.html_path, page)):
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            unfinished.write_text(content, encoding="utf-8")
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    return report
