"""One BERT layer (section 3.2; Devlin et al., 2018)."""

from typing import Any

import tensorflow as tf

from guim_tf.keras_compat import keras, register


def _initializer() -> keras.initializers.Initializer:
    return keras.initializers.TruncatedNormal(stddev=0.02)


@register
class TransformerBlock(keras.layers.Layer):
    """Self-attention and a GELU feed-forward layer of 4 x dim, normalised after each (post-norm).

    Args:
      dim: size of a vector.
      heads: attention heads of `dim / heads` each.
      dropout: rate on attention weights and on both outputs.
    """

    def __init__(self, dim: int, *, heads: int, dropout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.heads = heads
        self.dropout = dropout
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

    def call(self, tokens: tf.Tensor, *, present: tf.Tensor, training: bool = False) -> tf.Tensor:
        """`[B, S, dim]` and `[B, S]` bool (False for padding) -> `[B, S, dim]`."""
        mixed = self.attention(
            tokens, tokens, attention_mask=present[:, None, :], training=training
        )
        tokens = self.attention_norm(tokens + self.attention_dropout(mixed, training=training))
        wide = self.contract(self.expand(tokens))
        return self.output_norm(tokens + self.output_dropout(wide, training=training))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "dim": self.dim,
            "heads": self.heads,
            "dropout": self.dropout,
        }
