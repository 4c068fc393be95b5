"""The items of an index: a catalogue, and items that have come since."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from guim_tf.catalogue import Catalogue

NEW_COLUMNS = ("item_id", "category_id", "title")
_SALES = ("count", "recent_buyers")  # of a new item 0


class IndexItemsError(ValueError):
    """Items or vectors that no index can be made of."""


@dataclasses.dataclass(frozen=True)
class IndexItems:
    """X items. item_id, category_id, title: `[X]` object, str; "" where there is none.
    count, recent_buyers: `[X]` int64."""

    item_id: np.ndarray
    category_id: np.ndarray
    title: np.ndarray
    count: np.ndarray
    recent_buyers: np.ndarray

    def __len__(self) -> int:
        return len(self.item_id)

    @classmethod
    def of(cls, catalogue: Catalogue) -> IndexItems:
        fields = (field.name for field in dataclasses.fields(cls))
        return cls(**{name: getattr(catalogue, name) for name in fields})

    def updated(self, new: IndexItems) -> tuple[IndexItems, np.ndarray]:
        """These and `new`, and the rows of `new` among them.

        A new item with a known id takes that item's place, and its sales; the others follow.
        """
        place = {item: row for row, item in enumerate(self.item_id)}
        rows = np.empty(len(new), np.int64)
        for i, item in enumerate(new.item_id):
            rows[i] = place.setdefault(item, len(place))
        joined = []
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(new, field.name)
            column = np.concatenate([mine, np.zeros(len(place) - len(self), mine.dtype)])
            known = rows < len(self)
            column[rows] = np.where(known, column[rows], theirs) if field.name in _SALES else theirs
            joined.append(column)
        return IndexItems(*joined), rows


def read_items(path: str | pathlib.Path) -> IndexItems:
    """New items from Parquet with the columns `NEW_COLUMNS`, text; category and title may be null.

    Raises:
      IndexItemsError: the file is none of that, or an id is missing, given twice or not one line.
    """
    try:
        table = pq.read_table(path, columns=list(NEW_COLUMNS))
        columns = {
            name: table[name].cast(pa.string()).fill_null("").to_numpy(zero_copy_only=False)
            for name in NEW_COLUMNS
        }
    except (OSError, ValueError, KeyError) as e:
        raise IndexItemsError(
            f"{path} is not Parquet with the text columns {', '.join(NEW_COLUMNS)}: {e}."
        ) from e
    ids = columns["item_id"]
    _, first, count = np.unique(ids, return_index=True, return_counts=True)
    if (count > 1).any():
        twice = ids[first[count > 1][0]]
        raise IndexItemsError(f"{path} holds item {twice!r} more than once, expected one row each.")
    for name in ("item_id", "category_id"):
        for text in columns[name]:
            if "\t" in text or "\n" in text or "\r" in text or (name == "item_id" and not text):
                raise IndexItemsError(
                    f"{path}: {name} is {text!r}, expected text without tabs and line breaks"
                    + (", not empty." if name == "item_id" else ".")
                )
    return IndexItems(**columns, **{name: np.zeros(len(ids), np.int64) for name in _SALES})


def read_vectors(path: str | pathlib.Path, items: IndexItems, *, dim: int) -> np.ndarray:
    """Vectors that `guim embed-items` wrote, in the order of `items`: `[X, dim]` float32.

    Raises:
      IndexItemsError: the file is none of that, or of another size, or lacks an item.
    """
    try:
        table = pq.read_table(path, columns=["item_id", "item_embedding"])
        values = table["item_embedding"].combine_chunks().flatten().to_numpy()
        values = values.reshape(len(table), -1)
    except (OSError, ValueError, KeyError, AttributeError) as e:
        raise IndexItemsError(
            f"{path} is not Parquet with the columns item_id and item_embedding: {e}. Make it with "
            "`guim embed-items`."
        ) from e
    if values.shape[1] != dim or not np.isfinite(values).all():
        raise IndexItemsError(
            f"{path} holds vectors of shape {values.shape}, expected finite numbers, {dim} an item "
            "as the users' vectors have. Make them with `guim embed-items` and the item encoder "
            "that was exported with the user encoder."
        )
    row = {item: i for i, item in enumerate(table["item_id"].to_pylist())}
    missing = [item for item in items.item_id if item not in row]
    if missing:
        raise IndexItemsError(
            f"{path} lacks {len(missing)} items of the catalogue, {missing[0]!r} first. Make the "
            "vectors again with `guim embed-items` from this data set."
        )
    return np.ascontiguousarray(values[[row[item] for item in items.item_id]], np.float32)
