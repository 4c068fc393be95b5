"""The report's tables, laid out once for the terminal and for the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

NEXT, HIT_RATE = "CMP-N", "recall@10"
LEAVE_ONE_OUT = (*(f"recall@{k}" for k in (5, 10, 20)), *(f"ndcg@{k}" for k in (5, 10, 20)))


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
    """All methods on all tasks by all metrics; of leave-one-out by its published ones."""
    return _task_table(document, shown_metrics(document))


def shared_table(document: dict[str, Any]) -> Table:
    """All methods by the metrics that every task has: what fits beside each other on a page."""
    tasks = shown_metrics(document)
    shared = [m for m in next(iter(tasks.values())) if all(m in of for of in tasks.values())]
    return _task_table(document, dict.fromkeys(tasks, shared))


def short_lists_table(document: dict[str, Any]) -> Table | None:
    """All methods on the task that is measured on short lists too, by all its metrics."""
    tasks = shown_metrics(document)
    task = max(tasks, key=lambda name: len(tasks[name]))
    if all(len(of) == len(tasks[task]) for of in tasks.values()):
        return None
    return _task_table(document, {task: tasks[task]})


def is_leave_one_out(protocol: Mapping[str, Any]) -> bool:
    """Whether every user has one item to find, so that all tasks ask for the same one."""
    return all(of["pairs"] == of["users"] == protocol["users"] for of in protocol["tasks"].values())


def shown_metrics(document: Mapping[str, Any]) -> dict[str, list[str]]:
    """What tables show: `{task: metrics}`, shortest lists first where they are the published ones.

    Leave-one-out comparisons are published as HR@k and NDCG@k for k = 5, 10, 20.
    """
    tasks = document["methods"][0]["tasks"]
    if not is_leave_one_out(document["protocol"]):
        return {task: list(of) for task, of in tasks.items()}
    return {NEXT: [metric for metric in LEAVE_ONE_OUT if metric in tasks[NEXT]]}


def headline(document: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The metric that plots show, and the tasks that have an answer."""
    metric = document["methods"][0]["slice_metric"]
    if is_leave_one_out(document["protocol"]):
        metric = HIT_RATE
    tasks = document["protocol"]["tasks"]
    return metric, [task for task in shown_metrics(document) if tasks[task]["users"]]


def metric_title(protocol: Mapping[str, Any], metric: str) -> str:
    """The name of a metric for the reader: of one item to find, recall@k is the hit rate HR@k."""
    if is_leave_one_out(protocol):
        return metric.replace("recall@", "HR@").replace("ndcg@", "NDCG@")
    return metric


def tasks_note(protocol: Mapping[str, Any]) -> str:
    """What the tasks ask for, in a sentence."""
    if is_leave_one_out(protocol):
        return "Every user has one item to find (leave-one-out), so that CMP-L, -S and -N are one."
    return (
        f"CMP-L: distinct items of the {protocol['test_days']} days; CMP-S: of the first day; "
        "CMP-N: the first item, for which recall@k is the hit rate."
    )


def _task_table(document: dict[str, Any], tasks: Mapping[str, Iterable[str]]) -> Table:
    methods, protocol = document["methods"], document["protocol"]
    shown = {task: list(of) for task, of in tasks.items()}
    columns = [
        (
            metric_title(protocol, metric),
            [method["tasks"][task][metric] for method in methods],
        )
        for task, of in shown.items()
        for metric in of
    ]
    users = protocol["tasks"]
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
    methods, protocol = document["methods"], document["protocol"]
    found = {task: protocol["tasks"][task]["never_seen"] for task in shown_metrics(document)}
    counts = {task: of for task, of in found.items() if of["pairs"]}
    metric = metric_title(protocol, methods[0]["slice_metric"])
    return Table(
        groups=[(task, "", 1) for task in counts],
        columns=[
            (metric, f"{x['pairs']:,} truths of {x['users']:,} users") for x in counts.values()
        ],
        rows=_rows(
            methods,
            [
                [method["slices"][task]["item popularity"]["never seen"] for method in methods]
                for task in counts
            ],
        ),
    )


def profile_table(profile: dict[str, Any]) -> Table:
    """All methods on all labels: accuracy on test users."""
    labels, methods = profile["labels"], profile["methods"]
    return Table(
        groups=[(label, f"{of['classes']} classes", 1) for label, of in labels.items()],
        columns=[("accuracy", f"{of['users']:,} users") for of in labels.values()],
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
