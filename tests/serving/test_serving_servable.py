"""Loading, warming up and running one version; what may take its place."""

import shutil

import numpy as np
import pytest
import tensorflow as tf
from serving_testing import make_schema, predict_log, write_warmup
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import prediction_log_pb2

from guim_tf import schema
from serving import servable as servable_lib
from serving import tensors


@pytest.fixture(scope="module")
def retrieval(models) -> servable_lib.Servable:
    return servable_lib.load(name="retrieval", version=2, path=models / "retrieval/2")


def predict(servable, signature, inputs):
    call = servable_lib.prepare(servable, signature, inputs)
    return servable_lib.run(servable, call.signature_name, call.inputs)


@pytest.fixture
def copy(models, tmp_path):
    """A version that a test may spoil."""
    return shutil.copytree(models / "item_encoder/3", tmp_path / "item_encoder/3")


def test_signatures_are_those_of_the_file(retrieval):
    recommend = retrieval.signature_defs["recommend"]

    assert set(retrieval.functions) == {"recommend", "nearest_items", "serving_default"}
    assert tensors.dtype_name(recommend.inputs["timestamp"].dtype) == "DT_INT64"
    assert tensors.shape_text(recommend.inputs["item_id"].tensor_shape) == "[?,?]"
    assert tensors.shape_text(recommend.inputs["k"].tensor_shape) == "[]"


def test_a_servable_is_immutable(retrieval):
    with pytest.raises(AttributeError):
        retrieval.version = 3


def test_predict_computes_what_the_saved_model_computes(models, retrieval):
    vectors, k = tf.constant([[0.6, 0.8], [0.0, -1.0]]), tf.constant(3)
    direct = tf.saved_model.load(str(models / "retrieval/2")).signatures["nearest_items"](
        item_embedding=vectors, k=k
    )

    outputs = predict(
        retrieval,
        "nearest_items",
        {"item_embedding": tensors.to_proto(vectors, name="v"), "k": tensors.to_proto(k, name="k")},
    )

    assert set(outputs) == {"item_id", "score"}
    np.testing.assert_array_equal(outputs["item_id"], direct["item_id"])
    np.testing.assert_array_equal(outputs["score"], direct["score"])
    assert outputs["item_id"][0].tolist() == [b"pan", b"cup", b"sofa"]  # 1, .96, .8


def test_an_input_with_a_default_may_be_left_out():
    """Newer exporters store defaults in the signature; TF Serving fills them in."""
    float_, scalar = tf.float32.as_datatype_enum, tf.TensorShape([]).as_proto()
    info = meta_graph_pb2.TensorInfo(dtype=float_, tensor_shape=scalar)
    signature = meta_graph_pb2.SignatureDef(
        inputs={"x": info, "y": info},
        outputs={"sum": info},
        defaults={"y": tensor_pb2.TensorProto(dtype=float_, tensor_shape=scalar, float_val=[40])},
        method_name="tensorflow/serving/predict",
    )
    adder = servable_lib.Servable(
        "adder", 1, None, {"add": signature}, {"add": lambda x, y: {"sum": x + y}}
    )
    two = tensors.to_proto(np.float32(2), name="x")

    assert predict(adder, "add", {"x": two})["sum"] == 42
    assert predict(adder, "add", {"x": two, "y": two})["sum"] == 4
    with pytest.raises(servable_lib.RequestError, match=r"Missing but required: \{x\}"):
        predict(adder, "add", {"y": two})


@pytest.mark.parametrize(
    ("expected", "got", "fits"),
    [
        ((None, 2), (5, 2), True),
        ((None, 2), (0, 2), True),
        ((None, 2), (5, 3), False),
        ((None, 2), (5,), False),
        ((None,), (), False),
        ((), (), True),
        (None, (1, 2, 3), True),
        ((None,), None, False),
    ],
)
def test_shapes_fit_where_known_sizes_agree(expected, got, fits):
    def proto(shape):
        return tf.TensorShape(shape).as_proto()

    assert servable_lib._compatible(proto(expected), proto(got)) is fits


def test_warmup_requests_are_replayed(retrieval, copy):
    assert retrieval.warmup_requests == 1
    write_warmup(copy, *[predict_log("encode_items", item_id=["mug"])] * 3)
    assert servable_lib.load(name="e", version=3, path=copy).warmup_requests == 3


def test_a_model_without_warmup_requests_loads(copy):
    assert servable_lib.load(name="e", version=3, path=copy).warmup_requests == 0


def test_a_failing_warmup_request_fails_the_load(copy):
    write_warmup(copy, predict_log("encode_items", item_id=[[1.0]]))
    with pytest.raises(servable_lib.RequestError, match="item_id: expected DT_STRING"):
        servable_lib.load(name="e", version=3, path=copy)


def test_a_warmup_request_that_the_graph_refuses_fails_the_load(copy):
    write_warmup(copy, predict_log("refuse", x=np.int32(-1)))
    with pytest.raises(tf.errors.InvalidArgumentError, match="x must be positive"):
        servable_lib.load(name="e", version=3, path=copy)


def test_other_records_than_predict_logs_are_refused(copy):
    log = prediction_log_pb2.PredictionLog()
    log.classify_log.request.model_spec.name = "e"
    write_warmup(copy, log)
    with pytest.raises(servable_lib.LoadError, match="classify_log, expected predict_log"):
        servable_lib.load(name="e", version=3, path=copy)


def test_a_damaged_warmup_file_is_named(copy):
    write_warmup(copy, predict_log("encode_items", item_id=["mug"]))
    file = copy / "assets.extra/tf_serving_warmup_requests"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(servable_lib.LoadError, match="tf_serving_warmup_requests is damaged"):
        servable_lib.load(name="e", version=3, path=copy)


def test_a_folder_without_a_graph_is_refused(tmp_path):
    with pytest.raises(servable_lib.LoadError, match=r"no saved_model\.pb.*guim export"):
        servable_lib.load(name="e", version=1, path=tmp_path)


def test_a_damaged_graph_is_refused(copy):
    (copy / "saved_model.pb").write_bytes(b"\xff\xff\xff not a protobuf")
    with pytest.raises(servable_lib.LoadError, match=r"saved_model\.pb is damaged"):
        servable_lib.load(name="e", version=1, path=copy)


def test_a_graph_that_is_not_for_serving_is_refused(copy):
    (copy / "saved_model.pb").write_bytes(b"")  # parses: no graphs at all
    with pytest.raises(servable_lib.LoadError, match="no graph tagged 'serve'"):
        servable_lib.load(name="e", version=1, path=copy)


def test_an_edited_schema_is_refused(copy):
    (copy / "assets.extra").mkdir(exist_ok=True)
    make_schema().save(copy / "assets.extra")
    assert servable_lib.load(name="e", version=1, path=copy).version == 1

    text = make_schema().to_json().replace('"max_title_tokens": 12', '"max_title_tokens": 13')
    (copy / "assets.extra/schema.json").write_text(text)
    with pytest.raises(schema.SchemaError, match="was edited"):
        servable_lib.load(name="e", version=1, path=copy)
