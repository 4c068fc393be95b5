"""PredictionService and ModelService: functions from the backend and a request to a response.

Predict, GetModelMetadata, GetModelStatus and HandleReloadConfigRequest; the other calls of both
services answer UNIMPLEMENTED. Messages and status codes are TF Serving's.
"""

import asyncio
import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent import futures
from typing import Any, TypeVar

import grpc
import tensorflow as tf
from google.protobuf import message
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_pb2,
    predict_pb2,
)

from serving import tensors
from serving.batching import Batcher
from serving.manager import ServableManager
from serving.metrics import Metrics
from serving.model_config import ModelConfigError, from_proto
from serving.servable import RequestError, Servable, invalid, prepare

SIGNATURE_DEF = "signature_def"

_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}  # TensorFlow's are the same
LARGE = 1 << 20  # bytes of a request that is unpacked aside, so that nobody waits for it
MAX_ELEMENTS = 1 << 16  # the same, by what its tensors claim to hold
_EARLY_SECONDS = 0.05
_MAX_DETAILS = 1024  # bytes; gRPC's clients refuse large trailers, with a status of their own
_RELOADS = futures.ThreadPoolExecutor(1, "reload")

_log = logging.getLogger(__name__)

Request = TypeVar("Request", bound=message.Message)


class Active:
    """The requests that are being answered. For the event loop's own thread.

    Args:
      max_bytes: of all their messages together.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._count = self._bytes = 0
        self.ending = False
        self._idle = asyncio.Event()
        self._idle.set()

    @contextlib.contextmanager
    def request(self, size: int) -> Iterator[None]:
        """While a request of so many bytes is answered.

        Raises:
          RequestError: UNAVAILABLE, the server is ending; RESOURCE_EXHAUSTED, the messages that are
            being answered are too large together.
        """
        if self.ending:
            raise RequestError(grpc.StatusCode.UNAVAILABLE, "The server is ending")
        if self._count and self._bytes + size > self._max_bytes:
            raise RequestError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"Requests of {self._bytes} bytes are being answered, and {size} more would exceed "
                f"{self._max_bytes}. Try again later.",
            )
        self._count += 1
        self._bytes += size
        self._idle.clear()
        try:
            yield
        finally:
            self._count -= 1
            self._bytes -= size
            if not self._count:
                self._idle.set()

    def end(self) -> None:
        """From now on requests are refused."""
        self.ending = True

    async def wait_idle(self, seconds: float) -> bool:
        """Waits until there is none; False if that takes longer than `seconds`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        return not self._count


@dataclasses.dataclass(frozen=True)
class Backend:
    """What answers requests."""

    manager: ServableManager
    batcher: Batcher
    metrics: Metrics
    active: Active


async def predict(
    backend: Backend,
    request: predict_pb2.PredictRequest,
    *,
    deadline: float | None,
    entrypoint: str = "GRPC",
) -> predict_pb2.PredictResponse:
    """Runs a signature; the response names the model, version and signature that answered."""
    start = time.monotonic()
    servable = find(backend.manager, request)
    code = grpc.StatusCode.OK
    try:
        unpack = functools.partial(
            prepare,
            servable,
            request.model_spec.signature_name,
            request.inputs,
            request.output_filter,
        )
        large = request.ByteSize() > LARGE or any(
            tensors.claimed_elements(proto) > MAX_ELEMENTS for proto in request.inputs.values()
        )
        call = await asyncio.to_thread(unpack) if large else unpack()
        outputs = await asyncio.wrap_future(backend.batcher.submit(call, deadline=deadline))
        response = predict_pb2.PredictResponse(
            model_spec=_spec(servable, signature_name=call.signature_name)
        )
        for alias, value in outputs.items():
            response.outputs[alias].CopyFrom(tensors.to_proto(value, name=alias))
        return response
    except asyncio.CancelledError:
        late = deadline is not None and time.monotonic() >= deadline
        code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
        raise
    except Exception as e:
        code = _classify(e)[0]
        raise
    finally:
        backend.metrics.request(
            servable.name,
            api="Predict",
            entrypoint=entrypoint,
            status=code.name,
            seconds=time.monotonic() - start,
        )


def require_room(backend: Backend, entrypoint: str) -> None:
    """Refuses a request before it is read, when there is no room for it.

    Raises:
      RequestError: RESOURCE_EXHAUSTED; counted under no model's name.
    """
    try:
        backend.batcher.require_room()
    except RequestError as e:
        backend.metrics.request(
            "", api="Predict", entrypoint=entrypoint, status=e.code.name, seconds=0.0
        )
        raise


async def get_model_metadata(
    backend: Backend,
    request: get_model_metadata_pb2.GetModelMetadataRequest,
    *,
    deadline: float | None,
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """The signatures of a model, as its `saved_model.pb` has them."""
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    if not request.metadata_field:
        raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != SIGNATURE_DEF:
            raise invalid(f"Metadata field {field} is not supported")
    servable = find(backend.manager, request)
    signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signature_defs)
    response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=_spec(servable))
    response.metadata[SIGNATURE_DEF].Pack(signatures)
    return response


