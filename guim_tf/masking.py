"""What is hidden in training: items of a history for the MLM task (section 3.2), and ids."""

import tensorflow as tf

from guim_tf import schema as names


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


def drop_ids(item_index: tf.Tensor, probability: float, seed: tf.Tensor) -> tf.Tensor:
    """Gives events the common row of unknown items, independently with `probability`.

    Args:
      item_index: `[B, N]` rows; padding stays padding.
      probability: share of events.
      seed: `[2]` int, of `tf.random.stateless_uniform`.
    """
    dropped = choose_masked(item_index != names.PADDING_ROW, probability, seed)
    return tf.where(dropped, tf.constant(names.UNKNOWN_ROW, item_index.dtype), item_index)
