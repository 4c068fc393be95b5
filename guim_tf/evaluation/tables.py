"""The report's tables, laid out once for the terminal and for the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Cell:
    """A mean with the half-width of its 95 % interval; None where no user has a value."""

    mean: float | None
    half_width: float | None
    best: bool

    @property
    def text(self) -> str:
        return "–" if self.mean is None else number(self.mean)

    @property
    def interval(self) -> str:
        return "" if self.half_width is None else f"± {number(self.half_width)}"


@dataclasses.dataclass(frozen=True)
class Row:
    """A method and its cells, one a column."""

    name: str
    is_model: bool
    cells: list[Cell]


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns in groups, and a row a method.

    Attributes:
      groups: (title, note, number of columns) of neighbouring columns.
      columns: (title, note) of each column.
    """

    groups: list[tuple[str, str, int]]
    columns: list[tuple[str, str]]
    rows: list[Row]


def main_table(document: dict[str, Any]) -> Table:
    """All methods on all tasks by all metrics."""
    return _task_table(document, document["methods"][0]["tasks"])


def shared_table(document: dict[str, Any]) -> Table:
    """All methods by the metrics that every task has: what fits beside each other on a page."""
    tasks = document["methods"][0]["tasks"]
    shared = [m for m in next(iter(tasks.values())) if all(m in of for of in tasks.values())]
    return _task_table(document, dict.fromkeys(tasks, shared))


def short_lists_table(document: dict[str, Any]) -> Table | None:
    """All methods on the task that is measured on short lists too, by all its metrics."""
    tasks = document["methods"][0]["tasks"]
    task = max(tasks, key=lambda name: len(tasks[name]))
    if all(len(of) == len(tasks[task]) for of in tasks.values()):
        return None
    return _task_table(document, {task: tasks[task]})


def _task_table(document: dict[str, Any], tasks: Mapping[str, Iterable[str]]) -> Table:
    methods = document["methods"]
    shown = {task: list(of) for task, of in tasks.items()}
    columns = [
        (metric, [method["tasks"][task][metric] for method in methods])
        for task, of in shown.items()
        for metric in of
    ]
    users = document["protocol"]["tasks"]
    return Table(
        groups=[(task, f"{users[task]['users']:,} users", len(of)) for task, of in shown.items()],
        columns=[(metric, "") for metric, _ in columns],
        rows=_rows(methods, [means for _, means in columns]),
    )


def slice_table(document: dict[str, Any], task: str) -> Table:
    """All methods on the slices of one task."""
    methods = document["methods"]
    divisions = methods[0]["slices"][task]
    columns = [
        (part, [method["slices"][task][division][part] for method in methods])
        for division, parts in divisions.items()
        for part in parts
    ]
    return Table(
        groups=[(division, "", len(parts)) for division, parts in divisions.items()],
        columns=[(part, f"{means[0]['users']:,} users") for part, means in columns],
        rows=_rows(methods, [means for _, means in columns]),
    )


def cold_table(document: dict[str, Any]) -> Table:
    """All methods on the items that nobody had bought before: found by their texts or not at all.

    Of the tasks that have such items; there may be none.
    """
    methods, protocol = document["methods"], document["protocol"]["tasks"]
    tasks = [task for task, of in protocol.items() if of["never_seen"]["pairs"]]
    counts = {task: protocol[task]["never_seen"] for task in tasks}
    return Table(
        groups=[(task, "", 1) for task in tasks],
        columns=[
            (methods[0]["slice_metric"], f"{x['pairs']:,} truths of {x['users']:,} users")
            for x in counts.values()
        ],
        rows=_rows(
            methods,
            [
                [method["slices"][task]["item popularity"]["never seen"] for method in methods]
                for task in tasks
            ],
        ),
    )


def profile_table(profile: dict[str, Any]) -> Table:
    """All methods on all labels: accuracy on test users."""
    labels, methods = profile["labels"], profile["methods"]
    return Table(
        groups=[(label, f"{of['classes']} classes", 1) for label, of in labels.items()],
        columns=[("accuracy", f"{of['test']:,} test users") for of in labels.values()],
        rows=_rows(methods, [[method["accuracy"][x] for method in methods] for x in labels]),
    )


def number(value: float) -> str:
    """Four decimals without the leading zero: .4760."""
    return f"{value:.4f}".replace("0.", ".", 1)


def signed(value: float) -> str:
    """As `number`, always with a sign."""
    return ("+" if value >= 0 else "−") + number(abs(value))


def _rows(methods: list[dict[str, Any]], columns: list[list[dict[str, Any]]]) -> list[Row]:
    best = [
        max((of["mean"] for of in means if of["mean"] is not None), default=None)
        for means in columns
    ]
    return [
        Row(
            name=method["name"],
            is_model=method["kind"] == "model",
            cells=[
                Cell(of["mean"], of["half_width"], bool(top) and of["mean"] == top)
                for of, top in zip((means[i] for means in columns), best, strict=True)
            ],
        )
        for i, method in enumerate(methods)
    ]
