"""The tables of a suite, laid out once for Markdown, the page and the terminal."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any, TypeVar

from guim_tf.benchmark.results import CPP
from guim_tf.evaluation.tables import (
    Table,
    main_table,
    metric_title,
    number,
    profile_table,
    shown_metrics,
    signed,
    slice_table,
    tasks_note,
)

MINUS = "−"
MOST_COLUMNS = 9  # of numbers, side by side on a page

T = TypeVar("T")


def results_table(document: dict[str, Any]) -> Table:
    """All configurations, each by its vectors alone too where lists are more, then all baselines,
    on all tasks by all metrics."""
    found = []
    for row in rows(document):
        found.append(row)
        if row.get("alone"):
            found.append({**row, "name": f"{row['name']}, vectors alone", "tasks": row["alone"]})
    return main_table({**_evaluation(document), "methods": found})


def split(table: Table) -> list[Table]:
    """The same rows in tables of whole groups that fit a page side by side."""
    parts, start = [], 0
    for groups in packs([(group, group[2]) for group in table.groups]):
        columns = slice(start, start + sum(count for _, _, count in groups))
        rows = [dataclasses.replace(row, cells=row.cells[columns]) for row in table.rows]
        parts.append(Table(groups, table.columns[columns], rows))
        start = columns.stop
    return parts


def packs(sized: Sequence[tuple[T, int]], *, most: int = MOST_COLUMNS) -> list[list[T]]:
    """Things in order, in lists whose sizes add up to at most `most` where that can be."""
    found: list[list[T]] = []
    filled = 0
    for thing, size in sized:
        if not found or filled + size > most:
            found.append([])
            filled = 0
        found[-1].append(thing)
        filled += size
    return found


def results_by_slice(document: dict[str, Any], task: str) -> Table:
    """The same on the slices of one task."""
    return slice_table(_evaluation(document), task)


def sliced_tasks(document: dict[str, Any]) -> list[str]:
    """The tasks that tables show and that somebody has truth in."""
    tasks = document["protocol"]["tasks"]
    return [task for task in shown_metrics(_evaluation(document)) if tasks[task]["users"]]


def accuracy_table(document: dict[str, Any]) -> Table | None:
    """All configurations, then the baselines, on all labels; None where there are no labels."""
    profile = document["profile"]
    if not profile or not profile["labels"]:
        return None
    return profile_table({**profile, "methods": models(document) + profile["methods"]})


def models(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Configurations in the form of an evaluation's methods, named with what they lack."""
    return [
        {**x, "name": f"{x['name']} ({done} of {x['seeds']} seeds)" if missing else x["name"]}
        | {"kind": "model"}
        for x in document["configurations"]
        for done, missing in [(len(x["runs"]), len(x["runs"]) < x["seeds"])]
    ]


def rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Configurations and baselines in the form of an evaluation's methods."""
    return models(document) + document["baselines"]


def rankings(document: dict[str, Any]) -> list[tuple[str, str]]:
    """(configuration and seeds, how its lists are ranked): weights differ where they are chosen."""
    found: dict[tuple[str, str], list[str]] = {}
    for x in document["configurations"]:
        for run in x["runs"]:
            found.setdefault((x["name"], run["definition"]), []).append(str(run["seed"]))
    return [
        (f"{name}, seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}", definition)
        for (name, definition), seeds in found.items()
    ]


def _evaluation(document: dict[str, Any]) -> dict[str, Any]:
    """The document of one evaluation that has the configurations among its methods."""
    return {"methods": rows(document), "protocol": document["protocol"]}


def difference_lines(document: dict[str, Any]) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    """(configuration, {task: {title of the metric: difference}}) of all but the reference."""
    shown = shown_metrics(_evaluation(document))
    return [
        (
            x["name"],
            {
                task: {metric_title(document["protocol"], m): of[m] for m in shown.get(task, of)}
                for task, of in x["difference"].items()
                if task in shown or task == CPP
            },
        )
        for x in document["configurations"]
        if x["difference"] and x["name"] != document["reference"]
    ]


def difference_packs(document: dict[str, Any]) -> list[list[str]]:
    """Tasks of `difference_lines`, in lists that fit a page side by side."""
    lines = difference_lines(document)
    return packs([(task, len(of)) for task, of in lines[0][1].items()]) if lines else []


def interval(found: dict[str, Any], *, sign: bool = False, digits: int = 4) -> str:
    """`.4760 ± .0030`, `+.0120 ± .0030`, or `–` where there is no value."""
    if found["mean"] is None:
        return "–"
    mean = round(found["mean"], digits) + 0.0  # no negative zero
    write = signed if sign else number
    if digits != 4:
        text = f"{mean:{'+' if sign else ''}.{digits}f}".replace("-", MINUS)
        spread = "" if found["half_width"] is None else f" ± {found['half_width']:.{digits}f}"
        return text + spread
    spread = "" if found["half_width"] is None else f" ± {number(found['half_width'])}"
    return write(mean) + spread


