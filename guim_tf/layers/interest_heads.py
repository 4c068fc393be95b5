"""GUIM-MH: a user's vectors as the heads of one more attention layer (section 4.3.2)."""

from typing import Any

import tensorflow as tf

from guim_tf.keras_compat import keras, register
from guim_tf.layers.dropout import dropout


@register
class InterestHeads(keras.layers.Layer):
    """Self-attention at the first tokens, whose heads are full vectors and are not mixed.

    Each head has d x d projections for query, key and value. Only the first tokens ask, so the key
    projection moves to the query, and values are projected after they were averaged: the same
    numbers for the work of a few tokens, not of all.

    Args:
      heads: H, the number of vectors.
      dim: size of a vector, d, and of each head.
      dropout: rate on the attention weights.
    """

    def __init__(self, heads: int, *, dim: int, dropout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.dim = dim
        self.dropout = dropout

    def build(self, input_shape: Any) -> None:
        def kernel(name: str) -> tf.Variable:
            return self.add_weight(
                name=f"{name}_kernel",
                shape=[self.heads, self.dim, self.dim],
                initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            )

        def bias(name: str) -> tf.Variable:
            return self.add_weight(
                name=f"{name}_bias", shape=[self.heads, self.dim], initializer="zeros"
            )

        self.query_kernel, self.query_bias = kernel("query"), bias("query")
        self.key_kernel = kernel("key")  # its bias would add the same to all logits of a head
        self.value_kernel, self.value_bias = kernel("value"), bias("value")
        super().build(input_shape)

    def call(
        self, tokens: tf.Tensor, *, visible: tf.Tensor, seed: tf.Tensor | None = None, salt: int = 0
    ) -> tf.Tensor:
        """`[B, S, d]` -> `[B, G, H, d]` of the first G tokens.

        Args:
          tokens: `[B, S, d]`.
          visible: `[B, G, S]` bool, whether each of them attends to a token.
          seed, salt: of `dropout`.
        """
        weights = dropout(self.attention_weights(tokens, visible=visible), self.dropout, seed, salt)
        mixed = tf.einsum("bghs,bsd->bghd", weights, tokens)
        return tf.einsum("bghd,hde->bghe", mixed, self.value_kernel) + self.value_bias

    def attention_weights(self, tokens: tf.Tensor, *, visible: tf.Tensor) -> tf.Tensor:
        """How much each head attends to each token, `[B, G, H, S]`; arguments as of `call`."""
        first = tokens[:, : tf.shape(visible)[1]]
        query = tf.einsum("bgd,hde->bghe", first, self.query_kernel) + self.query_bias
        query = tf.einsum("bghe,hde->bghd", query, self.key_kernel)
        logits = tf.einsum("bghd,bsd->bghs", query, tokens) * self.dim**-0.5
        return tf.nn.softmax(tf.where(visible[:, :, None, :], logits, logits.dtype.min))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "heads": self.heads,
            "dim": self.dim,
            "dropout": self.dropout,
        }
