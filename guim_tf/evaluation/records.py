"""Reads the records of a data set folder as flat arrays, and refuses what is damaged."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from guim_tf import schema as names
from guim_tf.evaluation.ragged import Ragged
from guim_tf.shards import shard_files

_BATCH = 1024
_REBUILD = "Build the data set again with `guim build-dataset`."
_FEATURES = {
    names.USER_ID: tf.io.FixedLenFeature([], tf.string),
    names.TIMESTAMP: tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64),
    names.ITEM_KEY: tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64),
}


class RecordError(ValueError):
    """A data set holds something else than this package's records and catalogue."""


@dataclasses.dataclass(frozen=True)
class Records:
    """A batch of B users.

    Attributes:
      examples: `[B]` object, the serialized `tf.train.Example`s.
      user_ids: `[B]` object, str.
      item_keys: `schema.fingerprint64` of the items, in time order.
      timestamps: `[events]` int64 seconds, beside `item_keys.values`.
    """

    examples: np.ndarray
    user_ids: np.ndarray
    item_keys: Ragged
    timestamps: np.ndarray


def read_records(
    dataset: str | pathlib.Path, *, splits: Sequence[str], compression: str
) -> Iterator[Records]:
    """All users of some splits, a batch at a time.

    Raises:
      DatasetError: a shard is missing or has not the size that `counters.json` states.
      RecordError: a shard can't be read, or holds something else than records.
    """
    for path in [path for split in splits for path in shard_files(dataset, split)]:
        count = 0
        try:
            for examples in tf.data.TFRecordDataset(path, compression).batch(_BATCH):
                yield _parse(examples, path)
                count += len(examples)
        except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as e:
            raise RecordError(
                f"{path} is damaged after about {count} records: {e.message}. {_REBUILD}"
            ) from e


def _parse(examples: tf.Tensor, path: str) -> Records:
    parsed = tf.io.parse_example(examples, _FEATURES)
    user_ids = np.array([x.decode("utf-8") for x in parsed[names.USER_ID].numpy()], object)
    keys, times = parsed[names.ITEM_KEY], parsed[names.TIMESTAMP]
    item_keys = Ragged(keys.row_splits.numpy(), keys.values.numpy())
    timestamps = times.values.numpy()
    wrong = keys.row_lengths().numpy() != times.row_lengths().numpy()
    if not wrong.any():
        same_user = item_keys.owners[1:] == item_keys.owners[:-1]
        wrong[item_keys.owners[1:][same_user & (np.diff(timestamps) < 0)]] = True
    if wrong.any():
        raise RecordError(
            f"{path}: the record of user {user_ids[wrong][0]!r} does not have one "
            f"'{names.ITEM_KEY}' for each '{names.TIMESTAMP}', in time order. {_REBUILD}"
        )
    return Records(examples.numpy(), user_ids, item_keys, timestamps)
