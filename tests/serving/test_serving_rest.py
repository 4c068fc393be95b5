"""REST over a real socket, by TF Serving's api_rest.md: forms, answers, errors, metrics."""

import base64
import http.client
import json
import os
import urllib.error
import urllib.request
from concurrent import futures

import numpy as np
import pytest
from serving_testing import make_request, start

TIMEOUT = 60


@pytest.fixture(scope="module")
def ask(handle):
    """(status, content) of a GET, or of a POST where there is a body."""

    def ask(path, body=None):
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{handle.rest_address}{path}", data)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as e:
            return e.code, json.load(e)

    return ask


RECOMMEND = {
    "item_id": [["mug", "sofa"]],
    "category_id": [["kitchen", "home"]],
    "title": [["a", "b"]],
    "timestamp": [[1, 2]],
    "as_of": [9],
    "k": 2,
    "exclude_seen": True,
}


class TestPredict:
    def test_columns(self, ask, stub):
        body = {"signature_name": "recommend", "inputs": RECOMMEND}
        status, answer = ask("/v1/models/retrieval:predict", body)

        assert status == 200
        arrays = {
            "item_id": np.array([["mug", "sofa"]], object),
            "category_id": np.array([["kitchen", "home"]], object),
            "title": np.array([["a", "b"]], object),
            "timestamp": np.array([[1, 2]]),
            "as_of": np.array([9]),
            "k": np.int32(2),
            "exclude_seen": np.array(True),
        }
        same = stub.Predict(make_request("retrieval", "recommend", **arrays), TIMEOUT).outputs
        assert answer["outputs"] == {
            "item_id": [[text.decode() for text in same["item_id"].string_val]],
            "score": [list(same["score"].float_val)],
            "interest": [list(same["interest"].int_val)],
        }

    def test_a_single_output_has_no_name(self, ask):
        status, answer = ask("/v1/models/item_encoder:predict", {"inputs": {"item_id": ["abc"]}})
        assert status == 200
        np.testing.assert_allclose(answer["outputs"], [np.array([3, 1]) / np.sqrt(10)], rtol=1e-6)

    def test_rows(self, ask):
        for instances in (["abc", "a"], [{"item_id": "abc"}, {"item_id": "a"}]):
            status, answer = ask("/v1/models/item_encoder:predict", {"instances": instances})
            assert status == 200
            np.testing.assert_allclose(answer["predictions"][1], [0.5**0.5] * 2, rtol=1e-6)

    def test_rows_of_several_outputs_are_objects(self, ask):
        body = {"signature_name": "recommend"}
        body["instances"] = [{name: RECOMMEND[name][0] for name in list(RECOMMEND)[:5]}]
        status, answer = ask("/v1/models/retrieval:predict", body)
        # k and exclude_seen have no rows: only columns can hold them
        assert status == 400
        assert "Missing but required: {exclude_seen,k}" in answer["error"]

    def test_bytes_are_base64(self, ask):
        encoded = base64.b64encode(b"abc").decode()
        _, plain = ask("/v1/models/item_encoder:predict", {"instances": ["abc"]})
        _, binary = ask("/v1/models/item_encoder:predict", {"instances": [{"b64": encoded}]})
        assert binary == plain

    def test_a_version(self, ask):
        for version, status in ((3, 200), (12, 200), (4, 404)):
            path = f"/v1/models/item_encoder/versions/{version}:predict"
            assert ask(path, {"instances": ["a"]})[0] == status

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"{", "JSON Parse error"),
            (b"\xff\xfe", "JSON Parse error"),
            (b"[" * 100_000, "JSON Parse error"),
            (b'{"inputs": ' + b"[" * 900 + b"]" * 900 + b"}", "'item_id'"),
            ({}, "either 'instances' or 'inputs'"),
            ([1], "either 'instances' or 'inputs'"),
            ({"instances": ["a"], "inputs": ["a"]}, "either 'instances' or 'inputs'"),
            ({"instances": []}, "with an instance at least"),
            ({"instances": [{"item_id": "a"}, {"x": "a"}]}, "process element: 1 of 'instances'"),
            ({"instances": [1]}, "'item_id' is no tensor of string: expected text, got int"),
            ({"instances": [None]}, "expected text, got NoneType"),
            ({"instances": [["a"], ["b", "c"]]}, "'item_id'"),
            ({"instances": [{"b64": "?"}]}, "'item_id' is no tensor of string"),
            ({"inputs": {"x": ["a"]}}, "no input 'x', expected item_id"),
            ({"inputs": ["a"], "signature_name": "nope"}, '"nope\\" not found'),
            ({"inputs": ["a"], "signature_name": 3}, "must be a string value"),
            ({"inputs": {"x": 1.5}, "signature_name": "refuse"}, "int32: got float64"),
            ({"inputs": {"x": True}, "signature_name": "refuse"}, "int32: got bool"),
            ({"inputs": {"x": 1 << 40}, "signature_name": "refuse"}, "out of its range"),
            ({"inputs": {"x": 1 << 70}, "signature_name": "refuse"}, "'x' is no tensor of int32"),
            ({"inputs": {"x": 0}, "signature_name": "refuse"}, "x must be positive"),
        ],
    )
    def test_what_is_wrong_with_a_request_is_said(self, ask, body, message):
        status, answer = ask("/v1/models/item_encoder:predict", body)
        assert status == 400
        assert message in json.dumps(answer["error"])

    def test_several_inputs_must_be_named(self, ask):
        status, answer = ask("/v1/models/retrieval:predict", {"inputs": [[1.0, 0.0]]})
        assert (status, "must be named" in answer["error"]) == (400, True)

    def test_an_unknown_model(self, ask):
        assert ask("/v1/models/half:predict", {"instances": [1.0, 5.0]}) == (
            404,
            {"error": "Servable not found for request: Latest(half)"},  # as the document has it
        )

    def test_a_body_above_the_limit(self, ask):
        status, answer = ask("/v1/models/item_encoder:predict", b" " * (2 << 20))
        assert status == 413
        assert "Maximum request body size" in answer["error"]


