"""The user encoder on a part of the users at a time: large batches in little memory.

Of each part its outputs alone are kept, and for the gradient all else is computed again (Chen et
al., 2016). The losses still see the whole batch at once, so every negative of it counts; that is
the scheme of Gao et al. (2021, "Scaling deep contrastive learning batch size under memory limited
setup") as one differentiable call.
"""

from typing import Any

import tensorflow as tf

from guim_tf.packing import events_of
from guim_tf.user_encoder import UserEncoder

_OF_A_PART = 1 << 32  # from a part's dropout seeds to the next one's


def encode_in_parts(
    encoder: UserEncoder,
    items: tf.Tensor,
    *,
    parts: int,
    lengths: tf.Tensor,
    timestamp: tf.Tensor,
    as_of: tf.Tensor,
    earlier: tf.Tensor | None,
    masked: tf.Tensor,
    action: tf.Tensor | None,
    seed: tf.Tensor | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """What `encoder` gives, with the same gradients; dropout differs.

    Args:
      encoder: with its variables made.
      items: `[E, d]`, as all that follows as in `UserEncoder.call`.
      parts: how many, of like length.
    """
    users = tf.shape(lengths)[0]
    order = tf.argsort(lengths, stable=True)

    def members(part: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Users of a part, and their events, int32."""
        who = order[users * part // parts : users * (part + 1) // parts]
        return who, events_of(who, lengths)

    def encode(part: tf.Tensor, items: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Of the items `[e, d]` of a part's events."""
        who, which = members(part)
        return encoder(
            items,
            lengths=tf.gather(lengths, who),
            timestamp=tf.gather(timestamp, which),
            as_of=tf.gather(as_of, who),
            earlier=None if earlier is None else tf.gather(earlier, who),
            masked=tf.gather(masked, which),
            action=None if action is None else tf.gather(action, which),
            seed=None if seed is None else seed + _OF_A_PART * tf.cast(part, seed.dtype),
        )

    def in_turn(body: Any, *state: Any) -> list[Any]:
        """All parts, one after another, for more would be in memory at once."""
        _, *found = tf.while_loop(
            lambda part, *_: part < parts,
            lambda part, *state: (part + 1, *body(part, *state)),
            [0, *state],
            parallel_iterations=1,
        )
        return found

    def rows(*shape: int | None) -> tf.TensorArray:
        return tf.TensorArray(items.dtype, parts, infer_shape=False, element_shape=[None, *shape])

    user_place = tf.math.invert_permutation(order)
    events = tf.concat([members(tf.constant(part))[1] for part in range(parts)], axis=0)
    event_place = tf.math.invert_permutation(events)
    user_shape: list[int | None] = [encoder.interests, encoder.dim]
    if earlier is not None:
        user_shape = [None, *user_shape]

    @tf.custom_gradient
    def run(items: tf.Tensor) -> tuple[tuple[tf.Tensor, tf.Tensor], Any]:
        def forward(part: tf.Tensor, *found: tf.TensorArray) -> list[tf.TensorArray]:
            outputs = encode(part, tf.gather(items, members(part)[1]))
            return [into.write(part, x) for into, x in zip(found, outputs, strict=True)]

        of_users, of_events = in_turn(forward, rows(*user_shape), rows(encoder.dim))
        outputs = (
            tf.gather(of_users.concat(), user_place),
            tf.gather(of_events.concat(), event_place),
        )

        def gradient(
            to_users: tf.Tensor, to_events: tf.Tensor, variables: Any = None
        ) -> tuple[tf.Tensor, list[tf.Tensor]]:
            variables = list(variables or [])

            def backward(part: tf.Tensor, to_items: tf.TensorArray, *sums: tf.Tensor) -> list[Any]:
                who, which = members(part)
                here = tf.gather(items, which)
                with tf.GradientTape() as tape:
                    tape.watch(here)
                    found = encode(part, here)
                of_items, *of_variables = tape.gradient(
                    found,
                    [here, *variables],
                    output_gradients=(tf.gather(to_users, who), tf.gather(to_events, which)),
                    unconnected_gradients=tf.UnconnectedGradients.ZERO,
                )
                return [
                    to_items.write(part, of_items),
                    *(x + tf.convert_to_tensor(y) for x, y in zip(sums, of_variables, strict=True)),
                ]

            to_items, *sums = in_turn(
                backward, rows(encoder.dim), *(tf.zeros_like(x) for x in variables)
            )
            return tf.gather(to_items.concat(), event_place), sums

        return outputs, gradient

    return run(items)
