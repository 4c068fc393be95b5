"""Each exported graph needs only what the stock server that serves it was built with."""

import json
import pathlib
import re
import shutil

import pytest
import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import saved_model_pb2

from guim_tf.artifacts import latest
from guim_tf.config import Config, configure
from guim_tf.export import export
from guim_tf.runs import CONFIG_FILE
from guim_tf.strict_json import load, to_json

DATA = pathlib.Path(__file__).resolve().parents[1] / "golden/stock_servers"
COMPOSE = pathlib.Path(__file__).resolve().parents[2] / "serving/docker/compose.yaml"
SERVING, SERVING_SCANN = "tensorflow/serving", "google/tf-serving-scann"
SERVED = {  # as serving/docker has them
    "user_encoder": SERVING,
    "item_encoder": SERVING,
    "retrieval_exact": SERVING,
    "retrieval": SERVING_SCANN,
}


@pytest.fixture(scope="module")
def lists():
    return json.loads((DATA / "servers.json").read_text())


@pytest.fixture(scope="module")
def core(lists):
    """TensorFlow's own operations, and the attributes of each."""
    lines = (DATA / lists["core"]["file"]).read_text().splitlines()
    return {name: set(attributes) for name, *attributes in map(str.split, lines)}


@pytest.fixture(scope="module")
def models_of_two(shop_run, shop_dataset, tmp_path_factory):
    """Two runs in one export: the second is the first under another seed."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copytree(shop_run, folder / "run")
    config = configure(load(Config, shop_run / CONFIG_FILE), ["training.seed=1"])
    (folder / "run" / CONFIG_FILE).write_text(to_json(config))
    export(run=[shop_run, folder / "run"], models=folder / "models", dataset=shop_dataset)
    return folder / "models"


def nodes(graph: graph_pb2.GraphDef):
    """Nodes of a graph and of all functions in its library."""
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def unknown(graph: graph_pb2.GraphDef, core: dict[str, set[str]], added: set[str]) -> set[str]:
    """What a server with these operations would refuse: operations, and `operation.attribute`."""
    functions = {function.signature.name for function in graph.library.function}
    found = set()
    for node in nodes(graph):
        if node.op in core:
            for attribute in set(node.attr) - core[node.op]:
                if not attribute.startswith("_"):  # hints, which a server need not know
                    found.add(f"{node.op}.{attribute}")
        elif node.op not in added | functions:
            found.add(node.op)
    return found


def graphs(folder: pathlib.Path) -> list[graph_pb2.GraphDef]:
    model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    return [meta_graph.graph_def for meta_graph in model.meta_graphs]


def added_by(lists, server: str) -> set[str]:
    libraries = lists["servers"][server]["libraries"]
    return {op for library in libraries for op in lists["libraries"][library]["operations"]}


@pytest.mark.parametrize("model", SERVED)
def test_a_model_needs_what_its_server_has(shop_models, lists, core, model):
    [graph] = graphs(latest(shop_models, model))
    assert sum(1 for _ in nodes(graph)) > 100  # the functions are in
    assert unknown(graph, core, added_by(lists, SERVED[model])) == set()


@pytest.mark.parametrize("model", ["user_encoder", "item_encoder"])
def test_runs_side_by_side_need_no_more(models_of_two, lists, core, model):
    [graph] = graphs(latest(models_of_two, model))
    assert unknown(graph, core, added_by(lists, SERVED[model])) == set()


def test_every_exported_model_is_one_of_these(shop_models):
    assert {folder.name for folder in shop_models.iterdir()} == set(SERVED)


def test_beyond_tensorflow_it_is_nfkc_and_the_search_alone(shop_models, core):
    needed = {}
    for model in SERVED:
        [graph] = graphs(latest(shop_models, model))
        needed[model] = unknown(graph, core, set())
    scann = {"Scann>TensorsToScann", "Scann>ScannSearchBatched"}
    assert needed == {
        "user_encoder": {"NormalizeUTF8"},
        "item_encoder": {"NormalizeUTF8"},
        "retrieval_exact": {"NormalizeUTF8"},
        "retrieval": {"NormalizeUTF8"} | scann,
    }


def test_the_servers_are_those_of_the_compose_file(lists):
    images = re.findall(r"image: \$\{\w+:-(.+):latest\}", COMPOSE.read_text())
    assert set(images) == set(lists["servers"]) == set(SERVED.values())


def test_every_list_names_its_source(lists):
    for entry in (lists["core"], *lists["servers"].values(), *lists["libraries"].values()):
        assert len(entry["source"]) > 50


def test_what_a_server_lacks_is_found_also_inside_functions(core):
    @tf.function
    def inner(x):
        return tf.nn.softsign(x)

    @tf.function
    def outer(x):
        return tf.cond(x[0] > 0, lambda: inner(x), lambda: -x)

    graph = outer.get_concrete_function(tf.TensorSpec([2])).graph.as_graph_def()
    less = {name: attributes for name, attributes in core.items() if name != "Softsign"}
    assert unknown(graph, core, set()) == set()
    assert unknown(graph, less, set()) == {"Softsign"}
    assert unknown(graph, less, {"Softsign"}) == set()


def test_an_attribute_of_a_newer_release_is_found(core):
    graph = graph_pb2.GraphDef()
    node = graph.node.add(name="v", op="VarHandleOp")
    node.attr["dtype"].type = tf.float32.as_datatype_enum
    node.attr["_hint"].s = b""
    assert unknown(graph, core, set()) == set()
    node.attr["debug_name"].s = b"v"
    assert unknown(graph, core, set()) == {"VarHandleOp.debug_name"}


def test_a_saved_model_is_still_the_one_of_its_fingerprint(shop_models, tmp_path):
    """Its graph was edited after it was saved: the checksum is that of what is there."""
    from tensorflow.python.saved_model.fingerprinting_utils import write_fingerprint

    folder = latest(shop_models, "item_encoder")
    (tmp_path / "saved_model.pb").write_bytes((folder / "saved_model.pb").read_bytes())
    (tmp_path / "variables").symlink_to(folder / "variables")
    write_fingerprint(str(tmp_path))
    stated, computed = (
        tf.saved_model.experimental.read_fingerprint(str(path)) for path in (folder, tmp_path)
    )
    assert stated.saved_model_checksum == computed.saved_model_checksum
    assert stated.checkpoint_hash == computed.checkpoint_hash
