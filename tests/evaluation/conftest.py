"""A shop of five items and six users, small enough to know every answer by hand.

Days are relative to `as_of`. Counts before it: A 3, B 2, D 2, C 1, E 0, which gives the catalogue
rows A 0, B 1, D 2, C 3, E 4. Anna, Ben and Finn are evaluated:

    user  history  next 30 days   why
    anna  A A B    C A A D        C and A at the same second, C first in the log
    ben   C        B              his D of day 30 is past the window
    finn  D        A              both exactly at the start of their windows
    cara  D B                     bought nothing after
    dora           E              was unknown before
    emil  (A)      B              his A is a day older than the history window
"""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from guim_tf.config import Config
from guim_tf.schema import Schema, fingerprint64, write_vocabulary
from guim_tf.strict_json import to_json

DAY = 86_400
AS_OF = 1000 * DAY
Log = Mapping[str, Sequence[tuple[float, str]]]

SHOP: Log = {
    "anna": [(-10, "A"), (-5, "A"), (-1, "B"), (0.5, "C"), (0.5, "A"), (5, "A"), (20, "D")],
    "ben": [(-20, "C"), (29, "B"), (30, "D")],
    "cara": [(-40, "D"), (-2, "B")],
    "dora": [(1, "E")],
    "emil": [(-366, "A"), (1, "B")],
    "finn": [(-365, "D"), (0, "A")],
}
TITLES = {"A": "apple", "B": "<b>bread</b> & butter", "C": "", "D": "dates", "E": "eggs"}


def write_shop(
    folder: pathlib.Path, log: Log = SHOP, *, compression: str = "", words: Sequence[str] = ("x",)
) -> pathlib.Path:
    """Writes a data set folder: the last user in validation, the others in two training shards."""
    times = {u: [AS_OF + round(day * DAY) for day, _ in of] for u, of in log.items()}
    items = sorted({item for of in log.values() for _, item in of})
    count = {
        item: sum(day < 0 and name == item for of in log.values() for day, name in of)
        for item in items
    }
    recent = {
        item: sum(any(-30 <= day < 0 and name == item for day, name in of) for of in log.values())
        for item in items
    }
    items.sort(key=lambda item: (-count[item], item))
    index = {item: 2 + row if count[item] else 1 for row, item in enumerate(items)}
    known = [item for item in items if count[item]]
    rows = {
        "item_id": items,
        "item_key": [fingerprint64(item) for item in items],
        "item_index": [index[item] for item in items],
        "category_id": ["food"] * len(items),
        "category_index": [2] * len(items),
        "title": [TITLES.get(item, item) for item in items],
        "title_tokens": [[1]] * len(items),
        "count": [count[item] for item in items],
        "recent_buyers": [recent[item] for item in items],
    }
    folder.mkdir(parents=True)
    pq.write_table(pa.table(rows), folder / "items.parquet")
    vocabularies = [
        write_vocabulary(folder / f"vocabularies/{name}.tsv", list(tokens), [1] * len(tokens))
        for name, tokens in (("items", known), ("categories", ["food"]), ("words", words))
    ]
    Schema(
        *vocabularies,
        word_hash_rows=1,
        max_title_tokens=4,
        tokenizer="none",
        actions=(),
        first_timestamp=min(map(min, times.values())),
        last_timestamp=max(map(max, times.values())),
        as_of=AS_OF,
        compression=compression,
    ).save(folder)
    users = list(log)
    shards = []
    for file, part in (
        ("train/part-00000-of-00002.tfrecord", users[:-1:2]),
        ("train/part-00001-of-00002.tfrecord", users[1:-1:2]),
        ("validation/part-00000-of-00001.tfrecord", users[-1:]),
    ):
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        with tf.io.TFRecordWriter(str(path), compression) as writer:
            for user in part:
                writer.write(_record(user, times[user], [item for _, item in log[user]], index))
        shards.append({"file": file, "records": len(part), "bytes": path.stat().st_size})
    (folder / "counters.json").write_text(json.dumps({"shards": shards}))
    return folder


def _record(user: str, times: list[int], items: list[str], index: dict[str, int]) -> bytes:
    def integers(values: list[int]) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    n = len(items)
    features = {
        "user_id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[user.encode()])),
        "timestamp": integers(times),
        "item_key": integers([fingerprint64(item) for item in items]),
        "item_index": integers([index[item] for item in items]),
        "category_index": integers([2] * n),
        "action_index": integers([1] * n),
        "title_tokens": integers([1] * n),
        "title_lengths": integers([1] * n),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


class ItemEncoder(tf.Module):
    """The vector of an item is its row of the identity; an unknown one has the first row's."""

    def __init__(self, item_ids: Sequence[str]) -> None:
        super().__init__()
        self.size = len(item_ids)
        rows = tf.range(self.size, dtype=tf.int64)
        initial = tf.lookup.KeyValueTensorInitializer(tf.constant(list(item_ids)), rows)
        self.table = tf.lookup.StaticHashTable(initial, 0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)] * 3)
    def encode_items(self, item_id, category_id, title):
        return {"item_embedding": tf.one_hot(self.table.lookup(item_id), self.size)}


class UserEncoder(tf.Module):
    """C = 2: the mean vector of all events before `as_of`, and always the last item."""

    def __init__(self, item_ids: Sequence[str]) -> None:
        super().__init__()
        self.size = len(item_ids)
        keys = tf.constant([fingerprint64(item) for item in item_ids], tf.int64)
        rows = tf.range(self.size, dtype=tf.int64)
        self.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, rows), -1)

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.int64)]
    )
    def encode_user_examples(self, examples, as_of):
        features = {name: tf.io.RaggedFeature(tf.int64) for name in ("timestamp", "item_key")}
        parsed = tf.io.parse_example(examples, features)
        before = parsed["timestamp"] < as_of[:, None]
        keys = tf.ragged.boolean_mask(parsed["item_key"], before)
        vectors = keys.with_values(tf.one_hot(self.table.lookup(keys.values), self.size))
        last = tf.one_hot(tf.fill(tf.shape(as_of), self.size - 1), self.size)
        return {"user_embedding": tf.stack([tf.reduce_mean(vectors, axis=1), last], axis=1)}


def write_models(folder: pathlib.Path, dataset: pathlib.Path) -> pathlib.Path:
    """Both encoders as version 1, made for a data set."""
    ids = pq.read_table(dataset / "items.parquet").column("item_id").to_pylist()
    for name, signature, module in (
        ("item_encoder", "encode_items", ItemEncoder(ids)),
        ("user_encoder", "encode_user_examples", UserEncoder(ids)),
    ):
        path = folder / name / "1"
        function = getattr(module, signature)
        tf.saved_model.save(module, str(path), signatures={signature: function})
        (path / "assets.extra").mkdir()
        Schema.load(dataset).save(path / "assets.extra")
        (path / "assets.extra/config.json").write_text(to_json(Config()))
    return folder


@pytest.fixture(scope="session")
def shop_writer() -> Callable[..., pathlib.Path]:
    return write_shop


@pytest.fixture(scope="session")
def shop(tmp_path_factory) -> pathlib.Path:
    """The shop's data set folder; tests that damage it write their own."""
    return write_shop(tmp_path_factory.mktemp("shop") / "dataset")


@pytest.fixture(scope="session")
def shop_models(shop, tmp_path_factory) -> pathlib.Path:
    return write_models(tmp_path_factory.mktemp("models"), shop)


@pytest.fixture(scope="session")
def shop_protocol(shop):
    from guim_tf.evaluation.protocol import load_protocol

    return load_protocol(shop)
