"""User and item vectors from exported SavedModels, and rankings by them."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import tensorflow as tf

from guim_tf.encoders import ModelError, encode_items, encode_users, load_encoder
from guim_tf.evaluation.protocol import Protocol
from guim_tf.evaluation.tasks import K
from guim_tf.mixture import search_exact

_CHUNK_SCORES = 8_000_000  # scores in memory at once


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
