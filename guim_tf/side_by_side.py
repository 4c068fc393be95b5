"""The user encoder on parts of the users, in branches of one graph (`guim_tf.threads`)."""

from typing import Any

import tensorflow as tf

from guim_tf.packing import events_of
from guim_tf.user_encoder import UserEncoder

_OF_A_BRANCH = 1 << 32  # from a branch's dropout seeds to the next one's
_OF_USERS = ("as_of", "earlier")
_OF_EVENTS = ("timestamp", "masked", "action")


def encode_side_by_side(
    encoder: UserEncoder,
    items: tf.Tensor,
    *,
    branches: int,
    groups: int,
    lengths: tf.Tensor,
    seed: tf.Tensor | None,
    **inputs: tf.Tensor | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """What `encoder` gives, with the same gradients; dropout differs.

    Args:
      encoder: with its variables made.
      items: `[E, d]`, as all that follows as in `UserEncoder.call`.
      branches: how many; each has as many users as another, short histories and long ones.
      groups: of like length, in each branch.
      lengths: `[B]` int32.
      seed: `[2]` int64, or None.
      **inputs: the rest; None for what there is not.
    """
    order = tf.argsort(lengths, stable=True)
    members = [order[number::branches] for number in range(branches)]
    places = [events_of(users, lengths) for users in members]

    def encode(number: int) -> tuple[tf.Tensor, tf.Tensor]:
        users, events = members[number], places[number]
        rows = dict.fromkeys(_OF_USERS, users) | dict.fromkeys(_OF_EVENTS, events)
        return encoder(
            tf.gather(items, events),
            lengths=tf.gather(lengths, users),
            seed=None if seed is None else seed + number * _OF_A_BRANCH,
            groups=groups,
            **{name: None if x is None else tf.gather(x, rows[name]) for name, x in inputs.items()},
        )

    users, outputs = zip(*(encode(number) for number in range(branches)), strict=True)
    return _in_place(users, members), _in_place(outputs, places)


def _in_place(rows: Any, places: Any) -> tf.Tensor:
    """Rows of all branches where they belong."""
    return tf.gather(tf.concat(rows, axis=0), tf.math.invert_permutation(tf.concat(places, axis=0)))
