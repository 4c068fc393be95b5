"""TF Serving's REST interface, and its metrics page, on a port of their own.

    POST /v1/models/NAME[/versions/N|/labels/L]:predict   {"inputs": ...} or {"instances": ...}
    GET  /v1/models/NAME[/versions/N|/labels/L][/metadata]
    GET  /monitoring/prometheus/metrics

A request becomes the message that gRPC brings and takes the same way; see g3doc/api_rest.md of
tensorflow/serving for the form.
"""

import asyncio
import base64
import json
import time
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from aiohttp import web
from google.protobuf import json_format
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
)

from serving import metrics, service, tensors
from serving.servable import DEFAULT_SIGNATURE, RequestError, invalid

_MAX_BODY = 4 << 20  # bytes; reading JSON stops the event loop. Large requests are for gRPC
_SECONDS = 30.0  # TF Serving's default for `rest_api_timeout_in_ms`
_ROWS, _COLUMNS = "instances", "inputs"
_ANSWERS = {_ROWS: "predictions", _COLUMNS: "outputs"}
_BINARY = "b64"
_BINARY_SUFFIX = "_bytes"  # of outputs that are no text
# `ToHTTPStatusCode` of model_servers/http_server.cc; every other code is 500.
_HTTP = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.UNAUTHENTICATED: 401,
}
_MODEL = r"/v1/models/{name:[^/:]+}"
_CHOICES = ("", r"/versions/{version:\d+}", r"/labels/{label:[^/:]+}")


def application(backend: service.Backend, *, max_message_mb: int) -> web.Application:
    """The routes."""
    limit = min(max_message_mb << 20, _MAX_BODY)

    @web.middleware
    async def last_answers(request: web.Request, handler: Any) -> web.StreamResponse:
        """Idle connections would outlive the server's end."""
        response = await handler(request)
        if backend.active.ending:
            response.force_close()
        return response

    app = web.Application(client_max_size=limit, middlewares=[last_answers, _errors])

    async def predict(request: web.Request) -> web.Response:
        with backend.active.request(request.content_length or _MAX_BODY):
            async with asyncio.timeout(_SECONDS):
                return _json(await _predict(backend, request))

    async def status(request: web.Request) -> web.Response:
        asked = get_model_status_pb2.GetModelStatusRequest(model_spec=_spec(request))
        answer = await service.get_model_status(backend, asked, deadline=None)
        return _json(_message(answer))

    async def metadata(request: web.Request) -> web.Response:
        asked = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=_spec(request), metadata_field=[service.SIGNATURE_DEF]
        )
        answer = await service.get_model_metadata(backend, asked, deadline=None)
        return _json(_message(answer))

    async def monitoring(request: web.Request) -> web.Response:
        return web.Response(
            body=backend.metrics.text(), headers={"Content-Type": metrics.CONTENT_TYPE}
        )

    for choice in _CHOICES:
        app.router.add_post(f"{_MODEL}{choice}:predict", predict)
        app.router.add_get(f"{_MODEL}{choice}/metadata", metadata)
        app.router.add_get(f"{_MODEL}{choice}", status)
    app.router.add_get(metrics.PATH, monitoring)
    return app


@web.middleware
async def _errors(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPRequestEntityTooLarge as e:
        return _json({"error": e.text}, status=413)
    except web.HTTPException as e:
        text = f"Malformed request: {request.method} {request.path}"
        return _json({"error": text}, status=404 if e.status == 404 else 400)
    except Exception as e:
        code, details = service.status_of(e)
        return _json({"error": details}, status=_HTTP.get(code, 500))


def _json(content: Any, *, status: int = 200) -> web.Response:
    return web.json_response(content, status=status)


def _message(message: Any) -> Any:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _spec(request: web.Request) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=request.match_info["name"])
    if "version" in request.match_info:
        try:
            spec.version.value = int(request.match_info["version"])
        except ValueError as e:
            raise invalid(
                f"Failed to convert version: {request.match_info['version']} to numeric."
            ) from e
    elif "label" in request.match_info:
        spec.version_label = request.match_info["label"]
    return spec


async def _predict(backend: service.Backend, http: web.Request) -> Any:
    service.require_room(backend, "REST")
    deadline = time.monotonic() + _SECONDS
    request, form = _read(backend, await http.read(), _spec(http))
    response = await service.predict(backend, request, deadline=deadline, entrypoint="REST")
    return {_ANSWERS[form]: _outputs(response.outputs, rows=form == _ROWS)}


