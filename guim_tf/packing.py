"""Users of any length side by side, without padding where none is needed.

All tokens of a batch stand in one list `[T, ...]`: first the CLS tokens of every user, then the
events of every user, then a little padding. What treats each token alone works on that list. Only
attention needs users as rows: they are grouped by length, and each group is as wide as its longest
user.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from guim_tf.few_shapes import round_up


class Group(NamedTuple):
    """Some users as rows of equal width S.

    users: `[b]` int32, which ones; events: `[b, W]` int32, where their events stand in the list of
    events (anywhere for padding); present: `[b, W]` bool, False for padding; tokens: `[b, S]`
    int32, where their tokens stand in the list of tokens, CLS tokens first (padding's: the last).
    """

    users: tf.Tensor
    events: tf.Tensor
    present: tf.Tensor
    tokens: tf.Tensor


class Packing(NamedTuple):
    """How the tokens of a batch are grouped.

    groups: each user is in one of them; first: how many CLS tokens there are before the events;
    real: how many tokens there are; size: T, with the padding behind them, one at least. T is one
    of few sizes (`guim_tf.few_shapes`). Nothing may depend on what padding becomes.
    """

    groups: Sequence[Group]
    first: tf.Tensor
    real: tf.Tensor
    size: tf.Tensor


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
    real = first + tf.reduce_sum(lengths)
    size = round_up(real + 1)
    starts = tf.math.cumsum(lengths, exclusive=True)
    order = tf.argsort(lengths, stable=True)
    found = []
    for number in range(groups):
        users = tf.cast(order[count * number // groups : count * (number + 1) // groups], tf.int32)
        length = tf.gather(lengths, users)
        width = tf.reduce_max(tf.concat([length, [0]], axis=0))
        present = tf.range(width)[None, :] < length[:, None]
        events = tf.where(present, tf.gather(starts, users)[:, None] + tf.range(width), 0)
        cls = users[:, None] * cls_tokens + tf.range(cls_tokens)
        tokens = tf.concat([cls, tf.where(present, first + events, size - 1)], axis=1)
        found.append(Group(users, events, present, tokens))
    return Packing(found, first, real, size)


def as_rows(
    packing: Packing, tokens: tf.Tensor, *, parts: int = 1, heads: int = 1
) -> list[list[tf.Tensor]]:
    """The list `[T, F]` as rows of each group.

    Args:
      packing: how tokens are grouped.
      tokens: `[T, F]`.
      parts, heads: that the numbers of a token are cut into, heads within parts.

    Returns:
      Of each group its parts, `[heads, b, S, F / parts / heads]` each.
    """
    pieces = parts * heads
    size = tokens.shape[-1] // pieces
    places = [
        [_places(group, pieces, heads, first) for first in range(0, pieces, heads)]
        for group in packing.groups
    ]

    @tf.custom_gradient
    def gather(x: tf.Tensor) -> tuple[list[list[tf.Tensor]], Any]:
        def gradient(*upstream: tf.Tensor) -> tf.Tensor:
            return _stitch(packing, [*itertools.chain(*places)], upstream, pieces)

        flat = tf.reshape(x, [-1, size])
        return [[tf.gather(flat, place) for place in of_group] for of_group in places], gradient

    return gather(tokens)


def as_list(packing: Packing, rows: Sequence[tf.Tensor]) -> tf.Tensor:
    """Rows of each group, `[heads, b, S, F / heads]`, as one list `[T, F]`; undoes `as_rows`."""
    heads, *_, size = rows[0].shape
    places = [_places(group, heads, heads, 0) for group in packing.groups]

    @tf.custom_gradient
    def gather(*x: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            flat = tf.reshape(upstream, [-1, size])
            return [tf.gather(flat, place) for place in places]  # zeros for padding

        return _stitch(packing, places, x, heads), gradient

    return gather(*rows)


def _places(group: Group, pieces: int, heads: int, first: int) -> tf.Tensor:
    """Where some pieces of a group's tokens stand in the list of all pieces: `[heads, b, S]`."""
    return group.tokens * pieces + tf.range(first, first + heads)[:, None, None]


def _stitch(
    packing: Packing, places: Sequence[tf.Tensor], rows: Sequence[tf.Tensor], pieces: int
) -> tf.Tensor:
    """Rows `[heads, b, S, size]` at their places as a list `[T, pieces * size]`, with zeros behind.

    Rows of padding all go to the last place, which is among these zeros.
    """
    padding = tf.range(packing.real * pieces, packing.size * pieces)
    zeros = tf.zeros([tf.size(padding), rows[0].shape[-1]])
    flat = tf.dynamic_stitch([*places, padding], [*rows, zeros])
    return tf.reshape(flat, [-1, pieces * rows[0].shape[-1]])
