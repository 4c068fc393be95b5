"""SavedModels: the same numbers as the live model, also where this package cannot be imported."""

import dataclasses
import gc
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework.func_graph import FuncGraph

from guim_tf.artifacts import ArtifactError, latest, versions
from guim_tf.catalogue import Catalogue
from guim_tf.config import Config
from guim_tf.data import history_at
from guim_tf.export import export, main
from guim_tf.lookup import ActionTable, IdTable
from guim_tf.runs import CONFIG_FILE, RESULT_FILE, load_run
from guim_tf.schema import Schema, write_vocabulary
from guim_tf.shards import shard_files
from guim_tf.strict_json import load, to_json

# Runs in a process of its own: loads a model with plain TensorFlow and answers what it is asked.
CHILD = """
import sys
sys.modules["guim_tf"] = None  # an import of it raises ImportError
import numpy, tensorflow as tf, tensorflow_text, scann
folder, signature, inputs, outputs = sys.argv[1:]
function = tf.saved_model.load(folder).signatures[signature]
feed = {k: tf.constant(v) for k, v in numpy.load(inputs).items()}
spec = function.structured_input_signature[1]
feed = {k: tf.cast(v, spec[k].dtype) if v.dtype != tf.string else v for k, v in feed.items()}
numpy.savez(outputs, **{k: v.numpy().astype("S") if v.dtype == tf.string else v.numpy()
                        for k, v in function(**feed).items()})
"""


def in_another_process(folder, signature: str, inputs: dict, tmp_path: pathlib.Path) -> dict:
    numpy_inputs = {k: np.array(v, "S") if _is_text(v) else np.array(v) for k, v in inputs.items()}
    np.savez(tmp_path / "in.npz", **numpy_inputs)
    arguments = [str(folder), signature, str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    subprocess.run([sys.executable, "-c", CHILD, *arguments], check=True, capture_output=True)
    return dict(np.load(tmp_path / "out.npz"))


def _is_text(value) -> bool:
    return np.array(value).dtype.kind in "OSU"


@pytest.fixture(scope="module")
def live(shop_run):
    return load_run(shop_run)


@pytest.fixture(scope="module")
def records(shop_dataset) -> np.ndarray:
    files = shard_files(shop_dataset, "validation")
    return np.array([r.numpy() for r in tf.data.TFRecordDataset(files)], object)


def history_strings(records, schema, config, catalogue, as_of) -> dict:
    """The same histories as a client would send them: ids, categories and titles."""
    history = history_at(
        tf.constant(list(records)),
        tf.fill([len(records)], tf.constant(as_of, tf.int64)),
        schema,
        config.window,
    )
    rows = catalogue.rows_of(history["item_key"].numpy())

    def text(column):
        return np.where(rows < 0, "", np.array(column, object)[rows])

    return {
        "item_id": text(catalogue.item_id),
        "category_id": text(catalogue.category_id),
        "title": text(catalogue.title),
        "timestamp": history["timestamp"].numpy(),
        "as_of": np.full([len(records)], as_of, np.int64),
    }


def test_items_live_saved_and_elsewhere_are_equal(shop_models, shop_dataset, live, tmp_path):
    model, _, _ = live
    catalogue = Catalogue(shop_dataset)
    expected = np.concatenate([model.encode_items(batch) for batch in catalogue.batches()])
    inputs = {
        "item_id": catalogue.item_id,
        "category_id": catalogue.category_id,
        "title": catalogue.title,
    }
    folder = latest(shop_models, "item_encoder")
    saved = tf.saved_model.load(str(folder)).signatures["encode_items"](
        **{k: tf.constant(v) for k, v in inputs.items()}
    )["item_embedding"]
    np.testing.assert_allclose(saved, expected, atol=1e-5)
    np.testing.assert_allclose(tf.norm(saved, axis=1), np.ones(len(catalogue)), rtol=1e-5)
    elsewhere = in_another_process(folder, "encode_items", inputs, tmp_path)
    np.testing.assert_allclose(elsewhere["item_embedding"], expected, atol=1e-5)


def test_users_live_saved_by_record_by_strings_and_elsewhere_are_equal(
    shop_models, shop_dataset, live, records, tmp_path
):
    model, config, schema = live
    some, as_of = records[:16], schema.as_of
    moments = np.full([16], as_of, np.int64)
    history = history_at(tf.constant(list(some)), tf.constant(moments), schema, config.window)
    expected = model.encode_users(history, tf.constant(moments)).numpy()
    folder = latest(shop_models, "user_encoder")
    signatures = tf.saved_model.load(str(folder)).signatures
    by_record = signatures["encode_user_examples"](
        examples=tf.constant(list(some)), as_of=tf.constant(moments)
    )["user_embedding"]
    np.testing.assert_allclose(by_record, expected, atol=1e-5)
    strings = history_strings(some, schema, config, Catalogue(shop_dataset), as_of)
    by_strings = signatures["encode_users"](**{k: tf.constant(v) for k, v in strings.items()})[
        "user_embedding"
    ]
    np.testing.assert_allclose(by_strings, expected, atol=1e-5)
    elsewhere = in_another_process(folder, "encode_users", strings, tmp_path)
    np.testing.assert_allclose(elsewhere["user_embedding"], expected, atol=1e-5)


def one_user(**changes):
    request = {
        "item_id": [["a", "b"]],
        "category_id": [["x", "y"]],
        "title": [["red lamp", "blue lamp"]],
        "timestamp": [[1_000_000, 2_000_000]],
        "as_of": [3_000_000],
    } | changes
    return {
        k: tf.constant(v, tf.int64 if k in ("timestamp", "as_of") else tf.string)
        for k, v in request.items()
    }


def test_events_at_or_after_the_moment_are_not_seen(shop_models):
    encode = tf.saved_model.load(str(latest(shop_models, "user_encoder"))).signatures[
        "encode_users"
    ]
    alone = encode(**one_user(item_id=[["a", ""]]))["user_embedding"]
    late = encode(**one_user(timestamp=[[1_000_000, 3_000_000]]))["user_embedding"]
    both = encode(**one_user())["user_embedding"]
    np.testing.assert_allclose(late, alone, atol=1e-6)
    assert np.abs(both - alone).max() > 1e-5


def test_a_user_without_events_and_a_batch_of_none_have_answers(shop_models):
    encode = tf.saved_model.load(str(latest(shop_models, "user_encoder"))).signatures[
        "encode_users"
    ]
    empty = encode(**one_user(item_id=[["", ""]]))["user_embedding"]
    assert empty.shape == [1, 3, 32]
    assert np.isfinite(empty).all()
    none = {k: v[:0] for k, v in one_user().items()}
    assert encode(**none)["user_embedding"].shape == [0, 3, 32]


def test_only_the_last_events_count(shop_models, small_config):
    encode = tf.saved_model.load(str(latest(shop_models, "user_encoder"))).signatures[
        "encode_users"
    ]
    length = small_config.window.max_length

    def encoded(count):
        ids = [f"i{n}" for n in range(100)][-count:]
        times = list(range(1_000_000, 1_000_100))[-count:]
        text = [[""] * count]
        return encode(**one_user(item_id=[ids], category_id=text, title=text, timestamp=[times]))[
            "user_embedding"
        ]

    np.testing.assert_allclose(encoded(100), encoded(length), atol=1e-6)


def test_a_new_item_has_a_vector_of_its_category_and_title(shop_models, shop_dataset):
    catalogue = Catalogue(shop_dataset)
    encode = tf.saved_model.load(str(latest(shop_models, "item_encoder"))).signatures[
        "encode_items"
    ]
    category, title = catalogue.category_id[0], catalogue.title[0]
    vectors = encode(
        item_id=tf.constant(["never seen", "never seen", "nor this"]),
        category_id=tf.constant([category, "no such category", category]),
        title=tf.constant([title, "zzz", title]),
    )["item_embedding"].numpy()
    np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-6)
    assert vectors[0] @ vectors[1] < 0.99


