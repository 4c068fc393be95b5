"""A catalogue in two dimensions, with the interests of one user among its items."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from guim_tf.encoders import encode_items, encode_users, load_encoder
from guim_tf.evaluation.protocol import Protocol, load_protocol
from guim_tf.export import ITEM_ENCODER, USER_ENCODER

LEAST_ITEMS = 8  # distinct items that make a history worth looking at


@dataclasses.dataclass(frozen=True)
class ItemMap:
    """X items and the C vectors of one user as points of a plane.

    Attributes:
      items: `[X, 2]`.
      interests: `[C, 2]`.
      explained: `[2]`, share of the items' variance along each axis.
      category: `[X]` object, str.
      count: `[X]` events of each item before the evaluation moment.
      user_id: whose interests they are.
      bought: `[h]` catalogue rows of the history, each once.
      bought_next: `[f]` catalogue rows of the test window, each once.
    """

    items: np.ndarray
    interests: np.ndarray
    explained: np.ndarray
    category: np.ndarray
    count: np.ndarray
    user_id: str
    bought: np.ndarray
    bought_next: np.ndarray


def encode_map(
    dataset: str | pathlib.Path, models: str | pathlib.Path, *, seed: int = 0
) -> ItemMap:
    """The map of a data set by the highest versions of both encoders.

    Raises:
      ValueError: the data set or a model is missing, damaged or doesn't fit.
    """
    protocol = load_protocol(dataset)
    user = draw_user(protocol, seed=seed)
    _, item_model = load_encoder(models, ITEM_ENCODER, schema=protocol.schema)
    _, user_model = load_encoder(models, USER_ENCODER, schema=protocol.schema)
    items = encode_items(item_model, protocol.catalogue, progress=False)
    users = encode_users(
        user_model, protocol.examples[[user]], as_of=protocol.as_of, progress=False
    )
    points, interests, explained = project(items, users[0])
    return ItemMap(
        items=points,
        interests=interests,
        explained=explained,
        category=protocol.catalogue.category_id,
        count=np.bincount(protocol.past.items.values, minlength=len(items)),
        user_id=str(protocol.user_ids[user]),
        bought=np.unique(protocol.history.items[user]),
        bought_next=np.unique(protocol.future.items[user]),
    )


def draw_user(protocol: Protocol, *, seed: int) -> int:
    """A user drawn at random from those with enough items to look at; else the one with most."""
    distinct = protocol.history.items.distinct().lengths
    eligible = np.flatnonzero(distinct >= LEAST_ITEMS)
    if not len(eligible):
        return int(distinct.argmax())
    return int(np.random.default_rng(seed).choice(eligible))


def project(items: np.ndarray, users: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Principal components of unit item vectors, and unit user vectors on the same two axes.

    Args:
      items: `[X, d]`, any length.
      users: `[C, d]`, any length.

    Returns:
      items `[X, 2]`, users `[C, 2]`, share of the items' variance along each axis `[2]`. The sign
      of an axis is such that its largest coefficient is positive.
    """
    items, users = _unit(items), _unit(users)
    mean = items.mean(axis=0)
    _, sizes, axes = np.linalg.svd(items - mean, full_matrices=False)
    axes, variance = axes[:2], sizes**2
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    axes = axes * np.where(largest < 0, -1, 1)
    share = variance[:2] / max(variance.sum(), 1e-12)
    return (items - mean) @ axes.T, (users - mean) @ axes.T, share


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
