"""A run folder: what one training leaves behind, and how it is resumed.

It holds `config.json`, `init_from.json` (the run that it began with, if any), `schema.json`,
`vocabularies/`, `checkpoints/` (the last state, to resume from), `best/` (weights of the best
epoch, to export), `history.jsonl` (one line an epoch), `tensorboard/` and, when training is over,
`result.json`.
"""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from guim_tf.config import CHOSEN_WEIGHTS, Config, RetrievalConfig, TrainingConfig
from guim_tf.divergence import require_finite
from guim_tf.keras_compat import keras
from guim_tf.model import GUIM, TableRows
from guim_tf.optimizers import RowwiseAdamW, build_optimizer
from guim_tf.schema import Schema
from guim_tf.strict_json import ConfigError, load, to_json
from guim_tf.validation import ValidationRecall

CONFIG_FILE = "config.json"
HISTORY_FILE = "history.jsonl"
RESULT_FILE = "result.json"
CHECKPOINTS = "checkpoints"
BEST = "best"
INIT_FILE = "init_from.json"


def prepare_run(
    run: pathlib.Path,
    dataset: pathlib.Path,
    schema: Schema,
    config: Config,
    *,
    init_from: pathlib.Path | None,
    restart: bool,
) -> None:
    """Makes the run folder, or checks that an existing one is of the same making."""
    base = json.dumps({"run": str(init_from.resolve()) if init_from else None}) + "\n"
    if init_from and init_from.resolve() == run.resolve():
        raise ConfigError(f"{run} can't begin with itself. Choose another run folder.")
    if config.model.actions and not schema.actions:
        raise ConfigError(
            f"ModelConfig.actions is true, and {dataset} has no action types. Name the column "
            "`action` in the mapping and build the data set again, or set model.actions=false."
        )
    if restart and (run / CONFIG_FILE).is_file():
        shutil.rmtree(run)
    if (run / CONFIG_FILE).is_file():
        mine = load(Config, run / CONFIG_FILE)
        if mine != config:
            raise ConfigError(
                f"{run} was started with another configuration ({run / CONFIG_FILE}). Choose "
                "another run folder, or throw the old run away with --restart."
            )
        if (run / INIT_FILE).read_text(encoding="utf-8") != base:
            raise ConfigError(
                f"{run} began with other weights ({run / INIT_FILE}) than --init-from names. Name "
                "the same ones, choose another run folder, or throw the old run away with "
                "--restart."
            )
        Schema.load(run).require_match(schema, mine=f"The run {run}", theirs=f"{dataset}")
        return
    if run.exists() and any(run.iterdir()):
        raise ConfigError(f"{run} is not empty and not a run folder. Choose another one.")
    new = run.with_name(run.name + ".new")  # renamed when complete: a folder is a run or it is not
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(dataset / "vocabularies", new / "vocabularies")
    schema.save(new)
    write_whole(new / INIT_FILE, base)
    write_whole(new / CONFIG_FILE, to_json(config))
    new.replace(run)


def build_model(
    schema: Schema, config: Config, sampling_probability: np.ndarray | None = None
) -> GUIM:
    """A fresh model by a configuration; see `GUIM` for `sampling_probability`."""
    return GUIM(
        TableRows.of(schema),
        model=config.model,
        loss=config.loss,
        sampling_probability=sampling_probability,
        seed=config.training.seed,
        parts=config.training.parts,
    )


def load_run(run: str | pathlib.Path) -> tuple[GUIM, Config, Schema]:
    """The best weights of a run, with what they were trained by.

    Weights of `retrieval` that are null become those that training chose; 0 before its end.

    Raises:
      ConfigError: the folder is no run, or no epoch has ended yet.
    """
    run = pathlib.Path(run)
    best = tf.train.latest_checkpoint(str(run / BEST))
    if best is None:
        raise ConfigError(
            f"{run} holds no trained weights: no epoch of `guim train` has ended there yet."
        )
    config = load_config(run)
    schema = Schema.load(run)
    model = build_model(schema, config)
    _weights(model).restore(best).expect_partial().assert_existing_objects_matched()
    return model, config, schema


def _weights(model: GUIM) -> tf.train.Checkpoint:
    """What is kept of a model: not its metrics, which several workers could only save in step."""
    return tf.train.Checkpoint(
        item_encoder=model.item_encoder,
        user_encoder=model.user_encoder,
        sampling_probability=model.sampling_probability,
    )