def test_a_version_carries_schema_configuration_and_warmup(shop_models, shop_dataset, small_config):
    extra = latest(shop_models, "user_encoder") / "assets.extra"
    Schema.load(extra).require_match(Schema.load(shop_dataset), mine="model", theirs="data")
    assert load(Config, extra / "config.json") == small_config
    from tensorflow_serving.apis import prediction_log_pb2

    [log] = tf.data.TFRecordDataset(str(extra / "tf_serving_warmup_requests"))
    request = prediction_log_pb2.PredictionLog.FromString(log.numpy()).predict_log.request
    assert request.model_spec.name == "user_encoder"
    signature = tf.saved_model.load(str(extra.parent)).signatures[request.model_spec.signature_name]
    answer = signature(**{k: tf.constant(tf.make_ndarray(v)) for k, v in request.inputs.items()})
    assert answer["user_embedding"].shape == [1, 3, 32]


@pytest.mark.parametrize("name", ["user_encoder", "item_encoder", "retrieval_exact"])
def test_a_version_holds_each_signature_once_and_no_layers(shop_models, name):
    path = latest(shop_models, name) / tf.saved_model.SAVED_MODEL_FILENAME_PB
    [graph] = saved_model_pb2.SavedModel.FromString(path.read_bytes()).meta_graphs
    nodes = graph.object_graph_def.nodes
    assert [x for x in nodes if x.HasField("variable")]
    assert not [x for x in nodes if x.user_object.identifier.startswith("_tf_keras")]
    functions = [x.signature.name for x in graph.graph_def.library.function]
    traced = [x.rsplit("_", 1)[0] for x in functions if "encode" in x or "recommend" in x]
    assert traced
    assert len(traced) == len(set(traced))


