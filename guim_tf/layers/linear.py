"""A dense layer on a list of tokens."""

from typing import Any

import tensorflow as tf

from guim_tf.keras_compat import keras, register


@register
class Linear(keras.layers.Layer):
    """`x W + b`, as of `keras.layers.Dense`.

    Its product goes by einsum, which oneDNN lowers to bfloat16 where it is told to
    (`guim_tf.precision`), and its bias by an operation whose gradient is not a plain sum over
    tokens: that takes a third of the time.

    Args:
      units: numbers that come out of each token.
      initializer: of the kernel; BERT's where there is none.
    """

    def __init__(
        self,
        units: int,
        *,
        initializer: str | keras.initializers.Initializer | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.initializer = keras.initializers.get(
            initializer
        ) or keras.initializers.TruncatedNormal(stddev=0.02)

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight(
            name="kernel", shape=[input_shape[-1], self.units], initializer=self.initializer
        )
        self.bias = self.add_weight(name="bias", shape=[self.units], initializer="zeros")
        super().build(input_shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """`[T, n]` -> `[T, units]`."""
        return tf.nn.bias_add(tf.einsum("tx,xy->ty", x, self.kernel), self.bias)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "units": self.units,
            "initializer": keras.initializers.serialize(self.initializer),
        }
