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
      initializer: of the kernels, as of `Linear`.
    """

    def __init__(
        self, heads: int, *, dim: int, dropout: float, initializer: str = "bert", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.dim = dim
        self.dropout = dropout
        self.initializer = initializer
        self.project = Linear(3 * dim, initializer=initializer, name="project")
        self.mix = Linear(dim, initializer=initializer, name="mix")

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
        mixed = []
        for number, (query, key, value) in enumerate(self._rows(tokens, packing)):
            weights = _weights(query, key, visible[number])
            weights = dropout(weights, self.dropout, seed, number)
            mixed.append(tf.linalg.matmul(weights, value))
        return self.mix(as_list(packing, mixed))

    def attention_weights(
        self, tokens: tf.Tensor, *, packing: Packing, visible: Sequence[tf.Tensor]
    ) -> list[tf.Tensor]:
        """How much the first tokens of a user attend to each, outside of training.

        Args:
          tokens, packing: as of `call`.
          visible: `[b, G, S]` bool of each group, whether each of the first G tokens attends to a
            token.

        Returns:
          Of each group `[heads, b, G, S]`, rows that sum to 1.
        """
        return [
            _weights(query[:, :, : tf.shape(seen)[1]], key, seen)
            for (query, key, _), seen in zip(self._rows(tokens, packing), visible, strict=True)
        ]

    def _rows(self, tokens: tf.Tensor, packing: Packing) -> list[list[tf.Tensor]]:
        """Query, key and value of each group, `[heads, b, S, size]` each."""
        return as_rows(packing, self.project(tokens), parts=3, heads=self.heads)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "heads": self.heads,
            "dim": self.dim,
            "dropout": self.dropout,
            "initializer": self.initializer,
        }


def _weights(query: tf.Tensor, key: tf.Tensor, visible: tf.Tensor) -> tf.Tensor:
    """`[heads, b, G, size]`, `[heads, b, S, size]` and `[b, G, S]` -> `[heads, b, G, S]`."""
    logits = tf.linalg.matmul(query * query.shape[-1] ** -0.5, key, transpose_b=True)
    logits += tf.where(visible, 0.0, logits.dtype.min)
    return tf.nn.softmax(logits)
