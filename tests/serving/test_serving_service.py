"""The protocol over a real socket: answers, status codes, messages and limits of TF Serving."""

import contextlib
import os
import threading
from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving_testing import make_request, start
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving import service, tensors
from serving.batching_parameters import BatchingParameters

TIMEOUT = 60


@contextlib.contextmanager
def expect(code: grpc.StatusCode, *parts: str):
    """The call in the block fails with this status, and its message holds all of `parts`."""
    with pytest.raises(grpc.RpcError) as error:
        yield
    assert error.value.code() == code, error.value.details()
    for part in parts:
        assert part in error.value.details()


def encode(stub, *ids, **spec):
    return stub.Predict(make_request("item_encoder", item_id=list(ids), **spec), TIMEOUT)


class TestPredict:
    def test_the_answer_is_what_the_saved_model_computes(self, stub, models):
        function = tf.saved_model.load(str(models / "retrieval/2")).signatures["recommend"]
        inputs = {
            "item_id": np.array([["mug", "sofa"], ["lamp", ""]], object),
            "category_id": np.array([["kitchen", "home"], ["home", ""]], object),
            "title": np.array([["a", "b"], ["c", ""]], object),
            "timestamp": np.array([[1, 2], [3, 0]], np.int64),
            "as_of": np.array([9, 9], np.int64),
            "k": np.int32(4),
            "exclude_seen": np.array(True),
        }
        direct = function(**{name: tf.constant(value) for name, value in inputs.items()})

        response = stub.Predict(make_request("retrieval", "recommend", **inputs), TIMEOUT)

        assert set(response.outputs) == {"item_id", "score", "interest"}
        for name, proto in response.outputs.items():
            np.testing.assert_array_equal(tf.make_ndarray(proto), direct[name].numpy())
        # By hand: the first user's kitchen gives cup 20 - .5 and pan 20 - 1, the last category
        # home lamp 10 - 2 and desk 10 - 2.5; mug and sofa were seen.
        answer = {
            name: tf.make_ndarray(proto)[0].tolist() for name, proto in response.outputs.items()
        }
        assert answer["item_id"] == [b"cup", b"pan", b"lamp", b"desk"]
        assert answer["score"] == [19.5, 19.0, 8.0, 7.5]
        assert answer["interest"] == [0, 0, 1, 1]

    def test_model_version_and_signature_are_echoed(self, stub):
        spec = encode(stub, "mug").model_spec
        assert (spec.name, spec.version.value) == ("item_encoder", 12)
        assert spec.signature_name == "serving_default"

        spec = encode(stub, "mug", signature="encode_items", version=3).model_spec
        assert (spec.version.value, spec.signature_name) == (3, "encode_items")

    def test_output_filter_selects(self, stub):
        request = make_request(
            "retrieval",
            "nearest_items",
            outputs=["score"],
            item_embedding=np.array([[1, 0]], np.float32),
            k=np.int32(2),
        )
        response = stub.Predict(request, TIMEOUT)
        assert set(response.outputs) == {"score"}
        np.testing.assert_allclose(response.outputs["score"].float_val, [1.0, 0.8], rtol=1e-6)

    def test_an_empty_batch_is_a_batch(self, stub):
        request = make_request("item_encoder", item_id=np.empty((0,), object))
        response = stub.Predict(request, TIMEOUT)
        assert tf.make_ndarray(response.outputs["item_embedding"]).shape == (0, 2)

    def test_concurrent_clients_get_their_own_answers(self, handle):
        def one_client(number):
            with grpc.insecure_channel(handle.address) as channel:
                stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
                return [
                    list(encode(stub, "x" * (number + i)).outputs["item_embedding"].float_val)
                    for i in range(10)
                ]

        with futures.ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(one_client, range(1, 17)))

        for number, vectors in enumerate(answers, 1):
            for i, vector in enumerate(vectors):
                length = number + i
                np.testing.assert_allclose(
                    vector, np.array([length, 1]) / np.hypot(length, 1), rtol=1e-6
                )


