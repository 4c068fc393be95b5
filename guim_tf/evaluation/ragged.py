"""Lists of different lengths, one a user, as flat arrays: offsets and values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Ragged:
    """`len(self)` lists of ids: list i is `values[offsets[i]:offsets[i + 1]]`.

    Attributes:
      offsets: `[n + 1]` int64, from 0, never falling.
      values: `[offsets[-1]]` int64.
    """

    offsets: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        return self.values[self.offsets[i] : self.offsets[i + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """`[n]` int64."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> np.ndarray:
        """`[values]` int64: which list each value belongs to."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def where(self, keep: np.ndarray) -> Ragged:
        """The same number of lists, with the values for which `keep` `[values]` is true."""
        return Ragged(_offsets(self.owners[keep], len(self)), self.values[keep])

    def distinct(self) -> Ragged:
        """Each list sorted, every value once."""
        order = np.lexsort((self.values, self.owners))
        owners, values = self.owners[order], self.values[order]
        new = np.ones(len(values), bool)
        new[1:] = (owners[1:] != owners[:-1]) | (values[1:] != values[:-1])
        return Ragged(_offsets(owners[new], len(self)), values[new])

    def first(self) -> Ragged:
        """The first value of each list; an empty list stays empty."""
        first = np.zeros(len(self.values), bool)
        first[self.offsets[:-1][self.lengths > 0]] = True
        return self.where(first)

    def take(self, rows: np.ndarray) -> Ragged:
        """The lists `rows`, in that order."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        shift = np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths)
        return Ragged(offsets, self.values[np.arange(offsets[-1]) + shift])

    def contains(self, owners: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Whether `values[i]` is in the list `owners[i]`; shapes broadcast, result bool."""
        width = 1 + max(self.values.max(initial=0), values.max(initial=0))
        held, asked = np.sort(self.owners * width + self.values), owners * width + values
        if not len(held):
            return np.zeros(asked.shape, bool)
        at = np.minimum(np.searchsorted(held, asked), len(held) - 1)
        return (held[at] == asked) & (values >= 0)


def ragged(lists: Sequence[Sequence[int] | np.ndarray]) -> Ragged:
    """`Ragged` of plain lists."""
    offsets = np.concatenate([[0], np.cumsum([len(x) for x in lists])]).astype(np.int64)
    values = [np.asarray(x, np.int64) for x in lists]
    return Ragged(offsets, np.concatenate([np.empty(0, np.int64), *values]))


@dataclasses.dataclass(frozen=True)
class Events:
    """Events of users, each user's in time order (stable for equal times).

    Attributes:
      items: catalogue rows.
      timestamps: `[events]` int64 seconds, beside `items.values`.
    """

    items: Ragged
    timestamps: np.ndarray

    def __len__(self) -> int:
        return len(self.items)

    def between(self, start: int, stop: int) -> Events:
        """The events of `[start, stop)`, for the same users."""
        keep = (self.timestamps >= start) & (self.timestamps < stop)
        return Events(self.items.where(keep), self.timestamps[keep])

    def lists(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Catalogue rows and timestamps, an array a user."""
        ends = self.items.offsets[1:-1]
        return np.split(self.items.values, ends), np.split(self.timestamps, ends)

    def take(self, rows: np.ndarray) -> Events:
        """The users `rows`, in that order."""
        times = Ragged(self.items.offsets, self.timestamps)
        return Events(self.items.take(rows), times.take(rows).values)


def _offsets(owners: np.ndarray, n: int) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=n))])
