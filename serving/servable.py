"""One loaded version of a model: immutable, found on disk, checked, warmed up, run.

Messages and status codes are TF Serving's, so that its clients read what they know.
"""

import dataclasses
import importlib
import logging
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import message
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from guim_tf import schema
from serving import tensors
from serving.versions import EXTRA_FOLDER

DEFAULT_SIGNATURE = "serving_default"
GRAPH_FILE = "saved_model.pb"
WARMUP_FILE = "tf_serving_warmup_requests"
MAX_WARMUP_RECORDS = 1000  # TF Serving's limit

_SERVE_TAG = "serve"
_METHODS = tuple(f"tensorflow/serving/{name}" for name in ("predict", "classify", "regress"))

_log = logging.getLogger(__name__)


class RequestError(Exception):
    """A request that can't be answered, with the gRPC status that says so."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


class LoadError(ValueError):
    """A folder that can't be served; the message names it."""


def invalid(details: str) -> RequestError:
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, details)


@dataclasses.dataclass(frozen=True, eq=False)
class Servable:
    """A loaded version. Safe to run from many threads.

    Attributes:
      name: the model's name.
      version: its version number.
      path: the folder it came from.
      signature_defs: every signature as `saved_model.pb` has it.
      functions: what to call for each signature: tensors by name in, tensors by name out.
      row_by_row: whether it is a model of this project, whose signatures answer each row of their
        inputs by itself and take histories filled up with empty events.
      warmup_requests: how many recorded requests were replayed.
    """

    name: str
    version: int
    path: pathlib.Path
    signature_defs: Mapping[str, meta_graph_pb2.SignatureDef]
    functions: Mapping[str, Callable[..., Mapping[str, tf.Tensor]]]
    row_by_row: bool = False
    warmup_requests: int = 0
    _loaded: Any = dataclasses.field(default=None, repr=False)  # owns the variables and tables


@dataclasses.dataclass(frozen=True)
class Call:
    """A request that was found to fit its signature.

    Attributes:
      servable: the model.
      signature_name: which of its signatures.
      inputs: arrays by name.
      wanted: names of the outputs.
    """

    servable: Servable
    signature_name: str
    inputs: Mapping[str, np.ndarray]
    wanted: Sequence[str]


def register_ops() -> None:
    """Loads the op libraries that exported graphs use, where they are installed."""
    for library in ("tensorflow_text", "scann"):
        try:
            importlib.import_module(library)
        except (ImportError, tf.errors.OpError) as e:  # absent, or built for another TensorFlow
            _log.warning("models with %s ops can't be loaded here: %s", library, e)


def read_signatures(path: pathlib.Path) -> dict[str, meta_graph_pb2.SignatureDef]:
    """The signatures of a SavedModel folder, from the file itself.

    Raises:
      LoadError: no SavedModel there, a damaged one, or none that is tagged for serving.
    """
    file = path / GRAPH_FILE
    if not file.is_file():
        raise LoadError(
            f"{path} has no {GRAPH_FILE}: it is not a finished SavedModel. "
            "Write it with `guim export` or `guim index`."
        )
    try:
        model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    except message.DecodeError as e:
        raise LoadError(f"{file} is damaged: {e}. Export the model again.") from e
    for graph in model.meta_graphs:
        if _SERVE_TAG in graph.meta_info_def.tags:
            return dict(graph.signature_def)
    raise LoadError(f"{file} has no graph tagged {_SERVE_TAG!r}. Export the model again.")


def load(*, name: str, version: int, path: str | pathlib.Path) -> Servable:
    """Loads a version and replays its warm-up requests, so that the first client waits for none.

    Raises:
      LoadError: the folder is no SavedModel, or its schema or warm-up file is unreadable.
      RequestError: a warm-up request fails.
      Exception: whatever TensorFlow raises for a graph that it can't load.
    """
    path = pathlib.Path(path)
    signature_defs = read_signatures(path)
    ours = (path / EXTRA_FOLDER / schema.SCHEMA_FILE).is_file()
    if ours:
        schema.Schema.load(path / EXTRA_FOLDER)  # a schema of another build is refused here
    register_ops()
    loaded = tf.saved_model.load(str(path), tags=[_SERVE_TAG])
    servable = Servable(
        name=name,
        version=version,
        path=path,
        signature_defs=signature_defs,
        functions=dict(loaded.signatures),
        row_by_row=ours,
        _loaded=loaded,
    )
    return dataclasses.replace(servable, warmup_requests=replay_warmup(servable))


def replay_warmup(servable: Servable) -> int:
    """Runs the recorded requests of a model and returns how many there were (none is fine)."""
    file = servable.path / EXTRA_FOLDER / WARMUP_FILE
    if not file.is_file():
        return 0
    count = 0
    try:
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if log.WhichOneof("log_type") != "predict_log":
                raise LoadError(
                    f"{file} holds a {log.WhichOneof('log_type')}, expected predict_log only."
                )
            count += 1
            if count > MAX_WARMUP_RECORDS:
                raise LoadError(f"{file} holds more than {MAX_WARMUP_RECORDS} requests.")
            request = log.predict_log.request
            call = prepare(servable, request.model_spec.signature_name, request.inputs)
            run(servable, call.signature_name, call.inputs)
    except (tf.errors.DataLossError, message.DecodeError) as e:
        raise LoadError(f"{file} is damaged: {e}. Export the model again.") from e
    return count


