"""Lists that know a user's habits: `mixture.prefer_repeats` in numpy, for all users at once."""

from __future__ import annotations

import numpy as np

from guim_tf.evaluation import metrics
from guim_tf.evaluation.ragged import Ragged
from guim_tf.evaluation.search import DOT, Found, search
from guim_tf.evaluation.tasks import K
from guim_tf.popularity import with_coordinate

_USERS_AT_ONCE = 256
_NOBODY = np.iinfo(np.int64).max


class HabitSearch:
    """Exact search in which `weight * ln(1 + times bought)` is added to bought items' scores.

    What users have not bought is searched for once, for whatever weights are asked for.

    Args:
      user_embedding: `[U, C, d]`.
      item_embedding: `[X, d]`.
      history: each user's purchases as item rows, one a purchase.
      k: length of a list.
      exclude: rows that must not come back, beside the purchases.
      prior: `[X]`, added to every cosine; see `guim_tf.popularity`.
    """

    def __init__(
        self,
        user_embedding: np.ndarray,
        item_embedding: np.ndarray,
        history: Ragged,
        k: int = K,
        *,
        exclude: Ragged | None = None,
        prior: np.ndarray | None = None,
    ) -> None:
        self._k = k
        bought = history.distinct()
        users = with_coordinate(user_embedding, 1.0)
        items = with_coordinate(item_embedding, 0.0 if prior is None else prior)
        self._new = search(users, items, k, score=DOT, exclude=_union(bought, exclude))
        if exclude is not None:
            bought = bought.where(~exclude.contains(bought.owners, bought.values))
        self._bought = bought
        self._scores, self._interests = _best_of(users, items, bought)
        self._times = _times(history, bought)

    def lists(self, weight: float) -> Found:
        """The lists of one weight, in the order of `search`."""
        boosted = self._scores + np.float32(weight) * np.log1p(self._times).astype(np.float32)
        users = len(self._bought)
        found = Found.nothing(users, self._k)
        for start in range(0, users, _USERS_AT_ONCE):
            some = np.arange(start, min(start + _USERS_AT_ONCE, users))
            self._merge(some, boosted, found)
        return found

    def _merge(self, users: np.ndarray, boosted: np.ndarray, found: Found) -> None:
        bought = self._bought.take(users)
        flat = slice(self._bought.offsets[users[0]], self._bought.offsets[users[-1] + 1])
        place = np.arange(len(bought.values)) - bought.offsets[:-1][bought.owners]
        shape = (len(users), int(bought.lengths.max(initial=0)))

        def padded(values: np.ndarray, new: np.ndarray, filler: float) -> np.ndarray:
            full = np.full(shape, filler, new.dtype)
            full[bought.owners, place] = values[flat]
            return np.concatenate([new, full], axis=1)

        rows = padded(self._bought.values, self._new.rows[users], -1)
        scores = padded(boosted, self._new.scores[users], -np.inf)
        interests = padded(self._interests, self._new.interests[users], -1)
        # Equal scores are in the order of the rows, as everywhere.
        order = np.argsort(np.where(rows < 0, _NOBODY, rows), axis=1, kind="stable")
        rows, scores, interests = (
            np.take_along_axis(x, order, axis=1) for x in (rows, scores, interests)
        )
        best = metrics.top_k(scores, self._k)
        ended = (best < 0) | (np.take_along_axis(rows, np.maximum(best, 0), axis=1) < 0)
        for into, values, filler in (
            (found.rows, rows, -1),
            (found.scores, scores, -np.inf),
            (found.interests, interests, -1),
        ):
            held = np.take_along_axis(values, np.maximum(best, 0), axis=1)
            into[users] = np.where(ended, filler, held)


def _union(a: Ragged, b: Ragged | None) -> Ragged:
    if b is None:
        return a
    owners = np.concatenate([a.owners, b.owners])
    order = np.argsort(owners, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(a.lengths + b.lengths)])
    return Ragged(offsets, np.concatenate([a.values, b.values])[order]).distinct()


def _best_of(users: np.ndarray, items: np.ndarray, pairs: Ragged) -> tuple[np.ndarray, np.ndarray]:
    """The best interest's score of each pair, and which it is: `[pairs]` float32 and int64."""
    scores = np.empty(len(pairs.values), np.float32)
    interests = np.empty(len(pairs.values), np.int64)
    for start in range(0, len(pairs), _USERS_AT_ONCE):
        stop = min(start + _USERS_AT_ONCE, len(pairs))
        flat = slice(pairs.offsets[start], pairs.offsets[stop])
        every = np.einsum("pcd,pd->pc", users[pairs.owners[flat]], items[pairs.values[flat]])
        scores[flat], interests[flat] = every.max(axis=1), every.argmax(axis=1)
    return scores, interests


def _times(history: Ragged, bought: Ragged) -> np.ndarray:
    """How often each user has bought each of his distinct items: `[values]` of `bought`."""
    width = 1 + max(history.values.max(initial=0), bought.values.max(initial=0))
    keys, times = np.unique(history.owners * width + history.values, return_counts=True)
    return times[np.searchsorted(keys, bought.owners * width + bought.values)]
