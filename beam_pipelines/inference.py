"""Beam's RunInference over an exported SavedModel: chunks of rows in, vectors out.

Beam's own handler for TensorFlow needs a model that Keras can load; this one needs a signature.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from apache_beam.ml.inference.base import ModelHandler

from beam_pipelines.errors import InputError


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one input: what is encoded, written and resumed together.

    `lengths` (`[n]`) says how much work each row is; `inputs` holds what the signature takes, an
    array of `[n]` each.
    """

    part: int
    number: int
    ids: list[str]
    lengths: np.ndarray
    inputs: dict[str, np.ndarray]

    @property
    def name(self) -> str:
        return f"part-{self.part:05d}-{self.number:05d}.parquet"


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A chunk's vectors, float32 `[n, ...]`, in the order of its ids."""

    chunk: Chunk
    vectors: np.ndarray


class SavedModelHandler(ModelHandler[Chunk, Encoded, "LoadedSignature"]):
    """Loads a SavedModel once a process and calls one of its signatures.

    Use it `with_no_batching()`, on lists of one chunk: a chunk is a batch already, and Dask's
    runner silently drops what Beam's own batching still holds when a task ends.

    Args:
      path: the SavedModel folder.
      signature: its name.
      output: which of the signature's outputs are the vectors.
      batch_size: rows a call of the model.
    """

    def __init__(self, path: str, *, signature: str, output: str, batch_size: int) -> None:
        super().__init__()
        self._path, self._signature, self._output = path, signature, output
        self._batch_size = batch_size

    def load_model(self) -> "LoadedSignature":
        return LoadedSignature(self._path, self._signature)

    def run_inference(
        self, batch: Sequence[Chunk], model: "LoadedSignature", inference_args: Any = None
    ) -> Iterator[Encoded]:
        def encode(inputs: dict[str, np.ndarray]) -> np.ndarray:
            return model(**inputs)[self._output].numpy()

        for chunk in batch:
            yield Encoded(chunk, encode_by_length(chunk, encode, batch_size=self._batch_size))


class LoadedSignature:
    """A signature of a loaded model; holds the model, which must outlive it."""

    def __init__(self, path: str, name: str) -> None:
        import tensorflow as tf
        import tensorflow_text  # noqa: F401  registers the ops of the tokeniser

        self._model = tf.saved_model.load(path)
        self._call = self._model.signatures[name]

    def __call__(self, **inputs: np.ndarray) -> dict[str, Any]:
        import tensorflow as tf

        return self._call(**{name: tf.constant(values) for name, values in inputs.items()})


def encode_by_length(
    chunk: Chunk, encode: Callable[[dict[str, np.ndarray]], np.ndarray], *, batch_size: int
) -> np.ndarray:
    """Encodes rows of like length together, which pads least; vectors in the chunk's order."""
    order = np.argsort(chunk.lengths, kind="stable")
    parts = []
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        parts.append(encode({name: values[rows] for name, values in chunk.inputs.items()}))
    vectors = np.concatenate(parts).astype(np.float32)
    ordered = np.empty_like(vectors)
    ordered[order] = vectors
    return ordered


def check_signature(path: str, name: str) -> None:
    """Raises `InputError` where a SavedModel lacks a signature; reads no weights."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString(pathlib.Path(path, "saved_model.pb").read_bytes())
    names = {each for graph in saved.meta_graphs for each in graph.signature_def}
    if name not in names:
        held = ", ".join(sorted(names - {"__saved_model_init_op"})) or "none"
        raise InputError(f"The model {path} has no signature {name!r}; it has {held}.")
