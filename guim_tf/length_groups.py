"""Less padding: users of like length are encoded together, each group as wide as its longest."""

from typing import Any

import tensorflow as tf

from guim_tf.user_encoder import UserEncoder

GROUPS = 4


def encode_by_length(
    encoder: UserEncoder,
    items: tf.Tensor,
    *,
    present: tf.Tensor,
    as_of: tf.Tensor,
    earlier: tf.Tensor | None,
    training: bool,
    **events: tf.Tensor | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The same as `encoder(...)`, with outputs of zero where there is no event.

    Histories differ in length by orders of magnitude: in one go most of the work would be padding.

    Args:
      encoder: with its arguments as they are; `events` are those of shape `[B, N]`, or None.
    """
    lengths = tf.math.count_nonzero(present, axis=1, dtype=tf.int32)
    order = tf.argsort(lengths, stable=True)
    count, width = tf.shape(order)[0], tf.shape(present)[1]
    users, outputs = [], []
    for group in range(GROUPS):
        some = order[count * group // GROUPS : count * (group + 1) // GROUPS]
        longest = tf.maximum(tf.reduce_max(tf.gather(lengths, some)), 1)

        def cut(x: tf.Tensor | None) -> Any:
            return None if x is None else tf.gather(x, some)[:, :longest]  # noqa: B023

        vectors, positions = encoder(
            cut(items),
            present=cut(present),
            as_of=tf.gather(as_of, some),
            earlier=None if earlier is None else tf.gather(earlier, some),
            training=training,
            **{name: cut(value) for name, value in events.items()},
        )
        users.append(vectors)
        outputs.append(tf.pad(positions, [[0, 0], [0, width - longest], [0, 0]]))
    back = tf.argsort(order)
    return tf.gather(tf.concat(users, axis=0), back), tf.gather(tf.concat(outputs, axis=0), back)
