"""A few users beside what each of their interests recommends, for the eye."""

from __future__ import annotations

import dataclasses

import numpy as np

from guim_tf.evaluation.protocol import Protocol, date
from guim_tf.evaluation.ragged import Events
from guim_tf.evaluation.vectors import Vectors, rank_vectors

USERS = 5
LEAST_EVENTS = 5  # users with a shorter history have little to show
HISTORY = 8
ITEMS = 6  # of each interest


@dataclasses.dataclass(frozen=True)
class Item:
    """An item to print; `known`: in the history, `bought`: in the test window."""

    title: str
    date: str = ""
    known: bool = False
    bought: bool = False


@dataclasses.dataclass(frozen=True)
class Example:
    """A user: the latest of the history and the first of the test window, one item once each, and
    the best items of every interest on its own."""

    user_id: str
    events: int
    history: list[Item]
    future: list[Item]
    future_items: int
    interests: list[list[Item]]


def draw_examples(protocol: Protocol, vectors: Vectors, *, seed: int) -> list[Example]:
    """Users drawn at random, whatever their recommendations look like."""
    eligible = vectors.user_rows
    eligible = eligible[protocol.history.items.lengths[eligible] >= LEAST_EVENTS]
    drawn = np.random.default_rng(seed).permutation(eligible)[:USERS]
    if not len(drawn):
        return []
    some = vectors.take(drawn)
    ranked = [
        rank_vectors(
            dataclasses.replace(some, user_embedding=some.user_embedding[:, c : c + 1]), k=ITEMS
        )[0]
        for c in range(vectors.interests)
    ]
    return [
        _example(protocol, int(user), [rows[i] for rows in ranked]) for i, user in enumerate(drawn)
    ]


def _example(protocol: Protocol, user: int, ranked: list[np.ndarray]) -> Example:
    catalogue = protocol.catalogue
    titles = np.where(catalogue.title == "", catalogue.item_id, catalogue.title)
    known, bought = protocol.history.items[user], protocol.future.items[user]

    def item(row: int, timestamp: int | None = None) -> Item:
        day = "" if timestamp is None else date(timestamp)[:10]
        return Item(str(titles[row]), day, bool(row in known), bool(row in bought))

    def events(of: Events, latest: bool) -> list[Item]:
        first, last = of.items.offsets[user], of.items.offsets[user + 1]
        pairs = list(zip(of.items.values[first:last], of.timestamps[first:last], strict=True))
        once: dict[int, int] = {}
        for row, time in reversed(pairs) if latest else pairs:
            once.setdefault(int(row), int(time))
        return [item(row, time) for row, time in list(once.items())[:HISTORY]]

    return Example(
        user_id=str(protocol.user_ids[user]),
        events=len(known),
        history=events(protocol.history, latest=True),
        future=events(protocol.future, latest=False),
        future_items=len(np.unique(bought)),
        interests=[[item(int(row)) for row in rows if row >= 0] for rows in ranked],
    )