def markdown(document: dict[str, Any]) -> str:
    """`results.md`: the tables, and the command that makes them again."""
    suite, protocol, table = document["suite"], document["protocol"], results_table(document)
    seeds = ", ".join(map(str, suite["seeds"]))
    parts = [
        f"# {suite['title']}",
        f"As of {protocol['as_of']}: {protocol['users']:,} users, {protocol['candidates']:,} "
        f"candidates, full ranking. Seeds {seeds}. Configurations: mean over seeds ± half of the "
        "95 % interval over seeds (t, n - 1 degrees of freedom). Baselines have no seed: ± half of "
        "the 95 % interval over users. The best of a column is bold. " + tasks_note(protocol),
        f"```\n{document['command']}\n```",
        *document["notes"],
        *(
            f"## {task}\n\n{_cells(table, table.columns[start : start + count], start)}"
            for task, start, count in _groups(table)
        ),
    ]
    if predicted := accuracy_table(document):
        columns = [(label, note) for label, note, _ in predicted.groups]
        users = f"{document['profile']['users']:,} users"
        parts.append(
            f"## CPP, accuracy, {users}\n\nOf baselines ± is half of the 95 % interval over folds "
            f"(t).\n\n{_cells(predicted, columns, 0)}"
        )
    if difference_lines(document):
        parts.append(
            f"## Against {document['reference']}\n\nDifferences seed by seed, with their 95 % "
            f"interval.\n\n{_differences(document)}"
        )
    if any(x["gain_percent"] for x in document["configurations"]):
        parts.append(
            f"## Improvement over C = 1, {headline_title(document)}, percent\n\n{_gains(document)}"
        )
    parts.append(f"## Runs\n\n{_common(suite)}\n\n{_runs(document)}")
    parts.append("\n".join(f"- {row}: {definition}" for row, definition in rankings(document)))
    return "\n\n".join(parts) + "\n"


def headline_title(document: dict[str, Any]) -> str:
    """The name of the metric that plots and improvements are of."""
    return metric_title(document["protocol"], document["headline"]["metric"])


def _groups(table: Table) -> list[tuple[str, int, int]]:
    """(title, first column, number of columns)."""
    found, start = [], 0
    for title, note, count in table.groups:
        found.append((f"{title}, {note}", start, count))
        start += count
    return found


def _cells(table: Table, columns: list[tuple[str, str]], start: int) -> str:
    """The columns of a table from `start` on, under these (title, note)."""
    lines = []
    for row in table.rows:
        cells = []
        for cell in row.cells[start : start + len(columns)]:
            text = f"**{cell.text}**" if cell.best else cell.text
            cells.append(f"{text} {cell.interval}".strip())
        lines.append([row.name, *cells])
    return grid(["", *(title for title, _ in columns)], lines)


def _differences(document: dict[str, Any]) -> str:
    lines = difference_lines(document)
    return "\n\n".join(
        grid(
            ["", *(f"{task} {metric}" for task, metric in columns)],
            [
                [name, *(interval(found[task][metric], sign=True) for task, metric in columns)]
                for name, found in lines
            ],
        )
        for tasks in difference_packs(document)
        for columns in [[(task, metric) for task in tasks for metric in lines[0][1][task]]]
    )


def _gains(document: dict[str, Any]) -> str:
    known = [x for x in document["configurations"] if x["gain_percent"] and x["size"] > 1]
    tasks = list(known[0]["gain_percent"]) if known else []
    return grid(
        ["", *tasks],
        [
            [x["name"], *(interval(x["gain_percent"][t], sign=True, digits=1) for t in tasks)]
            for x in known
        ],
    )


def _common(suite: dict[str, Any]) -> str:
    if not suite["settings"]:
        return f"Mode: {suite['mode']}."
    return f"Mode: {suite['mode']}, and for all: `{shlex.join(suite['settings'])}`."


def settings_text(document: dict[str, Any], configuration: dict[str, Any]) -> str:
    """What a configuration has of its own, as Markdown."""
    mode = configuration["mode"]
    own = f"mode {mode}" if mode not in (None, document["suite"]["mode"]) else ""
    settings = shlex.join(configuration["settings"])
    return ", ".join(part for part in (own, f"`{settings}`" if settings else "") if part)


def _runs(document: dict[str, Any]) -> str:
    lines = []
    for x in document["configurations"]:
        for run in x["runs"]:
            cosine = run["interests"]["mean_cosine"]
            trained = (
                ["–"] * 3  # vectors made elsewhere
                if x["config"] is None
                else [
                    f"{run['best_epoch']} of {run['epochs']}",
                    f"{run['minutes']:.1f}",
                    f"{run['parameters']:,}",
                ]
            )
            lines.append(
                [
                    x["name"],
                    str(run["seed"]),
                    *trained,
                    "–" if cosine is None else f"{cosine:.3f}".replace("-", MINUS),
                    settings_text(document, x),
                ]
            )
    head = ["", "seed", "epoch used", "minutes", "parameters", "interest cosine", "settings"]
    return grid(head, lines)


def grid(head: list[str], lines: list[list[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *lines])
