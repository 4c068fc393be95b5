"""One space for the vectors of successive models: orthogonal Procrustes.

Losses see dot products alone, so two trainings give spaces that differ by a rotation at least. A
model is turned by the orthogonal matrix that brings its items closest to where another one has them
(Schönemann, 1966; for embeddings of successive periods Hamilton et al., 2016). Its own dot products
stay as they were, and its vectors fit what was made for the other one's.
"""

import dataclasses
import pathlib

import numpy as np

from guim_tf.catalogue import Catalogue
from guim_tf.encoders import encode_items, load_encoder
from guim_tf.strict_json import ConfigError


@dataclasses.dataclass(frozen=True)
class Alignment:
    """How a model is turned towards another.

    Attributes:
      rotation: `[d, d]` float32, orthogonal; rows of vectors are multiplied by it from the right.
      reference: the item encoder that it was made for.
      cosine_before, cosine_after: mean over the items of the cosine with the reference.
    """

    rotation: np.ndarray
    reference: pathlib.Path
    cosine_before: float
    cosine_after: float


def align(
    item_embedding: np.ndarray, catalogue: Catalogue, models: str | pathlib.Path
) -> Alignment:
    """Finds the rotation from a model's items to those of an exported model.

    Args:
      item_embedding: `[X, d]` unit vectors of the catalogue by the model to be turned.
      catalogue: items; those that were ever bought count, all alike.
      models: folder with the other model's `item_encoder`.

    Raises:
      ArtifactError, ModelError: there is no such encoder, or it can't be read.
      ConfigError: its vectors are of another size.
    """
    path, encoder = load_encoder(models, "item_encoder")
    reference = encode_items(encoder, catalogue)
    if reference.shape != item_embedding.shape:
        raise ConfigError(
            f"{path} gives vectors of size {reference.shape[1]}, and this model of size "
            f"{item_embedding.shape[1]}: they can't be aligned."
        )
    bought = catalogue.count > 0
    new, old = item_embedding[bought], reference[bought]
    rotation = orthogonal_map(new, old)
    return Alignment(rotation, path, _mean_cosine(new, old), _mean_cosine(new @ rotation, old))


def orthogonal_map(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The orthogonal R that minimises `|source @ R - target|`: `[n, d]`, `[n, d]` -> `[d, d]`."""
    u, _, v = np.linalg.svd(source.T.astype(np.float64) @ target.astype(np.float64))
    return (u @ v).astype(np.float32)


def _mean_cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum(axis=1).mean())
