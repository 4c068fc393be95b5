"""Passes over the training users, and `model.fit` on them in either kind of cluster."""

import dataclasses
import pathlib
import sys
from typing import Any

import tensorflow as tf

from guim_tf import schema as names
from guim_tf.catalogue import Catalogue
from guim_tf.checkpoints import RunState
from guim_tf.cluster import Cluster
from guim_tf.config import Config
from guim_tf.data import cut_batches, load_dataset, load_records, serialized_batches
from guim_tf.divergence import FiniteLoss, FiniteWeights
from guim_tf.interrupt import Interruptible
from guim_tf.keras_compat import keras
from guim_tf.model import GUIM
from guim_tf.sampling import Candidates, measure_candidates
from guim_tf.schema import Schema
from guim_tf.validation import Validation, ValidationRecall

_MEASURED_TOGETHER = 256  # users


@dataclasses.dataclass(frozen=True)
class Fit:
    """`model.fit` from where a run stands to its end.

    Attributes:
      dataset, schema, config: what is learned from, and how.
      model: compiled.
      state: where the run stands.
      validation: users whose recall is measured after each epoch, if there are any.
      cluster: where the model lives.
      batch_size: users a step, of all replicas together.
      progress: shows the losses.
    """

    dataset: str | pathlib.Path
    schema: Schema
    config: Config
    model: GUIM
    state: RunState
    validation: Validation
    cluster: Cluster
    batch_size: int
    progress: bool

    def in_step(self, interruptible: Interruptible) -> None:
        """All replicas do each step together; one process is one replica."""
        strategy, state, epochs = self.cluster.strategy, self.state, self.config.training.epochs
        checked, batches = None, None
        if self.validation.users:
            checked = strategy.distribute_datasets_from_function(lambda _: self._checked())
            batches = sum(1 for _ in self._checked())  # several workers must know it beforehand
        # In one go, but for the rest of an epoch that an earlier session was stopped in.
        while state.steps and int(state.epoch) < epochs and not state.stopped:
            begun = int(state.step)
            self._fit(
                strategy.distribute_datasets_from_function(lambda _: self._passes(done=state.done)),
                steps_per_epoch=state.steps - begun,
                initial_epoch=int(state.epoch),
                epochs=int(state.epoch) + 1 if begun else epochs,
                validation_data=checked,
                validation_steps=batches,
                callbacks=[FiniteLoss(), *self._recall(), state, *self._board(), interruptible],
            )

    def asynchronously(self) -> None:
        """Workers of parameter servers do steps, each with an order of its own and of the moment.

        Keras tells nothing of single steps then, so that a run is saved at the end of an epoch.
        """
        if int(self.state.epoch) < self.config.training.epochs and not self.state.stopped:
            tf.random.set_seed(None)  # or all workers would read in one order
            self._fit(
                keras.utils.experimental.DatasetCreator(lambda _: self._endless()),
                steps_per_epoch=self.state.steps,
                initial_epoch=int(self.state.epoch),
                epochs=self.config.training.epochs,
                callbacks=[FiniteWeights(), *self._recall(), self.state, *self._board()],
            )

    def _fit(self, data: Any, **options: Any) -> None:
        shown = self.progress and self.cluster.chief
        verbose = ("auto" if sys.stdout.isatty() else 2) if shown else 0
        self.model.fit(data, verbose=verbose, **options)

    def _recall(self) -> list[keras.callbacks.Callback]:
        return [ValidationRecall(self.validation)] if self.validation.users else []

    def _board(self) -> list[keras.callbacks.Callback]:
        if not self.cluster.chief:
            return []
        return [keras.callbacks.TensorBoard(self.state.run / "tensorboard", write_graph=False)]

    def _checked(self) -> tf.data.Dataset:
        """The validation users."""
        return load_dataset(
            self.dataset,
            names.VALIDATION,
            window=self.config.window,
            batch_size=self.config.training.batch_size,
        )

    def _passes(self, *, done: int) -> tf.data.Dataset:
        """All passes over the training users but the first `done` steps, always the same."""
        batches = self._serialized(self.config.training.seed)
        return self._cut(
            batches.repeat(self.config.training.epochs).skip(done),
            numbers=tf.data.Dataset.counter(start=_first_number(self.config) + done),
        )

    def _endless(self) -> tf.data.Dataset:
        """Passes without an end, with an order and draws that no two processes share."""
        return self._cut(self._serialized(None).repeat(), numbers=tf.data.Dataset.random())

    def _serialized(self, seed: int | None) -> tf.data.Dataset:
        return serialized_batches(
            self.dataset,
            self.schema,
            self.config.window,
            batch_size=self.batch_size,
            seed=seed,
        )

    def _cut(self, batches: tf.data.Dataset, *, numbers: tf.data.Dataset) -> tf.data.Dataset:
        drawn = self.config.loss.catalogue_negatives
        return cut_batches(
            batches,
            self.schema,
            self.config.window,
            numbers=numbers,
            catalogue=Catalogue(self.dataset).sold() if drawn else None,
            catalogue_negatives=drawn,
        )


def _first_number(config: Config) -> int:
    """Where a run's numbers of batches begin, far from those of other seeds."""
    return config.training.seed << 32


def measure(dataset: str | pathlib.Path, schema: Schema, config: Config) -> Candidates:
    """One pass over the training users: how many there are, and how often items come up."""
    records = load_records(dataset, names.TRAIN, schema, config.window)
    batches = cut_batches(
        records.batch(_MEASURED_TOGETHER),
        schema,
        config.window,
        numbers=tf.data.Dataset.counter(start=_first_number(config)),
    )
    return measure_candidates(
        batches,
        item_rows=schema.item_rows,
        negatives_per_user=config.loss.negatives_per_user,
    )
