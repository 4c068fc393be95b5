"""Numbers of rows that come again, so that the code made for a product serves the next batch.

oneDNN generates machine code for every new shape of a matrix product and keeps the last 1,024.
Where each batch has other numbers of tokens and items, that is a sixth of a training step.
"""

import math

import tensorflow as tf

_STEPS = 32  # sizes between a power of two and the next


def round_up(size: tf.Tensor) -> tf.Tensor:
    """The next of few sizes, by less than a 32nd larger: int32 -> int32."""
    octave = tf.math.log(tf.cast(tf.maximum(size, 1), tf.float32) / _STEPS) / math.log(2)
    step = tf.maximum(tf.cast(2.0 ** tf.floor(octave), tf.int32), 1)
    return -(-size // step) * step


def pad_rows(x: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """`[n, ...]` -> `[size, ...]`, with zeros behind."""
    missing = size - tf.shape(x)[0]
    return tf.pad(x, [[0, missing]] + [[0, 0]] * (x.shape.rank - 1))