async def get_model_status(
    backend: Backend,
    request: get_model_status_pb2.GetModelStatusRequest,
    *,
    deadline: float | None,
) -> get_model_status_pb2.GetModelStatusResponse:
    """State and error of one version of a model, or of all that are known."""
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    name, (version, label) = request.model_spec.name, _choice(request.model_spec)
    if label is not None:
        version = backend.manager.get(name, label=label).version
    states = [s for s in backend.manager.states(name) if version in (None, s.version)]
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


async def reload_config(
    backend: Backend,
    request: model_management_pb2.ReloadConfigRequest,
    *,
    deadline: float | None,
) -> model_management_pb2.ReloadConfigResponse:
    """Serves other models, from now on; answers when what is new has been loaded.

    A configuration that is not understood changes nothing.
    """
    try:
        configs = from_proto(request.config)
    except ModelConfigError as e:
        raise invalid(str(e)) from e
    _log.info("new configuration: %s", ", ".join(f"{c.name} at {c.base_path}" for c in configs))
    loop = asyncio.get_running_loop()
    missing = await loop.run_in_executor(_RELOADS, backend.manager.configure, configs)
    if missing:
        raise RequestError(
            grpc.StatusCode.UNKNOWN,
            f"Some models did not become available: {{{', '.join(missing)}}}. "
            "GetModelStatus tells why.",
        )
    return model_management_pb2.ReloadConfigResponse()


def find(manager: ServableManager, request: Any) -> Servable:
    """The servable that a request of any kind asks for."""
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    if not request.model_spec.name:
        raise invalid("ModelSpec has no name specified.")
    return manager.get(request.model_spec.name, *_choice(request.model_spec))


def _choice(spec: model_pb2.ModelSpec) -> tuple[int | None, str | None]:
    """The version or the label asked for; neither means the latest."""
    if spec.WhichOneof("version_choice") == "version_label":
        return None, spec.version_label
    return (spec.version.value if spec.HasField("version") else None), None


def _spec(servable: Servable, *, signature_name: str = "") -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=servable.name, signature_name=signature_name)
    spec.version.value = servable.version
    return spec


def status_of(error: BaseException) -> tuple[grpc.StatusCode, str]:
    """The status that tells a client of an error; what nobody foresaw is logged."""
    code, details = _classify(error)
    if not isinstance(error, (RequestError, tf.errors.OpError, TimeoutError)):
        _log.error("a request failed: %s", details, exc_info=error)
    return code, details.encode()[:_MAX_DETAILS].decode(errors="ignore")


def _classify(error: BaseException) -> tuple[grpc.StatusCode, str]:
    if isinstance(error, RequestError):
        return error.code, error.details
    if isinstance(error, tf.errors.OpError):
        code = _STATUS_CODES.get(error.error_code, grpc.StatusCode.INTERNAL)
        # Python's preamble goes.
        return code, error.message.rpartition("<stack traces unavailable>\n")[2]
    if isinstance(error, TimeoutError):
        return grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline exceeded"
    return grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"


Answer = Callable[..., Awaitable[message.Message]]

# What each method of the protocol takes and who answers it.
METHODS: dict[str, dict[str, tuple[type[message.Message], Answer]]] = {
    "tensorflow.serving.PredictionService": {
        "Predict": (predict_pb2.PredictRequest, predict),
        "GetModelMetadata": (get_model_metadata_pb2.GetModelMetadataRequest, get_model_metadata),
    },
    "tensorflow.serving.ModelService": {
        "GetModelStatus": (get_model_status_pb2.GetModelStatusRequest, get_model_status),
        "HandleReloadConfigRequest": (model_management_pb2.ReloadConfigRequest, reload_config),
    },
}


def grpc_handlers(backend: Backend) -> list[grpc.GenericRpcHandler]:
    """The services for a `grpc.aio` server. Whatever else is called is UNIMPLEMENTED there."""
    return [
        grpc.method_handlers_generic_handler(
            service,
            {
                # Without a deserializer the bytes come as they are: a full queue is said before
                # they are read.
                method: grpc.unary_unary_rpc_method_handler(
                    _handler(backend, request_type, answer),
                    response_serializer=lambda response: response.SerializeToString(),
                )
                for method, (request_type, answer) in methods.items()
            },
        )
        for service, methods in METHODS.items()
    ]


def _handler(
    backend: Backend, request_type: type[Request], answer: Answer
) -> Callable[[bytes, grpc.aio.ServicerContext], Awaitable[message.Message]]:
    async def handle(data: bytes, context: grpc.aio.ServicerContext) -> message.Message:
        try:
            with backend.active.request(len(data)):
                if answer is predict:
                    require_room(backend, "GRPC")
                remaining = context.time_remaining()
                if remaining is None:
                    return await answer(backend, _parse(request_type, data), deadline=None)
                # A little before the transport gives up, or the client would read CANCELLED.
                remaining -= min(_EARLY_SECONDS, remaining / 10)
                async with asyncio.timeout(remaining):
                    deadline = time.monotonic() + remaining
                    return await answer(backend, _parse(request_type, data), deadline=deadline)
        except Exception as e:
            code, details = status_of(e)
        await context.abort(code, details)
        raise AssertionError("abort always raises")

    return handle


def _parse(request_type: type[Request], data: bytes) -> Request:
    try:
        return request_type.FromString(data)
    except message.DecodeError as e:  # gRPC's own status for it, see its doc/statuscodes.md
        raise RequestError(grpc.StatusCode.INTERNAL, f"Error parsing request proto: {e}") from e
