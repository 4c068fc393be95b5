"""Users of any length side by side, without padding where none is needed.

All tokens of a batch stand in one list `[T, ...]`: first the CLS tokens of every user, then the
events of every user, then a little padding. What treats each token alone works on that list. Only
attention needs users as rows: they are grouped by length, and each group is as wide as its longest
user.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from guim_tf.few_shapes import round_up


class Group(NamedTuple):
    """Some users as rows of equal width S.

    users: `[b]` int32, which ones; events: `[b, W]` int32, where their events stand in the list of
    events (anywhere for padding); present: `[b, W]` bool, False for padding; tokens: `[b, S]`
    int32, where their tokens stand in the list of tokens, CLS tokens first (0 for padding).
    """

    users: tf.Tensor
    events: tf.Tensor
    present: tf.Tensor
    tokens: tf.Tensor


class Packing(NamedTuple):
    """How the tokens of a batch are grouped.

    groups: each user is in one of them; slots: `[T]` int32, where each token stands in the rows of
    all groups, one after another; first: how many CLS tokens there are before the events. After
    those the list is padded to one of few sizes (`guim_tf.few_shapes`), with slots behind all rows.
    """

    groups: Sequence[Group]
    slots: tf.Tensor
    first: tf.Tensor


def events_of(users: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    """Where the events of some users, one user after another, stand in the list of all: int32.

    Args:
      users: `[b]` int32, which ones.
      lengths: `[B]` int32, events of each user.
    """
    size = tf.gather(lengths, users)
    start = tf.gather(tf.math.cumsum(lengths, exclusive=True), users)
    shift = start - tf.math.cumsum(size, exclusive=True)
    return tf.repeat(shift, size) + tf.range(tf.reduce_sum(size))


def pack(lengths: tf.Tensor, *, cls_tokens: int | tf.Tensor, groups: int) -> Packing:
    """Groups users by length.

    Args:
      lengths: `[B]` int32, events of each user.
      cls_tokens: of each user.
      groups: how many; more of them have less padding and more operations.
    """
    count = tf.shape(lengths)[0]
    first = count * cls_tokens
    starts = tf.math.cumsum(lengths, exclusive=True)
    order = tf.argsort(lengths, stable=True)
    found, slots, places, before = [], [], [], 0
    for number in range(groups):
        users = tf.cast(order[count * number // groups : count * (number + 1) // groups], tf.int32)
        size = tf.gather(lengths, users)
        width = tf.reduce_max(tf.concat([size, [0]], axis=0))
        present = tf.range(width)[None, :] < size[:, None]
        events = tf.where(present, tf.gather(starts, users)[:, None] + tf.range(width), 0)
        cls = users[:, None] * cls_tokens + tf.range(cls_tokens)
        tokens = tf.concat([cls, tf.where(present, first + events, 0)], axis=1)
        real = tf.concat([tf.ones_like(cls, tf.bool), present], axis=1)
        place = tf.reshape(tf.range(tf.size(tokens)), tf.shape(tokens)) + before
        slots.append(tf.boolean_mask(tokens, real))
        places.append(tf.boolean_mask(place, real))
        before += tf.size(tokens)
        found.append(Group(users, events, present, tokens))
    real = first + tf.reduce_sum(lengths)
    slot = tf.scatter_nd(
        tf.concat(slots, axis=0)[:, None],
        tf.concat(places, axis=0),
        [real],
    )
    padding = tf.fill([round_up(real) - real], before)
    return Packing(found, tf.concat([slot, padding], axis=0), first)


def as_rows(packing: Packing, tokens: tf.Tensor, *, pieces: int = 1) -> list[tf.Tensor]:
    """The list `[T, F]` as rows of each group; padding repeats some token.

    Args:
      packing: how tokens are grouped.
      tokens: `[T, F]`.
      pieces: that the numbers of a token are cut into: heads of attention, say.

    Returns:
      Of each group `[pieces, b, S, F / pieces]`.
    """
    size = tokens.shape[-1] // pieces

    @tf.custom_gradient
    def gather(x: tf.Tensor) -> tuple[list[tf.Tensor], Any]:
        def gradient(*upstream: tf.Tensor) -> tf.Tensor:  # nothing is asked of padding
            return _flat(upstream, packing.slots)

        return [_cut(x, group.tokens, pieces, size) for group in packing.groups], gradient

    return gather(tokens)


def as_list(packing: Packing, rows: Sequence[tf.Tensor]) -> tf.Tensor:
    """Rows of each group, `[pieces, b, S, F / pieces]`, as one list `[T, F]`; undoes `as_rows`."""
    pieces, *_, size = rows[0].shape

    @tf.custom_gradient
    def gather(*x: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            # Padding has no say, so it must get no gradient: it reads a row of zeros.
            padded = tf.concat([tf.zeros_like(upstream[:1]), upstream], axis=0)
            return [
                _cut(padded, tf.where(_real(group), group.tokens + 1, 0), pieces, size)
                for group in packing.groups
            ]

        return _flat(x, packing.slots), gradient

    return gather(*rows)


def _real(group: Group) -> tf.Tensor:
    """Which tokens of a group are no padding: `[b, S]` bool."""
    cls = tf.shape(group.tokens)[1] - tf.shape(group.present)[1]
    return tf.pad(group.present, [[0, 0], [cls, 0]], constant_values=True)


def _cut(x: tf.Tensor, tokens: tf.Tensor, pieces: int, size: int) -> tf.Tensor:
    """`[T, pieces * size]` and `[b, S]` int32 -> `[pieces, b, S, size]`, copied once."""
    place = tokens[None] * pieces + tf.range(pieces)[:, None, None]
    return tf.gather(tf.reshape(x, [-1, size]), place)


def _flat(rows: Sequence[tf.Tensor], slots: tf.Tensor) -> tf.Tensor:
    """`[pieces, b, S, size]` of each group -> `[T, pieces * size]`."""
    pieces, *_, size = rows[0].shape
    of_groups = [tf.reshape(x, [pieces, -1, size]) for x in rows]
    of_pieces = tf.concat([*of_groups, tf.zeros([pieces, 1, size])], axis=1)  # that of padding
    place = slots[:, None] + tf.range(pieces) * tf.shape(of_pieces)[1]
    found = tf.gather(tf.reshape(of_pieces, [-1, size]), place)
    return tf.reshape(found, [-1, pieces * size])
