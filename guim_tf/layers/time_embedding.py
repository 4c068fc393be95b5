"""f_t: one vector a day, or an hour, of age (section 3.2)."""

from typing import Any

import tensorflow as tf

from guim_tf import schema as names
from guim_tf.keras_compat import keras, register
from guim_tf.layers.table import Table


@register
class TimeEmbedding(keras.layers.Layer):
    """Embeds how many days an event lies before T, so that a vector means the same when T moves.

    Args:
      rows: one a unit of age; older events share the last one. One more row is t0's, the time
        stamp of the CLS tokens.
      dim: size of a vector.
      unit: seconds, a day by default.
    """

    def __init__(self, rows: int, *, dim: int, unit: int = names.DAY, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows = rows
        self.dim = dim
        self.unit = unit
        self.table = Table(rows + 1, dim)

    def call(self, timestamp: tf.Tensor, as_of: tf.Tensor) -> tf.Tensor:
        """`[...]` int64 seconds each, of an event and of its T -> `[..., dim]`.

        The age 0 is the unit before T.
        """
        age = (as_of - 1 - timestamp) // self.unit
        return self.table(tf.clip_by_value(age, 0, self.rows - 1))

    def start(self) -> tf.Tensor:
        """The vector of t0: `[1, dim]`."""
        return self.table(tf.constant([self.rows]))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"rows": self.rows, "dim": self.dim, "unit": self.unit}
