"""Who is evaluated and on what, on a shop that is known by hand, and on damaged folders."""

import json

import numpy as np
import pytest

from guim_tf.evaluation.protocol import ProtocolError, load_protocol
from guim_tf.evaluation.tasks import truths
from guim_tf.schema import SchemaError

DAY = 86_400
A, B, D, C, E = range(5)  # catalogue rows; see conftest


def lists(ragged):
    return [ragged[i].tolist() for i in range(len(ragged))]


def test_catalogue_is_in_vocabulary_order(shop_protocol):
    catalogue = shop_protocol.catalogue
    assert catalogue.item_id.tolist() == ["A", "B", "D", "C", "E"]
    assert catalogue.count.tolist() == [3, 2, 2, 1, 0]
    assert catalogue.title[A] == "apple"
    assert catalogue.rows_of(np.array([catalogue.item_key[D], 12345])).tolist() == [D, -1]


def test_windows(shop_protocol):
    assert shop_protocol.user_ids.tolist() == ["anna", "ben", "finn"]
    assert lists(shop_protocol.history.items) == [[A, A, B], [C], [D]]
    assert lists(shop_protocol.future.items) == [[C, A, A, D], [B], [A]]
    as_of = shop_protocol.as_of
    assert shop_protocol.history.timestamps.tolist() == [
        as_of + day * DAY for day in (-10, -5, -1, -20, -365)
    ]


def test_past_is_of_everybody_and_of_all_time(shop_protocol):
    # anna 3, ben 1, cara 2, dora 0, emil 1 (too old for a history), finn 1
    assert sorted(shop_protocol.past.items.lengths) == [0, 1, 1, 1, 2, 3]
    assert (shop_protocol.past.timestamps < shop_protocol.as_of).all()


def test_examples_belong_to_their_users(shop_protocol):
    for user, example in zip(shop_protocol.user_ids, shop_protocol.examples, strict=True):
        assert user.encode() in example


def test_truths_of_the_tasks(shop_protocol):
    tasks = truths(shop_protocol)
    assert lists(tasks["CMP-L"]) == [[A, D, C], [B], [A]]
    assert lists(tasks["CMP-S"]) == [[A, C], [], [A]]
    assert lists(tasks["CMP-N"]) == [[C], [B], [A]]  # C and A at one time: the log's order


def test_windows_move_with_their_arguments(shop, shop_protocol):
    later = load_protocol(shop, as_of=shop_protocol.as_of + 2 * DAY)
    # Emil's B and Dora's E are history now, but neither comes back; Finn's A is history too.
    assert later.user_ids.tolist() == ["anna", "ben"]
    assert lists(later.future.items) == [[A, D], [B, D]]
    narrow = load_protocol(shop, test_days=1, history_days=6)
    assert narrow.user_ids.tolist() == ["anna"]
    assert lists(narrow.history.items) == [[A, B]]
    assert lists(narrow.future.items) == [[C, A]]


def test_a_log_that_ends_within_the_window_is_told(shop, shop_protocol):
    assert shop_protocol.notes == []  # its last event is on day 30
    later = load_protocol(shop, as_of=shop_protocol.as_of + 2 * DAY)
    [note] = later.notes
    assert "it has 29 of the 30 days from" in note


def test_one_split(shop):
    assert load_protocol(shop, splits=("validation",)).user_ids.tolist() == ["finn"]


def test_compressed_is_the_same(shop_protocol, shop_writer, tmp_path):
    other = load_protocol(shop_writer(tmp_path / "gzip", compression="GZIP"))
    assert other.user_ids.tolist() == shop_protocol.user_ids.tolist()
    assert lists(other.future.items) == lists(shop_protocol.future.items)


@pytest.fixture
def own(shop_writer, tmp_path):
    """A data set to damage, and one of its shards."""
    folder = shop_writer(tmp_path / "own")
    return folder, folder / "train" / "part-00000-of-00002.tfrecord"


def test_a_truncated_shard_is_named(own):
    folder, shard = own
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"part-00000-of-00002.tfrecord has \d+ bytes.*Copy"):
        load_protocol(folder)


def test_a_shard_with_changed_bytes_is_named(own):
    folder, shard = own
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"part-00000-of-00002.tfrecord is damaged"):
        load_protocol(folder)


def test_a_missing_shard_is_named(own):
    folder, shard = own
    shard.unlink()
    with pytest.raises(ValueError, match=r"part-00000-of-00002.tfrecord is missing"):
        load_protocol(folder)


def rewrite(shard, folder, records):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(shard)) as writer:
        for record in records:
            writer.write(record)
    path = folder / "counters.json"
    counters = json.loads(path.read_text())
    counters["shards"][0]["bytes"] = shard.stat().st_size
    path.write_text(json.dumps(counters))


def records_of(shard):
    import tensorflow as tf

    return [x.numpy() for x in tf.data.TFRecordDataset(str(shard))]


def test_something_else_than_examples_is_named(own):
    folder, shard = own
    rewrite(shard, folder, [b"not an example"])
    with pytest.raises(ValueError, match=r"part-00000-of-00002.tfrecord is damaged"):
        load_protocol(folder)


@pytest.mark.parametrize("damage", ["unordered", "short"])
def test_events_out_of_order_or_incomplete_are_refused(own, damage):
    import tensorflow as tf

    folder, shard = own
    example = tf.train.Example.FromString(records_of(shard)[0])
    times = example.features.feature["timestamp"].int64_list.value
    if damage == "short":
        times.pop()
    else:
        times[0], times[1] = times[1], times[0]
    rewrite(shard, folder, [example.SerializeToString()])
    with pytest.raises(ValueError, match=r"record of user 'anna'.*in time order"):
        load_protocol(folder)


def test_an_item_outside_of_the_catalogue_is_refused(own):
    import tensorflow as tf

    folder, shard = own
    example = tf.train.Example.FromString(records_of(shard)[0])
    example.features.feature["item_key"].int64_list.value[0] = 4711
    rewrite(shard, folder, [example.SerializeToString()])
    with pytest.raises(ValueError, match=r"user 'anna' has an item that is not in items.parquet"):
        load_protocol(folder)


def test_a_broken_catalogue_is_refused(own):
    folder, _ = own
    (folder / "items.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"items.parquet is not a catalogue"):
        load_protocol(folder)
    (folder / "items.parquet").unlink()
    with pytest.raises(ValueError, match=r"items.parquet does not exist"):
        load_protocol(folder)


def test_no_data_set(tmp_path):
    with pytest.raises(SchemaError, match="not a finished data set"):
        load_protocol(tmp_path)


def test_nobody_to_evaluate(shop):
    with pytest.raises(ProtocolError, match=r"as_of is 1980-01-01: no user.*1971-09-27"):
        load_protocol(shop, as_of=3652 * DAY)
    with pytest.raises(ProtocolError, match="test_days is 0"):
        load_protocol(shop, test_days=0)
