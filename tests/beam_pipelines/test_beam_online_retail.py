"""The real log, with its published counts."""

import collections
import json
import pathlib

import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from guim_tf import schema

AS_OF = 1_320_883_200  # 2011-11-10 00:00:00 UTC


@pytest.fixture(scope="module")
def counters(online_retail_dataset: pathlib.Path) -> dict:
    return json.loads((online_retail_dataset / "counters.json").read_text())


def test_every_row_is_accounted_for(counters):
    assert counters["rows"] == {
        "read": 541_909,
        "kept": 397_924,
        "filtered": {
            "CustomerID present": 135_080,
            "InvoiceNo not_starts_with C": 8_905,
            "Quantity > 0": 0,
        },
        "dead": {},
    }


def test_users_items_and_events(counters):
    assert sum(counters["users"].values()) == 4_339
    assert counters["items"] == 3_665
    events = counters["events"]
    assert events["kept"] == 397_924
    assert events["duplicates"] + events["written"] == 397_924
    assert events["duplicates"] > 0


def test_the_cut_off_is_thirty_days_before_the_end(online_retail_dataset):
    assert schema.Schema.load(online_retail_dataset).as_of == AS_OF


def test_counts_of_the_catalogue_are_those_of_the_records(online_retail_dataset):
    """Counted again from the records themselves, with TensorFlow's own parser."""
    counts: collections.Counter[int] = collections.Counter()
    buyers: collections.Counter[int] = collections.Counter()
    recent = range(AS_OF - 30 * schema.DAY, AS_OF)
    for path in sorted(online_retail_dataset.glob("*/part-*.tfrecord*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            times = features["timestamp"].int64_list.value
            keys = features["item_key"].int64_list.value
            assert list(times) == sorted(times)
            counts.update(key for key, time in zip(keys, times, strict=True) if time < AS_OF)
            buyers.update({key for key, time in zip(keys, times, strict=True) if time in recent})
    items = pq.read_table(online_retail_dataset / "items.parquet").to_pydict()
    stated = dict(zip(items["item_key"], items["count"], strict=True))
    assert {key: count for key, count in stated.items() if count} == counts
    stated = dict(zip(items["item_key"], items["recent_buyers"], strict=True))
    assert {key: count for key, count in stated.items() if count} == buyers
    order = list(zip([-count for count in items["count"]], items["item_id"], strict=True))
    assert order == sorted(order)
