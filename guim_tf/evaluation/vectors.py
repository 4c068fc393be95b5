"""User and item vectors of exported SavedModels or from elsewhere, and rankings by them."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from guim_tf.artifacts import CONFIG_FILE, EXTRA
from guim_tf.catalogue import Catalogue
from guim_tf.config import Config
from guim_tf.encoders import ModelError, encode_items, encode_users, load_encoder
from guim_tf.evaluation.baselines import buyers, recent_buyers
from guim_tf.evaluation.population import Population
from guim_tf.evaluation.protocol import Protocol
from guim_tf.evaluation.ragged import Ragged
from guim_tf.evaluation.repeats import HabitSearch
from guim_tf.evaluation.search import COSINE, Found, search
from guim_tf.evaluation.tasks import K
from guim_tf.evaluation.vector_files import read_vectors
from guim_tf.mixture import RESCORED, rescore
from guim_tf.popularity import prior
from guim_tf.strict_json import load

_USERS_AT_ONCE = 256  # whose lists Eq. 2 orders together


@dataclasses.dataclass(frozen=True)
class Vectors:
    """Vectors of U users and X items of a catalogue.

    Attributes:
      user_embedding: `[U, C, d]` float32; zeros where a user has none.
      item_embedding: `[X, d]` float32; zeros where an item has none.
      sources: the version folders or the files that they came from.
      score: how they are compared, "cosine" or "dot".
      repeat_weight: of `mixture.prefer_repeats`, for vectors of exported models.
      item_prior: `[X]` float32, added to an item's cosines (`guim_tf.popularity`), or None.
      sharpness: of Eq. 2, by which `mixture.rescore` orders what was found anew, or None.
      has_user: `[U]` bool, or None where every user has vectors.
      has_item: `[X]` bool, or None where every item has one.
    """

    user_embedding: np.ndarray
    item_embedding: np.ndarray
    sources: tuple[pathlib.Path, ...]
    score: str = COSINE
    repeat_weight: float = 0.0
    item_prior: np.ndarray | None = None
    sharpness: float | None = None
    has_user: np.ndarray | None = None
    has_item: np.ndarray | None = None

    @property
    def interests(self) -> int:
        """C."""
        return self.user_embedding.shape[1]

    @property
    def alone(self) -> Vectors:
        """The same without what is added to the scores."""
        return dataclasses.replace(self, repeat_weight=0.0, item_prior=None)

    @property
    def user_rows(self) -> np.ndarray:
        """The users that have vectors."""
        return _rows(self.has_user, len(self.user_embedding))

    @property
    def item_rows(self) -> np.ndarray:
        """The items that have one."""
        return _rows(self.has_item, len(self.item_embedding))

    def take(self, users: np.ndarray) -> Vectors:
        """The same items with the users `users`, in that order."""
        return dataclasses.replace(
            self,
            user_embedding=self.user_embedding[users],
            has_user=None if self.has_user is None else self.has_user[users],
        )


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
    items = encode_items(item_model, protocol.catalogue, progress=progress)
    user_path, users = user_vectors(models, protocol, progress=progress)
    if users.shape[2] != items.shape[1]:
        raise ModelError(
            f"{user_path} gives vectors of size {users.shape[2]} and {item_path} of size "
            f"{items.shape[1]}; expected one size. Export both from the same run."
        )
    chosen = load(Config, user_path / EXTRA / CONFIG_FILE).retrieval
    ever = buyers(protocol.past, len(items))
    recent = recent_buyers(protocol.past, protocol.as_of, len(items))
    weight = chosen.popularity_weight
    return Vectors(
        users,
        items,
        (user_path, item_path),
        repeat_weight=chosen.repeat_weight or 0.0,
        item_prior=prior(recent, weight, sold=ever > 0) if weight else None,
        sharpness=chosen.rescore_sharpness,
    )


def user_vectors(
    models: str | pathlib.Path, users: Protocol | Population, *, progress: bool = True
) -> tuple[pathlib.Path, np.ndarray]:
    """The version folder and the vectors `[U, C, d]` of users as of their moment; see `encode`."""
    path, model = load_encoder(models, "user_encoder", schema=users.schema)
    return path, encode_users(model, users.examples, as_of=users.as_of, progress=progress)


def read(
    user_vectors: str | pathlib.Path,
    item_vectors: str | pathlib.Path,
    *,
    user_ids: np.ndarray,
    catalogue: Catalogue,
    score: str = COSINE,
) -> Vectors:
    """Vectors from files, for the users `user_ids` `[U]` and a catalogue; see `read_vectors`.

    Raises:
      VectorFileError: a file is not what it should be, or the two don't fit each other.
    """
    users = read_vectors(user_vectors, kind="user")
    items = read_vectors(item_vectors, kind="item")
    items.require_one_vector()
    users.require_size(items)
    user_embedding, has_user = users.select(user_ids)
    item_embedding, has_item = items.select(catalogue.item_id)
    return Vectors(
        user_embedding,
        item_embedding[:, 0],
        (users.path, items.path),
        score,
        has_user=None if has_user.all() else has_user,
        has_item=None if has_item.all() else has_item,
    )


def rank_vectors(
    vectors: Vectors,
    *,
    k: int = K,
    history: Ragged | None = None,
    exclude: Ragged | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Exact search for all users; who or what has no vector finds nothing and is not found.

    Args:
      vectors: of users and items.
      k: length of a ranking.
      history: catalogue rows that each user has bought, one a purchase; with it lists follow
        `vectors.repeat_weight` and `vectors.item_prior`.
      exclude: catalogue rows that must not come back, a list for each user.

    Returns:
      catalogue rows `[U, k]` int64 and the interest that won each `[U, k]` int64; -1 for none.
    """
    listed = k if vectors.sharpness is None else RESCORED * k
    if history is not None and (vectors.repeat_weight or vectors.item_prior is not None):
        habits = HabitSearch(
            vectors.user_embedding,
            vectors.item_embedding,
            history,
            listed,
            exclude=exclude,
            prior=vectors.item_prior,
        )
        found = habits.lists(vectors.repeat_weight)
    else:
        found = _search(vectors, listed, exclude)
    if vectors.sharpness is not None:
        found = _rescored(vectors, found, k, vectors.sharpness)
    return found.rows, found.interests


