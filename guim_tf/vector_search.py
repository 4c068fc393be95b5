"""The vectors of an index, held once, and exact search among all or some of them."""

from typing import Protocol

import numpy as np
import tensorflow as tf

_ROWS_AT_ONCE = 32_768  # of a part of the catalogue whose vectors are gathered to be scored


class Search(Protocol):
    """Searches a catalogue: queries `[Q, D]` -> inner products `[Q, k]`, rows `[Q, k]` int32.

    Best first. Where it finds fewer than k, the rest of a list is -inf and row -1.
    """

    def __call__(self, queries: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]: ...


class Vectors(tf.Module):
    """Unit vectors of X items and, where items have one, their prior as one more coordinate.

    Args:
      unit: `[X, d]` float32 of unit length.
      prior: `[X]` float32, what is added to an item's cosine (`popularity`), or None.
    """

    def __init__(self, unit: np.ndarray, prior: np.ndarray | None = None) -> None:
        super().__init__()
        self.count, self.dim = unit.shape
        self.has_prior = prior is not None
        stored = unit if prior is None else np.concatenate([unit, prior[:, None]], axis=1)
        self.stored = tf.Variable(stored, trainable=False, name="vectors")

    def queries(self, vectors: tf.Tensor, *, of_users: bool = True) -> tf.Tensor:
        """`[Q, d]`, any length -> `[Q, D]`, whose inner products with what is stored are scores.

        Users' are the cosine plus the prior, items' the cosine alone.
        """
        unit = tf.math.l2_normalize(vectors, axis=-1)
        if not self.has_prior:
            return unit
        return tf.pad(unit, [[0, 0], [0, 1]], constant_values=1.0 if of_users else 0.0)

    def of(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Unit vectors `[..., d]` and priors `[...]` of rows `[...]`; of row -1, whatever."""
        found = tf.gather(self.stored, tf.maximum(rows, 0))
        prior = found[..., -1] if self.has_prior else tf.zeros(tf.shape(rows))
        return found[..., : self.dim], prior


class ExactSearch(tf.Module):
    """Scores all items: one product, stock TensorFlow operations only."""

    def __init__(self, vectors: Vectors) -> None:
        super().__init__()
        self.vectors = vectors

    def __call__(self, queries: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        scores = tf.matmul(queries, self.vectors.stored, transpose_b=True)
        return tf.math.top_k(scores, k)


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
        new = tf.matmul(queries, tf.gather(vectors.stored, some), transpose_b=True)
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
