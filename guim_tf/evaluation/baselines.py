"""What every model has to beat: popularity, a user's own habits, and item-item EASE.

All see the past and the histories of a protocol and nothing else; items that a user has bought
are not removed from the ranking. Popularity is the number of distinct buyers.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from guim_tf.evaluation.protocol import Protocol
from guim_tf.evaluation.ragged import Events, Ragged
from guim_tf.schema import DAY, RECENT_DAYS

EASE_LAMBDA = 200.0
EASE_MAX_ITEMS = 20_000  # X * X floats and their inverse must fit in memory
RECENT_WEIGHT = 0.5
_CHUNK_SCORES = 4_000_000


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A name, what it does, and user rows `[b]` -> scores `[b, X]`."""

    name: str
    definition: str
    score: Callable[[np.ndarray], np.ndarray]


def baselines(protocol: Protocol) -> tuple[list[Baseline], list[str]]:
    """The baselines that fit this catalogue, and for each that doesn't a sentence that says why."""
    items = len(protocol.catalogue)
    ever = buyers(protocol.past, items)
    recent = recent_buyers(protocol.past, protocol.as_of, items)
    found = [
        Baseline(
            "popular, all time",
            "Distinct buyers of an item before the evaluation moment.",
            lambda users: np.tile(ever, (len(users), 1)),
        ),
        Baseline(
            f"popular, last {RECENT_DAYS} days",
            f"Distinct buyers in the {RECENT_DAYS} days before the evaluation moment.",
            lambda users: np.tile(recent, (len(users), 1)),
        ),
        Baseline(
            "personal frequency + recent popularity",
            "How often the user's history has the item, plus "
            f"{RECENT_WEIGHT:g} x its {RECENT_DAYS}-day popularity over that of the most popular.",
            lambda users: (
                counts(protocol.history.items.take(users), items)
                + RECENT_WEIGHT * recent / max(recent.max(), 1)
            ),
        ),
    ]
    if items > EASE_MAX_ITEMS:
        return found, [
            f"EASE was skipped: the catalogue has {items:,} items, and its item-item matrix is "
            f"made for at most {EASE_MAX_ITEMS:,}."
        ]
    weights = ease(protocol.past.items, items)
    histories = protocol.history.items.distinct()
    found.append(
        Baseline(
            "EASE",
            "Item-item ridge regression with zero diagonal on the binary matrix of all users' "
            f"past, lambda {EASE_LAMBDA:g} (Steck 2019).",
            lambda users: _sum_rows(histories.take(users), weights),
        )
    )
    return found, []


def buyers(events: Events, items: int) -> np.ndarray:
    """Distinct users of each item: `[items]` float32."""
    return np.bincount(events.items.distinct().values, minlength=items).astype(np.float32)


def recent_buyers(events: Events, as_of: int, items: int) -> np.ndarray:
    """The same of the last `RECENT_DAYS` days before a moment."""
    return buyers(events.between(as_of - RECENT_DAYS * DAY, as_of), items)


def counts(lists: Ragged, items: int) -> np.ndarray:
    """How often each list names each item: `[len(lists), items]` float32."""
    cells = np.bincount(lists.owners * items + lists.values, minlength=len(lists) * items)
    return cells.reshape(len(lists), items).astype(np.float32)


def ease(lists: Ragged, items: int) -> np.ndarray:
    """Weights `[items, items]` float32 of EASE: `B` with zero diagonal, scores are `x @ B`."""
    lists = lists.distinct()
    gram = np.zeros((items, items), np.float32)  # counts: exact in float32
    chunk = max(1, _CHUNK_SCORES // items)
    for start in range(0, len(lists), chunk):
        columns, x = _named(lists.take(np.arange(start, min(start + chunk, len(lists)))))
        gram[np.ix_(columns, columns)] += x.T @ x
    diagonal = np.diag_indices(items)
    gram[diagonal] += EASE_LAMBDA
    inverse = np.linalg.solve(gram, np.eye(items, dtype=np.float32))
    weights = inverse / -inverse[diagonal]
    weights[diagonal] = 0
    return weights


def _sum_rows(lists: Ragged, weights: np.ndarray) -> np.ndarray:
    """The sum of the rows that each list names: `[len(lists), X]` of `weights` `[items, X]`."""
    columns, x = _named(lists)
    return x @ weights[columns]


def _named(lists: Ragged) -> tuple[np.ndarray, np.ndarray]:
    """The items that any list names `[n]`, and how often each list does, `[len(lists), n]`.

    Short lists name few of a large catalogue, and products with the others are most of the time.
    """
    columns, places = np.unique(lists.values, return_inverse=True)
    return columns, counts(Ragged(lists.offsets, places), len(columns))
