"""Ids, words and action types to rows of the embedding tables, in exported graphs and outside."""

import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from guim_tf import schema as names
from guim_tf.schema import Schema
from guim_tf.text import WordTable, line_numbers


class IdTable(tf.Module):
    """Rows of the item or category table: an id outside of the vocabulary, and "", is unknown.

    "" is the category of an item that has none, as in `items.parquet`; padding is for `dense`.

    Args:
      vocabulary_file: a `token<TAB>count` file; becomes an asset of a SavedModel.
      size: number of its lines.
    """

    def __init__(self, vocabulary_file: str, *, size: int) -> None:
        super().__init__()
        unknown = names.UNKNOWN_ROW - names.FIRST_ROW
        self._table = (
            tf.lookup.StaticHashTable(line_numbers(vocabulary_file, size), unknown)
            if size
            else None
        )

    def __call__(self, ids: tf.Tensor) -> tf.Tensor:
        """`[...]` string -> `[...]` int64 rows."""
        if self._table is None:
            return tf.fill(tf.shape(ids), tf.constant(names.UNKNOWN_ROW, tf.int64))
        return self._table.lookup(ids) + names.FIRST_ROW


class SortedIds(tf.Module):
    """Rows of many ids, found by sorted fingerprints: 12 bytes an id beside its text.

    Args:
      ids: row by row, no two alike.

    Raises:
      ValueError: an id is given twice, or two have one fingerprint (one chance in 10^7 for a
        million ids).
    """

    def __init__(self, ids: Sequence[str]) -> None:
        super().__init__()
        self.ids = tf.Variable(ids, trainable=False, dtype=tf.string, name="ids")
        marks = _fingerprints(self.ids).numpy()
        order = np.argsort(marks, kind="stable")
        [same] = np.nonzero(np.diff(marks[order]) == 0)
        if same.size:
            one, other = (ids[row] for row in order[same[0] : same[0] + 2])
            raise ValueError(
                f"Items {one!r} and {other!r} have the same fingerprint: expected ids that differ. "
                "Rename one of them."
            )
        self._marks = tf.Variable(marks[order], trainable=False, name="fingerprints")
        self._rows = tf.Variable(order.astype(np.int32), trainable=False, name="rows")

    def __call__(self, ids: tf.Tensor) -> tf.Tensor:
        """`[...]` string -> `[...]` int32 rows, -1 for what is none of the ids."""
        marks = tf.reshape(_fingerprints(ids), [-1])
        place = tf.searchsorted(self._marks, marks)
        place = tf.minimum(tf.reshape(place, tf.shape(ids)), tf.size(self._rows) - 1)
        rows = tf.gather(self._rows, place)
        return tf.where(tf.gather(self.ids, rows) == ids, rows, -1)


def _fingerprints(ids: tf.Tensor) -> tf.Tensor:
    """63 bits of FarmHash, int64."""
    return tf.strings.to_hash_bucket_fast(ids, 2**63 - 1)


class ActionTable(tf.Module):
    """Rows of the action table: a type outside of the vocabulary, and none at all, is unknown.

    Args:
      actions: the types, in row order.
    """

    def __init__(self, actions: Sequence[str]) -> None:
        super().__init__()
        rows = tf.range(names.FIRST_ROW, names.FIRST_ROW + len(actions), dtype=tf.int64)
        types = tf.constant(list(actions), tf.string)
        self._table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(types, rows), names.UNKNOWN_ROW
        )

    def __call__(self, actions: tf.Tensor) -> tf.Tensor:
        """`[...]` string -> `[...]` int64 rows."""
        return self._table.lookup(actions)


class Lookups(tf.Module):
    """From the strings of a request to rows of the tables, by the vocabularies of a run."""

    def __init__(self, run: str | pathlib.Path, schema: Schema) -> None:
        super().__init__()
        files = {name: str(pathlib.Path(run, f)) for name, f in names.VOCABULARY_FILES.items()}
        self.items = IdTable(files["items"], size=schema.items.size)
        self.categories = IdTable(files["categories"], size=schema.categories.size)
        self.words = WordTable(
            files["words"],
            size=schema.words.size,
            hash_rows=schema.word_hash_rows,
            max_tokens=schema.max_title_tokens,
        )
