"""f_j: an item's id, category and title as one vector (section 3.2)."""

from typing import Any

import tensorflow as tf

from guim_tf import schema as names
from guim_tf.keras_compat import keras, register
from guim_tf.layers import Linear, Table
from guim_tf.layers.activation import gelu


@register
class ItemEncoder(keras.layers.Layer):
    """Concatenates three embeddings and projects them: one Dense layer, no bias.

    An item never seen in training shares the common id row and still has a category and a title.

    Args:
      dim: size of an item's vector, d.
      item_rows, category_rows, word_rows: sizes of the tables; row 0 of each is padding.
      item_id_dim, category_dim, word_dim: d_i, d_c, d_w.
      activation: "gelu" as in the paper, or "linear".
    """

    def __init__(
        self,
        dim: int,
        *,
        item_rows: int,
        category_rows: int,
        word_rows: int,
        item_id_dim: int,
        category_dim: int,
        word_dim: int,
        activation: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._config = {
            "dim": dim,
            "item_rows": item_rows,
            "category_rows": category_rows,
            "word_rows": word_rows,
            "item_id_dim": item_id_dim,
            "category_dim": category_dim,
            "word_dim": word_dim,
            "activation": activation,
        }
        self.item_table = Table(item_rows, item_id_dim, name="item_table")
        self.category_table = Table(category_rows, category_dim, name="category_table")
        self.word_table = Table(word_rows, word_dim, name="word_table")
        self.projection = Linear(dim, initializer="glorot", use_bias=False, name="projection")
        self.activation = {"gelu": gelu, "linear": tf.identity}[activation]

    def call(self, items: dict[str, tf.Tensor]) -> tf.Tensor:
        """`item_index`, `category_index` `[...]`, `title_tokens` `[..., W]` -> `[..., d]`."""
        tokens = items[names.TITLE_TOKENS]
        present = tf.cast(tokens != names.PADDING_ROW, self.compute_dtype)[..., None]
        words = tf.reduce_sum(self.word_table(tokens) * present, axis=-2)
        words = tf.math.divide_no_nan(words, tf.reduce_sum(present, axis=-2))
        features = [
            self.category_table(items[names.CATEGORY_INDEX]),
            self.item_table(items[names.ITEM_INDEX]),
            words,
        ]
        return self.activation(self.projection(tf.concat(features, axis=-1)))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | self._config
