"""Exact search in chunks of users and of items: memory stays small at any number of either.

A block of scores is one matrix product. Of it only what beats a user's k-th best so far is looked
at again: with n items about `k * log(n)` of them, so that the product is most of the work.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from guim_tf.evaluation import metrics
from guim_tf.evaluation.ragged import Ragged

COSINE, DOT = "cosine", "dot"
SCORES = (COSINE, DOT)

_USERS_AT_ONCE = 8192  # whose lists are kept while the items go by
_ITEMS_AT_ONCE = 4096
_CORES = len(os.sched_getaffinity(0))
_BLOCK_ROWS = 2048  # user vectors in one product: its result stays in the cache


class SearchError(ValueError):
    """Vectors that can't be compared."""


@dataclasses.dataclass(frozen=True)
class Found:
    """The k best items of U users, best first.

    Attributes:
      rows: `[U, k]` int64 item rows, -1 where a list has ended.
      scores: `[U, k]` float32, -inf where a list has ended.
      interests: `[U, k]` int64, which of the user's vectors gave the score; -1 at the end.
    """

    rows: np.ndarray
    scores: np.ndarray
    interests: np.ndarray

    @classmethod
    def nothing(cls, users: int, k: int) -> Found:
        """Lists that have ended before they began, to be filled."""
        return cls(
            np.full((users, k), -1, np.int64),
            np.full((users, k), -np.inf, np.float32),
            np.full((users, k), -1, np.int64),
        )


def search(
    user_embedding: np.ndarray,
    item_embedding: np.ndarray,
    k: int,
    *,
    score: str = COSINE,
    exclude: Ragged | None = None,
) -> Found:
    """The k best items of each user by the best of the user's vectors (Eq. 3), scoring them all.

    The order is that of `mixture.search_exact`: by score descending, then by lower row; every item
    once, with the lowest of the interests that gave its score.

    Args:
      user_embedding: `[U, C, d]` float32, any length; may be memory-mapped.
      item_embedding: `[X, d]` float32, any length; may be memory-mapped.
      k: how many; where a user has fewer candidates, the list ends early.
      score: "cosine" or "dot".
      exclude: item rows that must not come back, a list for each user.

    Raises:
      SearchError: shapes that don't fit, or vectors with NaN or infinity.
    """
    _check(user_embedding, item_embedding, k, score, exclude)
    users = len(user_embedding)
    found = Found.nothing(users, k)
    for group in _slices(users, _USERS_AT_ONCE):
        lists = _search_group(
            _vectors(user_embedding[group], score, "user_embedding"),
            item_embedding,
            k,
            score,
            None if exclude is None else exclude.take(np.arange(users)[group]),
        )
        order = metrics.top_k(lists.scores, k)
        held = lists.held(order)
        found.scores[group] = held[0]
        ended = np.isneginf(held[0])
        found.rows[group] = np.where(ended, -1, held[1])
        found.interests[group] = np.where(ended, -1, held[2])
    return found


