"""From the reports of all runs to one document of plain numbers: what `results.json` holds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from guim_tf.benchmark.intervals import Estimate, estimate, paired, paired_percent
from guim_tf.benchmark.suite import Entry, Suite
from guim_tf.config import to_json

CPP = "CPP"  # accuracies by label, where the data set has labels (section 4.2.2)

Report = Mapping[str, Any]  # `report.json` of one run
Values = dict[int, float | None]  # by seed


class ResultsError(ValueError):
    """Reports of runs can't be compared."""


@dataclasses.dataclass(frozen=True)
class Finished:
    """One run that is through: its training's `result.json` and its `report.json`."""

    seed: int
    training: Mapping[str, Any]
    report: Report
    path: str  # of the run's own page, relative to the output folder

    @property
    def method(self) -> Mapping[str, Any]:
        """The row of the model in its report, with its accuracy by label."""
        row = next(x for x in self.report["methods"] if x["kind"] == "model")
        predicted = (self.report.get("profile") or {"methods": []})["methods"]
        accuracy = [x["accuracy"] for x in predicted if x["kind"] == "model"]
        return {**row, "accuracy": accuracy[0] if accuracy else {}}


def to_document(
    *,
    suite: Suite,
    finished: Mapping[str, Sequence[Finished]],
    baselines: Report,
    command: str,
    notes: Sequence[str],
) -> dict[str, Any]:
    """All numbers of a suite; a configuration of which nothing is finished is left out.

    Args:
      suite: what was asked for.
      finished: by configuration, at most one for each seed.
      baselines: the report of the baselines.
      command: that makes these numbers again.
      notes: sentences that belong beside the tables.

    Raises:
      ResultsError: the reports don't measure the same.
    """
    _require_same_measures(baselines, [run for of in finished.values() for run in of])
    entries = [entry for entry in suite.configurations if finished.get(entry.name)]
    made = {entry.name: _by_seed(finished[entry.name]) for entry in entries}
    metric = baselines["methods"][0]["slice_metric"]
    return {
        "suite": json.loads(to_json(suite)),  # lists, as they are read again
        "command": command,
        "dataset": baselines["dataset"],
        "protocol": baselines["protocol"],
        "slice_metric": metric,
        "reference": suite.reference if suite.reference in made else None,
        "configurations": [
            {
                "name": entry.name,
                "family": entry.family,
                "interests": suite.config(entry, suite.seeds[0]).model.interests,
                "settings": list(entry.settings),
                "config": dataclasses.asdict(suite.config(entry, suite.seeds[0])),
                "runs": [_run(made[entry.name][seed]) for seed in sorted(made[entry.name])],
                **_summary(made[entry.name], made.get(suite.reference)),
                "gain_percent": _gain(made[entry.name], _single(suite, entry, made), metric),
            }
            for entry in entries
        ],
        "baselines": list(baselines["methods"]),
        "profile": baselines.get("profile"),  # of the baselines; null where there are no labels
        "notes": [*baselines["notes"], *notes],
        "versions": baselines["versions"],
    }


def _require_same_measures(baselines: Report, runs: Sequence[Finished]) -> None:
    """Raises where a run's report has other tasks, metrics or labels than the baselines'."""

    def measures(report: Report) -> dict[str, list[str]]:
        labels = (report.get("profile") or {"labels": {}})["labels"]
        tasks = report["methods"][0]["tasks"]
        return {task: list(of) for task, of in tasks.items()} | {CPP: list(labels)}

    for run in runs:
        mine, theirs = measures(run.report), measures(baselines)
        if mine != theirs:
            raise ResultsError(
                f"{run.path} measures {mine}, but the baselines {theirs}: they were made by "
                "different versions. Remove the folders `reports` and `baselines` of the output; "
                "the same command then evaluates again, without training."
            )


def _by_seed(runs: Sequence[Finished]) -> dict[int, Finished]:
    return {run.seed: run for run in runs}


