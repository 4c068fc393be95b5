"""Answers written down from TF Serving's source and gRPC's documents, each with where it stands.

`details` and `answer` are whole; of an answer to Predict the outputs are left out.
"""

import json
import pathlib

import grpc
import pytest
from google.protobuf import text_format
from grpc_health.v1 import health_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
)

TIMEOUT = 60
FILE = pathlib.Path(__file__).parents[1] / "golden/tf_serving_protocol.json"
CASES = json.loads(FILE.read_text(encoding="utf-8"))
MESSAGES = {
    "Predict": (predict_pb2.PredictRequest, predict_pb2.PredictResponse),
    "Guess": (predict_pb2.PredictRequest, predict_pb2.PredictResponse),
    "GetModelMetadata": (
        get_model_metadata_pb2.GetModelMetadataRequest,
        get_model_metadata_pb2.GetModelMetadataResponse,
    ),
    "GetModelStatus": (
        get_model_status_pb2.GetModelStatusRequest,
        get_model_status_pb2.GetModelStatusResponse,
    ),
    "HandleReloadConfigRequest": (
        model_management_pb2.ReloadConfigRequest,
        model_management_pb2.ReloadConfigResponse,
    ),
    "Check": (health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse),
}


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_the_protocol(channel, case):
    request_type, response_type = MESSAGES[case["method"].rpartition("/")[2]]
    if case["request"] is None:
        request = b"\xff\xff no message"
    else:
        request = text_format.Parse(case["request"], request_type()).SerializeToString()
    call = channel.unary_unary(f"/{case['method']}")  # bytes both ways: nothing is smoothed over
    try:
        answer, code, details = call(request, timeout=TIMEOUT), "OK", ""
    except grpc.RpcError as e:
        answer, code, details = None, e.code().name, e.details()

    assert code == case["code"], details
    if "details" in case:
        assert details == case["details"]
    if "answer" in case:
        found = response_type.FromString(answer)
        if "outputs" in found.DESCRIPTOR.fields_by_name:
            assert found.outputs
            found.ClearField("outputs")
        assert found == text_format.Parse(case["answer"], response_type())
