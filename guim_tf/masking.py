"""Which items of a history are masked for the MLM task (section 3.2)."""

import tensorflow as tf


def choose_masked(present: tf.Tensor, probability: float, seed: tf.Tensor) -> tf.Tensor:
    """Picks each present event independently with `probability`.

    Args:
      present: `[B, N]` bool, False for padding.
      probability: share of events to mask (0.15 in the paper).
      seed: `[2]` int, of `tf.random.stateless_uniform`.

    Returns:
      `[B, N]` bool.
    """
    return present & (tf.random.stateless_uniform(tf.shape(present), seed) < probability)
