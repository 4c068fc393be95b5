"""An embedding table that may be large."""

from typing import Any

import tensorflow as tf

from guim_tf.keras_compat import keras, register

_AT_ONCE = 1 << 24  # numbers


@register
class Table(keras.layers.Embedding):
    """`keras.layers.Embedding`, drawn some rows at a time: no second table is made on the way.

    Rows are drawn from the truncated normal distribution of BERT's tables.

    Args:
      rows: how many; row 0 of a vocabulary is padding.
      dim: size of a row.
    """

    def __init__(self, rows: int, dim: int, **kwargs: Any) -> None:
        super().__init__(rows, dim, embeddings_initializer="zeros", **kwargs)

    def build(self, input_shape: Any = None) -> None:
        super().build(input_shape)
        step = max(1, _AT_ONCE // self.output_dim)
        for start in range(0, self.input_dim, step):
            end = min(start + step, self.input_dim)
            draw = keras.initializers.TruncatedNormal(stddev=0.02)  # anew: it repeats itself
            rows = tf.IndexedSlices(draw([end - start, self.output_dim]), tf.range(start, end))
            self.embeddings.scatter_update(rows)  # in place; assigning a slice copies the table

    def get_config(self) -> dict[str, Any]:
        config = keras.layers.Layer.get_config(self)
        return config | {"rows": self.input_dim, "dim": self.output_dim}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Table":
        return cls(**config)
