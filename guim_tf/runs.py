"""A run folder: what one training leaves behind.

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
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from guim_tf.config import CHOSEN_WEIGHTS, Config, RetrievalConfig, TrainingConfig
from guim_tf.model import GUIM, TableRows
from guim_tf.optimizers import RowwiseAdamW, build_optimizer
from guim_tf.schema import Schema
from guim_tf.strict_json import ConfigError, load, to_json

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
    weights_of(model).restore(best).expect_partial().assert_existing_objects_matched()
    return model, config, schema


def weights_of(model: GUIM) -> tf.train.Checkpoint:
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
    with reading(last):
        tf.train.Checkpoint(optimizer=optimizer).restore(
            last
        ).expect_partial().assert_existing_objects_matched()
    return optimizer


def has_chosen(run: str | pathlib.Path) -> bool:
    """Whether a run has the weights of lists that its end was to choose, if any."""
    asked = load(Config, pathlib.Path(run, CONFIG_FILE)).retrieval
    given = all(getattr(asked, name) is not None for name in CHOSEN_WEIGHTS)
    return given or pathlib.Path(run, RESULT_FILE).is_file()


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


@contextlib.contextmanager
def reading(checkpoint: str) -> Iterator[None]:
    """Says what can be done where a checkpoint can't be read."""
    try:
        yield
    except (tf.errors.OpError, AssertionError, ValueError, IndexError) as e:
        raise RunError(
            f"{checkpoint} can't be read: {e}. It is damaged, or of another version of guim_tf. "
            "Train in another run folder, or throw this run away with --restart."
        ) from e


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
