"""GELU (Hendrycks and Gimpel, 2016) with its gradient in closed form and few passes."""

import math
from typing import Any

import tensorflow as tf

# GELU(x) = SCALE * times_erfc(SCALE * x): a layer before and one after it can take the factors into
# their kernels, which are small beside the tokens.
SCALE = -math.sqrt(0.5)


def gelu(x: tf.Tensor) -> tf.Tensor:
    """`x * Phi(x)`, exact."""
    return SCALE * times_erfc(SCALE * x)


@tf.custom_gradient
def times_erfc(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """`x * erfc(x)`; erfc is kept for the gradient, which op by op takes twice the passes."""
    tail = tf.math.erfc(x)

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        bell = tf.exp(-tf.square(x))  # one pass: TensorFlow joins functions of one argument
        return upstream * (tail - x * (2 / math.sqrt(math.pi)) * bell)

    return x * tail, gradient
