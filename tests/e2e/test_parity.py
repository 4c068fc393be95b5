"""The same numbers at every seam: live model = SavedModel = gRPC answer."""

import numpy as np
import pytest
import tensorflow as tf

from guim_tf import encoders
from guim_tf.artifacts import latest
from guim_tf.catalogue import Catalogue
from guim_tf.data import history_at
from guim_tf.encoders import encode_items
from guim_tf.mixture import search_exact
from guim_tf.runs import load_run
from guim_tf.schema import Schema
from guim_tf.shards import shard_files
from serving.client import connect, predict
from serving.server import discover, serve


@pytest.fixture(scope="module")
def channel(shop_models):
    handle = serve(discover(model_folder=shop_models), port=0)
    channel = connect(f"127.0.0.1:{handle.port}")
    yield channel
    channel.close()
    handle.stop()


@pytest.fixture(scope="module")
def users(shop_dataset):
    """Records and histories, as tensors and as a client sends them, of ten users."""
    schema = Schema.load(shop_dataset)
    files = shard_files(shop_dataset, "validation")
    examples = tf.constant([r.numpy() for r in tf.data.TFRecordDataset(files).take(10)])
    as_of = tf.fill([10], tf.constant(schema.as_of, tf.int64))
    return examples, as_of


def as_strings(shop_dataset, history, as_of) -> dict[str, np.ndarray]:
    catalogue = Catalogue(shop_dataset)
    rows = catalogue.rows_of(history["item_key"].numpy())
    columns = {"item_id": catalogue.item_id, "category_id": catalogue.category_id}
    columns["title"] = catalogue.title
    inputs = {name: np.where(rows < 0, "", column[rows]) for name, column in columns.items()}
    return inputs | {"timestamp": history["timestamp"].numpy(), "as_of": as_of.numpy()}


def test_user_vectors(channel, users, shop_run, shop_models, shop_dataset):
    examples, as_of = users
    model, config, schema = load_run(shop_run)
    history = history_at(examples, as_of, schema, config.window)
    live = model.encode_users(history, as_of)
    saved = tf.saved_model.load(str(latest(shop_models, "user_encoder"))).signatures[
        "encode_user_examples"
    ](examples=examples, as_of=as_of)["user_embedding"]
    by_strings = predict(
        channel, "user_encoder", "encode_users", as_strings(shop_dataset, history, as_of)
    )["user_embedding"]
    by_record = predict(
        channel,
        "user_encoder",
        "encode_user_examples",
        {"examples": examples.numpy(), "as_of": as_of.numpy()},
    )["user_embedding"]
    for answer in (saved, by_strings, by_record):
        np.testing.assert_allclose(answer, live, atol=1e-5)


def test_item_vectors(channel, shop_run, shop_models, shop_dataset):
    model, _, _ = load_run(shop_run)
    catalogue = Catalogue(shop_dataset)
    live = np.concatenate([model.encode_items(batch) for batch in catalogue.batches()])
    saved = encode_items(
        tf.saved_model.load(str(latest(shop_models, "item_encoder"))), catalogue, progress=False
    )
    columns = ("item_id", "category_id", "title")
    inputs = {name: getattr(catalogue, name).astype(str) for name in columns}
    answer = predict(channel, "item_encoder", "encode_items", inputs)["item_embedding"]
    np.testing.assert_allclose(saved, live, atol=1e-5)
    np.testing.assert_allclose(answer, live, atol=1e-5)


def test_recommendations_are_those_of_the_live_model(channel, users, shop_run, shop_dataset):
    """The whole path against Eq. 3 over the live model's vectors, seen items left out."""
    examples, as_of = users
    model, config, schema = load_run(shop_run)
    catalogue = Catalogue(shop_dataset)
    history = history_at(examples, as_of, schema, config.window)
    items = tf.concat([model.encode_items(batch) for batch in catalogue.batches()], 0)
    seen = tf.constant(catalogue.rows_of(history["item_key"].numpy()))
    rows, scores, _ = search_exact(model.encode_users(history, as_of), items, 20, seen)
    request = as_strings(shop_dataset, history, as_of)
    request |= {"k": np.int32(20), "exclude_seen": np.bool_(True)}
    answer = predict(channel, "retrieval_exact", "recommend", request)
    np.testing.assert_allclose(answer["score"], scores, atol=1e-5)
    ids = catalogue.item_id[rows.numpy()]
    got = answer["item_id"].astype(str)
    assert (got == ids).mean() > 0.98, "only scores that are equal to rounding may change places"
    for got_row, history_row in zip(got, request["item_id"], strict=True):
        assert len(set(got_row)) == 20
        assert not set(got_row) & set(history_row)


def test_a_model_of_another_data_set_is_refused(shop_models, shop_dataset):
    import dataclasses

    other = dataclasses.replace(Schema.load(shop_dataset), max_title_tokens=3)
    with pytest.raises(ValueError, match="max_title_tokens: 16 != 3"):
        encoders.load_encoder(shop_models, "user_encoder", schema=other)