def _search(vectors: Vectors, k: int, exclude: Ragged | None) -> Found:
    users, items = vectors.user_rows, vectors.item_rows
    if exclude is not None:
        exclude = exclude.take(users)
        if vectors.has_item is not None:  # rows of the catalogue -> rows of `items`
            exclude = exclude.where(vectors.has_item[exclude.values])
            exclude = Ragged(exclude.offsets, np.searchsorted(items, exclude.values))
    some = search(
        vectors.user_embedding if vectors.has_user is None else vectors.user_embedding[users],
        vectors.item_embedding if vectors.has_item is None else vectors.item_embedding[items],
        k,
        score=vectors.score,
        exclude=exclude,
    )
    found = Found.nothing(len(vectors.user_embedding), k)
    found.rows[users] = np.where(some.rows < 0, -1, items[some.rows])
    found.scores[users] = some.scores
    found.interests[users] = some.interests
    return found


def _rescored(vectors: Vectors, found: Found, k: int, sharpness: float) -> Found:
    anew = Found.nothing(len(found.rows), k)
    for start in range(0, len(found.rows), _USERS_AT_ONCE):
        some = slice(start, start + _USERS_AT_ONCE)
        lists = rescore(
            (found.rows[some], found.scores[some], found.interests[some]),
            vectors.user_embedding[some],
            found_embedding=vectors.item_embedding[np.maximum(found.rows[some], 0)],
            sharpness=sharpness,
            k=k,
        )
        for into, values in zip((anew.rows, anew.scores, anew.interests), lists, strict=True):
            into[some] = values
    return anew


def _rows(has: np.ndarray | None, count: int) -> np.ndarray:
    return np.arange(count) if has is None else np.flatnonzero(has)