def prepare(
    servable: Servable,
    signature_name: str,
    inputs: Mapping[str, tensor_pb2.TensorProto],
    output_filter: Iterable[str] = (),
) -> Call:
    """Holds a request against the signature and unpacks its tensors.

    Args:
      servable: the model.
      signature_name: one of its signatures; empty for the default one.
      inputs: a message for every input that has no default.
      output_filter: names of the outputs that are wanted; empty for all.

    Raises:
      RequestError: with TF Serving's status for what is wrong with the request.
    """
    signature_name = signature_name or DEFAULT_SIGNATURE
    signature = _signature(servable, signature_name)
    _check_names(signature, inputs)
    wanted = _check_outputs(signature, output_filter)
    arrays = {
        alias: _argument(
            alias, info, inputs[alias] if alias in inputs else signature.defaults[alias]
        )
        for alias, info in signature.inputs.items()
    }
    return Call(servable, signature_name, arrays, wanted)


def run(
    servable: Servable, signature_name: str, inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Runs a signature on arrays and returns all its outputs.

    Raises:
      tensorflow.errors.OpError: the graph itself refused.
    """
    outputs = servable.functions[signature_name](
        **{name: tf.constant(array, _string(array.dtype)) for name, array in inputs.items()}
    )
    return {
        name: np.asarray(output.numpy(), object if output.dtype == tf.string else None)
        for name, output in outputs.items()
    }


def _string(dtype: np.dtype) -> tf.DType | None:
    """An empty array of objects does not tell TensorFlow that it is text."""
    return tf.string if dtype.kind == "O" else None


SignatureDefs: TypeAlias = Mapping[str, meta_graph_pb2.SignatureDef]


def what_breaks(old: SignatureDefs, new: SignatureDefs) -> str | None:
    """Why clients of one version could not go on with another; None if they can.

    They can where each signature is still there, takes the same inputs and gives the same outputs,
    in name, dtype and shape. More signatures and more outputs do no harm.
    """
    for name, before in sorted(old.items()):
        if before.method_name not in _METHODS:
            continue
        after = new.get(name)
        if after is None:
            return f"signature {name} is gone"
        added = _required(after) - _required(before)
        if added:
            return f"signature {name} asks for more: {_names(added)}"
        for side in ("inputs", "outputs"):
            ours, theirs = getattr(before, side), getattr(after, side)
            for alias, info in ours.items():
                if alias not in theirs:
                    return f"{side} of signature {name} lack {alias}"
                was, is_now = _describe(info), _describe(theirs[alias])
                if was != is_now:
                    return f"{alias} of signature {name} was {was} and is {is_now}"
    return None


def _required(signature: meta_graph_pb2.SignatureDef) -> set[str]:
    return set(signature.inputs) - set(signature.defaults)


def _describe(info: meta_graph_pb2.TensorInfo) -> str:
    return f"{tensors.dtype_name(info.dtype)} {tensors.shape_text(info.tensor_shape)}"


def _signature(servable: Servable, name: str) -> meta_graph_pb2.SignatureDef:
    signature = servable.signature_defs.get(name)
    if signature is None:
        raise RequestError(
            grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.'
        )
    if signature.method_name not in _METHODS:
        raise RequestError(
            grpc.StatusCode.INTERNAL,
            "Expected prediction signature method_name to be one of "
            f"{{{', '.join(_METHODS)}}}. Was: {signature.method_name}",
        )
    return signature


def _check_names(
    signature: meta_graph_pb2.SignatureDef, inputs: Mapping[str, tensor_pb2.TensorProto]
) -> None:
    expected, sent = set(signature.inputs), set(inputs)
    extra, missing = sent - expected, expected - sent - set(signature.defaults)
    if extra or missing:
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(expected)} "
            f"len({{{_names(sent)}}}) != len({{{_names(expected)}}}). "
            f"Sent extra: {{{_names(extra)}}}. Missing but required: {{{_names(missing)}}}."
        )


def _check_outputs(
    signature: meta_graph_pb2.SignatureDef, output_filter: Iterable[str]
) -> list[str]:
    wanted: list[str] = []
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {{{_names(signature.outputs)}}}."
            )
        if alias in wanted:
            raise invalid(f"duplicate output tensor alias: {alias}")
        wanted.append(alias)
    return wanted or sorted(signature.outputs)


def _argument(
    alias: str, info: meta_graph_pb2.TensorInfo, proto: tensor_pb2.TensorProto
) -> np.ndarray:
    if proto.dtype != info.dtype:
        raise invalid(
            f"input {alias}: expected {tensors.dtype_name(info.dtype)}, "
            f"got {tensors.dtype_name(proto.dtype)}"
        )
    if not _compatible(info.tensor_shape, proto.tensor_shape):
        raise invalid(
            f"input {alias}: expected shape {tensors.shape_text(info.tensor_shape)}, "
            f"got {tensors.shape_text(proto.tensor_shape)}"
        )
    try:
        return tensors.to_array(proto, name=alias)
    except tensors.TensorError as e:
        raise invalid(str(e)) from e


def _compatible(
    expected: tensor_shape_pb2.TensorShapeProto, got: tensor_shape_pb2.TensorShapeProto
) -> bool:
    """Whether a tensor may go where the signature says `expected`; -1 is any size."""
    if expected.unknown_rank or got.unknown_rank:
        return expected.unknown_rank
    return len(expected.dim) == len(got.dim) and all(
        want.size in (-1, size.size) for want, size in zip(expected.dim, got.dim, strict=True)
    )


def _names(names: Iterable[str]) -> str:
    return ",".join(sorted(names))
