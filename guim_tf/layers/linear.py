"""A dense layer on a list of tokens."""

import functools
from typing import Any

import tensorflow as tf

from guim_tf.keras_compat import keras, register

_INITIALIZERS = {
    "bert": functools.partial(keras.initializers.TruncatedNormal, stddev=0.02),
    "glorot": keras.initializers.GlorotUniform,
}


@register
class Linear(keras.layers.Layer):
    """`x W + b`, or `x W`, as of `keras.layers.Dense`.

    Its product goes by einsum, which oneDNN lowers to bfloat16 where it is told to
    (`guim_tf.precision`), and its bias by an operation whose gradient is not a plain sum over
    tokens: that takes a third of the time.

    Args:
      units: numbers that come out of each token.
      initializer: of the kernel: "bert", normal with .02, or "glorot", as large as keeps lengths.
      use_bias: whether there is a b.
    """

    def __init__(
        self,
        units: int,
        *,
        initializer: str = "bert",
        use_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.use_bias = use_bias
        self.initializer = initializer

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight(
            name="kernel",
            shape=[input_shape[-1], self.units],
            initializer=_INITIALIZERS[self.initializer](),
        )
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=[self.units], initializer="zeros")
        super().build(input_shape)

    def call(
        self, x: tf.Tensor, *, kernel_scale: float = 1.0, bias_scale: float = 1.0
    ) -> tf.Tensor:
        """`[..., n]` -> `[..., units]`; scales are factors of W and b, here and for this call."""
        rows = x if x.shape.rank == 2 else tf.reshape(x, [-1, x.shape[-1]])
        product = tf.einsum("tx,xy->ty", rows, _scaled(self.kernel, kernel_scale))
        if self.use_bias:
            product = tf.nn.bias_add(product, _scaled(self.bias, bias_scale))
        if x.shape.rank == 2:
            return product
        return tf.reshape(product, tf.concat([tf.shape(x)[:-1], [self.units]], axis=0))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "units": self.units,
            "use_bias": self.use_bias,
            "initializer": self.initializer,
        }


def _scaled(weights: tf.Variable, factor: float) -> tf.Tensor:
    return weights if factor == 1.0 else factor * weights
