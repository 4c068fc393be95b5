"""An embedding table that may be large."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from guim_tf.keras_compat import keras, register

_AT_ONCE = 1 << 24  # numbers


def pieces(table: tf.Variable) -> list[tf.Variable]:
    """What a variable consists of: itself, or its parts on several parameter servers."""
    return list(getattr(table, "variables", [table]))


def look_up(table: tf.Variable, rows: tf.Tensor) -> tf.Tensor:
    """Rows of a variable `[..., d]`; of one in pieces no more is fetched than these."""
    return tf.nn.embedding_lookup(pieces(table), rows)


def fill_rows(table: tf.Variable, values: Callable[[tf.Tensor], tf.Tensor]) -> None:
    """Sets all rows of a variable, some at a time: `values` gives those of rows `[n]` int32.

    Pieces are filled where they are.
    """
    first = 0
    for piece in pieces(table):
        size, dim = piece.shape[0], piece.shape[1:].num_elements() or 1
        step = max(1, _AT_ONCE // dim)
        for start in range(0, size, step):
            with tf.device(piece.device):
                rows = tf.range(start, min(start + step, size))
                # In place; assigning a slice would copy the table.
                piece.scatter_update(tf.IndexedSlices(values(first + rows), rows))
        first += size


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

        def draw(rows: tf.Tensor) -> tf.Tensor:
            initializer = keras.initializers.TruncatedNormal(stddev=0.02)  # anew: it repeats itself
            return initializer([rows.shape[0], self.output_dim])

        fill_rows(self.embeddings, draw)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return look_up(self.embeddings, inputs)  # Keras would fetch a table in pieces whole

    def get_config(self) -> dict[str, Any]:
        config = keras.layers.Layer.get_config(self)
        return config | {"rows": self.input_dim, "dim": self.output_dim}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Table":
        return cls(**config)
