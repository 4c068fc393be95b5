"""The gRPC services: thin shells over functions from a request and the manager to a response.

PredictionService (Predict, GetModelMetadata) and ModelService (GetModelStatus); the other calls
of both answer UNIMPLEMENTED.
"""

import logging
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import grpc
import tensorflow as tf
from google.protobuf import message
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving import tensors
from serving.manager import ServableManager
from serving.servable import DEFAULT_SIGNATURE, RequestError, Servable, invalid
from serving.servable import predict as run_signature

SIGNATURE_DEF = "signature_def"
SERVICE_NAMES = ("tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")

_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}  # TensorFlow's are the same

_log = logging.getLogger(__name__)

Request = TypeVar("Request", bound=message.Message)
Response = TypeVar("Response", bound=message.Message)


def predict(
    manager: ServableManager, request: predict_pb2.PredictRequest
) -> predict_pb2.PredictResponse:
    """Runs a signature; the response names the model, version and signature that answered."""
    servable = _find(manager, request)
    signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    outputs = run_signature(servable, signature_name, request.inputs, request.output_filter)
    return predict_pb2.PredictResponse(
        model_spec=_spec(servable, signature_name=signature_name),
        outputs={alias: tensors.to_proto(value, name=alias) for alias, value in outputs.items()},
    )


def get_model_metadata(
    manager: ServableManager, request: get_model_metadata_pb2.GetModelMetadataRequest
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """The signatures of a model, as its `saved_model.pb` has them."""
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    if not request.metadata_field:
        raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != SIGNATURE_DEF:
            raise invalid(f"Metadata field {field} is not supported")
    servable = _find(manager, request)
    signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signature_defs)
    response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=_spec(servable))
    response.metadata[SIGNATURE_DEF].Pack(signatures)
    return response


def get_model_status(
    manager: ServableManager, request: get_model_status_pb2.GetModelStatusRequest
) -> get_model_status_pb2.GetModelStatusResponse:
    """State and error of one version of a model, or of all that are known."""
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    name, version = request.model_spec.name, _version(request.model_spec)
    states = [s for s in manager.states(name) if version in (None, s.version)]
    if not states:
        raise RequestError(
            grpc.StatusCode.NOT_FOUND,
            f"Could not find any versions of model {name}"
            if version is None
            else f"Could not find version {version} of model {name}",
        )
    response = get_model_status_pb2.GetModelStatusResponse()
    for state in states:
        status = response.model_version_status.add(version=state.version, state=state.state)
        status.status.error_code = state.code
        status.status.error_message = state.details
    return response


def _find(manager: ServableManager, request: Any) -> Servable:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    if not request.model_spec.name:
        raise invalid("ModelSpec has no name specified.")
    return manager.get(request.model_spec.name, _version(request.model_spec))


def _version(spec: model_pb2.ModelSpec) -> int | None:
    """The version asked for; None means the latest. No label is ever assigned here."""
    if spec.WhichOneof("version_choice") == "version_label":
        raise invalid(f"Unrecognized servable version label: {spec.version_label}")
    return spec.version.value if spec.HasField("version") else None


def _spec(servable: Servable, *, signature_name: str = "") -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=servable.name, signature_name=signature_name)
    spec.version.value = servable.version
    return spec


def answer(
    call: Callable[[ServableManager, Request], Response],
    manager: ServableManager,
    request: Request,
    context: grpc.ServicerContext,
) -> Response:
    """Runs a call and turns what it raises into a status; the server outlives every request."""
    remaining = context.time_remaining()
    if remaining is not None and remaining <= 0:  # it waited in the queue: nobody is listening
        context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline exceeded before it was run")
    try:
        return call(manager, request)
    except RequestError as e:
        code, details = e.code, e.details
    except tf.errors.OpError as e:
        code = _STATUS_CODES.get(e.error_code, grpc.StatusCode.INTERNAL)
        details = e.message.rpartition("<stack traces unavailable>\n")[2]  # Python's preamble
    except Exception as e:
        _log.exception("%s failed", call.__name__)
        code, details = grpc.StatusCode.INTERNAL, f"{type(e).__name__}: {e}"
    context.abort(code, details)
    raise AssertionError("abort always raises")


def _unimplemented(self: object, request: object, context: grpc.ServicerContext) -> NoReturn:
    context.abort(
        grpc.StatusCode.UNIMPLEMENTED,
        "This server answers Predict, GetModelMetadata and GetModelStatus.",
    )


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """tensorflow.serving.PredictionService."""

    def __init__(self, manager: ServableManager) -> None:
        self._manager = manager

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        return answer(predict, self._manager, request, context)

    def GetModelMetadata(
        self,
        request: get_model_metadata_pb2.GetModelMetadataRequest,
        context: grpc.ServicerContext,
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        return answer(get_model_metadata, self._manager, request, context)

    Classify = Regress = MultiInference = _unimplemented


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """tensorflow.serving.ModelService."""

    def __init__(self, manager: ServableManager) -> None:
        self._manager = manager

    def GetModelStatus(
        self,
        request: get_model_status_pb2.GetModelStatusRequest,
        context: grpc.ServicerContext,
    ) -> get_model_status_pb2.GetModelStatusResponse:
        return answer(get_model_status, self._manager, request, context)

    HandleReloadConfigRequest = _unimplemented
