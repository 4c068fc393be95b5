"""`guim train`: from a data set folder to a run folder that always can be resumed.

A run folder holds `config.json`, `schema.json`, `vocabularies/`, `checkpoints/` (the last epoch,
to resume from), `best/` (weights of the best epoch, to export), `history.jsonl` (one line an
epoch), `tensorboard/` and, when training is over, `result.json`.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil
import sys
import time
from typing import Any

import tensorflow as tf

from guim_tf import schema as names
from guim_tf.config import Config, ConfigError, from_dict, load, to_json
from guim_tf.data import (
    Catalogue,
    DatasetError,
    cut_batches,
    load_dataset,
    load_records,
    serialized_batches,
    training_cutoff,
)
from guim_tf.keras_compat import keras
from guim_tf.model import GUIM, TableRows
from guim_tf.optimizers import build_optimizer
from guim_tf.schema import Schema
from guim_tf.validation import Validation, ValidationRecall

CONFIG_FILE = "config.json"
HISTORY_FILE = "history.jsonl"
RESULT_FILE = "result.json"
BEST = "best"


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What came of a run.

    epochs: epochs trained, all sessions together; best_epoch: counted from 1; best: its validation
    recall@100, or None where no validation user has an event on each side of T; minutes: time spent
    in epochs, all sessions together.
    """

    run: str
    epochs: int
    best_epoch: int
    best: float | None
    users: int
    validation_users: int
    steps: int
    parameters: int
    minutes: float
    seed: int


def train(
    *,
    dataset: str | pathlib.Path,
    run: str | pathlib.Path,
    config: Config = Config(),  # noqa: B008 - frozen
    restart: bool = False,
    progress: bool = True,
) -> TrainResult:
    """Trains a model, or resumes where an earlier call of the same run was cut off.

    Args:
      dataset: what `guim build-dataset` wrote.
      run: the run folder; made, or resumed when it holds the same configuration.
      config: the whole configuration.
      restart: throw away what the run folder holds.
      progress: show a progress bar with the losses.

    Raises:
      DatasetError, SchemaError: the data set is damaged, or has no user to learn from.
      ConfigError: the run folder belongs to another configuration or data set.
    """
    run = pathlib.Path(run)
    schema = Schema.load(dataset)
    _prepare_run(run, pathlib.Path(dataset), schema, config, restart=restart)
    result_file = run / RESULT_FILE
    if result_file.is_file():
        return TrainResult(**json.loads(result_file.read_text(encoding="utf-8")))

    keras.utils.set_random_seed(config.training.seed)
    cutoff = training_cutoff(schema, config.window)
    users = _count_users(dataset, cutoff, config)
    steps = users // config.training.batch_size
    model = build_model(schema, config, Catalogue(dataset))
    model.compile(
        optimizer=build_optimizer(config.training, total_steps=steps * config.training.epochs)
    )
    validation = Validation(dataset, cutoff, config.window)
    state = RunState(run, model, patience=config.training.patience)
    done = state.resume()
    callbacks = [ValidationRecall(validation)] if validation.users else []
    callbacks += [state, keras.callbacks.TensorBoard(run / "tensorboard", write_graph=False)]
    if not state.stopped:
        model.fit(
            _passes(dataset, schema, config, done=done, steps=steps),
            steps_per_epoch=steps,
            initial_epoch=done,
            epochs=config.training.epochs,
            validation_data=load_dataset(
                dataset,
                names.VALIDATION,
                window=config.window,
                batch_size=config.training.batch_size,
            )
            if validation.users
            else None,
            callbacks=callbacks,
            verbose=("auto" if sys.stdout.isatty() else 2) if progress else 0,
        )
    result = TrainResult(
        run=str(run),
        epochs=int(state.epoch),
        best_epoch=int(state.best_epoch),
        best=float(state.best) if validation.users else None,
        users=users,
        validation_users=validation.users,
        steps=steps * int(state.epoch),
        parameters=sum(int(tf.size(v)) for v in model.trainable_variables),
        minutes=round(sum(line["seconds"] for line in read_history(run)) / 60, 2),
        seed=config.training.seed,
    )
    _write(result_file, json.dumps(dataclasses.asdict(result)) + "\n")
    return result


