"""Records to batches: the cut at T, padding, filters, and damaged folders."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from guim_tf import schema as names
from guim_tf.catalogue import Catalogue
from guim_tf.config import WindowConfig
from guim_tf.data import (
    can_be_cut,
    cut_at,
    draw_cutoffs,
    earlier_cutoffs,
    history_at,
    load_dataset,
    parse_records,
    shard_files,
    shuffle_events,
    training_cutoff,
)
from guim_tf.schema import DatasetError, Schema, SchemaError

DAY = 86_400


def record(days: list[float], titles: list[list[int]] | None = None) -> bytes:
    """A user with one event a day given; item n + 2 is bought at the n-th of them."""
    count = len(days)
    titles = titles or [[1]] * count
    values = {
        names.TIMESTAMP: [int(day * DAY) for day in days],
        names.ITEM_KEY: [100 + n for n in range(count)],
        names.ITEM_INDEX: [2 + n for n in range(count)],
        names.CATEGORY_INDEX: [3] * count,
        names.ACTION_INDEX: [1] * count,
        names.TITLE_TOKENS: [token for title in titles for token in title],
        names.TITLE_LENGTHS: [len(title) for title in titles],
    }
    feature = {
        name: tf.train.Feature(int64_list=tf.train.Int64List(value=value))
        for name, value in values.items()
    }
    feature[names.USER_ID] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"u"]))
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def cut(days, *, at=100, schema, **window):
    config = WindowConfig(**({"history_days": 50, "target_days": 10} | window))
    sequences = parse_records(tf.constant([record(days)]), schema)
    return cut_at(sequences, tf.constant([at * DAY], tf.int64), schema, config)


def test_history_is_before_t_and_targets_from_t_on(tiny_schema):
    batch = cut([49.9, 50, 99.9, 100, 109.9, 110], schema=tiny_schema)
    assert batch["history"][names.ITEM_INDEX].numpy().tolist() == [[3, 4]]  # [50, 100)
    assert batch["targets"][names.ITEM_INDEX].numpy().tolist() == [[5, 6]]  # [100, 110)
    assert batch["as_of"].numpy().tolist() == [100 * DAY]


def test_the_last_of_a_long_history_and_the_first_targets_are_kept(tiny_schema):
    batch = cut([90, 91, 92, 93, 101, 102, 103], schema=tiny_schema, max_length=2, max_targets=1)
    assert batch["history"][names.ITEM_INDEX].numpy().tolist() == [[4, 5]]
    assert batch["targets"][names.ITEM_INDEX].numpy().tolist() == [[6]]


def test_training_may_see_less_of_a_history_than_the_encoder(tiny_schema):
    config = WindowConfig(max_length=3, training_length=2)
    serialized, moment = tf.constant([record([1, 2, 3, 4, 5])]), tf.constant([5 * DAY], tf.int64)
    trained = cut_at(parse_records(serialized, tiny_schema), moment, tiny_schema, config)
    encoded = history_at(serialized, moment, tiny_schema, config)
    assert trained["history"][names.ITEM_INDEX].numpy().tolist() == [[4, 5]]
    assert encoded[names.ITEM_INDEX].numpy().tolist() == [[3, 4, 5]]


def test_users_are_padded_with_row_0_to_the_longest(tiny_schema):
    serialized = tf.constant([record([1, 2], [[5, 6, 7], [8]]), record([3], [[9]])])
    history = history_at(
        serialized, tf.constant([9 * DAY] * 2, tf.int64), tiny_schema, WindowConfig()
    )
    assert history[names.ITEM_INDEX].numpy().tolist() == [[2, 3], [2, 0]]
    assert history[names.TITLE_TOKENS].numpy().tolist() == [
        [[5, 6, 7], [8, 0, 0]],
        [[9, 0, 0], [0, 0, 0]],
    ]


def test_each_user_may_have_a_cut_of_its_own(tiny_schema):
    sequences = parse_records(tf.constant([record([1, 5, 9])] * 2), tiny_schema)
    cutoffs = tf.constant([4 * DAY, 8 * DAY], tf.int64)
    batch = cut_at(sequences, cutoffs, tiny_schema, WindowConfig())
    assert batch["history"][names.ITEM_INDEX].numpy().tolist() == [[2, 0], [2, 3]]
    assert batch["targets"][names.ITEM_INDEX].numpy().tolist() == [[3, 4], [4, 0]]


@pytest.mark.parametrize(
    ("days", "both"),
    [([99, 100], True), ([99], False), ([100], False), ([49, 100], False), ([99, 110], False)],
)
def test_a_training_user_has_an_event_on_each_side(days, both, tiny_schema):
    config = WindowConfig(history_days=50, target_days=10)
    schema = dataclasses.replace(tiny_schema, as_of=110 * DAY)  # T is day 100
    assert bool(can_be_cut(tf.constant(record(days)), schema, config)) == both


@pytest.mark.parametrize(
    ("days", "possible"),
    [
        ([1, 2], True),
        ([1], False),
        ([1, 1], False),
        ([1, 110], False),
        ([1, 51], True),
        ([1, 52], False),  # the window before the later moment is empty
        ([1, 52, 52, 52], False),
        ([1, 52, 53], True),
    ],
)
def test_with_random_cutoffs_a_user_needs_a_moment_with_a_history(days, possible, tiny_schema):
    schema = dataclasses.replace(tiny_schema, as_of=110 * DAY)
    config = WindowConfig(random_cutoffs=True, history_days=50)
    assert bool(can_be_cut(tf.constant(record(days)), schema, config)) == possible


def test_a_drawn_cutoff_is_any_later_event_before_the_end():
    times = tf.ragged.constant([[1, 1, 4, 7, 9], [2, 3]], dtype=tf.int64)
    drawn = np.array(
        [
            draw_cutoffs(times, 0, 9, tf.constant([n, 0], tf.int64), history_days=365).numpy()
            for n in range(300)
        ]
    )
    assert set(drawn[:, 0]) == {4, 7}  # not the first moment, not the end
    assert abs((drawn[:, 0] == 4).mean() - 0.5) < 0.1
    assert set(drawn[:, 1]) == {3}


def test_a_cutoff_without_a_history_is_not_drawn():
    days = [[1, 60, 60, 70, 200, 200], [1, 2, 90]]
    times = tf.ragged.constant([[day * DAY for day in user] for user in days], dtype=tf.int64)
    drawn = np.array(
        [
            draw_cutoffs(times, 0, 300 * DAY, tf.constant([n, 0], tf.int64), history_days=50)
            for n in range(50)
        ]
    )
    assert set(drawn[:, 0]) == {70 * DAY}
    assert set(drawn[:, 1]) == {2 * DAY}


def test_a_half_life_prefers_recent_cutoffs():
    times = tf.ragged.constant([[0, 10 * DAY, 40 * DAY]], dtype=tf.int64)
    drawn = np.array(
        [
            draw_cutoffs(
                times,
                0,
                50 * DAY,
                tf.constant([n, 0], tf.int64),
                history_days=365,
                half_life_days=30,
            ).numpy()
            for n in range(600)
        ]
    )
    # 30 days are one half-life: the later moment is twice as likely
    assert abs((drawn == 40 * DAY).mean() - 2 / 3) < 0.06
    assert set(drawn[:, 0]) == {10 * DAY, 40 * DAY}


def test_earlier_cutoffs_are_moments_of_the_history_with_the_purchases_that_follow():
    days = np.array([[1, 1, 5, 5, 5, 40], [2, 7, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0]])
    history = {
        names.TIMESTAMP: tf.constant(days * DAY, tf.int64),
        names.ITEM_INDEX: tf.constant(np.where(days > 0, 9, 0), tf.int64),
    }
    config = WindowConfig(random_cutoffs=True, cutoffs=4, target_days=30, max_targets=2)
    found = earlier_cutoffs(history, config, tf.constant([1, 2], tf.int64))
    as_of, targets = found["as_of"].numpy() // DAY, found["targets"].numpy()
    assert as_of.shape == (3, 3)
    assert sorted(as_of[0]) == [0, 5, 40]  # each moment once; the first has no history
    assert sorted(as_of[1]) == [0, 0, 7]
    assert as_of[2].tolist() == [0, 0, 0]
    picked = {
        (u, int(as_of[u, g])): np.flatnonzero(targets[u, g]).tolist()
        for u, g in np.argwhere(as_of >= 0)
    }
    assert picked[0, 5] == [2, 3]  # the first two of 30 days
    assert picked[0, 40] == [5]
    assert picked[1, 7] == [1]
    assert picked[0, 0] == picked[1, 0] == picked[2, 0] == []


def by_user(sequences: dict[str, tf.RaggedTensor], name: str) -> list:
    return sequences[name].to_list()


def test_shuffled_events_change_places_before_the_held_out_part_and_times_stay(tiny_schema):
    titles = [[n] * (1 + n % 3) for n in range(30)]
    users = [record(list(range(30)), titles), record(list(range(0, 60, 2)), titles)]
    sequences = parse_records(tf.constant(users), tiny_schema)
    found = shuffle_events(sequences, 20 * DAY, 1.0, tf.constant([3, 4], tf.int64))
    assert by_user(found, names.TIMESTAMP) == by_user(sequences, names.TIMESTAMP)
    for items, kept in zip(by_user(found, names.ITEM_INDEX), (20, 10), strict=True):
        assert sorted(items[:kept]) == list(range(2, 2 + kept)) != items[:kept]
        assert items[kept:] == list(range(2 + kept, 32))  # held out: where they were
    for name in (names.ITEM_KEY, names.TITLE_TOKENS):  # an event's features stay together
        of_item = dict(zip(range(2, 32), by_user(sequences, name)[0], strict=True))
        for items, values in zip(
            by_user(found, names.ITEM_INDEX), by_user(found, name), strict=True
        ):
            assert values == [of_item[item] for item in items]


def test_a_share_of_the_users_is_shuffled_anew_with_each_seed(tiny_schema):
    sequences = parse_records(tf.constant([record(list(range(8)))] * 400), tiny_schema)
    found = [
        by_user(shuffle_events(sequences, 99 * DAY, 0.3, tf.constant(seed)), names.ITEM_INDEX)
        for seed in ([0, 1], [0, 1], [0, 2])
    ]
    assert found[0] == found[1] != found[2]
    for users in found:
        moved = [items for items in users if items != sorted(items)]
        assert 80 < len(moved) < 160
        assert len({tuple(items) for items in moved}) > len(moved) / 2


def test_training_batches_are_shuffled_where_that_is_asked_for_and_validation_is_not(shop_dataset):
    def items(split, **settings):
        window = WindowConfig(**settings)
        [*batches] = load_dataset(shop_dataset, split, window=window, batch_size=2, seed=1)
        return np.concatenate([x["history"][names.ITEM_KEY].numpy().ravel() for x in batches])

    assert not np.array_equal(items("train"), items("train", shuffled=1.0))
    np.testing.assert_array_equal(items("validation"), items("validation", shuffled=1.0))


def test_batches_have_earlier_cutoffs_where_they_are_asked_for(shop_dataset):
    window = WindowConfig(random_cutoffs=True, cutoffs=3)
    batch = next(iter(load_dataset(shop_dataset, window=window, batch_size=64)))
    earlier = batch["earlier"]
    assert earlier["as_of"].shape == (64, 2)
    assert tf.reduce_all(earlier["as_of"] < batch["as_of"][:, None])
    asked = earlier["as_of"] > 0
    assert tf.reduce_all(tf.reduce_any(earlier["targets"], axis=2) == asked), "none without targets"
    held_out = next(iter(load_dataset(shop_dataset, "validation", window=window)))
    assert "earlier" not in held_out


def test_negatives_are_drawn_from_the_catalogue_anew_for_each_batch(shop_dataset):
    dataset = load_dataset(shop_dataset, batch_size=64, catalogue_negatives=50)
    drawn = [batch["negatives"] for batch in dataset.take(2)]
    items = Catalogue(shop_dataset)
    for part in drawn:
        rows = items.rows_of(part[names.ITEM_KEY].numpy())
        assert rows.shape == (50,)
        assert (rows >= 0).all()
        np.testing.assert_array_equal(part[names.ITEM_INDEX], items.item_index[rows])
        np.testing.assert_array_equal(part[names.CATEGORY_INDEX], items.category_index[rows])
    assert (drawn[0][names.ITEM_KEY].numpy() != drawn[1][names.ITEM_KEY].numpy()).any()
    assert "negatives" not in next(iter(load_dataset(shop_dataset)))


def test_an_item_that_has_not_sold_is_no_negative(shop_dataset):
    """It is in the catalogue to be found: what is known of it is from after the training."""
    batch = next(iter(load_dataset(shop_dataset, batch_size=64, catalogue_negatives=5000)))
    items = Catalogue(shop_dataset)
    drawn = np.unique(items.rows_of(batch["negatives"][names.ITEM_KEY].numpy()))
    sold = np.flatnonzero(items.count > 0)
    assert len(sold) < len(items)
    np.testing.assert_array_equal(drawn, sold)  # of 5,000 draws from 300 each comes up
    assert batch["catalogue_size"] == len(sold)


def test_random_cutoffs_move_from_pass_to_pass_and_stay_before_the_end(shop_dataset):
    window = WindowConfig(random_cutoffs=True)
    dataset = load_dataset(shop_dataset, window=window, batch_size=64)
    first, second = ([b["as_of"].numpy() for b in dataset] for _ in range(2))
    assert len(np.unique(np.concatenate(first))) > 100
    assert any((a != b).any() for a, b in zip(first, second, strict=True))
    end = Schema.load(shop_dataset).as_of
    for batch in dataset:
        cutoff = batch["as_of"][:, None]
        targets = batch["targets"][names.TIMESTAMP]
        inside = (targets >= cutoff) & (targets < end) & (targets < cutoff + 31 * DAY)
        assert tf.reduce_all(inside | (batch["targets"][names.ITEM_INDEX] == 0))
        assert tf.reduce_all(batch["history"][names.TIMESTAMP] < cutoff)
        assert tf.reduce_all(targets[:, 0] == cutoff[:, 0]), "T is a purchase"


def test_validation_is_cut_at_one_moment_even_so(shop_dataset):
    window = WindowConfig(random_cutoffs=True)
    moments = [b["as_of"].numpy() for b in load_dataset(shop_dataset, "validation", window=window)]
    expected = training_cutoff(Schema.load(shop_dataset), window)
    assert set(np.concatenate(moments)) == {expected}


def test_no_training_target_lies_in_the_held_out_part(shop_dataset):
    schema = Schema.load(shop_dataset)
    window = WindowConfig()
    assert training_cutoff(schema, window) == schema.as_of - 31 * DAY
    batches = list(load_dataset(shop_dataset, window=window))
    assert len(batches) > 3
    for batch in batches:
        assert int(tf.reduce_max(batch["targets"][names.TIMESTAMP])) < schema.as_of
        assert int(tf.reduce_max(batch["history"][names.TIMESTAMP])) < schema.as_of - 31 * DAY


def test_passes_are_in_a_new_order_and_repeat_with_the_seed(shop_dataset):
    def passes(seed):
        dataset = load_dataset(shop_dataset, batch_size=64, seed=seed)
        return [
            [int(tf.reduce_sum(b["history"][names.ITEM_KEY][0])) for b in dataset] for _ in range(2)
        ]

    first, second = passes(1)
    assert first != second
    assert passes(1) == [first, second]
    assert passes(2)[0] != first


@pytest.fixture
def copy(shop_dataset, tmp_path) -> pathlib.Path:
    import shutil

    return pathlib.Path(shutil.copytree(shop_dataset, tmp_path / "copy"))


def test_a_truncated_shard_is_named_before_anything_is_read(copy):
    shard = sorted((copy / "train").iterdir())[0]
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(DatasetError, match=rf"{shard.name} has \d+ bytes, and the pipeline wrote"):
        load_dataset(copy)


def test_a_missing_shard_is_named(copy):
    shard = sorted((copy / "validation").iterdir())[0]
    shard.unlink()
    with pytest.raises(DatasetError, match=f"{shard.name} is missing"):
        load_dataset(copy, names.VALIDATION)


def test_a_folder_without_schema_counters_or_items_is_unfinished(copy):
    (copy / "items.parquet").unlink()
    with pytest.raises(DatasetError, match="not a finished data set"):
        Catalogue(copy)
    (copy / "counters.json").unlink()
    with pytest.raises(DatasetError, match="guim build-dataset"):
        load_dataset(copy)
    (copy / "schema.json").unlink()
    with pytest.raises(SchemaError, match="not a finished data set"):
        load_dataset(copy)


def test_the_shards_hold_every_user_once(shop_dataset):
    counters = json.loads((shop_dataset / "counters.json").read_text())
    for split in (names.TRAIN, names.VALIDATION):
        files = shard_files(shop_dataset, split)
        count = sum(1 for _ in tf.data.TFRecordDataset(files))
        assert count == counters["users"][split] > 0


def test_catalogue_rows_of_keys(shop_dataset):
    catalogue = Catalogue(shop_dataset)
    keys = np.array([catalogue.item_key[3], 0, catalogue.item_key[0], 12345])
    assert catalogue.rows_of(keys).tolist() == [3, -1, 0, -1]
    assert names.fingerprint64(catalogue.item_id[3]) == catalogue.item_key[3]
