"""Self-attention with one product for query, key and value (Vaswani et al., 2017)."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from guim_tf.keras_compat import keras, register
from guim_tf.layers.dropout import dropout
from guim_tf.layers.linear import Linear
from guim_tf.packing import Packing, as_list, as_rows


@register
class SelfAttention(keras.layers.Layer):
    """Multi-head attention of a user's tokens to one another.

    Args:
      heads: of `dim / heads` numbers each.
      dim: size of a token.
      dropout: rate on the attention weights.
    """

    def __init__(self, heads: int, *, dim: int, dropout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.dim = dim
        self.dropout = dropout
        self.project = Linear(3 * dim, name="project")
        self.mix = Linear(dim, name="mix")

    def call(
        self,
        tokens: tf.Tensor,
        *,
        packing: Packing,
        visible: Sequence[tf.Tensor],
        seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """`[T, dim]` -> `[T, dim]`.

        Args:
          tokens: `[T, dim]` of all users.
          packing: which of them are one user's.
          visible: `[b, S, S]` bool of each group, whether a token (row) attends to another.
          seed: `[2]` int64 of dropout, None outside of training.
        """
        rows = as_rows(packing, self.project(tokens))
        mixed = [
            self._attend(x, seen, seed, group)
            for group, (x, seen) in enumerate(zip(rows, visible, strict=True))
        ]
        return self.mix(as_list(packing, mixed))

    def _attend(
        self, rows: tf.Tensor, visible: tf.Tensor, seed: tf.Tensor | None, salt: int
    ) -> tf.Tensor:
        """`[b, S, 3 * dim]` -> `[b, S, dim]`."""
        query, key, value = self._split(rows)
        weights = dropout(_weights(query, key, visible), self.dropout, seed, salt)
        mixed = tf.transpose(tf.linalg.matmul(weights, value), [0, 2, 1, 3])
        return tf.reshape(mixed, [tf.shape(rows)[0], tf.shape(rows)[1], self.dim])

    def attention_weights(
        self, tokens: tf.Tensor, *, packing: Packing, visible: Sequence[tf.Tensor]
    ) -> list[tf.Tensor]:
        """How much the first tokens of a user attend to each, outside of training.

        Args:
          tokens, packing: as of `call`.
          visible: `[b, G, S]` bool of each group, whether each of the first G tokens attends to a
            token.

        Returns:
          Of each group `[b, heads, G, S]`, rows that sum to 1.
        """
        found = []
        for rows, seen in zip(as_rows(packing, self.project(tokens)), visible, strict=True):
            query, key, _ = self._split(rows)
            found.append(_weights(query[:, :, : tf.shape(seen)[1]], key, seen))
        return found

    def _split(self, rows: tf.Tensor) -> list[tf.Tensor]:
        """`[b, S, 3 * dim]` -> query, key and value `[b, heads, S, size]`."""
        users, width, size = tf.shape(rows)[0], tf.shape(rows)[1], self.dim // self.heads
        split = tf.reshape(rows, [users, width, 3, self.heads, size])
        return tf.unstack(tf.transpose(split, [2, 0, 3, 1, 4]))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "heads": self.heads,
            "dim": self.dim,
            "dropout": self.dropout,
        }


def _weights(query: tf.Tensor, key: tf.Tensor, visible: tf.Tensor) -> tf.Tensor:
    """`[b, heads, G, size]`, `[b, heads, S, size]` and `[b, G, S]` -> `[b, heads, G, S]`."""
    logits = tf.linalg.matmul(query * query.shape[-1] ** -0.5, key, transpose_b=True)
    logits += tf.where(visible, 0.0, logits.dtype.min)[:, None]
    return tf.nn.softmax(logits)
