"""An evaluation as plain numbers: what `report.json` holds and what both tables are made from."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np

from guim_tf.evaluation import metrics
from guim_tf.evaluation.matching import Method
from guim_tf.evaluation.population import Population
from guim_tf.evaluation.profile import FOLDS, Profile
from guim_tf.evaluation.protocol import Protocol, date
from guim_tf.evaluation.ragged import Ragged
from guim_tf.evaluation.tables import headline
from guim_tf.evaluation.tasks import SLICE_METRIC, slices, truths
from guim_tf.precision import in_bfloat16
from guim_tf.schema import Schema
from guim_tf.version import build

PACKAGES = ("tensorflow", "tf_keras", "tensorflow-text", "numpy", "pyarrow")


def to_document(
    *,
    dataset: str | pathlib.Path,
    schema: Schema,
    notes: Sequence[str],
    models: Sequence[pathlib.Path],
    run: str | pathlib.Path | None,
    seed: int,
    matching: tuple[Protocol, Sequence[Method]] | None = None,
    profile: tuple[Population, Profile] | None = None,
    exclude_seen: bool = False,
) -> dict[str, Any]:
    """All numbers of an evaluation as JSON knows them; a mean of nobody is null.

    `protocol` is null and `methods` is empty without consumer matching, `profile` is null without
    consumer profile prediction.
    """
    protocol, methods = matching or (None, ())
    document = {
        "dataset": {
            "path": str(dataset),
            "fingerprint": schema.fingerprint,
            "first_event": date(schema.first_timestamp),
            "last_event": date(schema.last_timestamp),
        }
        | ({} if protocol is None else _sizes(protocol)),
        "protocol": None if protocol is None else _protocol(protocol, exclude_seen),
        "methods": [
            {
                "name": method.name,
                "kind": "baseline" if method.interests is None else "model",
                "definition": method.definition,
                "tasks": {
                    task: {name: metrics.mean(values) for name, values in of.items()}
                    for task, of in method.measured.values.items()
                },
                "slice_metric": SLICE_METRIC,
                "slices": method.measured.slices,
                "interests": method.interests,
            }
            for method in methods
        ],
        "comparisons": [],
        "profile": None if profile is None else _profile(*profile),
        "notes": list(notes),
        "models": [str(path) for path in models],
        "run": None if run is None else str(run),
        "seed": seed,
        "versions": {
            "guim_tf": build(),
            "products": "bfloat16" if in_bfloat16() else "float32",
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
    }
    plain = _plain(document)
    if methods:
        plain["comparisons"] = _plain(comparisons(methods, *headline(plain)))
    return plain


def _sizes(protocol: Protocol) -> dict[str, int]:
    return {"users": len(protocol.past), "items": len(protocol.catalogue)}


def _protocol(protocol: Protocol, exclude_seen: bool) -> dict[str, Any]:
    return {
        "as_of": date(protocol.as_of),
        "as_of_timestamp": protocol.as_of,
        "history_days": protocol.history_days,
        "test_days": protocol.test_days,
        "exclude_seen": exclude_seen,
        "users": len(protocol),
        "candidates": len(protocol.catalogue),
        "events_before": len(protocol.past.timestamps),
        "tasks": {name: _truth_counts(protocol, x) for name, x in truths(protocol).items()},
    }


def _profile(population: Population, profile: Profile) -> dict[str, Any]:
    return {
        "as_of": date(population.as_of),
        "history_days": population.history_days,
        "users": len(population),
        "without_history": population.without_history,
        "without_label": population.without_label,
        "folds": FOLDS,
        "labels": profile.labels,
        "methods": profile.methods,
    }


def _truth_counts(protocol: Protocol, truth: Ragged) -> dict[str, Any]:
    repeated = protocol.history.items.contains(truth.owners, truth.values)
    cold = slices(protocol, truth)["item popularity"]["never seen"]
    return {
        "users": int((truth.lengths > 0).sum()),
        "pairs": len(truth.values),
        "repeated_share": repeated.mean() if len(repeated) else math.nan,
        "never_seen": {"users": int((cold.lengths > 0).sum()), "pairs": len(cold.values)},
    }


def comparisons(
    methods: Sequence[Method], metric: str, tasks: Sequence[str]
) -> list[dict[str, Any]]:
    """Each model against the best baseline of each task, user by user."""
    found = []
    others = [method for method in methods if method.interests is None]
    for model in methods:
        for task in tasks if model.interests and others else ():
            best = max(others, key=lambda x: x.measured.mean(task, metric).mean)
            difference = model.measured.values[task][metric] - best.measured.values[task][metric]
            found.append(
                {
                    "model": model.name,
                    "baseline": best.name,
                    "task": task,
                    "metric": metric,
                    "difference": metrics.mean(difference),
                }
            )
    return found


def _plain(value: Any) -> Any:
    """Dataclasses, arrays and numpy numbers as what JSON knows; NaN as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({x.name: getattr(value, x.name) for x in dataclasses.fields(value)})
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
