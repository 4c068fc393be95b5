"""One configuration with one seed: trained, exported and evaluated, each step once.

Vectors made elsewhere are evaluated alone.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from guim_tf.artifacts import versions
from guim_tf.benchmark.suite import Entry, Suite
from guim_tf.config import Config
from guim_tf.evaluation import evaluate
from guim_tf.evaluation.vector_files import vector_paths
from guim_tf.export import ITEM_ENCODER, USER_ENCODER, export
from guim_tf.keras_compat import keras
from guim_tf.runs import CONFIG_FILE, RESULT_FILE, write_whole
from guim_tf.strict_json import ConfigError, load
from guim_tf.training import train

REPORT_FILE = "report.json"
FILES_FILE = "vectors.json"
TRAININGS_FILE = "trainings.json"  # what an export or a report was made of


@dataclasses.dataclass(frozen=True)
class Training:
    """One training that a model is made of, and its folder."""

    config: Config
    run: pathlib.Path

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
    def finished(self) -> bool:
        return (self.run / RESULT_FILE).is_file() and not self.changed


@dataclasses.dataclass(frozen=True)
class Cell:
    """A configuration and a seed, with the folders of what comes of them."""

    name: str
    seed: int
    members: tuple[Training, ...]
    models: pathlib.Path
    report: pathlib.Path
    exclude_seen: bool = False

    @property
    def trained(self) -> bool:
        return all(member.finished for member in self.members)

    @property
    def exported(self) -> bool:
        return self._is_of(self.models) and all(
            versions(self.models, name) for name in (USER_ENCODER, ITEM_ENCODER)
        )

    @property
    def evaluated(self) -> bool:
        return (
            self.trained
            and self._is_of(self.report)
            and measured(self.report, exclude_seen=self.exclude_seen)
        )

    @property
    def training(self) -> dict[str, Any]:
        """What its trainings have left: epochs of the first, minutes, parameters, builds of all."""
        results = [read_json(member.run / RESULT_FILE) for member in self.members]
        return {
            **results[0],
            **{name: sum(result[name] for result in results) for name in ("minutes", "parameters")},
            "builds": sorted({result.get("build") or "unknown" for result in results}),
        }

    def finish(
        self, *, dataset: str | pathlib.Path, say: Callable[[str], None], progress: bool
    ) -> None:
        """Does what is not yet done; an interrupted training is resumed.

        Args:
          dataset: what `guim build-dataset` wrote.
          say: is told each step as it begins.
          progress: shows training's own progress.

        Raises:
          ValueError: a step has failed; the steps before it are kept.
        """
        for i, member in enumerate(self.members):
            if member.changed:
                say("its configuration has changed: starting anew")
                shutil.rmtree(member.run, ignore_errors=True)
            if not member.finished:
                say(
                    "training"
                    if len(self.members) == 1
                    else f"training {i + 1} of {len(self.members)}"
                )
                member.run.parent.mkdir(parents=True, exist_ok=True)
                train(dataset=dataset, run=member.run, config=member.config, progress=progress)
                _let_go()
        if not self.exported:
            say("exporting")
            shutil.rmtree(self.models, ignore_errors=True)  # one encoder without the other
            runs = [member.run for member in self.members]
            export(run=runs, models=self.models, dataset=dataset)
            self._note(self.models)
        if not self.evaluated:
            say("evaluating")
            evaluate(
                dataset=dataset,
                models=self.models,
                output=self.report,
                run=self.members[0].run,
                baselines=False,
                exclude_seen=self.exclude_seen,
            )
            self._note(self.report)
        _let_go()

    def _trainings(self) -> dict[str, Any]:
        """What tells these trainings from others: a member's may have been made anew elsewhere."""
        files = (CONFIG_FILE, RESULT_FILE)
        return {x: [read_json(member.run / x) for member in self.members] for x in files}

    def _is_of(self, folder: pathlib.Path) -> bool:
        """Whether a folder was made of these trainings."""
        noted = folder / TRAININGS_FILE
        return noted.is_file() and read_json(noted) == self._trainings()

    def _note(self, folder: pathlib.Path) -> None:
        write_whole(folder / TRAININGS_FILE, json.dumps(self._trainings(), indent=1) + "\n")


