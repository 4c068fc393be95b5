"""ScaNN (Guo et al., 2020): a tree and short codes find candidates, their vectors order them."""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from scann.scann_ops.py import scann_ops

from guim_tf.strict_json import check
from guim_tf.vector_search import ExactSearch, Search, Vectors

SMALLEST = 16  # the quantiser needs as many vectors
DTYPES = ("float32", "bfloat16")
_LARGE = 100_000  # items; below that all codes are compared faster than leaves are chosen
_SHARE_SEARCHED = 0.02  # of the leaves
_REORDERED = 300  # three times the k that recall is measured at; more find no more
_TRAINING_SAMPLE = 250_000  # vectors that leaves and codes are learned from
_HELD = 4  # times k, that the leaves searched hold on average
MEASURED_K = 100
MEASURED_QUERIES = 500
_WIDER = 5  # times at most; beyond that brute force is the better choice
_SAME_SCORE = 1e-6  # rounding: of items with one score either may be on a list
_EXACT_AT_ONCE = 64  # queries; their scores of all items are in memory
_QUERIES_AT_ONCE = 64  # whose candidates' vectors are gathered together: they stay in the cache


@dataclasses.dataclass(frozen=True)
class ScannSettings:
    """What decides speed against recall.

    Attributes:
      leaves: of the tree; 1 is no tree.
      leaves_to_search: those nearest to a query.
      reordered: candidates by their codes, whose vectors are compared in the end. As many as there
        are items make the search exact.
      dtype: of these vectors, "float32" or "bfloat16".
    """

    leaves: int
    leaves_to_search: int
    reordered: int
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check(self.leaves >= 1, self, "leaves", "at least 1, which is no tree")
        check(
            1 <= self.leaves_to_search <= self.leaves,
            self,
            "leaves_to_search",
            f"between 1 and the {self.leaves} leaves",
        )
        check(self.reordered >= 1, self, "reordered", "at least 1")
        check(self.dtype in DTYPES, self, "dtype", " or ".join(DTYPES))

    @classmethod
    def of_size(
        cls,
        items: int,
        *,
        leaves: int | None = None,
        leaves_to_search: int | None = None,
        reordered: int | None = None,
        dtype: str | None = None,
    ) -> "ScannSettings":
        """Settings for so many items; what is given stays.

        Many have sqrt(items) leaves of as many items each, and vectors in half the memory. Few have
        no tree, and vectors whose scores are those of the exact build.
        """
        if leaves is None:
            leaves = round(items**0.5) if items >= _LARGE else 1
        if dtype is None:
            dtype = "bfloat16" if items >= _LARGE else "float32"
        if leaves_to_search is None:
            leaves_to_search = max(1, round(_SHARE_SEARCHED * leaves))
        if reordered is None:
            reordered = _REORDERED
        return cls(leaves, leaves_to_search, min(reordered, items), dtype)

    def wider(self, items: int) -> "ScannSettings":
        """Twice the leaves searched and twice the candidates, as far as there are so many."""
        return dataclasses.replace(
            self,
            leaves_to_search=min(2 * self.leaves_to_search, self.leaves),
            reordered=min(2 * self.reordered, items),
        )


