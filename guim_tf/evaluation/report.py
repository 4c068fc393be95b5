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

import rich.box
import rich.markup
import rich.table

from guim_tf.evaluation import plots, tables
from guim_tf.evaluation.curves import Curves
from guim_tf.evaluation.examples import Example
from guim_tf.evaluation.pages import template

JSON_FILE, HTML_FILE = "report.json", "report.html"
_TEMPLATE = pathlib.Path(__file__).with_name("report.html")


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


def terminal_tables(document: dict[str, Any]) -> list[rich.table.Table]:
    """A table for each task and one for the profile; the best of a column has a star."""
    found = []
    if document["methods"]:
        protocol, laid_out = document["protocol"], tables.main_table(document)
        start = 0
        for task, note, count in laid_out.groups:
            columns = slice(start, start + count)
            title = f"{task}, {note}"
            if not start:
                title = (
                    f"As of {protocol['as_of']}: {protocol['users']:,} users, "
                    f"{protocol['candidates']:,} candidates, full ranking\n{title}"
                )
            names = [metric for metric, _ in laid_out.columns[columns]]
            found.append(_terminal_table(title, names, laid_out.rows, columns))
            start += count
    profile = document["profile"]
    if profile and profile["labels"]:
        laid_out = tables.profile_table(profile)
        title = (
            f"Profile as of {profile['as_of']}: accuracy, {profile['users']:,} users, "
            f"{profile['folds']} folds"
        )
        names = [label for label, _, _ in laid_out.groups]
        found.append(_terminal_table(title, names, laid_out.rows, slice(None)))
    return found


def _terminal_table(
    title: str, names: Sequence[str], rows: Sequence[tables.Row], columns: slice
) -> rich.table.Table:
    table = rich.table.Table(
        title=title,
        title_justify="left",
        caption="* best of the column",
        box=rich.box.SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
    )
    table.add_column("", overflow="fold", min_width=20)
    for name in names:  # narrow, so that seven fit a terminal
        name = rich.markup.escape(name).replace("@", "\n@")
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = [
            f"[bold]{cell.text}*[/bold]" if cell.best else f"{cell.text} "
            for cell in row.cells[columns]
        ]
        table.add_row(rich.markup.escape(row.name), *cells, style="cyan" if row.is_model else "")
    return table


def render_page(
    document: dict[str, Any], *, curves: Curves | None, examples: Sequence[Example]
) -> str:
    """The HTML page."""
    return template(_TEMPLATE).render(
        document=document,
        number=tables.number,
        signed=tables.signed,
        matching=_matching(document) if document["methods"] else None,
        profile=tables.profile_table(document["profile"]) if document["profile"] else None,
        curves=curves,
        curves_plot=plots.plot_curves(curves) if curves and curves.series else None,
        examples=examples,
    )


def _matching(document: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of consumer matching."""
    methods = document["methods"]
    models = [method for method in methods if method["kind"] == "model"]
    protocol, (metric, tasks) = document["protocol"], tables.headline(document)
    title = tables.metric_title(protocol, metric)
    return {
        "metric": tables.metric_title(protocol, methods[0]["slice_metric"]),
        "headline": title,
        "tasks_note": tables.tasks_note(protocol),
        "models": models,
        "main": tables.shared_table(document),
        "short_lists": tables.short_lists_table(document),
        "slices": {
            task: tables.slice_table(document, task) for task in tables.shown_metrics(document)
        },
        "cold": tables.cold_table(document),
        "means_plot": plots.plot_means(
            {
                task: {method["name"]: method["tasks"][task][metric] for method in methods}
                for task in tasks
            },
            models=[method["name"] for method in models],
            label=f"mean {title}",
        ),
        "interest_plots": {
            method["name"]: plots.plot_interests(method["interests"])
            for method in models
            if len(method["interests"]["recommended"]) > 1
        },
    }


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
