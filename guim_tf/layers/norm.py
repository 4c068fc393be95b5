"""Layer normalisation (Ba et al., 2016) with its gradient in closed form."""

from typing import Any

import tensorflow as tf

from guim_tf.keras_compat import keras, register

_EPSILON = 1e-12  # as in BERT


@register
class LayerNorm(keras.layers.Layer):
    """Each token gets mean 0 and variance 1, then a learned scale and shift.

    The same numbers as of `keras.layers.LayerNormalization`, whose gradient TensorFlow derives op
    by op, in about three times as many passes over the tokens.
    """

    def build(self, input_shape: Any) -> None:
        dim = input_shape[-1]
        self.gamma = self.add_weight(name="gamma", shape=[dim], initializer="ones")
        self.beta = self.add_weight(name="beta", shape=[dim], initializer="zeros")
        super().build(input_shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """`[T, dim]` -> `[T, dim]`."""
        return _normalise(x, tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta))


@tf.custom_gradient
def _normalise(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tuple[tf.Tensor, Any]:
    centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
    scale = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True) + _EPSILON)
    y = centred * scale

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        of_y = upstream * gamma
        mean = tf.reduce_mean(of_y, axis=-1, keepdims=True)
        along = tf.reduce_mean(of_y * y, axis=-1, keepdims=True)
        of_gamma, of_beta = (  # sums over the tokens
            tf.raw_ops.BiasAddGrad(out_backprop=z) for z in (upstream * y, upstream)
        )
        return scale * (of_y - mean - y * along), of_gamma, of_beta

    return y * gamma + beta, gradient