class ScannSearch(tf.Module):
    """A `Search` whose index is codes alone: vectors are those of the catalogue, not a copy.

    ScaNN's operations must be loaded (`import scann`) where a SavedModel with it is.

    Args:
      exact: at least `SMALLEST` vectors in float32, which the index is made of.
      settings: how many leaves are searched and candidates ordered may be changed afterwards.
    """

    def __init__(self, exact: Vectors, settings: ScannSettings) -> None:
        super().__init__()
        self.settings = settings
        unit, prior = exact.stored.numpy(), None if exact.prior is None else exact.prior.numpy()
        self.vectors = exact
        if settings.dtype != "float32":
            self.vectors = Vectors(unit, prior, dtype=settings.dtype)
        stored = unit if prior is None else np.concatenate([unit, prior[:, None]], axis=1)
        builder = scann_ops.builder(stored, settings.reordered, "dot_product")
        sample = min(len(stored), _TRAINING_SAMPLE)
        if settings.leaves > 1:
            builder = builder.tree(
                settings.leaves, settings.leaves_to_search, training_sample_size=sample
            )
        builder = builder.score_ah(
            2, anisotropic_quantization_threshold=0.2, training_sample_size=sample
        )
        self.index = builder.build().serialize_to_module()

    def __call__(self, queries: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        candidates = tf.minimum(tf.maximum(k, self.settings.reordered), self.vectors.count)
        searcher = scann_ops.searcher_from_module(self.index)
        found = searcher.search_batched_parallel(
            queries, final_num_neighbors=candidates, **self._leaves(k)
        )
        # Where a query's leaves held fewer candidates, there are fewer columns or no distance.
        rows = tf.where(tf.math.is_nan(found.distances), -1, found.indices)
        return self._reorder(queries, _at_least(rows, k), k)

    def _leaves(self, k: tf.Tensor) -> dict[str, tf.Tensor]:
        """More leaves for a long list, so that they hold it."""
        leaves = self.settings.leaves
        if leaves == 1:
            return {}
        needed = _HELD * k // max(1, self.vectors.count // leaves)
        at_least = tf.maximum(self.settings.leaves_to_search, needed)
        return {"leaves_to_search": tf.minimum(at_least, leaves)}

    def _reorder(
        self, queries: tf.Tensor, rows: tf.Tensor, k: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The k best of candidates `[Q, R]` by their vectors, some queries at a time."""

        def add(start: tf.Tensor, *lists: tf.Tensor) -> tuple[tf.Tensor, ...]:
            part = slice(start, start + _QUERIES_AT_ONCE)
            candidates = rows[part]
            best, place = tf.math.top_k(self.vectors.score_each(queries[part], candidates), k)
            found = best, tf.gather(candidates, place, batch_dims=1)
            return start + _QUERIES_AT_ONCE, *(
                tf.concat([x, more], axis=0) for x, more in zip(lists, found, strict=True)
            )

        _, scores, best = tf.while_loop(
            lambda start, *_: start < tf.shape(queries)[0],
            add,
            [tf.constant(0), tf.zeros([0, k]), tf.zeros([0, k], tf.int32)],
            shape_invariants=[tf.TensorShape([]), *[tf.TensorShape([None, None])] * 2],
        )
        return scores, best


def _at_least(rows: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """`[Q, R]` with columns of -1 at the end until there are so many."""
    missing = tf.maximum(0, width - tf.shape(rows)[1])
    return tf.pad(rows, [[0, 0], [0, missing]], constant_values=-1)


class RecallError(ValueError):
    """ScaNN finds too few of the items that brute force finds."""


@dataclasses.dataclass(frozen=True)
class Recall:
    """recall: share of the exact k nearest neighbours that were found, the mean of some queries."""

    recall: float
    k: int
    queries: int


def measure_recall(search: Search, vectors: Vectors) -> Recall:
    """Of `search` against brute force, for items' own vectors as if users had them.

    Args:
      search: of the same items.
      vectors: in float32.
    """
    count = vectors.count
    k = min(MEASURED_K, count)
    sample = np.random.default_rng(0).choice(count, min(count, MEASURED_QUERIES), replace=False)
    queries = vectors.queries(vectors.of(tf.constant(np.sort(sample)))[0])
    exact = ExactSearch(vectors)
    hits = 0
    for start in range(0, len(sample), _EXACT_AT_ONCE):
        some = queries[start : start + _EXACT_AT_ONCE]
        least = exact(some, tf.constant(k))[0][:, -1:] - _SAME_SCORE
        found = vectors.score_each(some, search(some, tf.constant(k))[1])
        hits += int(tf.math.count_nonzero(found >= least))
    return Recall(hits / (len(sample) * k), k, len(sample))


def build_scann(
    vectors: Vectors, *, settings: Mapping[str, Any], min_recall: float
) -> tuple[ScannSearch, Recall]:
    """A search whose recall is at least `min_recall`, by measurement.

    Args:
      vectors: what is indexed, in float32.
      settings: some fields of `ScannSettings`, the others follow from the size. Where none is
        given, the search gets wider until the recall is reached, which needs no other index.
      min_recall: in [0, 1].

    Raises:
      RecallError: these or the widest settings are below it.
      ValueError: there are too few items for ScaNN.
    """
    count = vectors.count
    if count < SMALLEST:
        raise ValueError(
            f"The catalogue has {count} items and ScaNN needs {SMALLEST}. Use --build exact."
        )
    search = ScannSearch(vectors, ScannSettings.of_size(count, **settings))
    for attempt in range(1 if settings else 1 + _WIDER):
        if attempt:
            search.settings = search.settings.wider(count)
        measured = measure_recall(search, vectors)
        used = search.settings
        text = (
            f"{used.leaves_to_search} of {used.leaves} leaves, {used.reordered} reordered: "
            f"recall@{measured.k} {measured.recall:.4f}"
        )
        print(f"ScaNN: {text}", file=sys.stderr)
        if measured.recall >= min_recall:
            return search, measured
    raise RecallError(
        f"ScaNN with {text} of {measured.queries} queries, expected at least {min_recall}. No "
        "index was written. Search more leaves (--leaves-to-search) and reorder more candidates "
        "(--reordered), or use --build exact, or lower --min-recall."
    )
