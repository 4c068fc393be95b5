"""Dropout whose draws follow from a seed alone: a resumed run repeats them."""

import tensorflow as tf

_LEVELS = 256  # a draw is one byte: four of them from each random number of 32 bits


def dropout(x: tf.Tensor, rate: float, seed: tf.Tensor | None, salt: int) -> tf.Tensor:
    """Zeroes a share of the numbers and scales up the others, so that the mean stays.

    Args:
      x: any shape.
      rate: the share, in [0, 1); rounded to a 256th.
      seed: `[2]` int64; None drops nothing, as outside of training.
      salt: tells the places apart that share a seed.
    """
    dropped = round(rate * _LEVELS)
    if seed is None or not dropped:
        return x
    size = tf.size(x)
    draws = tf.bitcast(
        tf.random.stateless_uniform(
            [-(-size // 4)],
            seed + tf.constant([0, salt], seed.dtype),
            minval=None,
            maxval=None,
            dtype=tf.uint32,
        ),
        tf.uint8,
    )
    kept = tf.reshape(tf.reshape(draws, [-1])[:size], tf.shape(x)) >= dropped
    return x * (tf.cast(kept, x.dtype) * (_LEVELS / (_LEVELS - dropped)))
