"""SavedModel folders, `<models>/<name>/<version>`: written whole or not at all, and found again.

Each carries in `assets.extra/` the schema, the configuration, warm-up requests in TF Serving's form
and a list of its files.
"""

import json
import pathlib
import shutil
from collections.abc import Mapping
from types import MappingProxyType

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.saved_model.fingerprinting_utils import write_fingerprint
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from guim_tf.config import Config
from guim_tf.schema import MANIFEST_FILE, Schema
from guim_tf.strict_json import to_json

EXTRA = "assets.extra"
CONFIG_FILE = "config.json"
WARMUP_FILE = "tf_serving_warmup_requests"

Signatures = Mapping[str, tf.types.experimental.ConcreteFunction]  # by name
Warmup = Mapping[str, Mapping[str, tf.Tensor]]  # signature -> inputs


class ArtifactError(ValueError):
    """A model folder is missing or unfinished."""


def versions(models: str | pathlib.Path, name: str) -> list[int]:
    """The finished versions of a model, ascending."""
    folder = pathlib.Path(models, name)
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def latest(models: str | pathlib.Path, name: str, *, back: int = 0) -> pathlib.Path:
    """The folder of a model's highest version, or of one so many versions back.

    Raises:
      ArtifactError: there is none.
    """
    found = versions(models, name)
    if found and back >= len(found):
        raise ArtifactError(
            f"{models} holds {len(found)} version of {name!r}, expected {back + 1}. "
            "Name the folder of the other release."
        )
    if not found:
        raise ArtifactError(
            f"{models} holds no version of {name!r}. Write the encoders with `guim export` and the "
            "retrieval models with `guim index`."
        )
    return pathlib.Path(models, name, str(found[-1 - back]))


def save(
    module: tf.Module,
    *,
    models: str | pathlib.Path,
    name: str,
    signatures: Signatures,
    schema: Schema,
    config: Config,
    warmup: Warmup,
    extra: Mapping[str, str] = MappingProxyType({}),
) -> pathlib.Path:
    """Writes the next version of a model.

    Args:
      module: what holds the variables and tables; functions beside the signatures, and layers of
        Keras, would be traced anew and saved too.
      models: folder of all models.
      name: model name.
      signatures: by name.
      schema: of the data set that the model was trained on.
      config: that it was trained with; of several trainings side by side with the size of their
        vectors together, and the seed of the first.
      warmup: requests that a server replays before it says that it is ready.
      extra: more files for `assets.extra/`, their text by name.

    Returns:
      The version's folder.
    """
    base = pathlib.Path(models, name)
    version = max(versions(models, name), default=0) + 1
    unfinished = base / f".{version}.unfinished"  # servers look at numeric names only
    shutil.rmtree(unfinished, ignore_errors=True)
    tf.saved_model.save(
        module,
        str(unfinished),
        signatures=dict(signatures),
        # Loading registers custom gradients for as long as the process lives, and with them the
        # whole model: a server would keep every version that it ever had.
        options=tf.saved_model.SaveOptions(
            namespace_whitelist=["Scann"], experimental_custom_gradients=False
        ),
    )
    _drop_attributes(unfinished)
    folder = unfinished / EXTRA
    folder.mkdir()
    schema.save(folder)
    for file, text in {CONFIG_FILE: to_json(config), **extra}.items():
        (folder / file).write_text(text, encoding="utf-8")
    with tf.io.TFRecordWriter(str(folder / WARMUP_FILE)) as writer:
        for signature, inputs in warmup.items():
            writer.write(_warmup_record(name, signature, inputs))
    _write_manifest(unfinished)
    return unfinished.rename(base / str(version))


def _write_manifest(folder: pathlib.Path) -> None:
    """Lists the files, so that a server can tell a whole copy of the folder from half of one."""
    files = {
        str(file.relative_to(folder)): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    text = json.dumps({"files": files}, indent=1)
    (folder / EXTRA / MANIFEST_FILE).write_text(text, encoding="utf-8")


def _drop_attributes(folder: pathlib.Path) -> None:
    """Removes the attributes that nobody needs who encodes, and that some trip over.

    `debug_name` names a variable in messages; servers of older TensorFlow releases don't know it
    and refuse the whole graph. `_gradient_op_type` names a custom gradient, which is not saved;
    loading warns of each.
    """
    path = folder / tf.saved_model.SAVED_MODEL_FILENAME_PB
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for meta_graph in model.meta_graphs:
        graph = meta_graph.graph_def
        for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
            for node in nodes:
                if node.op == "VarHandleOp":
                    node.attr.pop("debug_name", None)
                node.attr.pop("_gradient_op_type", None)
    path.write_bytes(model.SerializeToString(deterministic=True))
    write_fingerprint(str(folder))  # it holds a checksum of that file


def _warmup_record(name: str, signature: str, inputs: Mapping[str, tf.Tensor]) -> bytes:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    log = prediction_log_pb2.PredictionLog(
        predict_log=prediction_log_pb2.PredictLog(request=request)
    )
    return log.SerializeToString()
