"""User and item vectors from exported SavedModels, and rankings by them."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (the exported graphs tokenise with its ops)
from tqdm import tqdm

from guim_tf import artifacts
from guim_tf.evaluation.protocol import Catalogue, Protocol
from guim_tf.evaluation.tasks import K
from guim_tf.mixture import search_exact
from guim_tf.schema import Schema

_BATCH = 256  # users or items in one call of a model
_CHUNK_SCORES = 8_000_000  # scores in memory at once


class ModelError(ValueError):
    """A SavedModel does not answer as its contract says."""


@dataclasses.dataclass(frozen=True)
class Vectors:
    """What a pair of encoders says of a protocol's users and catalogue.

    Attributes:
      user_embedding: `[U, C, d]` float32.
      item_embedding: `[X, d]` float32.
      models: the version folders that they came from.
    """

    user_embedding: np.ndarray
    item_embedding: np.ndarray
    models: tuple[pathlib.Path, ...]

    @property
    def interests(self) -> int:
        """C."""
        return self.user_embedding.shape[1]


def encode(models: str | pathlib.Path, protocol: Protocol, *, progress: bool = True) -> Vectors:
    """Vectors of all users and items by the highest versions of both encoders.

    Args:
      models: folder with `user_encoder/<version>` and `item_encoder/<version>`.
      protocol: whom and what to encode; users are encoded as of `protocol.as_of`.
      progress: shows bars on stderr.

    Raises:
      ArtifactError: a model is missing.
      SchemaError: a model was made from another data set.
      ModelError: a model can't be loaded or gives something else than vectors.
    """
    item_path, item_model = load_encoder(models, "item_encoder", schema=protocol.schema)
    user_path, user_model = load_encoder(models, "user_encoder", schema=protocol.schema)
    items = encode_items(item_model, protocol.catalogue, progress=progress)
    users = encode_users(user_model, protocol.examples, as_of=protocol.as_of, progress=progress)
    if users.shape[2] != items.shape[1]:
        raise ModelError(
            f"{user_path} gives vectors of size {users.shape[2]} and {item_path} of size "
            f"{items.shape[1]}; expected one size. Export both from the same run."
        )
    return Vectors(users, items, (user_path, item_path))


def load_encoder(
    models: str | pathlib.Path, name: str, *, schema: Schema
) -> tuple[pathlib.Path, tf.Module]:
    """Loads the highest version of `<models>/<name>` once its schema is that of the data set."""
    path = artifacts.latest(models, name)
    Schema.load(path / artifacts.EXTRA).require_match(
        schema, mine=f"The model in {path}", theirs="the data set"
    )
    try:
        return path, tf.saved_model.load(str(path))
    except (OSError, ValueError, tf.errors.OpError) as e:
        raise ModelError(
            f"{path} can't be loaded as a SavedModel: {e}. Write it again with `guim export`."
        ) from e


def encode_items(model: tf.Module, catalogue: Catalogue, *, progress: bool) -> np.ndarray:
    """`[X, d]` float32 by the signature `encode_items`."""
    call = _signature(model, "encode_items", "item_embedding", rank=2)
    texts = {
        "item_id": catalogue.item_ids,
        "category_id": catalogue.category_ids,
        "title": catalogue.titles,
    }
    return _in_batches(
        lambda part: call(**{name: tf.constant(x[part], tf.string) for name, x in texts.items()}),
        len(catalogue),
        "encoding items" if progress else None,
    )


def encode_users(
    model: tf.Module, examples: np.ndarray, *, as_of: int, progress: bool
) -> np.ndarray:
    """`[U, C, d]` float32 by the signature `encode_user_examples`, from records `[U]`."""
    call = _signature(model, "encode_user_examples", "user_embedding", rank=3)
    return _in_batches(
        lambda part: call(
            examples=tf.constant(examples[part], tf.string),
            as_of=tf.fill([len(examples[part])], tf.constant(as_of, tf.int64)),
        ),
        len(examples),
        "encoding users" if progress else None,
    )


def rank_vectors(vectors: Vectors, *, k: int = K) -> tuple[np.ndarray, np.ndarray]:
    """Exact search for all users, a chunk at a time.

    Returns:
      catalogue rows `[U, k]` int64 and the interest that won each `[U, k]` int64; -1 for none.
    """
    items = tf.constant(vectors.item_embedding)
    users = vectors.user_embedding
    chunk = max(1, _CHUNK_SCORES // (vectors.interests * len(vectors.item_embedding)))
    found = [
        search_exact(tf.constant(users[start : start + chunk]), items, k)
        for start in range(0, len(users), chunk)
    ]
    rows = np.concatenate([rows.numpy() for rows, _, _ in found])
    interests = np.concatenate([interests.numpy() for _, _, interests in found])
    return rows, interests.astype(np.int64)


def _signature(model: tf.Module, name: str, output: str, *, rank: int) -> Callable[..., np.ndarray]:
    """A signature as a function to its one output, checked to be finite numbers of that rank."""
    if name not in model.signatures:
        raise ModelError(
            f"the SavedModel has the signatures {sorted(model.signatures)}, expected {name!r}. "
            "Write it with `guim export`."
        )
    function = model.signatures[name]

    def call(**inputs: tf.Tensor) -> np.ndarray:
        outputs = function(**inputs)
        if output not in outputs:
            raise ModelError(f"{name} returns {sorted(outputs)}, expected {output!r}.")
        vectors = outputs[output].numpy()
        if vectors.ndim != rank:
            raise ModelError(f"{name}: {output} has shape {vectors.shape}, expected rank {rank}.")
        if not np.isfinite(vectors).all():
            raise ModelError(
                f"{name}: {output} holds NaN or infinity, expected numbers. The training run has "
                "diverged: train again with a lower learning rate."
            )
        return vectors

    return call


def _in_batches(call: Callable[[slice], np.ndarray], count: int, title: str | None) -> np.ndarray:
    starts = range(0, count, _BATCH)
    bar = tqdm(starts, desc=title, unit="batch", disable=title is None)
    return np.concatenate([call(slice(start, start + _BATCH)) for start in bar])
