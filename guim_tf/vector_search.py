"""The vectors of an index, held once, and exact search among all or some of them."""

from typing import Protocol

import numpy as np
import tensorflow as tf

_ROWS_AT_ONCE = 32_768  # of a part of the catalogue whose vectors are gathered to be scored


class Search(Protocol):
    """Searches a catalogue: `Vectors.queries` `[Q, D]` -> scores `[Q, k]`, rows `[Q, k]` int32.

    Best first. Where it finds fewer than k, the rest of a list is -inf and row -1.
    """

    def __call__(self, queries: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]: ...


class Vectors(tf.Module):
    """Unit vectors of X items and, where items have one, their prior.

    Args:
      unit: `[X, d]` float32 of unit length.
      prior: `[X]` float32, what is added to an item's cosine (`popularity`), or None.
      dtype: "float32", or "bfloat16" for half the memory and cosines to about 1e-4.
    """

    def __init__(
        self, unit: np.ndarray, prior: np.ndarray | None = None, *, dtype: str = "float32"
    ) -> None:
        super().__init__()
        self.count, self.dim = unit.shape
        self.stored = tf.Variable(tf.cast(unit, dtype), trainable=False, name="vectors")
        self.prior = None if prior is None else tf.Variable(prior, trainable=False, name="prior")

    def queries(self, vectors: tf.Tensor, *, of_users: bool = True) -> tf.Tensor:
        """`[Q, d]`, any length -> `[Q, D]`: unit vectors and, where there are priors, their weight.

        It is one more coordinate, as in `popularity`: 1 for users, 0 for items.
        """
        unit = tf.math.l2_normalize(vectors, axis=-1)
        if self.prior is None:
            return unit
        return tf.pad(unit, [[0, 0], [0, 1]], constant_values=1.0 if of_users else 0.0)

    def of(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Unit vectors `[..., d]` and priors `[...]` of rows `[...]`; of row -1, whatever."""
        rows = tf.maximum(rows, 0)
        unit = tf.cast(tf.gather(self.stored, rows), tf.float32)
        prior = tf.zeros(tf.shape(rows)) if self.prior is None else tf.gather(self.prior, rows)
        return unit, prior

    def score_all(self, queries: tf.Tensor) -> tf.Tensor:
        """Of every item: `[Q, D]` -> `[Q, X]`."""
        return self._score(queries, tf.cast(self.stored, tf.float32), self.prior)

    def score_some(self, queries: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Of the same items for each query: `[Q, D]` and `[R]` -> `[Q, R]`."""
        return self._score(queries, *self.of(rows))

    def score_each(self, queries: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Of items for each query: `[Q, D]` and `[Q, R]` -> `[Q, R]`; of row -1, -inf."""
        unit, prior = self.of(rows)
        scores = tf.linalg.matvec(unit, queries[:, : self.dim])
        if self.prior is not None:
            scores += queries[:, self.dim :] * prior
        return tf.where(rows < 0, float("-inf"), scores)

    def _score(self, queries: tf.Tensor, unit: tf.Tensor, prior: tf.Tensor | None) -> tf.Tensor:
        cosine = tf.matmul(queries[:, : self.dim], unit, transpose_b=True)
        return cosine if self.prior is None else cosine + queries[:, self.dim :] * prior


class ExactSearch(tf.Module):
    """Scores all items: one product, stock TensorFlow operations only."""

    def __init__(self, vectors: Vectors) -> None:
        super().__init__()
        self.vectors = vectors

    def __call__(self, queries: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.math.top_k(self.vectors.score_all(queries), k)


def search_within(
    vectors: Vectors, allowed: tf.Tensor, queries: tf.Tensor, k: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """`Search` among some items and no others: exact however few or many they are.

    Their vectors are gathered a block at a time, so that memory stays small for any number.

    Args:
      vectors: of the whole catalogue.
      allowed: `[X]` bool.
      queries, k: as of `Search`.
    """
    candidates = tf.cast(tf.where(allowed)[:, 0], tf.int32)
    shape = [tf.shape(queries)[0], k]
    lists = [tf.fill(shape, float("-inf")), tf.fill(shape, -1)]

    def add(start: tf.Tensor, scores: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, ...]:
        some = candidates[start : start + _ROWS_AT_ONCE]
        new = vectors.score_some(queries, some)
        # What is listed stands first: among equal scores top_k keeps the lower row.
        best, place = tf.math.top_k(tf.concat([scores, new], axis=1), k)
        known = tf.concat([rows, tf.broadcast_to(some, tf.shape(new))], axis=1)
        return start + _ROWS_AT_ONCE, best, tf.gather(known, place, batch_dims=1)

    _, scores, rows = tf.while_loop(
        lambda start, *_: start < tf.size(candidates),
        add,
        [tf.constant(0), *lists],
        shape_invariants=[tf.TensorShape([]), *[tf.TensorShape([None, None])] * 2],
    )
    return scores, rows
