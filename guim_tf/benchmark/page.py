"""`index.html`: the comparison as one page that needs no other file, in the look of a report."""

from __future__ import annotations

import pathlib
from typing import Any

from guim_tf.benchmark import plots, tables
from guim_tf.benchmark.item_map import encode_map
from guim_tf.benchmark.results import profile_name
from guim_tf.evaluation import plots as evaluation_plots
from guim_tf.evaluation.pages import template
from guim_tf.evaluation.tables import metric_title, tasks_note

_TEMPLATE = pathlib.Path(__file__).with_name("page.html")


def render_page(
    document: dict[str, Any], *, dataset: str | pathlib.Path, output: str | pathlib.Path
) -> str:
    """The page of a comparison.

    Args:
      document: of `results.json`.
      dataset: whose items are drawn on the map.
      output: the folder that holds `models/`.
    """
    protocol, sliced = document["protocol"], tables.sliced_tasks(document)
    return template(_TEMPLATE).render(
        document=document,
        headline=tables.headline_title(document),
        slice_metric=metric_title(protocol, document["slice_metric"]),
        tasks_note=tasks_note(protocol),
        main=tables.split(tables.results_table(document)),
        accuracy=tables.accuracy_table(document),
        slices={task: tables.results_by_slice(document, task) for task in sliced},
        differences=tables.difference_lines(document),
        difference_packs=tables.difference_packs(document),
        interval=tables.interval,
        rankings=tables.rankings(document),
        categories=plots.CATEGORIES,
        most_drawn=plots.MAX_POINTS,
        least_users=plots.LEAST_USERS,
        **_plots(document, sliced),
        **_map(document, dataset, pathlib.Path(output)),
    )


def _plots(document: dict[str, Any], sliced: list[str]) -> dict[str, Any]:
    """All plots but the map, None where there is nothing to show."""
    configurations, reference = document["configurations"], document["reference"]
    metric, tasks = document["headline"]["metric"], document["headline"]["tasks"]
    title = tables.headline_title(document)
    rows, models = tables.rows(document), tables.models(document)
    names = [x["name"] for x in models]
    profile = document["profile"] or {"labels": {}, "methods": []}
    predicted = [*models, *profile["methods"]]
    cpp = {profile_name(label): ("accuracy", label) for label in profile["labels"]}
    cmp = {task: ("tasks", task, metric) for task in tasks}
    slices = {
        task: plots.plot_slices(
            configurations,
            reference=reference,
            task=task,
            label=metric_title(document["protocol"], document["slice_metric"]),
        )
        for task in sliced
        if reference
    }
    return {
        "means_plot": evaluation_plots.plot_means(
            {task: {x["name"]: x["tasks"][task][metric] for x in rows} for task in tasks},
            models=names,
            label=f"mean {title}",
        ),
        "accuracy_plot": evaluation_plots.plot_means(
            {
                title: {x["name"]: x["accuracy"][label] for x in predicted}
                for title, (_, label) in cpp.items()
            },
            models=names,
            label="accuracy",
        )
        if cpp
        else None,
        "value_plots": [
            plot
            for panels, label in ((cmp, f"mean {title}"), (cpp, "accuracy"))
            for plot in [plots.plot_against_interests(configurations, panels=panels, label=label)]
            if plot
        ],
        "gain_plot": plots.plot_against_interests(
            configurations,
            panels={name: ("gain_percent", name) for name in (*cmp, *cpp)},
            label="% over C = 1",
            percent=True,
        ),
        "slice_plots": {task: plot for task, plot in slices.items() if plot},
        "interests_plot": plots.plot_interests(configurations),
    }


def _map(document: dict[str, Any], dataset: str | pathlib.Path, output: pathlib.Path) -> dict:
    """The map by the trained configuration of most interests, the best of several."""
    trained = [x for x in document["configurations"] if x["config"] is not None]
    if not trained:
        return {"item_map": None}
    metric, tasks = document["headline"]["metric"], document["headline"]["tasks"]
    mapped = max(
        trained, key=lambda x: (x["interests"], x["tasks"][tasks[0]][metric]["mean"] or 0.0)
    )
    run = mapped["runs"][0]
    folder = pathlib.Path(run["page"]).parent.name  # of reports/NAME/FOLDER/report.html
    item_map = encode_map(dataset, output / "models" / mapped["name"] / folder)
    return {
        "item_map": item_map,
        "map_plot": plots.plot_map(item_map),
        "map_title": f"{mapped['name']}, seed {run['seed']}",
    }
