"""TFRecords to tensors: parsing, cutting at T (section 3.1) and batching with tf.data.

The cut is applied when reading, so one data set serves every cut-off. A batch is
`{"as_of", "history", "targets"}`, the last two being events as dense tensors.
"""

import dataclasses
import math
import pathlib

import tensorflow as tf

from guim_tf import schema as names
from guim_tf.catalogue import Catalogue
from guim_tf.config import WindowConfig
from guim_tf.graphs import as_it_is
from guim_tf.schema import Schema
from guim_tf.shards import read_records, shard_files

_PARTITION = "title_partition"

Events = dict[str, tf.Tensor]


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
) -> Events:
    """The events with `start <= timestamp < end`, and of those only the first or last so many.

    Args:
      sequences: `[B, (n)]` ragged features, titles `[B, (n), (w)]`.
      start: `[B]` int64 seconds.
      end: `[B]` int64 seconds.

    Returns:
      Padded tensors: `[B, N]` int64, titles `[B, N, W]`; padding is row 0.
    """
    times, row = sequences[names.TIMESTAMP].values, sequences[names.TIMESTAMP].value_rowids()
    inside = (times >= tf.gather(start, row)) & (times < tf.gather(end, row))
    kept = tf.where(inside)[:, 0]
    count = tf.math.unsorted_segment_sum(
        tf.ones_like(kept), tf.gather(row, kept), tf.size(start, tf.int64)
    )
    begin = tf.math.cumsum(count, exclusive=True)
    if last is not None:
        begin += tf.maximum(count - last, 0)
        count = tf.minimum(count, last)
    if first is not None:
        count = tf.minimum(count, first)
    place, present = _rows(begin, count)
    event = tf.gather(kept, place)
    cut: Events = {}
    for name, value in sequences.items():
        if name != names.TITLE_TOKENS:
            cut[name] = tf.where(present, tf.gather(value.values, event), 0)
            continue
        words = value.values
        size = tf.where(present, tf.gather(words.row_lengths(), event), 0)
        place, real = _rows(tf.gather(words.row_starts(), event), size)
        cut[name] = tf.where(real, tf.gather(words.values, place), 0)
    return cut