def load_config(run: str | pathlib.Path) -> Config:
    """The configuration of a run; null weights of `retrieval` become those that training chose."""
    file = pathlib.Path(run, CONFIG_FILE)
    if not file.is_file():
        raise ConfigError(f"{run} is no run folder: it has no {CONFIG_FILE}.")
    config = load(Config, file)
    return dataclasses.replace(config, retrieval=_chosen(file.parent, config.retrieval))


def load_optimizer(run: str | pathlib.Path, model: GUIM, config: TrainingConfig) -> RowwiseAdamW:
    """An optimiser of a model of `load_run`, with the state of the run's last checkpoint.

    Raises:
      RunError: there is none, or it can't be read.
    """
    optimizer = build_optimizer(config, total_steps=1)
    optimizer.build(model.trainable_variables)
    folder = pathlib.Path(run, CHECKPOINTS)
    last = tf.train.latest_checkpoint(str(folder))
    if last is None:
        raise RunError(f"{folder} holds no checkpoint: the state of the optimiser is needed.")
    with _read(last):
        tf.train.Checkpoint(optimizer=optimizer).restore(
            last
        ).expect_partial().assert_existing_objects_matched()
    return optimizer


def _chosen(run: pathlib.Path, asked: RetrievalConfig) -> RetrievalConfig:
    file = run / RESULT_FILE
    result = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    open_ones = [name for name in CHOSEN_WEIGHTS if getattr(asked, name) is None]
    return dataclasses.replace(asked, **{name: result.get(name, 0.0) for name in open_ones})


def read_history(run: str | pathlib.Path) -> list[dict[str, Any]]:
    """The lines of `history.jsonl`, one an epoch; a last line that a kill cut off is left out."""
    path = pathlib.Path(run, HISTORY_FILE)
    if not path.is_file():
        return []
    whole = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in whole]


class RunError(ValueError):
    """A run folder can't be written, or its checkpoint not be read."""


class RunState(keras.callbacks.Callback):
    """Keeps what a run needs to be resumed: weights, optimiser, epoch, step, best epoch and so on.

    All of it is in one checkpoint, so a kill at any moment leaves the state of one step. Where
    training stands is `epoch`, the epochs done, and `step`, the steps done in the next one. This
    one saves at the end of an epoch.

    Args:
      run: the run folder.
      model: compiled, its optimiser with its variables made.
      steps: of an epoch.
      patience: epochs without a better validation recall before training stops; None never stops
        and takes the last epoch for the best.
      writes: whether the folder is this process's to write.
    """

    def __init__(
        self,
        run: pathlib.Path,
        model: GUIM,
        *,
        steps: int,
        patience: int | None,
        writes: bool = True,
    ) -> None:
        super().__init__()
        self.run = run
        self.steps = steps
        self._patience = patience
        self._writes = writes
        self._started = time.monotonic()
        self.epoch = tf.Variable(0, dtype=tf.int64)
        self.step = tf.Variable(0, dtype=tf.int64)
        self.seconds = tf.Variable(0.0, dtype=tf.float64)  # in this epoch, before this session
        self.best = tf.Variable(float("-inf"))
        self.best_epoch = tf.Variable(0, dtype=tf.int64)
        self._metrics = [variable for metric in model.metrics for variable in metric.variables]
        self.means = tf.Variable(tf.zeros([len(self._metrics)]))  # of an epoch that was begun
        checkpoint = tf.train.Checkpoint(
            weights=_weights(model),
            optimizer=model.optimizer,
            epoch=self.epoch,
            step=self.step,
            seconds=self.seconds,
            best=self.best,
            best_epoch=self.best_epoch,
            means=self.means,
        )
        best = _weights(model)
        for each in (checkpoint, best):
            _ = each.save_counter  # is made now; in `fit` it would be a variable of all workers
        self._last = tf.train.CheckpointManager(checkpoint, str(run / CHECKPOINTS), max_to_keep=2)
        self._best = tf.train.CheckpointManager(best, str(run / BEST), max_to_keep=1)

    @property
    def stopped(self) -> bool:
        """Whether patience has run out."""
        waited = int(self.epoch) - int(self.best_epoch)
        return self._patience is not None and waited >= self._patience

    @property
    def done(self) -> int:
        """Steps done in all."""
        return int(self.epoch) * self.steps + int(self.step)

    def resume(self) -> bool:
        """Restores the last checkpoint; False where there is none."""
        found = self._last.latest_checkpoint
        if found is None:
            return False
        with _read(found):
            self._last.checkpoint.restore(found).assert_existing_objects_matched()
        if self._writes:
            lines = [json.dumps(line) + "\n" for line in read_history(self.run)[: int(self.epoch)]]
            write_whole(self.run / HISTORY_FILE, "".join(lines))
        inside = f", step {int(self.step)} of the next" if int(self.step) else ""
        print(f"Resuming {self.run} after epoch {int(self.epoch)}{inside}.", file=sys.stderr)
        return True

    def keep_untrained(self) -> None:
        """The weights as they are become the best ones, of epoch 0."""
        self._write(self._best, 0)
        self._write(self._last, 0)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        assert logs is not None
        done = epoch + 1
        recall = logs.get(ValidationRecall.NAME)
        if recall is None or self._patience is None or recall > float(self.best):
            self.best.assign(recall or 0.0)
            self.best_epoch.assign(done)
            self._write(self._best, done)
        line = {"epoch": done, "seconds": round(self._seconds(), 3)}
        line |= {key: float(value) for key, value in logs.items()}
        if self._writes:
            path = self.run / HISTORY_FILE
            with _written(self.run), path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        self.epoch.assign(done)
        self.step.assign(0)
        self.seconds.assign(0.0)
        self._write(self._last, self.done)
        self.model.stop_training = self.stopped

    def _seconds(self) -> float:
        """Time spent in this epoch, over all sessions."""
        return float(self.seconds) + time.monotonic() - self._started

    def _write(self, manager: tf.train.CheckpointManager, number: int) -> None:
        if not self._writes:
            return
        with _written(self.run):
            if not self.run.is_dir():
                raise FileNotFoundError(f"{self.run} is gone")
            manager.save(checkpoint_number=number)


