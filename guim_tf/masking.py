"""What is hidden in training: items of a history for the MLM task (section 3.2), and ids."""

import tensorflow as tf

from guim_tf import schema as names


def choose_masked(present: tf.Tensor, probability: float, seed: tf.Tensor) -> tf.Tensor:
    """Picks each present event independently with `probability`.

    Args:
      present: `[...]` bool, False for padding.
      probability: share of events to mask (0.15 in the paper).
      seed: `[2]` int, of `tf.random.stateless_uniform`.

    Returns:
      bool, of the same shape.
    """
    return present & (tf.random.stateless_uniform(tf.shape(present), seed) < probability)


def drop_ids(item_index: tf.Tensor, probability: float, seed: tf.Tensor) -> tf.Tensor:
    """Gives items the common row of unknown ones, independently with `probability`.

    Args:
      item_index: `[...]` rows; padding stays padding.
      probability: share of the items.
      seed: `[2]` int, of `tf.random.stateless_uniform`.
    """
    dropped = choose_masked(item_index != names.PADDING_ROW, probability, seed)
    return tf.where(dropped, tf.constant(names.UNKNOWN_ROW, item_index.dtype), item_index)
