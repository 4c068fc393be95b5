"""From the reports of all runs to one document of plain numbers: what `results.json` holds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from guim_tf.benchmark.intervals import Estimate, estimate, paired, paired_percent
from guim_tf.benchmark.suite import Entry, Suite, VectorsEntry
from guim_tf.evaluation.tables import headline
from guim_tf.strict_json import to_json

CPP = "CPP"  # accuracies by label, where the data set has labels (section 4.2.2)

TRAINING = ("epochs", "best_epoch", "parameters", "minutes")  # of `result.json`

Report = Mapping[str, Any]  # `report.json` of one run
Values = dict[int, float | None]  # by seed


class ResultsError(ValueError):
    """Reports of runs can't be compared."""


@dataclasses.dataclass(frozen=True)
class Finished:
    """One run that is through: its training's `result.json` and its `report.json`.

    Vectors made elsewhere have no training.
    """

    seed: int
    training: Mapping[str, Any] | None
    report: Report
    path: str  # of the run's own page, relative to the output folder

    @property
    def method(self) -> Mapping[str, Any]:
        """The row of the model in its report, with its accuracy by label."""
        row = self._rows[0]
        predicted = (self.report.get("profile") or {"methods": []})["methods"]
        accuracy = [x["accuracy"] for x in predicted if x["kind"] == "model"]
        return {**row, "accuracy": accuracy[0] if accuracy else {}}

    @property
    def alone(self) -> Mapping[str, Any] | None:
        """The row of the vectors alone, where lists have habits and a prior too."""
        return self._rows[1] if len(self._rows) > 1 else None

    @property
    def _rows(self) -> list[Mapping[str, Any]]:
        return [x for x in self.report["methods"] if x["kind"] == "model"]


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
    rows = [row for row in suite.rows if finished.get(row.name)]
    made = {row.name: {run.seed: run for run in finished[row.name]} for row in rows}
    reference = made.get(suite.reference)
    reference_is_seeded = all(_seeded(row) for row in rows if row.name == suite.reference)
    metric, tasks = headline(baselines)
    return {
        "suite": json.loads(to_json(suite)),  # lists, as they are read again
        "command": command,
        "dataset": baselines["dataset"],
        "protocol": baselines["protocol"],
        "headline": {"metric": metric, "tasks": tasks},
        "slice_metric": baselines["methods"][0]["slice_metric"],
        "reference": suite.reference if reference else None,
        "configurations": [
            {
                "name": row.name,
                **_making(suite, row),
                "interests": _interests(suite, row, made[row.name]),
                "size": suite.size(row) if isinstance(row, Entry) else None,
                "seeds": len(suite.seeds) if _seeded(row) else 1,  # when all runs are through
                "runs": [_run(made[row.name][seed]) for seed in sorted(made[row.name])],
                "alone": _alone(list(made[row.name].values())),
                **_summary(made[row.name], reference, seeded=(_seeded(row), reference_is_seeded)),
                "gain_percent": _gain(made[row.name], _single(suite, row, made), metric, tasks),
            }
            for row in rows
        ],
        "baselines": list(baselines["methods"]),
        "profile": baselines.get("profile"),  # of the baselines; null where there are no labels
        "notes": [*baselines["notes"], *notes, *_run_notes(baselines, made)],
        "versions": baselines["versions"],
    }


def _making(suite: Suite, row: Entry | VectorsEntry) -> dict[str, Any]:
    """Where the vectors of a row come from; `config` is null where they were made elsewhere."""
    if isinstance(row, VectorsEntry):
        settings = [
            f"{name}={getattr(row, name)}" for name in ("user_vectors", "item_vectors", "score")
        ]
        return {"family": None, "mode": None, "settings": settings, "config": None}
    members = [f"members={row.members}"] if row.members > 1 else []
    return {
        "family": row.family,
        "mode": suite.mode_of(row),
        "settings": [*row.settings, *members],
        "config": dataclasses.asdict(suite.config(row, suite.seeds[0])),
    }


def _seeded(row: Entry | VectorsEntry) -> bool:
    return isinstance(row, Entry) or row.seeded


def _interests(suite: Suite, row: Entry | VectorsEntry, runs: Mapping[int, Finished]) -> int:
    """C: as configured, or as found in the files, where all seeds must have as many."""
    if isinstance(row, Entry):
        return suite.config(row, suite.seeds[0]).model.interests
    counts = {seed: len(run.method["interests"]["purchased"]) for seed, run in runs.items()}
    if len(set(counts.values())) > 1:
        raise ResultsError(
            f"the vectors {row.name!r} have {counts} interests a user by seed; expected as many in "
            "each. Give those of another C a name of their own."
        )
    return next(iter(counts.values()))


