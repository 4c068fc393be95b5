"""`index.html`: the comparison as one page that needs no other file, in the look of a report."""

from __future__ import annotations

import pathlib
from typing import Any

import jinja2

from guim_tf.benchmark import plots, tables
from guim_tf.benchmark.item_map import encode_map
from guim_tf.evaluation import plots as evaluation_plots
from guim_tf.evaluation import report

_TEMPLATE = "page.html"
_MACROS_END = "{% macro item_list"


def render_page(
    document: dict[str, Any], *, dataset: str | pathlib.Path, output: str | pathlib.Path
) -> str:
    """The page of a comparison.

    Args:
      document: of `results.json`.
      dataset: whose items are drawn on the map.
      output: the folder that holds `models/`.
    """
    configurations, metric = document["configurations"], document["slice_metric"]
    tasks = [task for task, of in document["protocol"]["tasks"].items() if of["users"]]
    rows = tables.rows(document)
    mapped = max(configurations, key=lambda x: x["interests"])
    seed = mapped["runs"][0]["seed"]
    models = pathlib.Path(output, "models", mapped["name"], str(seed))
    item_map = encode_map(dataset, models)
    return (
        _environment()
        .get_template(_TEMPLATE)
        .render(
            document=document,
            metric=metric,
            main=tables.split(tables.results_table(document)),
            accuracy=tables.accuracy_table(document),
            slices={task: tables.results_by_slice(document, task) for task in tasks},
            differences=tables.difference_lines(document),
            difference_packs=tables.difference_packs(document),
            interval=tables.interval,
            means_plot=evaluation_plots.plot_means(
                {task: {x["name"]: x["tasks"][task][metric] for x in rows} for task in tasks},
                models=[x["name"] for x in configurations],
                label=f"mean {metric}",
            ),
            value_plot=plots.plot_against_interests(configurations, tasks=tasks, metric=metric),
            gain_plot=plots.plot_against_interests(
                configurations, tasks=tasks, metric=metric, percent=True
            ),
            slice_plots={
                task: plot
                for task in tasks
                if document["reference"]
                for plot in [
                    plots.plot_slices(
                        configurations, reference=document["reference"], task=task, metric=metric
                    )
                ]
                if plot
            },
            interests_plot=plots.plot_interests(configurations),
            map_plot=plots.plot_map(item_map),
            item_map=item_map,
            map_title=f"{mapped['name']}, seed {seed}",
            categories=plots.CATEGORIES,
            most_drawn=plots.MAX_POINTS,
        )
    )


def _environment() -> jinja2.Environment:
    """Templates of this page: its own, and the style and the table of a report."""
    here = pathlib.Path(__file__).parent
    text = pathlib.Path(report.__file__).with_name("report.html").read_text(encoding="utf-8")
    style = text[text.index("<style>") : text.index("</style>")] + "</style>"
    shared = {"style.html": style, "table.html": text[: text.index(_MACROS_END)]}
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.FileSystemLoader(here), jinja2.DictLoader(shared)]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
