"""One pass over the records of a data set: counts by day, user, item, category and word."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import tensorflow as tf

from guim_tf import schema as names
from guim_tf.schema import Schema
from guim_tf.shards import read_records, shard_files, whole_shards

_BATCH = 1024
_INTEGERS = (
    names.TIMESTAMP,
    names.ITEM_KEY,
    names.ITEM_INDEX,
    names.CATEGORY_INDEX,
    names.TITLE_LENGTHS,
    names.TITLE_TOKENS,
)
_FEATURES = {names.USER_ID: tf.io.FixedLenFeature([], tf.string)} | {
    name: tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64) for name in _INTEGERS
}
SPLITS = (names.TRAIN, names.VALIDATION)


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What the records hold. "Before" and "after" are seen from `Schema.as_of`.

    Attributes:
      users: `[U]` object, ids, training users first.
      train_users: how many of them are training users.
      before, after: `[U]` int64, events of each user.
      distinct_items: `[U]` int64.
      busiest_day: `[U]` int64, most events on a day (UTC).
      days: `[D]` int64, events by day from `first_day` (days since the epoch) on.
      first_day: the day of the first event.
      items: `[item_rows]` int64, events before by row of the item table.
      items_after: the same after the cut-off.
      categories: `[category_rows]` int64, events before by row of the category table.
      words, hashed_words: words in titles of all events, and those without a row of their own.
      untitled: events without a title.
    """

    users: np.ndarray
    train_users: int
    before: np.ndarray
    after: np.ndarray
    distinct_items: np.ndarray
    busiest_day: np.ndarray
    days: np.ndarray
    first_day: int
    items: np.ndarray
    items_after: np.ndarray
    categories: np.ndarray
    words: int
    hashed_words: int
    untitled: int


def count_records(dataset: str | pathlib.Path, schema: Schema) -> Statistics:
    """Reads all records once; memory grows with users and table rows, not with events.

    Raises:
      DatasetError: a shard is missing or damaged.
    """
    first_day = schema.first_timestamp // names.DAY
    tally = _Tally(schema, first_day)
    train_users = 0
    with whole_shards(dataset, schema):
        for split in SPLITS:
            for examples in read_records(shard_files(dataset, split), schema).batch(_BATCH):
                tally.add(tf.io.parse_example(examples, _FEATURES))
            if split == names.TRAIN:
                train_users = sum(map(len, tally.users))
    return Statistics(
        users=_joined(tally.users, object),
        train_users=train_users,
        before=_joined(tally.before),
        after=_joined(tally.after),
        distinct_items=_joined(tally.distinct_items),
        busiest_day=_joined(tally.busiest_day),
        days=tally.days,
        first_day=first_day,
        items=tally.items[0],
        items_after=tally.items[1],
        categories=tally.categories,
        words=tally.words,
        hashed_words=tally.hashed_words,
        untitled=tally.untitled,
    )


def _joined(parts: list[np.ndarray], kind: type = np.int64) -> np.ndarray:
    return np.concatenate([np.zeros(0, kind), *parts])


class _Tally:
    """Counts that grow batch by batch."""

    def __init__(self, schema: Schema, first_day: int) -> None:
        self._schema, self._first_day = schema, first_day
        self.users: list[np.ndarray] = []
        self.before: list[np.ndarray] = []
        self.after: list[np.ndarray] = []
        self.distinct_items: list[np.ndarray] = []
        self.busiest_day: list[np.ndarray] = []
        self.days = np.zeros(schema.last_timestamp // names.DAY - first_day + 1, np.int64)
        self.items = np.zeros([2, schema.item_rows], np.int64)
        self.categories = np.zeros(schema.category_rows, np.int64)
        self.words = self.hashed_words = self.untitled = 0

    def add(self, batch: dict[str, tf.RaggedTensor]) -> None:
        """Counts a batch of parsed records."""
        schema = self._schema
        ids = batch[names.USER_ID].numpy()
        flat = {name: batch[name].flat_values.numpy() for name in _INTEGERS}
        owner = batch[names.TIMESTAMP].value_rowids().numpy()
        time, users = flat[names.TIMESTAMP], len(ids)
        is_after = time >= schema.as_of
        self.users.append(np.array([each.decode("utf-8") for each in ids], object))
        self.before.append(np.bincount(owner[~is_after], minlength=users))
        self.after.append(np.bincount(owner[is_after], minlength=users))
        day = time // names.DAY - self._first_day
        self.days += np.bincount(day, minlength=len(self.days))
        self.busiest_day.append(_most(owner, day, users))
        self.distinct_items.append(_distinct(owner, flat[names.ITEM_KEY], users))
        for row, keep in enumerate((~is_after, is_after)):
            of_items = flat[names.ITEM_INDEX][keep]
            self.items[row] += np.bincount(of_items, minlength=schema.item_rows)
        of_categories = flat[names.CATEGORY_INDEX][~is_after]
        self.categories += np.bincount(of_categories, minlength=schema.category_rows)
        tokens = flat[names.TITLE_TOKENS]
        self.words += len(tokens)
        self.hashed_words += int((tokens > schema.words.size).sum())
        self.untitled += int((flat[names.TITLE_LENGTHS] == 0).sum())


def _most(owner: np.ndarray, value: np.ndarray, owners: int) -> np.ndarray:
    """How often each owner's most frequent value occurs: `[owners]` int64."""
    pairs, counts = np.unique(np.stack([owner, value]), axis=1, return_counts=True)
    most = np.zeros(owners, np.int64)
    np.maximum.at(most, pairs[0], counts)
    return most


def _distinct(owner: np.ndarray, value: np.ndarray, owners: int) -> np.ndarray:
    """How many distinct values each owner has: `[owners]` int64."""
    order = np.lexsort((value, owner))
    owner, value = owner[order], value[order]
    new = np.ones(len(owner), bool)
    new[1:] = (owner[1:] != owner[:-1]) | (value[1:] != value[:-1])
    return np.bincount(owner[new], minlength=owners)
