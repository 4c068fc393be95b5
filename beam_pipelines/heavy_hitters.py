"""Counts of the most frequent tokens in bounded memory (Misra and Gries, 1982)."""

import collections
from collections.abc import Iterable


class HeavyHitters:
    """Counts tokens; holds at most `capacity` of them between two calls of `add`.

    Every count is exact until more than `capacity` distinct tokens have been seen; from then on
    the true count of a token lies in `[count, count + error]`, and a token that is not held has
    at most `error`. So the top X is exact where the count at rank X is above the next by more
    than `error`. `error` is at most (all that was added) / (`capacity` + 1).
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.counts: collections.Counter[str] = collections.Counter()
        self.error = 0

    def add(self, tokens: Iterable[str]) -> None:
        """Counts each token once for each time it comes."""
        self.counts.update(tokens)
        if len(self.counts) <= self._capacity:
            return
        cut = sorted(self.counts.values(), reverse=True)[self._capacity]
        self.error += cut
        self.counts = collections.Counter(
            {token: count - cut for token, count in self.counts.items() if count > cut}
        )
