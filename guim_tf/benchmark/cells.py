"""One configuration with one seed: trained, exported and evaluated, each step once."""

from __future__ import annotations

import dataclasses
import gc
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

from guim_tf.artifacts import versions
from guim_tf.benchmark.suite import Entry, Suite
from guim_tf.config import Config, ConfigError, load
from guim_tf.evaluation import evaluate
from guim_tf.export import ITEM_ENCODER, USER_ENCODER, export
from guim_tf.keras_compat import keras
from guim_tf.runs import CONFIG_FILE, RESULT_FILE
from guim_tf.training import train

REPORT_FILE = "report.json"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A configuration and a seed, with the folders of what comes of them."""

    name: str
    seed: int
    config: Config
    run: pathlib.Path
    models: pathlib.Path
    report: pathlib.Path

    @property
    def changed(self) -> bool:
        """Whether the run folder holds another configuration than this one."""
        file = self.run / CONFIG_FILE
        if not file.is_file():
            return False
        try:
            return load(Config, file) != self.config
        except ConfigError:  # written by an earlier version, with fields that are no more
            return True

    @property
    def trained(self) -> bool:
        return (self.run / RESULT_FILE).is_file() and not self.changed

    @property
    def exported(self) -> bool:
        return all(versions(self.models, name) for name in (USER_ENCODER, ITEM_ENCODER))

    @property
    def evaluated(self) -> bool:
        return self.trained and (self.report / REPORT_FILE).is_file()


def cells(suite: Suite, output: pathlib.Path) -> list[Cell]:
    """All cells: of the first seed all configurations, then of the next, so that an unfinished
    suite compares as many configurations as it can."""
    return [
        _cell(suite, entry, seed, output) for seed in suite.seeds for entry in suite.configurations
    ]


def _cell(suite: Suite, entry: Entry, seed: int, output: pathlib.Path) -> Cell:
    run, models, report = (
        output / room / entry.name / str(seed) for room in ("runs", "models", "reports")
    )
    return Cell(entry.name, seed, suite.config(entry, seed), run, models, report)


def run_cell(
    cell: Cell, *, dataset: str | pathlib.Path, say: Callable[[str], None], progress: bool
) -> None:
    """Does what is not yet done of a cell; an interrupted training is resumed.

    Args:
      cell: what to run.
      dataset: what `guim build-dataset` wrote.
      say: is told each step as it begins.
      progress: shows training's own progress.

    Raises:
      ValueError: a step has failed; the steps before it are kept.
    """
    if cell.changed:
        say("its configuration has changed: starting anew")
        for folder in (cell.report, cell.models, cell.run):
            shutil.rmtree(folder, ignore_errors=True)
    if not cell.trained:
        say("training")
        for folder in (cell.report, cell.models):  # of a run that was thrown away by hand
            shutil.rmtree(folder, ignore_errors=True)
        cell.run.parent.mkdir(parents=True, exist_ok=True)
        train(dataset=dataset, run=cell.run, config=cell.config, progress=progress)
    if not cell.exported:
        say("exporting")
        shutil.rmtree(cell.models, ignore_errors=True)  # one encoder without the other
        export(run=cell.run, models=cell.models)
    if not cell.evaluated:
        say("evaluating")
        evaluate(
            dataset=dataset, models=cell.models, output=cell.report, run=cell.run, baselines=False
        )
    keras.backend.clear_session()
    gc.collect()


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """What an earlier step wrote."""
    return json.loads(path.read_text(encoding="utf-8"))
