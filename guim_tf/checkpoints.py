"""How a training can be resumed: its state is kept in its run folder while it goes on."""

import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from guim_tf.divergence import require_finite
from guim_tf.keras_compat import keras
from guim_tf.model import GUIM
from guim_tf.runs import (
    BEST,
    CHECKPOINTS,
    HISTORY_FILE,
    RunError,
    read_history,
    reading,
    weights_of,
    write_whole,
)
from guim_tf.validation import ValidationRecall


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
            weights=weights_of(model),
            optimizer=model.optimizer,
            epoch=self.epoch,
            step=self.step,
            seconds=self.seconds,
            best=self.best,
            best_epoch=self.best_epoch,
            means=self.means,
        )
        best = weights_of(model)
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
        with reading(found):
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
def _written(run: pathlib.Path) -> Iterator[None]:
    """Says what can be done where a file of the run can't be written."""
    try:
        yield
    except (OSError, tf.errors.OpError) as e:
        raise RunError(
            f"{run} can't be written: {e}. The last whole checkpoint there is kept. Make room or "
            "bring the folder back; the same command then resumes."
        ) from e
