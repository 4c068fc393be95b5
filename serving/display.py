"""A user's purchases and recommendations on a terminal, one colour an interest."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from serving.histories import Event, History, Item, format_time

LAST_EVENTS = 8
_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red", "bright_cyan", "bright_magenta")


class Recommended(Protocol):
    """What is shown of a recommendation."""

    @property
    def item_id(self) -> str: ...
    @property
    def score(self) -> float: ...
    @property
    def interest(self) -> int: ...


def group_by_interest(
    answer: Sequence[Recommended],
) -> list[tuple[int, list[tuple[int, Recommended]]]]:
    """(interest, its (rank, item) in order), the interest with the best item first."""
    groups: dict[int, list[tuple[int, Recommended]]] = {}
    for rank, item in enumerate(answer, 1):
        groups.setdefault(item.interest, []).append((rank, item))
    return list(groups.items())


def show(
    console: Console, history: History, answer: Sequence[Recommended], items: Mapping[str, Item]
) -> None:
    """Prints one user: the last purchases, then what is recommended, grouped by interest."""
    console.rule(f"[bold]user {escape(history.user_id)}[/bold]")
    shown = history.events[-LAST_EVENTS:]
    console.print(
        f"[bold]last {len(shown)} of {len(history.events)} events before "
        f"{format_time(history.as_of)}[/bold]",
        highlight=False,
    )
    console.print(_events_table(shown))
    console.print("[bold]recommended[/bold]")
    console.print(_answer_table(answer, items))


def _events_table(events: Sequence[Event]) -> Table:
    actions = any(event.action for event in events)  # most logs hold purchases alone
    table = Table(box=None, pad_edge=False)
    for column in ("date", *(["action"] if actions else []), "item", "title"):
        table.add_column(column, overflow="fold")
    for event in reversed(events):
        texts = (*([event.action] if actions else []), event.item.item_id, event.item.title)
        table.add_row(format_time(event.timestamp), *map(escape, texts))
    return table


def _answer_table(answer: Sequence[Recommended], items: Mapping[str, Item]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("interest")
    table.add_column("rank", justify="right")
    table.add_column("item", overflow="fold")
    table.add_column("title", overflow="fold")
    table.add_column("score", justify="right")
    for interest, members in group_by_interest(answer):
        for position, (rank, item) in enumerate(members):
            known = items.get(item.item_id)
            table.add_row(
                f"interest {interest}" if position == 0 else "",
                str(rank),
                escape(item.item_id),
                escape(known.title) if known else "(not in this data set)",
                f"{item.score:.3f}",
                style=_COLOURS[interest % len(_COLOURS)],
                end_section=position == len(members) - 1,
            )
    return table