@dataclasses.dataclass(frozen=True)
class GivenCell:
    """Files of vectors made elsewhere, of one seed, and the folder of their report.

    The files as they were when they were scored are noted beside the report: others that take
    their place are scored again.
    """

    name: str
    seed: int
    user_vectors: pathlib.Path
    item_vectors: pathlib.Path
    score: str
    report: pathlib.Path
    exclude_seen: bool = False
    training: None = None

    @property
    def evaluated(self) -> bool:
        if not measured(self.report, exclude_seen=self.exclude_seen):
            return False
        noted = self.report / FILES_FILE
        return noted.is_file() and read_json(noted) == self._files()

    def finish(
        self, *, dataset: str | pathlib.Path, say: Callable[[str], None], progress: bool
    ) -> None:
        """As of `Cell`."""
        del progress
        say("evaluating")
        files = self._files()
        evaluate(
            dataset=dataset,
            models=None,
            user_vectors=self.user_vectors,
            item_vectors=self.item_vectors,
            score=self.score,
            output=self.report,
            baselines=False,
            exclude_seen=self.exclude_seen,
        )
        write_whole(self.report / FILES_FILE, json.dumps(files, indent=1) + "\n")

    def _files(self) -> dict[str, Any]:
        """What tells files from others that take their place."""
        found: dict[str, Any] = {"score": self.score}
        for vectors in (self.user_vectors, self.item_vectors):
            for path in vector_paths(vectors):
                known = path.stat() if path.is_file() else None
                found[str(path)] = known and [known.st_size, known.st_mtime_ns]
        return found


def cells(
    suite: Suite, output: pathlib.Path, *, folder: pathlib.Path = pathlib.Path()
) -> list[Cell | GivenCell]:
    """All cells: of the first seed all configurations, then of the next, so that an unfinished
    suite compares as many configurations as it can.

    Args:
      suite: what to run.
      output: where everything goes.
      folder: that paths of vectors are relative to.
    """
    runs = {
        suite.config(entry, seed): output / "runs" / entry.name / str(seed)
        for entry in suite.configurations
        if entry.members == 1
        for seed in suite.seeds
    }
    found: list[Cell | GivenCell] = []
    for i, seed in enumerate(suite.seeds):
        found += [_cell(suite, entry, seed, output, runs) for entry in suite.configurations]
        found += [
            GivenCell(
                entry.name,
                seed,
                *entry.files(folder, seed),
                entry.score,
                output / "reports" / entry.name / str(seed),
                suite.exclude_seen,
            )
            for entry in suite.vectors
            if entry.seeded or i == 0
        ]
    return found


def _cell(
    suite: Suite, entry: Entry, seed: int, output: pathlib.Path, runs: Mapping[Config, pathlib.Path]
) -> Cell:
    """Members that are a run of another cell as well are trained once, in that one's folder."""
    folder = str(seed) if entry.members == 1 else f"{seed}x{entry.members}"
    own, models, report = (
        output / room / entry.name / folder for room in ("runs", "models", "reports")
    )
    configs = [suite.config(entry, of) for of in entry.seeds(seed)]
    members = tuple(
        Training(config, runs.get(config, own / str(config.training.seed))) for config in configs
    )
    return Cell(entry.name, seed, members, models, report, suite.exclude_seen)


def _let_go() -> None:
    """Frees the models of a step: Keras keeps what it has made."""
    keras.backend.clear_session()
    gc.collect()


def measured(report: pathlib.Path, *, exclude_seen: bool) -> bool:
    """Whether a folder holds an evaluation, by the protocol that is asked for."""
    file = report / REPORT_FILE
    if not file.is_file():
        return False
    return read_json(file)["protocol"].get("exclude_seen", False) == exclude_seen


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """What an earlier step wrote."""
    return json.loads(path.read_text(encoding="utf-8"))
