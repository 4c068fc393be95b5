"""Where the vectors of an evaluation come from: exported models, files from elsewhere, or both."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from guim_tf.evaluation.population import Population
from guim_tf.evaluation.profile import Features, vector_features
from guim_tf.evaluation.protocol import Protocol, date
from guim_tf.evaluation.search import COSINE, SCORES
from guim_tf.evaluation.vector_files import read_vectors
from guim_tf.evaluation.vectors import Vectors, encode, read, user_vectors
from guim_tf.schema import Schema


class SourceError(ValueError):
    """Vectors are not named as they should be."""


@dataclasses.dataclass(frozen=True)
class Given:
    """Files of vectors from elsewhere, and how they are compared."""

    users: pathlib.Path
    items: pathlib.Path | None
    score: str = COSINE

    @classmethod
    def of(
        cls,
        users: str | pathlib.Path | None,
        items: str | pathlib.Path | None,
        *,
        score: str,
        needs_items: bool,
    ) -> Given | None:
        """None where no file is named; raises `SourceError` where one of two is missing."""
        if score not in SCORES:
            raise SourceError(f"score is {score!r}, expected one of {', '.join(SCORES)}.")
        if users is None and items is None:
            return None
        if users is None or (items is None and needs_items):
            raise SourceError(
                f"{'user' if users is None else 'item'}_vectors is missing: expected "
                "--user-vectors and --item-vectors together; --tasks cpp needs users alone."
            )
        return cls(pathlib.Path(users), None if items is None else pathlib.Path(items), score)


@dataclasses.dataclass
class Sources:
    """Models, files or both; `paths` fills with what was read.

    Args:
      models: folder with `user_encoder` and `item_encoder`, or None.
      given: files, or None.
    """

    models: str | pathlib.Path | None
    given: Given | None
    paths: list[pathlib.Path] = dataclasses.field(default_factory=list)

    def __bool__(self) -> bool:
        return self.models is not None or self.given is not None

    def require_as_of(self, schema: Schema, as_of: int | None) -> None:
        """Raises `SourceError` where models have seen what is asked for."""
        if self.models is not None and as_of is not None and as_of < schema.as_of:
            raise SourceError(
                f"as_of is {date(as_of)}, but the models' vocabularies and training have "
                f"seen what came before {date(schema.as_of)}; expected that or later. Build "
                "the data set and train with the earlier --as-of instead."
            )

    def vectors(self, protocol: Protocol) -> dict[str, Vectors]:
        """Users and items of a protocol, by the name of the method."""
        found = {}
        if self.models is not None:
            vectors = encode(self.models, protocol)
            name = f"GUIM, C = {vectors.interests}"
            found[name] = vectors
            if vectors.repeat_weight or vectors.item_prior is not None:
                found[f"{name}, vectors alone"] = vectors.alone
        if self.given is not None and self.given.items is not None:
            vectors = read(
                self.given.users,
                self.given.items,
                user_ids=protocol.user_ids,
                catalogue=protocol.catalogue,
                score=self.given.score,
            )
            found[_given_name(vectors.interests)] = vectors
        for vectors in found.values():
            self._note(*vectors.sources)
        return found

    def features(self, population: Population) -> tuple[list[Features], list[str]]:
        """Features of labelled users, and a note where some have no vector."""
        features, notes = [], []
        if self.models is not None:
            path, vectors = user_vectors(self.models, population)
            features.append(vector_features(f"GUIM, C = {vectors.shape[1]}", vectors))
            self._note(path)
        if self.given is not None:
            file = read_vectors(self.given.users, kind="user")
            vectors, known = file.select(population.user_ids)
            name = _given_name(vectors.shape[1])
            features.append(vector_features(name, vectors))
            self._note(file.path)
            if missing := int(np.sum(~known)):
                notes.append(
                    f"{name}: {missing:,} of {len(known):,} users with a profile have no vector; "
                    "theirs was predicted from zeros."
                )
        return features, notes

    def _note(self, *paths: pathlib.Path) -> None:
        self.paths += [path for path in paths if path not in self.paths]


def _given_name(interests: int) -> str:
    return f"given vectors, C = {interests}"
