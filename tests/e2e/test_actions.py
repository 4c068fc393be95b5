"""A log with action types through every stage: the same vectors at every seam."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from beam_pipelines.build_dataset import build_dataset
from beam_pipelines.embed import embed_users
from guim_tf.artifacts import latest
from guim_tf.catalogue import Catalogue
from guim_tf.config import Config, ModelConfig, TrainingConfig
from guim_tf.data import history_at
from guim_tf.export import export
from guim_tf.mixture import search_exact
from guim_tf.retrieval import EXACT, build_index
from guim_tf.runs import load_run
from guim_tf.schema import Schema
from guim_tf.training import train
from serving import client
from serving.histories import load_histories
from serving.server import discover, serve

DAY = 86_400
T0 = 1_600_000_000
ACTIONS = ("cart", "click", "purchase")
USERS = [f"u{user}" for user in range(5)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Sixty users, twenty events each over 200 days; one event in ten has no action."""
    folder = tmp_path_factory.mktemp("actions")
    rng = np.random.default_rng(0)
    lines = ["user,item,time,action,title"]
    for user in range(60):
        for day in np.sort(rng.integers(0, 200, 20)):
            item, action = rng.integers(30), rng.choice(["", *ACTIONS], p=[0.1, 0.2, 0.4, 0.3])
            lines.append(f"u{user},i{item},{T0 + day * DAY},{action},thing {item % 7}")
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    columns = {"user_id": "user", "item_id": "item", "timestamp": "time"}
    columns |= {"action": "action", "title": "title"}
    (folder / "mapping.json").write_text(json.dumps({"events": {"files": ["log.csv"], **columns}}))
    return build_dataset(mapping_file=folder / "mapping.json", output=folder / "dataset").output


@pytest.fixture(scope="module")
def run(dataset):
    sizes = {"interests": 2, "embedding_dim": 16, "item_id_dim": 8, "category_dim": 8, "layers": 1}
    config = Config(
        model=ModelConfig(actions=True, **sizes), training=TrainingConfig(batch_size=16, epochs=1)
    )
    train(dataset=dataset, run=dataset.parent / "run", config=config, progress=False)
    return dataset.parent / "run"


@pytest.fixture(scope="module")
def models(dataset, run):
    folder = dataset.parent / "models"
    export(run=run, models=folder)
    build_index(dataset=dataset, models=folder, build=EXACT)
    return folder


@pytest.fixture(scope="module")
def server(models):
    handle = serve(discover(model_folder=models), port=0)
    yield handle.address
    handle.stop()


@pytest.fixture(scope="module")
def live(dataset, run):
    """What the live model says of the users, from their records: vectors and what they saw."""
    model, config, schema = load_run(run)
    records = {}
    for file in sorted(dataset.glob("*/part-*.tfrecord")):
        for record in tf.data.TFRecordDataset(str(file)):
            parsed = tf.train.Example.FromString(record.numpy())
            [user] = parsed.features.feature["user_id"].bytes_list.value
            records[user.decode()] = record
    examples = tf.stack([records[user] for user in USERS])
    as_of = tf.fill([len(USERS)], tf.constant(schema.as_of, tf.int64))
    history = history_at(examples, as_of, schema, config.window)
    return model, history, as_of, model.encode_users(history, as_of).numpy()


def strings(dataset) -> dict[str, np.ndarray]:
    inputs = client.recommend_inputs(
        load_histories(dataset=dataset, user_ids=USERS), k=10, exclude_seen=True
    )
    del inputs["k"], inputs["exclude_seen"]
    return inputs


def test_the_schema_and_the_records_hold_the_types(dataset, live):
    assert Schema.load(dataset).actions == ACTIONS
    rows = live[1]["action_index"].numpy()
    assert set(rows.ravel()) - {0} == {1, 2, 3, 4}  # no action, and each of the three


def test_user_vectors_are_equal_at_every_seam(dataset, models, server, live, tmp_path):
    expected = live[-1]
    encode = tf.saved_model.load(str(latest(models, "user_encoder"))).signatures["encode_users"]
    saved = encode(**{k: tf.constant(v) for k, v in strings(dataset).items()})["user_embedding"]
    np.testing.assert_allclose(saved, expected, atol=1e-5)
    with client.connect(server) as channel:
        answer = client.predict(channel, "user_encoder", "encode_users", strings(dataset))
    np.testing.assert_allclose(answer["user_embedding"], expected, atol=1e-5)
    embed_users(model=models / "user_encoder", dataset=dataset, output=tmp_path / "users.parquet")
    table = pq.read_table(tmp_path / "users.parquet").to_pydict()
    vectors = dict(zip(table["user_id"], table["user_embedding"], strict=True))
    embedded = np.array([vectors[user] for user in USERS]).reshape(expected.shape)
    np.testing.assert_allclose(embedded, expected, atol=1e-5)


def test_the_type_of_an_action_changes_the_user(dataset, models):
    encode = tf.saved_model.load(str(latest(models, "user_encoder"))).signatures["encode_users"]

    def vectors(action):
        inputs = strings(dataset)
        inputs["action"] = np.where(inputs["item_id"] == "", "", action)
        return encode(**{k: tf.constant(v) for k, v in inputs.items()})["user_embedding"].numpy()

    assert np.abs(vectors("click") - vectors("purchase")).max() > 1e-4
    np.testing.assert_array_equal(vectors("never seen"), vectors(""))


def test_recommendations_are_those_of_the_live_model(dataset, server, live, capsys):
    model, history, _, users = live
    catalogue = Catalogue(dataset)
    items = tf.concat([model.encode_items(batch) for batch in catalogue.batches()], 0)
    seen = tf.constant(catalogue.rows_of(history["item_key"].numpy()))
    rows, scores, _ = search_exact(tf.constant(users), items, 5, seen)
    arguments = ["--dataset", str(dataset), "--server", server, "--model", "retrieval_exact"]
    arguments += ["--user", *USERS, "--k", "5", "--exclude-seen", "--json"]
    assert client.main(arguments) == 0
    printed = [json.loads(line)["recommendations"] for line in capsys.readouterr().out.splitlines()]
    np.testing.assert_allclose([[r["score"] for r in p] for p in printed], scores, atol=1e-5)
    ids = [[r["item_id"] for r in p] for p in printed]
    assert (np.array(ids) == catalogue.item_id[rows.numpy()]).mean() > 0.9, "ties aside"


@pytest.mark.parametrize("name", ["user_encoder", "retrieval_exact"])
def test_the_signature_takes_actions(models, name):
    signature = tf.saved_model.load(str(latest(models, name))).signatures["serving_default"]
    spec = signature.structured_input_signature[1]["action"]
    assert (spec.dtype, spec.shape.as_list()) == (tf.string, [None, None])
