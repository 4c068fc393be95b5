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
from guim_tf.evaluation.interests import Interests
from guim_tf.evaluation.protocol import Protocol, date
from guim_tf.evaluation.tasks import SLICE_METRIC, Measured, truths
from guim_tf.version import __version__

PACKAGES = ("tensorflow", "tf_keras", "tensorflow-text", "numpy", "pyarrow")


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the report. `interests` is of models alone."""

    name: str
    definition: str
    measured: Measured
    interests: Interests | None = None


def to_document(
    *,
    dataset: str | pathlib.Path,
    protocol: Protocol,
    methods: Sequence[Method],
    notes: Sequence[str],
    models: Sequence[pathlib.Path],
    run: str | pathlib.Path | None,
    seed: int,
) -> dict[str, Any]:
    """All numbers of an evaluation as JSON knows them; a mean of nobody is null."""
    schema = protocol.schema
    document = {
        "dataset": {
            "path": str(dataset),
            "fingerprint": schema.fingerprint,
            "first_event": date(schema.first_timestamp),
            "last_event": date(schema.last_timestamp),
            "users": len(protocol.past),
            "items": len(protocol.catalogue),
        },
        "protocol": {
            "as_of": date(protocol.as_of),
            "as_of_timestamp": protocol.as_of,
            "history_days": protocol.history_days,
            "test_days": protocol.test_days,
            "users": len(protocol),
            "candidates": len(protocol.catalogue),
            "events_before": len(protocol.past.timestamps),
            "tasks": {name: _truth_counts(protocol, x) for name, x in truths(protocol).items()},
        },
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
        "comparisons": _comparisons(methods),
        "notes": list(notes),
        "models": [str(path) for path in models],
        "run": None if run is None else str(run),
        "seed": seed,
        "versions": {
            "guim_tf": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
    }
    return _plain(document)


def _truth_counts(protocol: Protocol, truth: Any) -> dict[str, Any]:
    repeated = protocol.history.items.contains(truth.owners, truth.values)
    return {
        "users": int((truth.lengths > 0).sum()),
        "pairs": len(truth.values),
        "repeated_share": repeated.mean() if len(repeated) else math.nan,
    }


def _comparisons(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """Each model against the best baseline of each task, user by user."""
    found = []
    others = [method for method in methods if method.interests is None]
    for model in methods:
        for task, of in model.measured.values.items() if model.interests and others else ():
            best = max(others, key=lambda x: x.measured.mean(task, SLICE_METRIC).mean)
            difference = of[SLICE_METRIC] - best.measured.values[task][SLICE_METRIC]
            found.append(
                {
                    "model": model.name,
                    "baseline": best.name,
                    "task": task,
                    "metric": SLICE_METRIC,
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
