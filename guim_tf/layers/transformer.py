"""One BERT layer (section 3.2; Devlin et al., 2018)."""

from typing import Any

import tensorflow as tf

from guim_tf.keras_compat import keras, register


def _initializer() -> keras.initializers.Initializer:
    return keras.initializers.TruncatedNormal(stddev=0.02)


@register
class TransformerBlock(keras.layers.Layer):
    """Self-attention and a GELU feed-forward layer of 4 x dim, each with a layer norm.

    Args:
      dim: size of a vector.
      heads: attention heads of `dim / heads` each.
      dropout: rate on attention weights and on both outputs.
      norm_first: normalise the input of each half (pre-norm), not its output as in BERT.
    """

    def __init__(
        self, dim: int, *, heads: int, dropout: float, norm_first: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.heads = heads
        self.dropout = dropout
        self.norm_first = norm_first
        self.attention = keras.layers.MultiHeadAttention(
            heads, dim // heads, dropout=dropout, kernel_initializer=_initializer()
        )
        self.attention_norm = keras.layers.LayerNormalization(epsilon=1e-12)
        self.expand = keras.layers.Dense(
            4 * dim, activation=keras.activations.gelu, kernel_initializer=_initializer()
        )
        self.contract = keras.layers.Dense(dim, kernel_initializer=_initializer())
        self.output_norm = keras.layers.LayerNormalization(epsilon=1e-12)
        self.attention_dropout = keras.layers.Dropout(dropout)
        self.output_dropout = keras.layers.Dropout(dropout)

    def call(self, tokens: tf.Tensor, *, visible: tf.Tensor, training: bool = False) -> tf.Tensor:
        """`[B, S, dim]` -> `[B, S, dim]`.

        Args:
          tokens: `[B, S, dim]`.
          visible: `[B, S, S]` or `[B, 1, S]` bool, whether a token (row) attends to another.
        """

        def attend(x: tf.Tensor) -> tf.Tensor:
            mixed = self.attention(x, x, attention_mask=visible, training=training)
            return self.attention_dropout(mixed, training=training)

        def feed_forward(x: tf.Tensor) -> tf.Tensor:
            return self.output_dropout(self.contract(self.expand(x)), training=training)

        if self.norm_first:
            tokens += attend(self.attention_norm(tokens))
            return tokens + feed_forward(self.output_norm(tokens))
        tokens = self.attention_norm(tokens + attend(tokens))
        return self.output_norm(tokens + feed_forward(tokens))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "dim": self.dim,
            "heads": self.heads,
            "dropout": self.dropout,
            "norm_first": self.norm_first,
        }
