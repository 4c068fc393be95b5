"""One BERT layer (section 3.2; Devlin et al., 2018)."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from guim_tf.keras_compat import keras, register
from guim_tf.layers.activation import SCALE, times_erfc
from guim_tf.layers.attention import SelfAttention
from guim_tf.layers.dropout import dropout
from guim_tf.layers.linear import Linear
from guim_tf.layers.norm import LayerNorm
from guim_tf.packing import Packing


@register
class TransformerBlock(keras.layers.Layer):
    """Self-attention and a GELU feed-forward layer of 4 x dim, each with a layer norm.

    Args:
      dim: size of a token.
      heads: attention heads of `dim / heads` each.
      dropout: rate on attention weights and on both outputs.
      initializer: of the kernels, as of `Linear`.
      norm_first: normalise the input of each half (pre-norm), not its output as in BERT.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        dropout: float,
        initializer: str = "bert",
        norm_first: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.heads = heads
        self.dropout = dropout
        self.initializer = initializer
        self.norm_first = norm_first
        self.attention = SelfAttention(
            heads, dim=dim, dropout=dropout, initializer=initializer, name="attention"
        )
        self.attention_norm = LayerNorm(name="attention_norm")
        self.expand = Linear(4 * dim, initializer=initializer, name="expand")
        self.contract = Linear(dim, initializer=initializer, name="contract")
        self.output_norm = LayerNorm(name="output_norm")

    def call(
        self,
        tokens: tf.Tensor,
        *,
        packing: Packing,
        visible: Sequence[tf.Tensor],
        seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """`[T, dim]` -> `[T, dim]`; arguments as of `SelfAttention`."""

        def attend(x: tf.Tensor) -> tf.Tensor:
            mixed = self.attention(x, packing=packing, visible=visible, seed=seed)
            return dropout(mixed, self.dropout, seed, len(visible))

        def feed_forward(x: tf.Tensor) -> tf.Tensor:
            hidden = times_erfc(self.expand(x, kernel_scale=SCALE, bias_scale=SCALE))
            out = self.contract(hidden, kernel_scale=SCALE)
            return dropout(out, self.dropout, seed, len(visible) + 1)

        if self.norm_first:
            tokens += attend(self.attention_norm(tokens))
            return tokens + feed_forward(self.output_norm(tokens))
        tokens = self.attention_norm(tokens + attend(tokens))
        return self.output_norm(tokens + feed_forward(tokens))

    def attention_weights(
        self, tokens: tf.Tensor, *, packing: Packing, visible: Sequence[tf.Tensor]
    ) -> list[tf.Tensor]:
        """What `SelfAttention.attention_weights` are for the same input of the block."""
        if self.norm_first:
            tokens = self.attention_norm(tokens)
        return self.attention.attention_weights(tokens, packing=packing, visible=visible)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "dim": self.dim,
            "heads": self.heads,
            "dropout": self.dropout,
            "initializer": self.initializer,
            "norm_first": self.norm_first,
        }
