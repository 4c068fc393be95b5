"""Consumer profile prediction (section 4.2.2): how much of a user's profile the vectors know.

A three-layer feed-forward network on the C * d frozen features of a user predicts a label; what
counts is its accuracy on users that it has not seen. Every labelled user is a test user in one of
five folds: one share of the users alone would be few, and a luck of its own. Beside it: always the
commonest label, and logistic regression on how often a user's history names each category.
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

FOLDS = 5  # each with test users of its own, and its number as the seed of weights and order
_T_QUANTILE = 2.776  # 97.5 % of Student's t for FOLDS - 1 degrees of freedom
_PARTS = 2 * FOLDS  # of the labelled users by a hash: in a fold 2 to test, 1 to stop early
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
      tested: `[P, F]`, what stands in for `values` when a fitted network is tested; None for the
        same.
    """

    name: str
    definition: str
    values: np.ndarray
    layers: int = 3
    is_model: bool = True
    tested: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Fold:
    """Rows of the users to train on, to stop early by, and to test on."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @classmethod
    def of(cls, part: np.ndarray, number: int) -> Fold:
        """Fold `number` of users in parts `[P]` from 0 to `_PARTS` - 1; -1 is left out."""
        test = np.isin(part, (2 * number, 2 * number + 1))
        validation = part == (2 * number + 2) % _PARTS
        train = (part >= 0) & ~test & ~validation
        return cls(*(np.flatnonzero(rows) for rows in (train, validation, test)))


@dataclasses.dataclass(frozen=True)
class LabelCounts:
    """Users of a label, each a test user once; `unlabelled` have a history and no such label."""

    classes: int
    users: int
    unlabelled: int


@dataclasses.dataclass(frozen=True)
class ProfileMethod:
    """A row: accuracy by label; `users` of each mean is the number of folds."""

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
        folds = [Fold.of(np.where(labelled, part, -1), number) for number in range(FOLDS)]
        found = LabelCounts(
            classes=int((classes != "").sum()),
            users=int(labelled.sum()),
            unlabelled=int((~labelled).sum()),
        )
        smallest = min(len(rows) for fold in folds for rows in dataclasses.astuple(fold))
        if found.classes < 2 or not smallest:
            notes.append(
                f"The label {label} was left out: its {found.users:,} users with a history have "
                f"{found.classes} different values and leave {smallest:,} users in the smallest "
                f"part of {FOLDS} folds; expected two values and at least one user in each part."
            )
            continue
        counts[label] = found
        majority[label] = _mean([_majority(y, fold) for fold in folds])
        for method in every:
            found_in = accuracies(method, y, folds, classes=found.classes)
            accuracy[method.name][label] = _mean(found_in)
    baseline = ProfileMethod(
        "majority class", "baseline", "The commonest label of the training users.", majority
    )
    rows = [
        ProfileMethod(x.name, "model" if x.is_model else "baseline", x.definition, accuracy[x.name])
        for x in every
    ]
    return Profile(counts, [*rows, baseline] if with_baselines else rows, notes)


def accuracies(
    features: Features, y: np.ndarray, folds: Sequence[Fold], *, classes: int
) -> list[float]:
    """Accuracy on the test rows of each fold.

    Args:
      features: of P users.
      y: `[P]` class of each, 0 to `classes` - 1.
      folds: whom to train on, to stop by, and to test on.
      classes: how many there are.
    """
    size = features.values.shape[1]
    network = _network(size, classes, features.layers)
    optimizer = keras.optimizers.Adam(1e-3 if features.layers > 1 else 1e-2)
    optimizer.build(network.trainable_variables)
    fresh = [variable.numpy() for variable in optimizer.variables]
    network.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=-(-max(len(fold.train) for fold in folds) // _BATCH),
    )
    found = []
    for seed, fold in enumerate(folds):
        values = features.values
        tested = values if features.tested is None else features.tested
        if features.layers > 1:  # counts keep their scale: a rare category must not weigh more
            mean, deviation = values[fold.train].mean(axis=0), values[fold.train].std(axis=0)
            deviation = np.where(deviation > 0, deviation, 1)
            values, tested = (values - mean) / deviation, (tested - mean) / deviation
        train, validation = ((values[rows], y[rows]) for rows in (fold.train, fold.validation))
        test = tested[fold.test], y[fold.test]
        # Started anew, not made anew: tracing a graph takes longer than training it.
        keras.utils.set_random_seed(seed)
        network.set_weights(_network(size, classes, features.layers).get_weights())
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


def _majority(y: np.ndarray, fold: Fold) -> float:
    commonest = np.bincount(y[fold.train]).argmax()
    return float((y[fold.test] == commonest).mean())


def _mean(values: Sequence[float]) -> Mean:
    found = metrics.mean(np.array(values))
    return dataclasses.replace(found, half_width=found.half_width / 1.96 * _T_QUANTILE)
