"""TFRecords to tensors: parsing, cutting at T (section 3.1) and batching with tf.data.

The cut is applied when reading, so one data set serves every cut-off. A batch is
`{"as_of", "history", "targets"}`, the last two being events as dense tensors.
"""

import json
import pathlib

import tensorflow as tf

from guim_tf import schema as names
from guim_tf.config import WindowConfig
from guim_tf.schema import DatasetError, Schema

_PARTITION = "title_partition"

Events = dict[str, tf.Tensor]


def shard_files(folder: str | pathlib.Path, split: str) -> list[str]:
    """The TFRecord files of a split, after comparing each one's size with `counters.json`.

    Raises:
      DatasetError: a shard is missing or has not the size that the pipeline wrote.
    """
    folder = pathlib.Path(folder)
    path = folder / names.COUNTERS_FILE
    if not path.is_file():
        raise DatasetError(
            f"{path} does not exist: {folder} is not a finished data set. "
            "Make one with `guim build-dataset`."
        )
    try:
        shards = json.loads(path.read_text(encoding="utf-8"))["shards"]
    except (ValueError, KeyError) as e:
        raise DatasetError(
            f"{path} does not list the shards: {e!r}. Rebuild the data set with "
            "`guim build-dataset`."
        ) from e
    files = []
    for shard in shards:
        if not shard["file"].startswith(split + "/"):
            continue
        file = folder / shard["file"]
        size = file.stat().st_size if file.is_file() else None
        if size != shard["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes"
            raise DatasetError(
                f"{file} {found}, and the pipeline wrote {shard['bytes']}: the copy is incomplete. "
                "Copy it again or rebuild the data set with `guim build-dataset`."
            )
        files.append(str(file))
    return files


def read_records(files: list[str], schema: Schema) -> tf.data.Dataset:
    """Serialized records of TFRecord files, in the order of the files."""
    if not files:
        return tf.data.Dataset.from_tensor_slices(tf.zeros([0], tf.string))
    return tf.data.TFRecordDataset(files, compression_type=schema.compression)


def item_features(schema: Schema) -> dict[str, tf.io.RaggedFeature]:
    """How `tf.io.parse_example` reads a training record."""
    features = {
        name: tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
        for name in names.EVENT_FEATURES
        if name != names.TITLE_LENGTHS
    }
    features[names.TITLE_TOKENS] = tf.io.RaggedFeature(
        tf.int64,
        value_key=names.TITLE_TOKENS,
        partitions=[tf.io.RaggedFeature.RowLengths(names.TITLE_LENGTHS)],
        row_splits_dtype=tf.int64,
    )
    return features


def parse_records(serialized: tf.Tensor, schema: Schema) -> dict[str, tf.RaggedTensor]:
    """Whole sequences: `[B]` records -> `[B, (n)]` int64 a feature, titles `[B, (n), (w)]`."""
    return tf.io.parse_example(serialized, item_features(schema))


def window(
    sequences: dict[str, tf.RaggedTensor],
    start: tf.Tensor,
    end: tf.Tensor,
    *,
    first: int | None = None,
    last: int | None = None,
) -> dict[str, tf.RaggedTensor]:
    """The events with `start <= timestamp < end`, and of those only the first or last so many.

    Args:
      sequences: `[B, (n)]` ragged features.
      start: `[B]` int64 seconds.
      end: `[B]` int64 seconds.
    """
    times = sequences[names.TIMESTAMP]
    inside = (times >= start[:, None]) & (times < end[:, None])
    cut = {name: tf.ragged.boolean_mask(value, inside) for name, value in sequences.items()}
    if first is not None:
        cut = {name: value[:, :first] for name, value in cut.items()}
    if last is not None:
        cut = {name: value[:, -last:] for name, value in cut.items()}
    return cut


def dense(events: dict[str, tf.RaggedTensor]) -> Events:
    """Ragged events as padded tensors: `[B, N]` int64, titles `[B, N, W]`; padding is row 0."""
    return {name: value.to_tensor() for name, value in events.items()}


def history_at(
    serialized: tf.Tensor, as_of: tf.Tensor, schema: Schema, config: WindowConfig
) -> Events:
    """What the encoder sees of users at a moment: their last events in [as_of - D1, as_of).

    Args:
      serialized: `[B]` records.
      as_of: `[B]` int64 seconds.

    Returns:
      Events `[B, N]`, N at most `config.max_length`.
    """
    sequences = parse_records(serialized, schema)
    start = as_of - config.history_days * names.DAY
    return dense(window(sequences, start, as_of, last=config.max_length))


def cut_at(
    serialized: tf.Tensor, cutoff: tf.Tensor, schema: Schema, config: WindowConfig
) -> dict[str, tf.Tensor | Events]:
    """A training batch: histories in [T - D1, T) and targets in [T, T + D2).

    Args:
      serialized: `[B]` records.
      cutoff: `[B]` int64 seconds, T of each user.
    """
    sequences = parse_records(serialized, schema)
    history = window(
        sequences, cutoff - config.history_days * names.DAY, cutoff, last=config.max_length
    )
    targets = window(
        sequences, cutoff, cutoff + config.target_days * names.DAY, first=config.max_targets
    )
    return {"as_of": cutoff, "history": dense(history), "targets": dense(targets)}


def has_both_sides(serialized: tf.Tensor, cutoff: int, config: WindowConfig) -> tf.Tensor:
    """Whether one user has an event on each side of T: a record -> bool scalar (section 4.1)."""
    feature = {names.TIMESTAMP: tf.io.RaggedFeature(tf.int64)}
    times = tf.io.parse_single_example(serialized, feature)[names.TIMESTAMP]
    before = (times >= cutoff - config.history_days * names.DAY) & (times < cutoff)
    after = (times >= cutoff) & (times < cutoff + config.target_days * names.DAY)
    return tf.reduce_any(before) & tf.reduce_any(after)


def load_records(
    folder: str | pathlib.Path, split: str, cutoff: int, config: WindowConfig
) -> tf.data.Dataset:
    """Records of the users of a split who have an event on each side of T."""
    schema = Schema.load(folder)
    records = read_records(shard_files(folder, split), schema)
    return records.filter(lambda record: has_both_sides(record, cutoff, config))


def training_cutoff(schema: Schema, config: WindowConfig) -> int:
    """T, seconds: the last one whose targets all lie before the held-out part of a data set."""
    return schema.as_of - config.target_days * names.DAY


def serialized_batches(
    folder: str | pathlib.Path,
    split: str,
    *,
    window: WindowConfig,
    batch_size: int,
    shuffle_seed: int | None,
    shuffle_buffer: int = 100_000,
) -> tf.data.Dataset:
    """`[B]` records of users with both sides; training batches are full, the rest is dropped."""
    cutoff = training_cutoff(Schema.load(folder), window)
    records = load_records(folder, split, cutoff, window)
    if shuffle_seed is not None:
        records = records.shuffle(shuffle_buffer, seed=shuffle_seed)
    return records.batch(batch_size, drop_remainder=split == names.TRAIN)


def cut_batches(batches: tf.data.Dataset, schema: Schema, window: WindowConfig) -> tf.data.Dataset:
    """`[B]` records -> training batches, cut at `training_cutoff`."""
    cutoff = tf.constant(training_cutoff(schema, window), tf.int64)
    return batches.map(
        lambda serialized: cut_at(
            serialized, tf.fill([tf.shape(serialized)[0]], cutoff), schema, window
        ),
        num_parallel_calls=tf.data.AUTOTUNE,
    ).prefetch(tf.data.AUTOTUNE)


def load_dataset(
    folder: str | pathlib.Path,
    split: str = names.TRAIN,
    *,
    window: WindowConfig = WindowConfig(),
    batch_size: int = 32,
    shuffle_seed: int | None = None,
) -> tf.data.Dataset:
    """A data set folder as batches for `model.fit`.

    Args:
      folder: what `guim build-dataset` wrote.
      split: "train" or "validation".
      window: how sequences are cut.
      batch_size: users a batch.
      shuffle_seed: a new order of the users in each pass; None keeps the order of the files.

    Raises:
      SchemaError, DatasetError: the folder is not a finished data set, or is damaged.
    """
    batches = serialized_batches(
        folder, split, window=window, batch_size=batch_size, shuffle_seed=shuffle_seed
    )
    return cut_batches(batches, Schema.load(folder), window)