class TestRefusals:
    def test_model_spec_is_required(self, stub):
        request = make_request("item_encoder", item_id=["a"])
        request.ClearField("model_spec")
        with expect(grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec"):
            stub.Predict(request, TIMEOUT)

    def test_model_name_is_required(self, stub):
        with expect(grpc.StatusCode.INVALID_ARGUMENT, "ModelSpec has no name specified."):
            stub.Predict(make_request("", "encode_items", item_id=["a"]), TIMEOUT)

    @pytest.mark.parametrize("name", ["resnet", "empty", "README.md", "../item_encoder"])
    def test_unknown_model(self, stub, name):
        with expect(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Latest({name})"):
            stub.Predict(make_request(name, item_id=["a"]), TIMEOUT)

    def test_unknown_version(self, stub):
        with expect(
            grpc.StatusCode.NOT_FOUND,
            "Servable not found for request: Specific(item_encoder, 4)",
        ):
            encode(stub, "a", version=4)

    def test_unknown_version_label(self, stub):
        request = make_request("item_encoder", item_id=["a"])
        request.model_spec.version_label = "stable"
        with expect(
            grpc.StatusCode.INVALID_ARGUMENT, "Unrecognized servable version label: stable"
        ):
            stub.Predict(request, TIMEOUT)

    def test_unknown_signature(self, stub):
        """TF Serving's own code and words: its clients tell this from a bad input by the code."""
        with expect(
            grpc.StatusCode.FAILED_PRECONDITION, 'Serving signature key "encode" not found.'
        ):
            encode(stub, "a", signature="encode")

    def test_the_initialiser_is_no_signature(self, stub):
        with expect(grpc.StatusCode.INTERNAL, "Expected prediction signature method_name"):
            encode(stub, "a", signature="__saved_model_init_op")

    def test_missing_input(self, stub):
        request = make_request("retrieval", "nearest_items", k=np.int32(1))
        with expect(
            grpc.StatusCode.INVALID_ARGUMENT,
            "input size does not match signature: 1!=2 len({k}) != len({item_embedding,k})",
            "Missing but required: {item_embedding}.",
        ):
            stub.Predict(request, TIMEOUT)

    def test_extra_input(self, stub):
        request = make_request("item_encoder", item_id=["a"], price=[1.0])
        with expect(grpc.StatusCode.INVALID_ARGUMENT, "Sent extra: {price}."):
            stub.Predict(request, TIMEOUT)

    def test_misnamed_input(self, stub):
        request = make_request("item_encoder", items=["a"])
        with expect(
            grpc.StatusCode.INVALID_ARGUMENT,
            "Sent extra: {items}.",
            "Missing but required: {item_id}.",
        ):
            stub.Predict(request, TIMEOUT)

    def test_wrong_dtype(self, stub):
        request = make_request("item_encoder", item_id=np.array([1], np.int64))
        with expect(
            grpc.StatusCode.INVALID_ARGUMENT, "input item_id: expected DT_STRING, got DT_INT64"
        ):
            stub.Predict(request, TIMEOUT)

    @pytest.mark.parametrize(
        ("values", "got"), [("a", "[]"), ([["a"]], "[1,1]"), ([[["a", "b"]]], "[1,1,2]")]
    )
    def test_wrong_rank(self, stub, values, got):
        request = make_request("item_encoder", item_id=values)
        with expect(
            grpc.StatusCode.INVALID_ARGUMENT, f"input item_id: expected shape [?], got {got}"
        ):
            stub.Predict(request, TIMEOUT)

    def test_wrong_size(self, stub):
        request = make_request(
            "retrieval",
            "nearest_items",
            item_embedding=np.zeros((1, 3), np.float32),
            k=np.int32(1),
        )
        with expect(
            grpc.StatusCode.INVALID_ARGUMENT,
            "input item_embedding: expected shape [?,2], got [1,3]",
        ):
            stub.Predict(request, TIMEOUT)

    def test_more_values_than_the_shape_holds(self, stub):
        request = make_request("item_encoder", item_id=["a"])
        request.inputs["item_id"].string_val.append(b"b")
        with expect(grpc.StatusCode.INVALID_ARGUMENT, "tensor parsing error: item_id"):
            stub.Predict(request, TIMEOUT)

    def test_a_small_message_can_not_claim_a_huge_tensor(self, stub):
        request = make_request("item_encoder", item_id=["a"])
        request.inputs["item_id"].tensor_shape.dim[0].size = 1 << 50
        with expect(grpc.StatusCode.INVALID_ARGUMENT, "item_id", "unpacks to"):
            stub.Predict(request, TIMEOUT)

    def test_inputs_that_disagree_are_refused_by_the_graph(self, stub):
        inputs = {name: [["a", "b"]] for name in ("item_id", "category_id", "title")}
        inputs["category_id"] = [["a", "b"], ["c", "d"]]
        request = make_request(
            "retrieval",
            "recommend",
            **inputs,
            timestamp=np.array([[1, 2]]),
            as_of=np.array([3]),
            k=np.int32(1),
            exclude_seen=np.array(False),
        )
        with expect(grpc.StatusCode.INVALID_ARGUMENT):
            stub.Predict(request, TIMEOUT)

    def test_unknown_output(self, stub):
        with expect(
            grpc.StatusCode.INVALID_ARGUMENT,
            "output tensor alias not found in signature: vector "
            "Outputs expected to be in the set {item_embedding}.",
        ):
            encode(stub, "a", outputs=["vector"])

    def test_duplicate_output(self, stub):
        with expect(
            grpc.StatusCode.INVALID_ARGUMENT, "duplicate output tensor alias: item_embedding"
        ):
            encode(stub, "a", outputs=["item_embedding"] * 2)

    def test_a_graph_that_refuses_its_input(self, stub):
        with expect(grpc.StatusCode.INVALID_ARGUMENT, "x must be positive"):
            stub.Predict(make_request("item_encoder", "refuse", x=np.int32(0)), TIMEOUT)

    def test_a_graph_error_keeps_tensorflows_code_and_the_server_lives(self, stub):
        with expect(grpc.StatusCode.NOT_FOUND, "No such file"):
            stub.Predict(make_request("item_encoder", "read", path="/absent/file"), TIMEOUT)
        assert encode(stub, "mug").model_spec.version.value == 12

    def test_a_request_above_the_limit(self, stub):
        with expect(grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max"):
            encode(stub, "x" * (2 << 20))
        assert encode(stub, "x" * (1 << 19)).outputs["item_embedding"].float_val[0] > 0.99

    @pytest.mark.parametrize(
        ("method", "request_type"),
        [
            ("Classify", classification_pb2.ClassificationRequest),
            ("Regress", regression_pb2.RegressionRequest),
            ("MultiInference", inference_pb2.MultiInferenceRequest),
        ],
    )
    def test_other_calls_are_unimplemented(self, stub, method, request_type):
        with expect(grpc.StatusCode.UNIMPLEMENTED):
            getattr(stub, method)(request_type(), TIMEOUT)


class TestDeadline:
    def test_a_client_is_not_kept_beyond_its_deadline(self, models, tmp_path):
        """The only worker is busy: the first request overruns, the second never gets to run."""
        started, release = tmp_path / "started", tmp_path / "release"
        os.mkfifo(started)
        os.mkfifo(release)
        gate = make_request("item_encoder", "gate", started=str(started), release=str(release))
        handle = start(models, "item_encoder", batching=BatchingParameters(num_batch_threads=1))
        with grpc.insecure_channel(handle.address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            held = stub.Predict.future(gate, TIMEOUT)
            assert started.read_bytes() == b"running"
            with expect(grpc.StatusCode.DEADLINE_EXCEEDED):
                encode_request = make_request("item_encoder", item_id=["a"])
                stub.Predict(encode_request, 0.3)
            assert release.read_bytes() == b"released"
            assert held.result().outputs["done"].bool_val == [True]
            assert encode(stub, "a").model_spec.version.value == 12
        handle.stop()

    def test_a_bug_is_an_internal_error_and_logged(self, caplog):
        code, details = service.status_of(ZeroDivisionError("oops"))

        assert (code, details) == (grpc.StatusCode.INTERNAL, "ZeroDivisionError: oops")
        assert "a request failed" in caplog.text

    def test_long_details_do_not_become_another_status(self, stub):
        """gRPC's clients refuse trailers of some kilobytes, as RESOURCE_EXHAUSTED."""
        with expect(grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(é"):
            stub.Predict(make_request("é" * 20_000, item_id=["a"]), TIMEOUT)

    def test_a_small_message_is_unpacked_within_bounds(self, stub):
        request = make_request("item_encoder", item_id=["a"])
        request.inputs["item_id"].tensor_shape.dim[0].size = 200_000  # one text stands for all
        assert len(stub.Predict(request, TIMEOUT).outputs["item_embedding"].float_val) == 400_000


class TestMetadata:
    def ask(self, stub, *fields, name="retrieval", version=None):
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
        if name is not None:
            request.model_spec.name = name
        if version is not None:
            request.model_spec.version.value = version
        return stub.GetModelMetadata(request, TIMEOUT)

    def test_signatures_equal_the_file(self, stub, models):
        file = saved_model_pb2.SavedModel.FromString(
            (models / "retrieval/2/saved_model.pb").read_bytes()
        )
        expected = get_model_metadata_pb2.SignatureDefMap(
            signature_def=file.meta_graphs[0].signature_def
        )

        response = self.ask(stub, "signature_def")

        assert (response.model_spec.name, response.model_spec.version.value) == ("retrieval", 2)
        packed = response.metadata["signature_def"]
        assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
        actual = get_model_metadata_pb2.SignatureDefMap()
        assert packed.Unpack(actual)
        assert actual == expected
        assert "recommend" in actual.signature_def

    def test_fields_are_required_and_known(self, stub):
        with expect(grpc.StatusCode.INVALID_ARGUMENT, "at least one metadata_field"):
            self.ask(stub)
        with expect(grpc.StatusCode.INVALID_ARGUMENT, "Metadata field weights is not supported"):
            self.ask(stub, "signature_def", "weights")

    def test_model_spec_is_required_and_known(self, stub):
        with expect(grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec"):
            self.ask(stub, "signature_def", name=None)
        with expect(grpc.StatusCode.NOT_FOUND, "Specific(retrieval, 7)"):
            self.ask(stub, "signature_def", version=7)


class TestStatus:
    def ask(self, channel, name, version=None):
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = name
        if version is not None:
            request.model_spec.version.value = version
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        return stub.GetModelStatus(request, TIMEOUT).model_version_status

    def test_all_versions_are_listed(self, channel):
        statuses = self.ask(channel, "item_encoder")
        assert [(s.version, s.state) for s in statuses] == [(3, 30), (12, 30)]  # 30: AVAILABLE
        assert all(s.status.error_code == 0 and not s.status.error_message for s in statuses)

    def test_one_version(self, channel):
        assert [s.version for s in self.ask(channel, "item_encoder", 3)] == [3]

    def test_unknown(self, channel):
        with expect(grpc.StatusCode.NOT_FOUND, "Could not find any versions of model resnet"):
            self.ask(channel, "resnet")
        with expect(grpc.StatusCode.NOT_FOUND, "Could not find version 4 of model item_encoder"):
            self.ask(channel, "item_encoder", 4)

    def test_model_spec_is_required(self, channel):
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        with expect(grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec"):
            stub.GetModelStatus(get_model_status_pb2.GetModelStatusRequest(), TIMEOUT)


class TestHealth:
    @pytest.mark.parametrize(
        "name", ["", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"]
    )
    def test_serving(self, channel, name):
        stub = health_pb2_grpc.HealthStub(channel)
        response = stub.Check(health_pb2.HealthCheckRequest(service=name), TIMEOUT)
        assert response.status == health_pb2.HealthCheckResponse.SERVING

    def test_unknown_service(self, channel):
        stub = health_pb2_grpc.HealthStub(channel)
        with expect(grpc.StatusCode.NOT_FOUND):
            stub.Check(health_pb2.HealthCheckRequest(service="other"), TIMEOUT)

    def test_watchers_hear_of_the_shutdown_and_do_not_hold_it_up(self, models):
        handle = start(models, "item_encoder")
        with grpc.insecure_channel(handle.address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(), TIMEOUT
            )
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            stopping = threading.Thread(target=handle.stop, kwargs={"drain_seconds": 3600})
            stopping.start()
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            stopping.join(TIMEOUT)
            assert not stopping.is_alive()


def test_answers_use_the_fields_that_tf_serving_uses(stub):
    proto = encode(stub, "mug").outputs["item_embedding"]
    assert proto.tensor_content == b""
    assert tensors.shape_text(proto.tensor_shape) == "[1,2]"
    np.testing.assert_allclose(proto.float_val, np.array([3, 1]) / np.sqrt(10), rtol=1e-6)
