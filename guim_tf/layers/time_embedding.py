"""f_t: one vector a day of age (section 3.2)."""

from typing import Any

import tensorflow as tf

from guim_tf import schema as names
from guim_tf.keras_compat import keras, register


@register
class TimeEmbedding(keras.layers.Layer):
    """Embeds how many days an event lies before T, so that a vector means the same when T moves.

    Args:
      days: rows, one a day of age; older events share the last one. One more row is t0's, the time
        stamp of the CLS tokens.
      dim: size of a vector.
    """

    def __init__(self, days: int, *, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.days = days
        self.dim = dim
        self.table = keras.layers.Embedding(
            days + 1, dim, embeddings_initializer=keras.initializers.TruncatedNormal(stddev=0.02)
        )

    def call(self, timestamp: tf.Tensor, as_of: tf.Tensor) -> tf.Tensor:
        """`[B, N]` and `[B]` int64 seconds -> `[B, N, dim]`; the age 0 is the day before T."""
        age = (as_of[:, None] - 1 - timestamp) // names.DAY
        return self.table(tf.clip_by_value(age, 0, self.days - 1))

    def start(self) -> tf.Tensor:
        """The vector of t0: `[1, dim]`."""
        return self.table(tf.constant([self.days]))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"days": self.days, "dim": self.dim}
