"""The items of a data set, row by row in the order of `items.parquet`."""

import pathlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from guim_tf import schema as names
from guim_tf.schema import DatasetError


class Catalogue:
    """The X items of a data set folder; attributes are the columns of `items.parquet`.

    item_id, category_id, title: `[X]` object, str; "" where there is none. item_key, item_index,
    category_index, count, recent_buyers: `[X]` int64.

    Args:
      folder: what `guim build-dataset` wrote.

    Raises:
      DatasetError: the file is missing, damaged or empty.
    """

    def __init__(self, folder: str | pathlib.Path) -> None:
        path = pathlib.Path(folder, names.ITEMS_FILE)
        if not path.is_file():
            raise DatasetError(
                f"{path} does not exist: {folder} is not a finished data set. "
                "Make one with `guim build-dataset`."
            )
        try:
            table = pq.read_table(path, columns=list(names.ITEM_COLUMNS))
            columns = {name: table[name] for name in names.ITEM_COLUMNS}
        except (OSError, ValueError, KeyError) as e:
            raise DatasetError(
                f"{path} is not a catalogue with the columns {', '.join(names.ITEM_COLUMNS)}: {e}. "
                "Build the data set again with `guim build-dataset`."
            ) from e
        if not table.num_rows:
            raise DatasetError(f"{path} holds no items; expected at least one.")
        self.item_id, self.category_id, self.title = (
            columns[name].to_numpy() for name in ("item_id", "category_id", "title")
        )
        self.item_key, self.item_index, self.category_index, self.count, self.recent_buyers = (
            columns[name].to_numpy()
            for name in ("item_key", "item_index", "category_index", "count", "recent_buyers")
        )
        self._tokens = columns["title_tokens"].combine_chunks()

    def __len__(self) -> int:
        return len(self.item_id)

    def batches(self, size: int = 4096) -> Iterator[dict[str, tf.Tensor]]:
        """`items`, `size` of them at a time."""
        for start in range(0, len(self), size):
            yield self.items(slice(start, start + size))

    def sold(self) -> dict[str, tf.Tensor]:
        """`items` of those that were sold before `Schema.as_of`.

        The others are here to be found. A model that has met them as negatives, and never as a
        positive, has learned from the days after it that nobody buys them.
        """
        return self._items(self._tokens.filter(self.count > 0), self.count > 0)

    def items(self, rows: slice = slice(None)) -> dict[str, tf.Tensor]:
        """Keys and inputs of the item encoder: `[n]` int64 a feature, titles `[n, W]`."""
        return self._items(self._tokens[rows], rows)

    def _items(self, tokens: pa.ListArray, rows: slice | np.ndarray) -> dict[str, tf.Tensor]:
        titles = tf.RaggedTensor.from_row_lengths(
            tf.constant(tokens.flatten().to_numpy(), tf.int64),
            tokens.value_lengths().to_numpy(),
        )
        return {
            names.ITEM_KEY: tf.constant(self.item_key[rows]),
            names.ITEM_INDEX: tf.constant(self.item_index[rows]),
            names.CATEGORY_INDEX: tf.constant(self.category_index[rows]),
            names.TITLE_TOKENS: titles.to_tensor(),
        }

    def rows_of(self, item_keys: np.ndarray) -> np.ndarray:
        """Catalogue rows of item keys, -1 for keys that it does not hold (padding among them)."""
        order = np.argsort(self.item_key, kind="stable")
        position = np.searchsorted(self.item_key, item_keys, sorter=order)
        rows = order[np.minimum(position, len(order) - 1)]
        return np.where(self.item_key[rows] == item_keys, rows, -1)
