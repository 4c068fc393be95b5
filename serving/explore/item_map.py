"""A catalogue in two dimensions: items that are near each other among the vectors are so here."""

import dataclasses
import threading
from collections.abc import Callable, Sequence

import numpy as np
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from serving.histories import Item

_FEWEST = 4  # items that have neighbourhoods to speak of
_PERPLEXITY = 30.0  # neighbours that count for each item: t-SNE's usual
_ITERATIONS = 500  # twice as many change the picture little


@dataclasses.dataclass(frozen=True)
class ItemMap:
    """Items and their places `[X, 2]`."""

    items: Sequence[Item]
    places: np.ndarray


def project(vectors: np.ndarray) -> np.ndarray:
    """t-SNE by the cosine: `[X, d]` to `[X, 2]`; the same vectors give the same picture.

    Two principal components would hold a fifth of the variance and show one cloud.
    """
    count = len(vectors)
    if count < _FEWEST:
        return np.stack([np.arange(count), np.zeros(count)], axis=1)
    with threadpool_limits(1):  # on a busy machine threads wait for each other, four times as long
        return TSNE(
            metric="cosine",
            init="pca",
            perplexity=min(_PERPLEXITY, (count - 1) / 3),
            max_iter=_ITERATIONS,
            random_state=0,
        ).fit_transform(vectors)


class Atlas:
    """The map of a shop: made once, when first asked for; what failed is tried again."""

    def __init__(self, make: Callable[[], ItemMap]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: ItemMap | None = None

    def get(self) -> ItemMap:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made
