"""Several trainings of one configuration as one model: their unit vectors side by side.

What an item's few purchases leave to chance differs from seed to seed, what they tell does not: the
cosine of vectors side by side is the mean of the members' cosines (Lakshminarayanan et al., 2017,
for averages of networks that differ in their seeds alone).
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from guim_tf.catalogue import Catalogue
from guim_tf.config import CHOSEN_WEIGHTS, Config
from guim_tf.data import Events
from guim_tf.model import GUIM
from guim_tf.runs import CONFIG_FILE, INIT_FILE, RESULT_FILE, load_config, load_run
from guim_tf.schema import Schema
from guim_tf.strict_json import ConfigError, load


class Agreement(NamedTuple):
    """How the cosines of one member's interest with all items vary with those of another's.

    first, other: `[d, d]`, the covariance over the items of either's vectors; cross: `[d, d]`, of
    the first's with the other's.
    """

    first: np.ndarray
    other: np.ndarray
    cross: np.ndarray

    @classmethod
    def of(cls, first: np.ndarray, other: np.ndarray) -> "Agreement":
        """From two members' vectors `[X, d]` of the same items."""
        a, b = (x - x.mean(axis=0) for x in (first, other))
        return cls(*((x.T @ y / len(a)).astype(np.float32) for x, y in ((a, a), (b, b), (a, b))))

    def __call__(self, first: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        """Correlations over the items: unit interests `[B, C, d]` of either -> `[B, C, C]`."""

        def deviation(vectors: tf.Tensor, covariance: np.ndarray) -> tf.Tensor:
            variance = tf.einsum("bcd,de,bce->bc", vectors, covariance, vectors)
            return tf.sqrt(tf.maximum(variance, 0.0))  # rounding alone makes it negative

        together = tf.einsum("bcd,de,bke->bck", first, self.cross, other)
        alone = deviation(first, self.first)[:, :, None] * deviation(other, self.other)[:, None, :]
        return tf.math.divide_no_nan(together, alone)


class Ensemble:
    """Members' encoders as one, with the methods of `GUIM` that an export needs.

    Interests of members have no common order: each of the first member stands beside the one of
    another member whose cosines agree with its own, the most alike pair first, no interest twice.
    All vectors are of length one, those of the members too: lengths that they had are gone.

    Args:
      members: models of one configuration and one schema.
      agreements: of the first member with each other one; none where C is 1.
    """

    def __init__(self, members: Sequence[GUIM], agreements: Sequence[Agreement] = ()) -> None:
        self.item_encoder = [member.item_encoder for member in members]
        self.user_encoder = [member.user_encoder for member in members]
        self._members = members
        self._agreements = agreements

    def encode_items(self, items: Events) -> tf.Tensor:
        """Unit vectors of items, `[..., n d]` of n members."""
        return _side_by_side([member.encode_items(items) for member in self._members])

    def encode_users(self, history: Events, as_of: tf.Tensor) -> tf.Tensor:
        """The C unit vectors of users, `[B, C, n d]`; arguments as of `GUIM.encode_users`."""
        users = [_unit(member.encode_users(history, as_of)) for member in self._members]
        return _side_by_side(_in_order(self._orders(users), users))

    def attend(self, history: Events, as_of: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`encode_users`, and the mean of the members' attention, `[B, C, N]`."""
        found = [member.attend(history, as_of) for member in self._members]
        users = [_unit(of) for of, _ in found]
        orders = self._orders(users)
        attention = _in_order(orders, [of for _, of in found])
        return _side_by_side(_in_order(orders, users)), tf.add_n(attention) / len(found)

    def _orders(self, users: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Of each member but the first, the interest beside each of the first's: `[B, C]`."""
        first, *others = users
        if first.shape[1] == 1:
            return [tf.zeros([tf.shape(first)[0], 1], tf.int64)] * len(others)
        return [
            pairs(agreement(first, other))
            for agreement, other in zip(self._agreements, others, strict=True)
        ]


def pairs(likeness: tf.Tensor) -> tf.Tensor:
    """The column beside each row, the most alike pair first, each once: `[B, C, C]` -> `[B, C]`."""
    size = likeness.shape[1]
    chosen = tf.zeros_like(likeness)
    for _ in range(size):
        best = tf.argmax(tf.reshape(likeness, [-1, size * size]), axis=1)
        row = tf.one_hot(best // size, size)[:, :, None]
        column = tf.one_hot(best % size, size)[:, None, :]
        chosen += row * column
        likeness = tf.where((row + column) > 0, likeness.dtype.min, likeness)
    return tf.argmax(chosen, axis=2)


def load_ensemble(
    runs: Sequence[str | pathlib.Path], dataset: str | pathlib.Path | None = None
) -> tuple[GUIM | Ensemble, Config, Schema]:
    """The best weights of runs that differ in their seed alone, as one model; of one run its model.

    Returns:
      The model; the configuration of the first, with the size of the vectors side by side and the
      mean of the weights that the runs chose for `retrieval`; the schema.

    Args:
      runs: what `guim train` wrote, at least one.
      dataset: what they were trained on; needed where several have more than one interest.

    Raises:
      ConfigError: of several one is not finished, or they differ in more, or not in their seeds; or
        the data set is missing.
      SchemaError: a run or the data set is of another schema than the first run.
    """
    if len(runs) == 1:
        return load_run(runs[0])
    _require_alike(runs)
    loaded = [load_run(run) for run in runs]
    members = [model for model, _, _ in loaded]
    schema = loaded[0][2]
    for run, (_, _, theirs) in zip(runs, loaded, strict=True):
        theirs.require_match(schema, mine=f"The run {run}", theirs=f"the run {runs[0]}")
    config = _together([config for _, config, _ in loaded])
    return Ensemble(members, _agreements(members, schema, dataset)), config, schema


def _require_alike(runs: Sequence[str | pathlib.Path]) -> None:
    """Refuses what is no ensemble, by what was asked of each training."""
    for run in runs:
        load_config(run)  # of a folder that is no run this says so
        if not pathlib.Path(run, RESULT_FILE).is_file():
            raise ConfigError(
                f"{run} is not finished: the same `guim train` again goes on with it."
            )
    asked = [load(Config, pathlib.Path(run, CONFIG_FILE)) for run in runs]
    alike = [_but_seed(run, config) for run, config in zip(runs, asked, strict=True)]
    for run, config in zip(runs, alike, strict=True):
        if config != alike[0]:
            raise ConfigError(
                f"{run} has another configuration than {runs[0]}: runs whose vectors stand side by "
                "side differ in training.seed alone."
            )
    seeds = [config.training.seed for config in asked]
    if len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"the runs have the seeds {seeds}: the same training twice adds nothing. Give each "
            "its own with `guim train --set training.seed=1`."
        )


def _but_seed(run: str | pathlib.Path, config: Config) -> Config:
    """What must be alike. Of a run that goes on from another one the weights of lists are those
    which that one chose: they may differ, and are averaged as other chosen ones."""
    base = json.loads(pathlib.Path(run, INIT_FILE).read_text(encoding="utf-8"))["run"]
    given = dict.fromkeys(CHOSEN_WEIGHTS, 0.0) if base is not None else {}
    return dataclasses.replace(
        config,
        training=dataclasses.replace(config.training, seed=0),
        retrieval=dataclasses.replace(config.retrieval, **given),
    )


def _agreements(
    members: Sequence[GUIM], schema: Schema, dataset: str | pathlib.Path | None
) -> list[Agreement]:
    if members[0].model_config.interests == 1:
        return []
    if dataset is None:
        raise ConfigError(
            "several runs of more than one interest need --dataset: by its items interests of one "
            "run find those of another."
        )
    Schema.load(dataset).require_match(schema, mine=f"{dataset}", theirs="the runs")
    catalogue = Catalogue(dataset)

    def items(member: GUIM) -> np.ndarray:
        return np.concatenate([member.encode_items(x).numpy() for x in catalogue.batches()])

    first = items(members[0])
    return [Agreement.of(first, items(member)) for member in members[1:]]


def _together(configs: Sequence[Config]) -> Config:
    first = configs[0]
    weights = {
        name: float(np.mean([getattr(config.retrieval, name) for config in configs]))
        for name in CHOSEN_WEIGHTS
    }
    dim = len(configs) * first.model.embedding_dim
    return dataclasses.replace(
        first,
        model=dataclasses.replace(first.model, embedding_dim=dim),
        retrieval=dataclasses.replace(first.retrieval, **weights),
    )


def _in_order(orders: Sequence[tf.Tensor], of_members: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """`[B, C, n]` of each member, all but the first in its order `[B, C]`."""
    first, *others = of_members
    return [
        first,
        *(
            tf.gather(of, order, axis=1, batch_dims=1)
            for order, of in zip(orders, others, strict=True)
        ),
    ]


def _unit(vectors: tf.Tensor) -> tf.Tensor:
    return tf.math.l2_normalize(vectors, axis=-1)


def _side_by_side(vectors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Unit vectors `[..., d]` of each member as unit vectors `[..., n d]`."""
    return tf.concat(vectors, axis=-1) / len(vectors) ** 0.5