def build_model(schema: Schema, config: Config, catalogue: Catalogue | None = None) -> GUIM:
    """A fresh model; `catalogue` gives the item frequencies for logQ."""
    return GUIM(
        TableRows.of(schema),
        model=config.model,
        loss=config.loss,
        sampling_probability=None
        if catalogue is None
        else catalogue.sampling_probability(schema.item_rows),
        seed=config.training.seed,
    )


def load_run(run: str | pathlib.Path) -> tuple[GUIM, Config, Schema]:
    """The best weights of a run, with what they were trained by.

    Raises:
      ConfigError: the folder is no run, or no epoch has ended yet.
    """
    run = pathlib.Path(run)
    best = tf.train.latest_checkpoint(str(run / BEST))
    if best is None:
        raise ConfigError(
            f"{run} holds no trained weights: no epoch of `guim train` has ended there yet."
        )
    config = load(Config, run / CONFIG_FILE)
    schema = Schema.load(run)
    model = build_model(schema, config)
    tf.train.Checkpoint(model=model).restore(
        best
    ).expect_partial().assert_existing_objects_matched()
    return model, config, schema


def read_history(run: str | pathlib.Path) -> list[dict[str, Any]]:
    """The lines of `history.jsonl`, one an epoch."""
    path = pathlib.Path(run, HISTORY_FILE)
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class RunState(keras.callbacks.Callback):
    """Keeps what a run needs to be resumed: weights, optimiser, epoch, best epoch and its weights.

    All of it is in one checkpoint, so a kill at any moment leaves the state of one epoch. Where
    there is no validation the last epoch counts as the best.

    Args:
      run: the run folder.
      model: compiled, with its variables made.
      patience: epochs without a better validation recall before training stops.
    """

    def __init__(self, run: pathlib.Path, model: GUIM, *, patience: int) -> None:
        super().__init__()
        model.optimizer.build(model.trainable_variables)
        self._run = run
        self._patience = patience
        self._started = time.monotonic()
        self.epoch = tf.Variable(0, dtype=tf.int64)
        self.best = tf.Variable(float("-inf"))
        self.best_epoch = tf.Variable(0, dtype=tf.int64)
        checkpoint = tf.train.Checkpoint(
            model=model,
            optimizer=model.optimizer,
            epoch=self.epoch,
            best=self.best,
            best_epoch=self.best_epoch,
        )
        self._last = tf.train.CheckpointManager(checkpoint, str(run / "checkpoints"), max_to_keep=2)
        self._best = tf.train.CheckpointManager(
            tf.train.Checkpoint(model=model), str(run / BEST), max_to_keep=1
        )

    @property
    def stopped(self) -> bool:
        """Whether patience has run out."""
        return int(self.epoch) - int(self.best_epoch) >= self._patience

    def resume(self) -> int:
        """Restores the last checkpoint, if any; returns how many epochs are done."""
        self._last.restore_or_initialize()
        done = int(self.epoch)
        if done:
            lines = [json.dumps(line) + "\n" for line in read_history(self._run)[:done]]
            _write(self._run / HISTORY_FILE, "".join(lines))
            print(f"Resuming {self._run} after epoch {done}.", file=sys.stderr)
        return done

    def on_epoch_begin(self, epoch, logs=None):
        self._started = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        done = epoch + 1
        recall = logs.get(ValidationRecall.NAME)
        if recall is None or recall > float(self.best):
            self.best.assign(recall or 0.0)
            self.best_epoch.assign(done)
            self._best.save(checkpoint_number=done)
        self.epoch.assign(done)
        line = {"epoch": done, "seconds": round(time.monotonic() - self._started, 3)}
        line |= {key: float(value) for key, value in logs.items()}
        with (self._run / HISTORY_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._last.save(checkpoint_number=done)
        self.model.stop_training = self.stopped


def _passes(
    dataset: str | pathlib.Path, schema: Schema, config: Config, *, done: int, steps: int
) -> tf.data.Dataset:
    """All passes over the training users but the first `done`; pass n has the same order always."""
    batches = serialized_batches(
        dataset,
        names.TRAIN,
        window=config.window,
        batch_size=config.training.batch_size,
        shuffle_seed=config.training.seed,
    )
    rest = batches.repeat(config.training.epochs).skip(done * steps)
    return cut_batches(rest, schema, config.window)


def _count_users(dataset: str | pathlib.Path, cutoff: int, config: Config) -> int:
    records = load_records(dataset, names.TRAIN, cutoff, config.window)
    users = int(records.reduce(tf.constant(0, tf.int64), lambda count, _: count + 1))
    if users < config.training.batch_size:
        raise DatasetError(
            f"{users} training users of {dataset} have an event both in the "
            f"{config.window.history_days} days before the cut-off and in the "
            f"{config.window.target_days} days from it; a batch needs "
            f"{config.training.batch_size}. Use a longer log, longer windows or smaller batches."
        )
    return users


def _prepare_run(
    run: pathlib.Path, dataset: pathlib.Path, schema: Schema, config: Config, *, restart: bool
) -> None:
    """Makes the run folder, or checks that an existing one is of the same making."""
    if restart and (run / CONFIG_FILE).is_file():
        shutil.rmtree(run)
    if (run / CONFIG_FILE).is_file():
        mine = load(Config, run / CONFIG_FILE)
        if mine != config:
            raise ConfigError(
                f"{run} was started with another configuration ({run / CONFIG_FILE}). Choose "
                "another run folder, or throw the old run away with --restart."
            )
        Schema.load(run).require_match(schema, mine=f"The run {run}", theirs=f"{dataset}")
        return
    if run.exists() and any(run.iterdir()):
        raise ConfigError(f"{run} is not empty and not a run folder. Choose another one.")
    new = run.with_name(run.name + ".new")  # renamed when complete: a folder is a run or it is not
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(dataset / "vocabularies", new / "vocabularies")
    schema.save(new)
    _write(new / CONFIG_FILE, to_json(config))
    new.replace(run)


def configure(config: Config, settings: list[str]) -> Config:
    """Applies settings such as `training.epochs=10`; values are JSON, or else text.

    Raises:
      ConfigError: no such section or field, or a value that the field refuses.
    """
    fields = dataclasses.asdict(config)
    for setting in settings:
        path, _, text = setting.partition("=")
        section, _, field = path.partition(".")
        if not (text and field and field in fields.get(section, {})):
            raise ConfigError(
                f"--set {setting}: expected section.field=value, with one of "
                + ", ".join(f"{name}.{key}" for name in fields for key in fields[name])
                + "."
            )
        try:
            fields[section][field] = json.loads(text)
        except json.JSONDecodeError:
            fields[section][field] = text
    return from_dict(Config, fields, where="configuration")


def main(argv: list[str] | None = None) -> int:
    """The command `guim train`."""
    parser = argparse.ArgumentParser(
        prog="guim train",
        description="Trains GUIM on a data set folder. The same command again resumes a run that "
        "was cut off, from the end of its last epoch.",
        epilog="examples:\n"
        "  guim train --dataset work/dataset --run work/run\n"
        "  guim train --dataset work/dataset --run work/c1 --set model.interests=1\n"
        "  guim train --dataset work/dataset --run work/run --config my.json --restart\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", required=True, help="folder that build-dataset wrote")
    parser.add_argument("--run", required=True, help="folder of the run: made, or resumed")
    parser.add_argument("--config", help="JSON configuration; the paper's choices where left out")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="change one value of the configuration; may be repeated",
    )
    parser.add_argument("--restart", action="store_true", help="throw away an earlier run")
    arguments = parser.parse_args(argv)
    try:
        config = load(Config, arguments.config) if arguments.config else Config.paper()
        result = train(
            dataset=arguments.dataset,
            run=arguments.run,
            config=configure(config, arguments.set),
            restart=arguments.restart,
        )
    except ValueError as e:
        print(f"guim train: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\nguim train: interrupted. The same command resumes after the last finished epoch.",
            file=sys.stderr,
        )
        return 130
    print(json.dumps(dataclasses.asdict(result)))
    return 0


def _write(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
