"""Consumer profile prediction (section 4.2.2): how much of a user's profile the vectors know.

A three-layer feed-forward network on the C * d frozen features of a user predicts a label; what
counts is its accuracy on users that it has not seen. Beside it: always the commonest label, and
logistic regression on how often a user's history names each category.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from guim_tf.evaluation import baselines, metrics
from guim_tf.evaluation.metrics import Mean
from guim_tf.evaluation.population import Population
from guim_tf.evaluation.ragged import Ragged
from guim_tf.keras_compat import keras
from guim_tf.schema import fingerprint64

SEEDS = 5  # first weights and order of the training users
_T_QUANTILE = 2.776  # 97.5 % of Student's t for SEEDS - 1 degrees of freedom
_PARTS = 10  # of the labelled users by a hash: 7 to train, 1 to stop early, 2 to test
_VALIDATION, _TEST = (7,), (8, 9)
_HIDDEN = 128
_DROPOUT = 0.5
_BATCH = 128
_MAX_EPOCHS = 60
_PATIENCE = 5
_LEAST_GAIN = 1e-3  # of the validation loss, to count as one
_MAX_CATEGORIES = 1000  # the commonest


@dataclasses.dataclass(frozen=True)
class Features:
    """What a method knows of the users of a population.

    Attributes:
      name: of the method.
      definition: for the reader.
      values: `[P, F]` float32; rows of users without vectors are zeros.
      layers: dense layers of the network on top: 3 is the paper's, 1 is logistic regression.
      is_model: whether these are vectors, not a baseline.
    """

    name: str
    definition: str
    values: np.ndarray
    layers: int = 3
    is_model: bool = True


@dataclasses.dataclass(frozen=True)
class LabelCounts:
    """Users of a label, by split; `unlabelled` have a history and no such label."""

    classes: int
    train: int
    validation: int
    test: int
    unlabelled: int


@dataclasses.dataclass(frozen=True)
class ProfileMethod:
    """A row: accuracy by label; `users` of each mean is the number of seeds."""

    name: str
    kind: str
    definition: str
    accuracy: dict[str, Mean]


@dataclasses.dataclass(frozen=True)
class Profile:
    """All methods on all labels that could be asked for."""

    labels: dict[str, LabelCounts]
    methods: list[ProfileMethod]
    notes: list[str]


def vector_features(name: str, user_embedding: np.ndarray) -> Features:
    """The C * d features of user vectors `[P, C, d]`."""
    size = f"{user_embedding.shape[1]} x {user_embedding.shape[2]}"
    return Features(
        name,
        f"Three dense layers ({_HIDDEN}, {_HIDDEN}, classes) on the {size} frozen numbers of a "
        "user, standardised by the training users; ReLU, dropout, early stopping.",
        user_embedding.reshape(len(user_embedding), -1),
    )


def category_features(population: Population) -> Features:
    """log(1 + how often a user's history names a category), of the commonest categories."""
    items = population.history.items
    category = population.catalogue.category_index
    # Categories outside of the vocabulary share a row, as they do in the model.
    events = Ragged(items.offsets, category[items.values])
    times = np.bincount(events.values)
    common = np.argsort(-times, kind="stable")[: min(np.count_nonzero(times), _MAX_CATEGORIES)]
    column = np.full(int(category.max()) + 1, -1, np.int64)
    column[common] = np.arange(len(common))
    events = Ragged(events.offsets, column[events.values])
    values = np.log1p(baselines.counts(events.where(events.values >= 0), len(common)))
    return Features(
        "logistic regression on categories",
        "One dense layer on log(1 + count) of each item category in the user's history, up to "
        f"{_MAX_CATEGORIES:,} of them; early stopping.",
        values,
        layers=1,
        is_model=False,
    )


def evaluate_profile(
    population: Population, features: Sequence[Features], *, with_baselines: bool = True
) -> Profile:
    """Accuracy on test users of `features`, and of the category counts and the majority class.

    Args:
      population: users with labels.
      features: what methods know of them.
      with_baselines: whether to measure the category counts and the majority class too.
    """
    part = np.array([_part(user) for user in population.user_ids])
    every = [*features, *([category_features(population)] if with_baselines else [])]
    counts: dict[str, LabelCounts] = {}
    notes: list[str] = []
    accuracy: dict[str, dict[str, Mean]] = {x.name: {} for x in every}
    majority: dict[str, Mean] = {}
    for label, texts in population.labels.items():
        classes, y = np.unique(texts.astype(str), return_inverse=True)
        labelled = texts != ""
        y = y - int(classes[0] == "")
        test, validation = (labelled & np.isin(part, x) for x in (_TEST, _VALIDATION))
        train = labelled & ~test & ~validation
        split = [np.flatnonzero(x) for x in (train, validation, test)]
        found = LabelCounts(
            classes=int((classes != "").sum()),
            train=len(split[0]),
            validation=len(split[1]),
            test=len(split[2]),
            unlabelled=int((~labelled).sum()),
        )
        if found.classes < 2 or not all(map(len, split)):
            notes.append(
                f"The label {label} was left out: its {int(labelled.sum()):,} users with a history "
                f"have {found.classes} different values and make up {found.train:,} training, "
                f"{found.validation:,} validation and {found.test:,} test users; expected two "
                "values and at least one user in each."
            )
            continue
        counts[label] = found
        commonest = np.bincount(y[split[0]]).argmax()
        majority[label] = Mean(float((y[split[2]] == commonest).mean()), float("nan"), 1)
        for method in every:
            accuracy[method.name][label] = _mean(
                accuracies(method, y, split, classes=found.classes, seeds=SEEDS)
            )
    baseline = ProfileMethod(
        "majority class", "baseline", "The commonest label of the training users.", majority
    )
    rows = [
        ProfileMethod(x.name, "model" if x.is_model else "baseline", x.definition, accuracy[x.name])
        for x in every
    ]
    return Profile(counts, [*rows, baseline] if with_baselines else rows, notes)


def accuracies(
    features: Features,
    y: np.ndarray,
    split: Sequence[np.ndarray],
    *,
    classes: int,
    seeds: int,
) -> list[float]:
    """Accuracy on the test rows for each seed.

    Args:
      features: of P users.
      y: `[P]` class of each, 0 to `classes` - 1.
      split: rows to train on, to stop by, and to test on.
      classes: how many there are.
      seeds: how many times to train.
    """
    values = features.values
    if features.layers > 1:  # counts keep their scale: a rare category must not weigh more
        mean, deviation = values[split[0]].mean(axis=0), values[split[0]].std(axis=0)
        values = (values - mean) / np.where(deviation > 0, deviation, 1)
    train, validation, test = ((values[rows], y[rows]) for rows in split)
    network = _network(values.shape[1], classes, features.layers)
    optimizer = keras.optimizers.Adam(1e-3 if features.layers > 1 else 1e-2)
    optimizer.build(network.trainable_variables)
    fresh = [variable.numpy() for variable in optimizer.variables]
    network.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=-(-len(train[0]) // _BATCH),
    )
    found = []
    for seed in range(seeds):
        # Started anew, not made anew: tracing a graph takes longer than training it.
        keras.utils.set_random_seed(seed)
        network.set_weights(_network(values.shape[1], classes, features.layers).get_weights())
        for variable, value in zip(optimizer.variables, fresh, strict=True):
            variable.assign(value)
        network.fit(
            *train,
            batch_size=_BATCH,
            epochs=_MAX_EPOCHS,
            validation_data=validation,
            validation_batch_size=len(validation[0]),
            callbacks=[
                keras.callbacks.EarlyStopping(
                    patience=_PATIENCE, min_delta=_LEAST_GAIN, restore_best_weights=True
                )
            ],
            verbose=0,
        )
        logits = network(test[0], training=False).numpy()
        found.append(float((logits.argmax(axis=1) == test[1]).mean()))
    return found


def _network(features: int, classes: int, layers: int) -> keras.Model:
    hidden = [
        layer
        for _ in range(layers - 1)
        for layer in (
            keras.layers.Dense(_HIDDEN, activation="relu"),
            keras.layers.Dropout(_DROPOUT),
        )
    ]
    return keras.Sequential([keras.layers.Input([features]), *hidden, keras.layers.Dense(classes)])


def _part(user_id: str) -> int:
    """The part of a user, not that of the split into training and validation shards."""
    return fingerprint64("profile\t" + user_id) % _PARTS


def _mean(values: Sequence[float]) -> Mean:
    found = metrics.mean(np.array(values))
    return dataclasses.replace(found, half_width=found.half_width / 1.96 * _T_QUANTILE)