def _search_group(
    users: np.ndarray, items: np.ndarray, k: int, score: str, exclude: Ragged | None
) -> _Lists:
    interests, dim = users.shape[1:]
    lists = _Lists(len(users), k)
    block_users = max(1, _BLOCK_ROWS // interests)
    # Made once: fresh pages for every block would cost as much as the reduction.
    bests = np.empty((block_users, _ITEMS_AT_ONCE), np.float32)
    beats = np.empty((block_users, _ITEMS_AT_ONCE), bool)
    blocks = [
        (block, tf.constant(users[block].reshape(-1, dim)))
        for block in _slices(len(users), block_users)
    ]
    # The product uses all cores by itself; what follows it does so by a thread for each share.
    share = -(-block_users // _CORES)
    with concurrent.futures.ThreadPoolExecutor(_CORES) as pool:
        for part in _slices(len(items), _ITEMS_AT_ONCE):
            some = tf.constant(_vectors(items[part], score, "item_embedding"))
            for block, rows in blocks:
                product = tf.matmul(rows, some, transpose_b=True).numpy()
                by_interest = product.reshape(-1, interests, len(some))
                shares = [
                    _Share(
                        slice(block.start + of.start, block.start + of.stop),
                        by_interest[of],
                        bests[of, : len(some)],
                        beats[of, : len(some)],
                    )
                    for of in _slices(len(by_interest), share)
                ]
                reduced = pool.map(lambda x: x.reduce(lists, exclude, part), shares)  # noqa: B023
                for of, flat in zip(shares, reduced, strict=True):
                    lists.add(of.users.start, of.best, flat, of.by_interest, part.start)
    return lists


@dataclasses.dataclass(frozen=True)
class _Share:
    """Scores `[b, C, n]` of some users of a group, and room `[b, n]` for what is made of them."""

    users: slice
    by_interest: np.ndarray
    best: np.ndarray
    beats: np.ndarray

    def reduce(self, lists: _Lists, exclude: Ragged | None, items: slice) -> np.ndarray:
        """Fills `best` with the best of each user's vectors; flat places that beat the lists."""
        np.max(self.by_interest, axis=1, out=self.best)
        if exclude is not None:
            held = exclude.take(np.arange(self.users.start, self.users.stop))
            here = (held.values >= items.start) & (held.values < items.stop)
            self.best[held.owners[here], held.values[here] - items.start] = -np.inf
        np.greater(self.best, lists.least[self.users, None], out=self.beats)
        return np.flatnonzero(self.beats)


class _Lists:
    """What each user's best items can still be among, in the order of their rows.

    In that order the tie rule, lower rows first, is that of `metrics.top_k` on the columns. New
    items have higher rows: one that equals the k-th best comes after it and can be passed over.
    """

    def __init__(self, users: int, k: int) -> None:
        self._k = k
        width = 3 * k  # k of the list, and room before it must be cut back to k
        self.scores = np.full((users, width), -np.inf, np.float32)
        self._rows = np.full((users, width), -1, np.int64)
        self._interests = np.full((users, width), -1, np.int32)
        self._filled = np.zeros(users, np.int64)
        self.least = np.full(users, -np.inf, np.float32)  # the k-th best when last cut back

    def held(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores, rows and interests at columns `[U, k]`."""
        of_user = np.arange(len(columns))[:, None]
        return tuple(x[of_user, columns] for x in (self.scores, self._rows, self._interests))  # type: ignore[return-value]

    def add(
        self,
        first: int,
        best: np.ndarray,
        flat: np.ndarray,
        by_interest: np.ndarray,
        start: int,
    ) -> None:
        """Adds, of scores `[b, n]` and `[b, C, n]` of the users from `first` and the items from
        `start`, those at the flat places of `[b, n]`."""
        users = slice(first, first + len(best))
        owner, column = np.divmod(flat, best.shape[1])
        count = np.bincount(owner, minlength=len(best))
        full = self._filled[users] + count > self.scores.shape[1]
        if full.any():  # what is held has a higher k-th best by now: few of the block pass it
            held = np.flatnonzero(full & (self._filled[users] > self._k))
            self._cut(held, first, best[:, :0], by_interest, start)
            keep = best[owner, column] > self.least[first + owner]
            owner, column = owner[keep], column[keep]
            count = np.bincount(owner, minlength=len(best))
            full = self._filled[users] + count > self.scores.shape[1]
        if full.any():
            self._cut(np.flatnonzero(full), first, best, by_interest, start)
            keep = ~full[owner]
            owner, column = owner[keep], column[keep]
            count[full] = 0
        place = np.arange(len(owner)) - (np.cumsum(count) - count)[owner]
        place += self._filled[users][owner]
        at = (first + owner, place)
        self.scores[at] = best[owner, column]
        self._rows[at] = start + column
        self._interests[at] = by_interest[owner, :, column].argmax(axis=1)
        self._filled[users] += count

    def _cut(
        self,
        some: np.ndarray,
        first: int,
        best: np.ndarray,
        by_interest: np.ndarray,
        start: int,
    ) -> None:
        """Brings some users of a block back to their k best, of what is held and the block."""
        users, width = first + some, self.scores.shape[1]
        scores = np.concatenate([self.scores[users], best[some]], axis=1)
        kept = np.sort(metrics.top_k(scores, self._k), axis=1)  # the order of rows again
        old, new = np.minimum(kept, width - 1), np.maximum(kept - width, 0)
        is_new, owner = kept >= width, some[:, None]
        winner = by_interest[owner, :, new].argmax(axis=2)
        k = self._k
        self._interests[users, :k] = np.where(is_new, winner, self._interests[users[:, None], old])
        self._rows[users, :k] = np.where(is_new, start + new, self._rows[users[:, None], old])
        self.scores[users] = -np.inf
        self.scores[users, :k] = np.take_along_axis(scores, kept, axis=1)
        self.least[users] = self.scores[users, :k].min(axis=1)
        self._filled[users] = k


def _vectors(vectors: np.ndarray, score: str, name: str) -> np.ndarray:
    """A chunk as float32, of unit length for the cosine; a zero vector stays zero."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    squares = np.einsum("...d,...d->...", vectors, vectors)
    if not np.isfinite(squares).all():
        raise SearchError(f"{name} holds NaN, infinity or overflows; expected finite float32.")
    if score == DOT:
        return vectors
    return vectors / np.sqrt(np.maximum(squares, 1e-12))[..., None]


def _slices(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _check(
    users: np.ndarray, items: np.ndarray, k: int, score: str, exclude: Ragged | None
) -> None:
    if users.ndim != 3 or items.ndim != 2 or users.shape[2] != items.shape[1]:
        raise SearchError(
            f"user_embedding has shape {users.shape} and item_embedding {items.shape}, expected "
            "[U, C, d] and [X, d] with one d."
        )
    if k < 1:
        raise SearchError(f"k is {k}, expected at least 1.")
    if score not in SCORES:
        raise SearchError(f"score is {score!r}, expected one of {', '.join(SCORES)}.")
    if exclude is not None and len(exclude) != len(users):
        raise SearchError(
            f"exclude has {len(exclude)} lists, expected one for each of the {len(users)} users."
        )
