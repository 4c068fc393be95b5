"""The events of a batch as one list: what they are of, whose they are, and their vectors."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from guim_tf import schema as names
from guim_tf.data import Events
from guim_tf.few_shapes import pad_rows, round_up
from guim_tf.keras_compat import keras
from guim_tf.masking import drop_ids

_OF_AN_ITEM = (names.ITEM_KEY, names.ITEM_INDEX, names.CATEGORY_INDEX)


def present_events(events: Events) -> tf.Tensor:
    """Which events are real: `[B, N]` bool, False for padding."""
    return events[names.ITEM_INDEX] != names.PADDING_ROW


def count_events(present: tf.Tensor) -> tf.Tensor:
    """`[B, N]` bool -> `[B]` int32, how many events each user has."""
    return tf.math.count_nonzero(present, axis=1, dtype=tf.int32)


class BatchEvents(NamedTuple):
    """E events: of the histories, then of the targets, then what is nobody's.

    items: features `[X]` of each distinct item among them, titles `[X, W]`, with padding behind so
    that X is one of few numbers (`guim_tf.few_shapes`); item: `[E]` int32,
    which of these an event is of; owner: `[E]` int32, the user's row in the batch, or one more than
    the last for what is nobody's; history, targets: `[B, N]` and `[B, M]` int32, where in the list
    each event stands (anywhere for padding).
    """

    items: Events
    item: tf.Tensor
    owner: tf.Tensor
    history: tf.Tensor
    targets: tf.Tensor

    def encode(
        self, encoder: keras.layers.Layer, *, id_dropout: float, seed: tf.Tensor
    ) -> tf.Tensor:
        """Vectors of the distinct items, `[X, d]`.

        Args:
          encoder: the item encoder.
          id_dropout: share of the items that get the common row of unknown ones.
          seed: `[2]` int.
        """
        items = self.items
        if id_dropout:
            dropped = drop_ids(items[names.ITEM_INDEX], id_dropout, seed)
            items = items | {names.ITEM_INDEX: dropped}
        return encoder(items)


def collect(history: Events, targets: Events, nobodys: Events | None) -> BatchEvents:
    """Lists the events of a batch; `nobodys` are features `[n]`."""
    in_history, in_targets = present_events(history), present_events(targets)
    owners = [tf.cast(tf.where(present)[:, 0], tf.int32) for present in (in_history, in_targets)]
    parts = [(history, in_history), (targets, in_targets)]
    if nobodys is not None:
        in_nobodys = present_events(nobodys)
        parts.append((nobodys, in_nobodys))
        users = tf.shape(in_history)[0]
        owners.append(tf.fill([tf.math.count_nonzero(in_nobodys, dtype=tf.int32)], users))
    features = {
        name: tf.concat([part[name][present] for part, present in parts], axis=0)
        for name in _OF_AN_ITEM
    }
    features[names.TITLE_TOKENS] = _same_width(
        [part[names.TITLE_TOKENS][present] for part, present in parts]
    )
    first, item = distinct(features[names.ITEM_KEY])
    size = round_up(tf.shape(first)[0])
    items = {name: pad_rows(tf.gather(value, first), size) for name, value in features.items()}
    return BatchEvents(
        items,
        item,
        tf.concat(owners, axis=0),
        _places(in_history),
        tf.shape(owners[0])[0] + _places(in_targets),
    )


def distinct(keys: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Where each of X distinct keys of `[E]` stands first `[X]`, and which one each is `[E]`."""
    values, which = tf.unique(keys)
    places = tf.range(tf.shape(which)[0])
    return tf.math.unsorted_segment_min(places, which, tf.shape(values)[0]), which


def _places(present: tf.Tensor) -> tf.Tensor:
    """`[B, N]` int32: where each present event stands among all present ones, row by row."""
    flat = tf.reshape(tf.cast(present, tf.int32), [-1])
    return tf.reshape(tf.math.cumsum(flat, exclusive=True), tf.shape(present))


def _same_width(titles: Sequence[tf.Tensor]) -> tf.Tensor:
    width = tf.reduce_max([tf.shape(title)[1] for title in titles])
    return tf.concat(
        [tf.pad(title, [[0, 0], [0, width - tf.shape(title)[1]]]) for title in titles], axis=0
    )