class SteppedRunState(RunState):
    """Counts steps, and saves inside an epoch too.

    Args:
      run, model, **options: as of `RunState`.
      save_minutes: how often.
      keep_means: whether the means of an epoch that is resumed go on; they are of its rest else.
    """

    def __init__(
        self,
        run: pathlib.Path,
        model: GUIM,
        *,
        save_minutes: float,
        keep_means: bool,
        **options: Any,
    ) -> None:
        super().__init__(run, model, **options)
        self._keep_means = keep_means
        self._save_seconds = 60 * save_minutes
        self._saved = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        if self._keep_means:
            for variable, value in zip(self._metrics, self.means.numpy(), strict=True):
                variable.assign(value)
            self.means.assign(tf.zeros_like(self.means))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.step.assign_add(1)
        if time.monotonic() - self._saved > self._save_seconds and int(self.step) < self.steps:
            self.save()

    def save(self) -> None:
        """Writes a checkpoint between two steps; at the end of an epoch that is left to it."""
        if int(self.step) == self.steps:
            return
        require_finite(self.model)
        before = float(self.seconds)
        self.seconds.assign(self._seconds())
        if self._keep_means:
            self.means.assign([float(variable) for variable in self._metrics])
        self._write(self._last, self.done)
        self.seconds.assign(before)
        self.means.assign(tf.zeros_like(self.means))

    def _write(self, manager: tf.train.CheckpointManager, number: int) -> None:
        super()._write(manager, number)
        self._saved = time.monotonic()


@contextlib.contextmanager
def _read(checkpoint: str) -> Iterator[None]:
    """Says what can be done where a checkpoint can't be read."""
    try:
        yield
    except (tf.errors.OpError, AssertionError, ValueError, IndexError) as e:
        raise RunError(
            f"{checkpoint} can't be read: {e}. It is damaged, or of another version of guim_tf. "
            "Train in another run folder, or throw this run away with --restart."
        ) from e


@contextlib.contextmanager
def _written(run: pathlib.Path) -> Iterator[None]:
    """Says what can be done where a file of the run can't be written."""
    try:
        yield
    except (OSError, tf.errors.OpError) as e:
        raise RunError(
            f"{run} can't be written: {e}. The last whole checkpoint there is kept. Make room or "
            "bring the folder back; the same command then resumes."
        ) from e


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