def _read(
    backend: service.Backend, text: bytes, spec: model_pb2.ModelSpec
) -> tuple[predict_pb2.PredictRequest, str]:
    """The message that gRPC would bring, and which of both forms the body has."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise invalid(f"JSON Parse error: {e}") from e
    if not isinstance(body, dict) or (_ROWS in body) == (_COLUMNS in body):
        raise invalid(f"Expected a JSON object with either '{_ROWS}' or '{_COLUMNS}'.")
    form = _ROWS if _ROWS in body else _COLUMNS
    signature_name = body.get("signature_name", DEFAULT_SIGNATURE)
    if not isinstance(signature_name, str):
        raise invalid("'signature_name' key must be a string value.")
    request = predict_pb2.PredictRequest(model_spec=spec)
    request.model_spec.signature_name = signature_name
    servable = service.find(backend.manager, request)
    # The version that the inputs are read for is the one that answers.
    request.model_spec.version.value = servable.version
    signature = servable.signature_defs.get(signature_name)
    if signature is None:
        raise invalid(f'Serving signature name: "{signature_name}" not found in signature def')
    columns = _columns(body[form]) if form == _ROWS else body[form]
    for name, values in _named(columns, signature).items():
        request.inputs[name].CopyFrom(_tensor(name, values, signature))
    return request, form


def _columns(instances: Any) -> Any:
    """Rows as columns."""
    if not isinstance(instances, list) or not instances:
        raise invalid(f"'{_ROWS}' must be a list with an instance at least.")
    if not isinstance(instances[0], dict) or set(instances[0]) == {_BINARY}:
        return instances
    names = set(instances[0])
    for number, instance in enumerate(instances):
        if not isinstance(instance, dict) or set(instance) != names:
            raise invalid(
                f"Failed to process element: {number} of '{_ROWS}' list. Each must be an object "
                f"with the same names: {', '.join(sorted(names))}."
            )
    return {name: [instance[name] for instance in instances] for name in names}


def _named(columns: Any, signature: meta_graph_pb2.SignatureDef) -> Mapping[str, Any]:
    """Inputs by name; a bare value is that of the only input."""
    if isinstance(columns, dict) and set(columns) != {_BINARY}:
        return columns
    if len(signature.inputs) != 1:
        raise invalid(
            "The signature has more than one input: each must be named, expected "
            f"{', '.join(sorted(signature.inputs))}."
        )
    return {next(iter(signature.inputs)): columns}


def _tensor(
    name: str, values: Any, signature: meta_graph_pb2.SignatureDef
) -> tensor_pb2.TensorProto:
    if name not in signature.inputs:
        raise invalid(
            f"There is no input {name!r}, expected {', '.join(sorted(signature.inputs))}."
        )
    dtype = tf.as_dtype(signature.inputs[name].dtype)
    try:
        if dtype == tf.string:
            array = np.array(_texts(values), object)
        else:
            array = np.array(values)
            _require_kind(array, dtype)
            array = array.astype(dtype.as_numpy_dtype)
        return tensors.to_proto(array, name=name)
    except (ValueError, TypeError, OverflowError, RecursionError) as e:  # or a TensorError
        raise invalid(f"JSON Value of {name!r} is no tensor of {dtype.name}: {e}") from e


def _require_kind(array: np.ndarray, dtype: tf.DType) -> None:
    """JSON tells truth values, whole and other numbers apart, and none stands for another but a
    whole number for a float."""
    kinds = "b" if dtype.is_bool else "iu" if dtype.is_integer else "iuf"
    if array.size and array.dtype.kind not in kinds:
        raise ValueError(f"got {array.dtype.name}")
    if array.size and dtype.is_integer and not dtype.min <= array.min() <= array.max() <= dtype.max:
        raise ValueError("a number is out of its range")


def _texts(values: Any) -> Any:
    if isinstance(values, list):
        return [_texts(value) for value in values]
    if isinstance(values, dict) and set(values) == {_BINARY} and isinstance(values[_BINARY], str):
        return base64.b64decode(values[_BINARY], validate=True)
    if isinstance(values, str):
        return values.encode()
    raise TypeError(f"expected text, got {type(values).__name__}")


def _outputs(outputs: Mapping[str, tensor_pb2.TensorProto], *, rows: bool) -> Any:
    found = {
        name: _values(name, tensors.to_array(proto, name=name)) for name, proto in outputs.items()
    }
    if len(found) == 1:
        return next(iter(found.values()))
    if not rows:
        return found
    counts = {len(values) if isinstance(values, list) else None for values in found.values()}
    if len(counts) != 1 or None in counts:
        raise RequestError(
            grpc.StatusCode.INVALID_ARGUMENT,
            "Tensors of different 0-th dimension can't be answered in rows; use "
            f"'{_COLUMNS}' in the request.",
        )
    return [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]


def _values(name: str, array: np.ndarray) -> Any:
    if array.dtype != object:
        return array.tolist()
    binary = name.endswith(_BINARY_SUFFIX)
    flat = [
        {_BINARY: base64.b64encode(value).decode()} if binary else value.decode("utf-8", "replace")
        for value in array.ravel()
    ]
    texts = np.empty(array.size, object)
    texts[:] = flat
    return texts.reshape(array.shape).tolist()