def _run(run: Finished) -> dict[str, Any]:
    of = run.method
    return {
        "seed": run.seed,
        "page": run.path,
        **{key: run.training[key] for key in ("epochs", "best_epoch", "parameters", "minutes")},
        "tasks": {
            task: {metric: found["mean"] for metric, found in metrics.items()}
            for task, metrics in of["tasks"].items()
        },
        "accuracy": {label: found["mean"] for label, found in of["accuracy"].items()},
        "slices": of["slices"],
        "interests": of["interests"],
    }


def _summary(runs: dict[int, Finished], reference: dict[int, Finished] | None) -> dict[str, Any]:
    """Means over seeds of everything, and differences from the reference, seed by seed."""
    first = next(iter(runs.values())).method
    found: dict[str, Any] = {
        key: {} for key in ("tasks", "accuracy", "slices", "difference", "slice_difference")
    }
    for task, metrics in first["tasks"].items():
        for metric in metrics:
            values = _values(runs, ("tasks", task, metric, "mean"))
            _put(found["tasks"], (task, metric), estimate(list(values.values())))
            if reference is not None:
                difference = paired(values, _values(reference, ("tasks", task, metric, "mean")))
                _put(found["difference"], (task, metric), estimate(list(difference.values())))
    for label in first["accuracy"]:
        values = _values(runs, ("accuracy", label, "mean"))
        _put(found["accuracy"], (label,), estimate(list(values.values())))
        if reference is not None:
            difference = paired(values, _values(reference, ("accuracy", label, "mean")))
            _put(found["difference"], (CPP, label), estimate(list(difference.values())))
    for task, divisions in first["slices"].items():
        for division, parts in divisions.items():
            for part, of in parts.items():
                where = (task, division, part)
                values = _values(runs, ("slices", *where, "mean"))
                users = {"users": of["users"]}
                _put(found["slices"], where, estimate(list(values.values())), users)
                if reference is not None:
                    difference = paired(values, _values(reference, ("slices", *where, "mean")))
                    mean = estimate(list(difference.values()))
                    _put(found["slice_difference"], where, mean, users)
    cosines = ("mean_cosine", "item_cosine")
    found["interests_summary"] = {
        key: dataclasses.asdict(estimate(list(_values(runs, ("interests", key)).values())))
        for key in cosines
    } | {
        # Interests have no order that two runs share: the largest is averaged with the largest.
        key: [
            estimate(shares).mean
            for shares in zip(
                *(sorted(run.method["interests"][key], reverse=True) for run in runs.values()),
                strict=True,
            )
        ]
        for key in ("recommended", "purchased")
    }
    return found


def _single(
    suite: Suite, entry: Entry, made: Mapping[str, dict[int, Finished]]
) -> dict[int, Finished] | None:
    """The runs of the same family with C = 1."""
    for other in suite.configurations:
        same = entry.family is not None and other.family == entry.family
        if same and suite.config(other, suite.seeds[0]).model.interests == 1:
            return made.get(other.name)
    return None


def _gain(
    runs: dict[int, Finished], single: dict[int, Finished] | None, metric: str
) -> dict[str, Any] | None:
    """Improvement over C = 1 in percent, by task, seed by seed (Figure 3)."""
    if single is None:
        return None
    gains = {}
    for task in next(iter(runs.values())).method["tasks"]:
        path = ("tasks", task, metric, "mean")
        percent = paired_percent(_values(runs, path), _values(single, path))
        gains[task] = dataclasses.asdict(estimate(list(percent.values())))
    return gains


def _values(runs: dict[int, Finished], path: Sequence[str]) -> Values:
    """One number of every run's model."""
    found: Values = {}
    for seed, run in sorted(runs.items()):
        value: Any = run.method
        for key in path:
            value = value[key]
        found[seed] = value
    return found


def _put(
    target: dict[str, Any],
    path: Sequence[str],
    value: Estimate,
    more: Mapping[str, Any] | None = None,
) -> None:
    for key in path[:-1]:
        target = target.setdefault(key, {})
    target[path[-1]] = dataclasses.asdict(value) | dict(more or {})