class TestStatus:
    def test_all_versions(self, ask):
        assert ask("/v1/models/item_encoder") == (
            200,
            {
                "model_version_status": [
                    {
                        "version": version,
                        "state": "AVAILABLE",
                        "status": {"error_code": "OK", "error_message": ""},
                    }
                    for version in ("3", "12")
                ]
            },
        )

    def test_one_version(self, ask):
        _, answer = ask("/v1/models/item_encoder/versions/3")
        assert [s["version"] for s in answer["model_version_status"]] == ["3"]

    @pytest.mark.parametrize("path", ["half", "item_encoder/versions/4"])
    def test_unknown(self, ask, path):
        status, answer = ask(f"/v1/models/{path}")
        assert (status, answer["error"].startswith("Could not find")) == (404, True)

    def test_metadata(self, ask):
        status, answer = ask("/v1/models/item_encoder/metadata")
        assert status == 200
        assert answer["model_spec"]["name"] == "item_encoder"
        inputs = answer["metadata"]["signature_def"]["signature_def"]["encode_items"]["inputs"]
        assert inputs["item_id"]["dtype"] == "DT_STRING"

    @pytest.mark.parametrize(
        ("path", "body", "status"),
        [
            ("/v1/models", None, 404),
            ("/v2/models/item_encoder", None, 404),
            ("/v1/models/item_encoder:classify", {}, 404),
            ("/v1/models/item_encoder:predict", None, 400),  # a GET
            ("/v1/models/item_encoder/versions/99999999999999999999:predict", {"inputs": []}, 400),
        ],
    )
    def test_other_paths_and_methods(self, ask, path, body, status):
        found, answer = ask(path, body)
        assert found == status
        assert answer["error"]


def test_metrics_have_tf_servings_names(handle, ask, stub):
    """Names and labels of servables/tensorflow/util.cc, colons for slashes."""
    ask("/v1/models/item_encoder:predict", {"instances": ["a"]})
    ask("/v1/models/item_encoder:predict", {"instances": [1]})
    stub.Predict(make_request("item_encoder", item_id=["a"]), TIMEOUT)
    url = f"http://{handle.rest_address}/monitoring/prometheus/metrics"
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        lines = response.read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))

    prefix = ":tensorflow:serving:"
    model = 'model_name="item_encoder"'
    assert float(values[f'{prefix}request_count{{{model},status="OK"}}']) >= 2
    for entrypoint in ("GRPC", "REST"):
        name = f'{prefix}request_latency_count{{API="Predict",entrypoint="{entrypoint}",{model}}}'
        assert float(values[name]) >= 1
    assert float(values[f'{prefix}runtime_latency_count{{API="Predict",{model},runtime="TF2"}}'])
    assert any(name.startswith(f"{prefix}batching_session:queuing_latency_sum") for name in values)
    assert any(
        name.startswith(":tensorflow:cc:saved_model:load_attempt_count") and "success" in name
        for name in values
    )


def refused(connection) -> bool:
    """Asks on an open connection until it is closed: each answer before that may be the last."""
    try:
        while True:
            connection.request("GET", "/v1/models/item_encoder")
            connection.getresponse().read()
    except (http.client.HTTPException, OSError):
        return True


def test_draining_answers_what_runs_and_refuses_the_rest(models, tmp_path):
    started, release = tmp_path / "started", tmp_path / "release"
    os.mkfifo(started)
    os.mkfifo(release)
    handle = start(models, "item_encoder", rest_port=0)
    idle = http.client.HTTPConnection(handle.rest_address, timeout=TIMEOUT)
    idle.request("GET", "/v1/models/item_encoder")
    assert idle.getresponse().read()

    def ask():
        inputs = {"started": str(started), "release": str(release)}
        body = json.dumps({"signature_name": "gate", "inputs": inputs}).encode()
        url = f"http://{handle.rest_address}/v1/models/item_encoder:predict"
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=TIMEOUT) as answer:
            return json.load(answer)

    with futures.ThreadPoolExecutor() as pool:
        running = pool.submit(ask)
        assert started.read_bytes() == b"running"
        stopping = pool.submit(handle.stop, drain_seconds=TIMEOUT)
        assert refused(idle)
        assert release.read_bytes() == b"released"
        assert running.result(TIMEOUT) == {"outputs": True}
        assert stopping.result(TIMEOUT)


def test_unknown_models_leave_no_trace_in_the_metrics(handle, ask):
    """Labels are kept for ever: whatever a stranger sends must not become one."""
    ask("/v1/models/stranger:predict", {"instances": ["a"]})
    url = f"http://{handle.rest_address}/monitoring/prometheus/metrics"
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
        assert "stranger" not in response.read().decode()
