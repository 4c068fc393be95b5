"""Consumer matching (section 4.2.1): rankings by vectors and by baselines, measured alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from guim_tf.evaluation import baselines
from guim_tf.evaluation.interests import Interests, describe_interests
from guim_tf.evaluation.protocol import Protocol
from guim_tf.evaluation.search import COSINE
from guim_tf.evaluation.tasks import K, Measured, measure, rank, truths
from guim_tf.evaluation.vectors import Vectors, rank_vectors
from guim_tf.mixture import RESCORED
from guim_tf.schema import RECENT_DAYS


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the report. `interests` is of models alone."""

    name: str
    definition: str
    measured: Measured
    interests: Interests | None = None


@dataclasses.dataclass(frozen=True)
class Matching:
    """All methods on all tasks, and what a reader must know of them."""

    methods: list[Method]
    notes: list[str]


def evaluate_matching(
    protocol: Protocol,
    vectors: Mapping[str, Vectors],
    *,
    with_baselines: bool = True,
    exclude_seen: bool = False,
) -> Matching:
    """Ranks the catalogue for every user.

    Args:
      protocol: users, and what may be known of them.
      vectors: by the name of the method.
      with_baselines: whether to measure the baselines too.
      exclude_seen: leaves the items of a user's history out of the ranking, as published
        leave-one-out comparisons do; a repeated purchase is then never found.
    """
    exclude = protocol.history.items.distinct() if exclude_seen else None
    methods, notes = [], []
    for name, of in vectors.items():
        ranked, winners = rank_vectors(of, history=protocol.history.items, exclude=exclude)
        interests = _describe(protocol, of, winners)
        methods.append(Method(name, _definition(of), measure(protocol, ranked), interests))
        notes += _missing(name, of)
    if with_baselines:
        found, skipped = baselines.baselines(protocol)
        notes += skipped
        for baseline in found:
            ranked = rank(
                baseline.score,
                users=len(protocol),
                items=len(protocol.catalogue),
                exclude=exclude,
            )
            methods.append(Method(baseline.name, baseline.definition, measure(protocol, ranked)))
    if exclude_seen:
        notes.append(
            "Items of a user's history were left out of all rankings, as published leave-one-out "
            "comparisons do: repeated purchases are never found."
        )
    return Matching(methods, notes)


def _definition(vectors: Vectors) -> str:
    compared = "cosine" if vectors.score == COSINE else "dot product"
    added = ""
    if vectors.repeat_weight:
        sign = "plus" if vectors.repeat_weight > 0 else "minus"
        weight = f"{abs(vectors.repeat_weight):g}"
        added += f", {sign} {weight} ln(1 + how often the user has bought it)"
    if vectors.item_prior is not None:
        added += (
            f", plus up to {vectors.item_prior.max():g} by how many users bought the item in the "
            f"last {RECENT_DAYS} days"
        )
    if vectors.sharpness is not None:
        added += (
            f"; the best {RESCORED * K} of it in the order of Eq. 2, softmax weights at sharpness "
            f"{vectors.sharpness:g}"
        )
    count = vectors.interests
    users = f"highest {compared} of a user's {count} interest vectors"
    return (
        f"Exact search: the {users if count > 1 else f'{compared} of the vector of a user'} "
        f"with an item's vector (Eq. 3){added}."
    )


def _describe(protocol: Protocol, vectors: Vectors, winners: np.ndarray) -> Interests:
    users, items = vectors.user_rows, vectors.item_rows
    row = np.full(len(protocol.catalogue), -1, np.int64)
    row[items] = np.arange(len(items))
    truth = truths(protocol)["CMP-L"].take(users)
    truth = truth.where(row[truth.values] >= 0)
    return describe_interests(
        user_embedding=vectors.user_embedding[users],
        item_embedding=vectors.item_embedding[items],
        winners=winners[users],
        truth=dataclasses.replace(truth, values=row[truth.values]),
        score=vectors.score,
    )


def _missing(name: str, vectors: Vectors) -> list[str]:
    notes = []
    for kind, some, every, fate in (
        ("users", vectors.user_rows, vectors.user_embedding, "get no recommendations and no hits"),
        ("items", vectors.item_rows, vectors.item_embedding, "are never found"),
    ):
        if missing := len(every) - len(some):
            notes.append(f"{name}: {missing:,} of {len(every):,} {kind} have no vector and {fate}.")
    return notes