def _rows(begin: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`[...]` ranges as rows `[..., N]`, N the longest: places, 0 for padding, and what is none."""
    number = tf.range(tf.maximum(tf.reduce_max(size), 0))
    present = number < size[..., None]
    return tf.where(present, begin[..., None] + number, 0), present


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
    return window(sequences, start, as_of, last=config.max_length)


def cut_at(
    sequences: dict[str, tf.RaggedTensor], cutoff: tf.Tensor, schema: Schema, config: WindowConfig
) -> dict[str, tf.Tensor | Events]:
    """A training batch: histories in [T - D1, T) and targets in [T, T + D2), before `as_of`.

    Args:
      sequences: of `parse_records`.
      cutoff: `[B]` int64 seconds, T of each user.
    """
    end = tf.minimum(cutoff + config.target_days * names.DAY, schema.as_of)
    start = cutoff - config.history_days * names.DAY
    history = window(sequences, start, cutoff, last=config.training_length or config.max_length)
    targets = window(sequences, cutoff, end, first=config.max_targets)
    return {"as_of": cutoff, "history": history, "targets": targets}


def training_cutoff(schema: Schema, config: WindowConfig) -> int:
    """T, seconds: the last one whose targets all lie before the held-out part of a data set."""
    return schema.as_of - config.target_days * names.DAY


def _first_cutoff(schema: Schema, config: WindowConfig) -> int:
    """The earliest random T, seconds."""
    if config.recent_days is None:
        return schema.first_timestamp
    return schema.as_of - config.recent_days * names.DAY


def _has_history(times: tf.Tensor, history_days: int) -> tf.Tensor:
    """Which of ascending seconds `[..., n]` have an earlier one in so many days before them."""
    place = tf.searchsorted(times, times) - 1  # of the last earlier one
    last = tf.gather(times, tf.maximum(place, 0), batch_dims=times.shape.rank - 1)
    return (place >= 0) & (times - last <= history_days * names.DAY)


def draw_cutoffs(
    times: tf.RaggedTensor,
    start: int,
    end: int,
    seed: tf.Tensor,
    *,
    history_days: int,
    half_life_days: int | None = None,
) -> tf.Tensor:
    """T of each user at one of his events in `[start, end)` that have a history.

    Args:
      times: `[B, (n)]` int64 seconds in ascending order; every user has such an event.
      start: seconds.
      end: seconds.
      seed: `[2]` int, of `tf.random.stateless_uniform`.
      history_days: D1, in which an earlier event must lie.
      half_life_days: an event so many days older is half as likely; None takes all alike.

    Returns:
      `[B]` int64 seconds.
    """
    rows = times.to_tensor(default_value=tf.int64.max)
    possible = (rows >= start) & (rows < end) & _has_history(rows, history_days)
    candidates = tf.where(possible, rows, -1)
    uniform = tf.random.stateless_uniform(tf.shape(candidates), seed, minval=1e-9)
    logit = -tf.math.log(-tf.math.log(uniform))  # Gumbel noise: its argmax is a draw
    if half_life_days is not None:
        age = tf.cast(end - candidates, tf.float32) / names.DAY
        logit -= age * (math.log(2) / half_life_days)
    logit = tf.where(candidates < 0, float("-inf"), logit)
    return tf.gather(candidates, tf.argmax(logit, axis=1), batch_dims=1)


def earlier_cutoffs(history: Events, config: WindowConfig, seed: tf.Tensor) -> dict[str, tf.Tensor]:
    """More cut-offs T_g of each user, at moments of his history after its first.

    Args:
      history: events `[B, N]` before T.
      config: how many, and what their targets are.
      seed: `[2]` int, of `tf.random.stateless_uniform`.

    Returns:
      as_of: `[B, G]` int64 seconds, different from each other; 0 where a history has too few
      moments. targets: `[B, G, N]` bool, the first events of `[T_g, T_g + D2)`.
    """
    times = history[names.TIMESTAMP]
    present = history[names.ITEM_INDEX] != names.PADDING_ROW
    before = tf.concat([times[:, :1], times[:, :-1]], axis=1)
    score = tf.random.stateless_uniform(tf.shape(times), seed, minval=1e-6)
    score = tf.where(present & (times != before), score, 0.0)
    best, place = tf.math.top_k(score, tf.minimum(config.cutoffs - 1, tf.shape(times)[1]))
    as_of = tf.where(best > 0, tf.gather(times, place, batch_dims=1), 0)
    end = as_of + config.target_days * names.DAY
    inside = (times[:, None, :] >= as_of[:, :, None]) & (times[:, None, :] < end[:, :, None])
    inside &= present[:, None, :] & (as_of > 0)[:, :, None]
    nth = tf.math.cumsum(tf.cast(inside, tf.int32), axis=2)
    return {"as_of": as_of, "targets": inside & (nth <= config.max_targets)}


def shuffle_events(
    sequences: dict[str, tf.RaggedTensor], before: int, share: float, seed: tf.Tensor
) -> dict[str, tf.RaggedTensor]:
    """Sequences of which a share of the users have their events in another order.

    Times stay where they are: the other features change places among them.

    Args:
      sequences: of `parse_records`.
      before: seconds; events from then on, which are held out, stay where they are.
      share: the probability of each user.
      seed: `[2]` int, of `tf.random.stateless_uniform`.
    """
    times = sequences[names.TIMESTAMP]
    row = times.value_rowids()
    of_user, of_event = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    chosen = tf.random.stateless_uniform([times.nrows()], of_user) < share
    count = tf.size(row, tf.int64)
    place = tf.range(count)
    moves = tf.gather(chosen, row) & (times.values < before)
    drawn = tf.cast(tf.argsort(tf.random.stateless_uniform([count], of_event)), tf.int64)
    # By user; of a user first what moves, in the drawn order, and then the rest as it stands.
    key = tf.where(moves, 2 * row * count + drawn, (2 * row + 1) * count + place)
    order = tf.argsort(key)
    return {
        name: x if name == names.TIMESTAMP else x.with_values(tf.gather(x.values, order))
        for name, x in sequences.items()
    }


def can_be_cut(serialized: tf.Tensor, schema: Schema, config: WindowConfig) -> tf.Tensor:
    """Whether one user has an event on each side of T (section 4.1): a record -> bool scalar."""
    feature = {names.TIMESTAMP: tf.io.RaggedFeature(tf.int64)}
    times = tf.io.parse_single_example(serialized, feature)[names.TIMESTAMP]
    if config.random_cutoffs:
        start = _first_cutoff(schema, config)
        drawn_from = (times >= start) & (times < schema.as_of)
        return tf.reduce_any(drawn_from & _has_history(times, config.history_days))
    cutoff = training_cutoff(schema, config)
    before = (times >= cutoff - config.history_days * names.DAY) & (times < cutoff)
    return tf.reduce_any(before) & tf.reduce_any((times >= cutoff) & (times < schema.as_of))


def load_records(
    folder: str | pathlib.Path, split: str, schema: Schema, config: WindowConfig
) -> tf.data.Dataset:
    """Records of the users of a split who can be cut."""
    records = read_records(shard_files(folder, split), schema)
    return records.filter(as_it_is(lambda record: can_be_cut(record, schema, config)))


def cut_batches(
    batches: tf.data.Dataset,
    schema: Schema,
    config: WindowConfig,
    *,
    numbers: tf.data.Dataset,
    catalogue: Events | None = None,
    catalogue_negatives: int = 0,
) -> tf.data.Dataset:
    """`[B]` records -> training batches.

    Args:
      batches: of records that can be cut.
      schema: of the data set.
      config: where to cut.
      numbers: an int64 for each batch; equal numbers give equal draws.
      catalogue: `Catalogue.sold`, to draw negatives from.
      catalogue_negatives: how many a batch, uniformly and with replacement; they are the part
        "negatives" of it, features `[n]`, drawn from "catalogue_size" items.
    """

    @as_it_is
    def cut(serialized: tf.Tensor, number: tf.Tensor) -> dict[str, tf.Tensor | Events]:
        sequences = parse_records(serialized, schema)
        if config.shuffled:
            seed = tf.stack([number, 3])
            sequences = shuffle_events(sequences, schema.as_of, config.shuffled, seed)
        if config.random_cutoffs:
            seed = tf.stack([number, 0])
            cutoff = draw_cutoffs(
                sequences[names.TIMESTAMP],
                _first_cutoff(schema, config),
                schema.as_of,
                seed,
                history_days=config.history_days,
                half_life_days=config.cutoff_half_life_days,
            )
        else:
            fixed = tf.constant(training_cutoff(schema, config), tf.int64)
            cutoff = tf.fill([tf.shape(serialized)[0]], fixed)
        batch = cut_at(sequences, cutoff, schema, config)
        if config.cutoffs > 1:
            batch["earlier"] = earlier_cutoffs(
                batch["history"],
                config,
                tf.stack([number, 2]),  # type: ignore[arg-type]
            )
        if catalogue is not None and catalogue_negatives:
            items = tf.shape(catalogue[names.ITEM_KEY], out_type=tf.int64)[0]
            rows = tf.random.stateless_uniform(
                [catalogue_negatives], tf.stack([number, 1]), maxval=items, dtype=tf.int64
            )
            batch["negatives"] = {name: tf.gather(x, rows) for name, x in catalogue.items()}
            batch["catalogue_size"] = items
        return batch

    return (
        tf.data.Dataset.zip(batches, numbers)
        .map(cut, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )


def serialized_batches(
    folder: str | pathlib.Path,
    schema: Schema,
    config: WindowConfig,
    *,
    batch_size: int,
    seed: int | None,
    buffer: int = 100_000,
) -> tf.data.Dataset:
    """`[B]` records of training users in a new order each pass; the rest of a pass is dropped."""
    records = load_records(folder, names.TRAIN, schema, config).shuffle(buffer, seed=seed)
    return records.batch(batch_size, drop_remainder=True)


def load_dataset(
    folder: str | pathlib.Path,
    split: str = names.TRAIN,
    *,
    window: WindowConfig = WindowConfig(),
    batch_size: int = 32,
    catalogue_negatives: int = 0,
    seed: int = 0,
) -> tf.data.Dataset:
    """A data set folder as batches for `model.fit`.

    Args:
      folder: what `guim build-dataset` wrote.
      split: "train": full batches in a new order each pass; "validation": all users, in the order
        of the files, cut at the one T before the held-out part.
      window: how sequences are cut.
      batch_size: users a batch.
      catalogue_negatives: items drawn from the sold ones of the catalogue for each batch.
      seed: of the order and of all draws.

    Raises:
      SchemaError, DatasetError: the folder is not a finished data set, or is damaged.
    """
    schema = Schema.load(folder)
    if split == names.TRAIN:
        batches = serialized_batches(folder, schema, window, batch_size=batch_size, seed=seed)
    else:
        window = dataclasses.replace(
            window,
            random_cutoffs=False,
            recent_days=None,
            cutoff_half_life_days=None,
            cutoffs=1,
            shuffled=0.0,
        )
        batches = load_records(folder, split, schema, window).batch(batch_size)
    numbers = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    return cut_batches(
        batches,
        schema,
        window,
        numbers=numbers,
        catalogue=Catalogue(folder).sold() if catalogue_negatives else None,
        catalogue_negatives=catalogue_negatives,
    )