def test_versions_count_up_and_unfinished_ones_are_not_seen(shop_run, tmp_path):
    (tmp_path / "user_encoder" / ".1.unfinished").mkdir(parents=True)
    assert versions(tmp_path, "user_encoder") == []
    with pytest.raises(ArtifactError, match="guim export"):
        latest(tmp_path, "user_encoder")
    export(run=shop_run, models=tmp_path)
    export(run=shop_run, models=tmp_path)
    assert versions(tmp_path, "user_encoder") == versions(tmp_path, "item_encoder") == [1, 2]
    assert latest(tmp_path, "item_encoder").name == "2"
    assert not list(tmp_path.glob("*/.*"))


def test_the_command_prints_its_folders_and_refuses_what_is_no_run(shop_run, tmp_path, capsys):
    assert main(["--run", str(shop_run), "--models", str(tmp_path / "models")]) == 0
    folders = json.loads(capsys.readouterr().out)
    assert all(
        pathlib.Path(folder, "saved_model.pb").is_file()
        for folder in (folders["user_encoder"], folders["item_encoder"])
    )
    assert main(["--run", str(tmp_path), "--models", str(tmp_path / "other")]) == 2
    assert "guim train" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_run_that_has_not_ended_is_exported_with_a_word_on_what_it_lacks(
    shop_run, tmp_path, capsys
):
    run = pathlib.Path(shutil.copytree(shop_run, tmp_path / "run"))
    config = load(Config, run / CONFIG_FILE)
    (run / RESULT_FILE).unlink()
    export(run=run, models=tmp_path / "models")  # whose weights were given
    assert capsys.readouterr().err == ""
    open_ones = dataclasses.replace(config.retrieval, repeat_weight=None)
    (run / CONFIG_FILE).write_text(to_json(dataclasses.replace(config, retrieval=open_ones)))
    export(run=run, models=tmp_path / "models")
    assert "run has not finished, so that no weights" in capsys.readouterr().err


def test_an_item_without_a_category_is_encoded_as_it_was_trained(shop_models, live):
    """Row 1 of the category table, which the pipeline gives it."""
    encode = tf.saved_model.load(str(latest(shop_models, "item_encoder"))).signatures[
        "encode_items"
    ]
    blank = tf.constant([""])
    saved = encode(item_id=tf.constant(["new"]), category_id=blank, title=blank)["item_embedding"]
    one = tf.constant([1], tf.int64)
    rows = {"item_index": one, "category_index": one, "title_tokens": tf.zeros([1, 0], tf.int64)}
    np.testing.assert_allclose(saved, live[0].encode_items(rows), atol=1e-5)


@pytest.mark.parametrize("ids", [["a", "b"], []])
def test_ids_to_rows(ids, tmp_path):
    file = tmp_path / "items.tsv"
    write_vocabulary(file, ids, [1] * len(ids))
    rows = IdTable(str(file), size=len(ids))(tf.constant(["b", "", "zzz", "a"]))
    # 1 unknown, then the vocabulary; none is unknown too, as where an item has no category
    assert rows.numpy().tolist() == ([3, 1, 1, 2] if ids else [1, 1, 1, 1])


def test_action_types_to_rows():
    rows = ActionTable(("buy", "click"))(tf.constant([["click", "buy"], ["", "gaze"]]))
    assert rows.numpy().tolist() == [[3, 2], [1, 1]]  # as the pipeline: none is unknown


def test_the_catalogue_encodes_titles_as_the_graph_does(shop_dataset, shop_run):
    """Tokens that the pipeline wrote = tokens of the exported graph."""
    from guim_tf.lookup import Lookups

    words = Lookups(shop_run, Schema.load(shop_dataset)).words
    table = pq.read_table(shop_dataset / "items.parquet", columns=["title", "title_tokens"])
    in_graph = tf.function(lambda titles: words(titles).to_tensor())
    got = tf.RaggedTensor.from_tensor(in_graph(tf.constant(table["title"].to_pylist())), padding=0)
    assert got.to_list() == table["title_tokens"].to_pylist()


@pytest.mark.parametrize("name", ["user_encoder", "item_encoder", "retrieval_exact"])
def test_a_model_that_is_let_go_leaves_no_graph_and_no_warning_behind(shop_models, name, caplog):
    """A server loads versions for years; custom gradients, once registered, would keep them all."""

    def graphs() -> int:
        gc.collect()
        return sum(type(o) is FuncGraph for o in gc.get_objects())

    before = graphs()
    tf.saved_model.load(str(latest(shop_models, name)))
    assert graphs() == before
    assert not caplog.records