def _run_notes(baselines: Report, made: Mapping[str, Mapping[int, Finished]]) -> list[str]:
    """What the runs' reports say beside their tables, once for all seeds that say the same."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, runs in made.items():
        for seed, run in sorted(runs.items()):
            for note in [
                *run.report["notes"],
                *_other_versions(baselines, run),
                *_other_build(run),
            ]:
                if note not in baselines["notes"]:
                    found.setdefault((name, note), []).append(str(seed))
    return [
        f"{name}, seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}: {note}"
        for (name, note), seeds in found.items()
    ]


def _other_build(run: Finished) -> list[str]:
    """Says it where other builds of this package trained a run than evaluated it."""
    evaluated = run.report["versions"]["guim_tf"]
    other = [x for x in (run.training or {}).get("builds", []) if x != evaluated]
    return [f"trained by other builds than evaluated it: {'; '.join(other)}."] * bool(other)


def _other_versions(baselines: Report, run: Finished) -> list[str]:
    """Says it where a run was evaluated by other software than the baselines."""
    theirs = baselines["versions"]
    other = [
        f"{name} {version} ({theirs.get(name, 'none')})"
        for name, version in run.report["versions"].items()
        if version != theirs.get(name)
    ]
    return [f"evaluated with other versions than the baselines: {', '.join(other)}."] * bool(other)


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


def _run(run: Finished) -> dict[str, Any]:
    of = run.method
    return {
        "seed": run.seed,
        "page": run.path,
        "definition": of["definition"],
        **{key: (run.training or {}).get(key) for key in TRAINING},
        "tasks": {
            task: {metric: found["mean"] for metric, found in metrics.items()}
            for task, metrics in of["tasks"].items()
        },
        "accuracy": {label: found["mean"] for label, found in of["accuracy"].items()},
        "slices": of["slices"],
        "interests": of["interests"],
    }


def _summary(
    runs: dict[int, Finished], reference: dict[int, Finished] | None, *, seeded: tuple[bool, bool]
) -> dict[str, Any]:
    """Means over seeds of everything, and differences from the reference, seed by seed.

    Args:
      runs: by seed.
      reference: by seed, or None without one.
      seeded: whether either has a run for each seed, or one that stands for all.
    """
    first = next(iter(runs.values())).method
    found: dict[str, Any] = {
        key: {} for key in ("tasks", "accuracy", "slices", "difference", "slice_difference")
    }

    def put(place: str, path: tuple[str, ...], more: Mapping[str, Any] | None = None) -> None:
        values = _values(runs, (place, *path, "mean"))
        _put(found[place], path, estimate(list(values.values())), more)
        if reference is None:
            return
        theirs = _values(reference, (place, *path, "mean"))
        mine = values if seeded[0] else dict.fromkeys(theirs, *values.values())
        if not seeded[1]:
            theirs = dict.fromkeys(mine, *theirs.values())
        difference = estimate(list(paired(mine, theirs).values()))
        if place == "slices":
            _put(found["slice_difference"], path, difference, more)
        else:
            _put(found["difference"], path if place == "tasks" else (CPP, *path), difference)

    for task, metrics in first["tasks"].items():
        for metric in metrics:
            put("tasks", (task, metric))
    for label in first["accuracy"]:
        put("accuracy", (label,))
    for task, divisions in first["slices"].items():
        for division, parts in divisions.items():
            for part, of in parts.items():
                put("slices", (task, division, part), {"users": of["users"]})
    cosines = ("mean_cosine", "item_cosine")
    found["interests_summary"] = {
        key: dataclasses.asdict(estimate(list(_values(runs, ("interests", key)).values())))
        for key in cosines
    } | {
        # Interests have no order that two runs share: the largest is averaged with the largest.
        key: [
            estimate(shares).mean
            for shares in zip(
                *(
                    sorted((x or 0.0 for x in run.method["interests"][key]), reverse=True)
                    for run in runs.values()
                ),
                strict=True,
            )
        ]
        for key in ("recommended", "purchased")
    }
    return found


def _alone(runs: Sequence[Finished]) -> dict[str, Any] | None:
    """Means over seeds by vectors alone, by task and metric; None where lists are just that."""
    if not any(run.alone for run in runs):
        return None
    found = [(run.alone or run.method)["tasks"] for run in runs]
    return {
        task: {
            metric: dataclasses.asdict(estimate([of[task][metric]["mean"] for of in found]))
            for metric in metrics
        }
        for task, metrics in found[0].items()
    }


def _single(
    suite: Suite, row: Entry | VectorsEntry, made: Mapping[str, dict[int, Finished]]
) -> dict[int, Finished] | None:
    """The runs with C = 1: of the same family, or else the reference, if of the same mode."""
    if isinstance(row, VectorsEntry) or row.family is None:
        return None
    mode = suite.mode_of(row)
    singles = {x.name: x for x in suite.configurations if suite.size(x) == 1}
    of_family = [name for name, other in singles.items() if other.family == row.family]
    of_mode = [name for name, other in singles.items() if suite.mode_of(other) == mode]
    if of_family:
        return made.get(of_family[0])
    return made.get(suite.reference) if suite.reference in of_mode else None


def _gain(
    runs: dict[int, Finished],
    single: dict[int, Finished] | None,
    metric: str,
    tasks: Sequence[str],
) -> dict[str, Any] | None:
    """Improvement over C = 1 in percent, by task and by label, seed by seed (Figure 3)."""
    if single is None:
        return None
    paths = {task: ("tasks", task, metric, "mean") for task in tasks}
    labels = next(iter(runs.values())).method["accuracy"]
    paths |= {profile_name(label): ("accuracy", label, "mean") for label in labels}
    return {
        name: dataclasses.asdict(
            estimate(list(paired_percent(_values(runs, path), _values(single, path)).values()))
        )
        for name, path in paths.items()
    }


def profile_name(label: str) -> str:
    """The profile task of a label."""
    return f"{CPP} {label}"


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
