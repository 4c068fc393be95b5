"""Training curves from `<run>/history.jsonl`, one JSON object an epoch."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib

HISTORY_FILE = "history.jsonl"


class CurvesError(ValueError):
    """A run has no history to draw."""


@dataclasses.dataclass(frozen=True)
class Curves:
    """What a run recorded, as points to draw.

    Attributes:
      series: `{key: [(epoch, value), ...]}` in the order of epochs, finite numbers only.
      unreadable: lines that were not a JSON object with an `epoch`: a killed run may leave one.
    """

    series: dict[str, list[tuple[int, float]]]
    unreadable: int

    @property
    def panels(self) -> dict[str, list[str]]:
        """Keys that share a pair of axes, a value beside its validation, losses and recall first.

        What is zero throughout or equal to an earlier series says nothing and is left out.
        """
        grouped: dict[str, list[str]] = {}
        drawn: list[list[tuple[int, float]]] = []
        for key, points in self.series.items():
            if points in drawn or not any(value for _, value in points):
                continue
            drawn.append(points)
            grouped.setdefault(key.removeprefix("val_"), []).append(key)
        first = [name for word in ("loss", "recall") for name in grouped if word in name]
        return {name: grouped[name] for name in dict.fromkeys([*first, *grouped])}


def read_curves(run: str | pathlib.Path) -> Curves:
    """Reads a run's history; of an epoch that was run again after a crash, the last line counts."""
    path = pathlib.Path(run, HISTORY_FILE)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as e:
        raise CurvesError(
            f"run: {path} can't be read ({e.strerror}); expected the folder that `guim train` "
            "wrote."
        ) from e
    epochs: dict[int, dict[str, float]] = {}
    unreadable = 0
    for line in filter(str.strip, lines):
        try:
            fields = json.loads(line)
            epoch = int(fields.pop("epoch"))
        except (ValueError, KeyError, TypeError, AttributeError):
            unreadable += 1
            continue
        epochs[epoch] = {key: value for key, value in fields.items() if _is_finite(value)}
    series: dict[str, list[tuple[int, float]]] = {}
    for epoch in sorted(epochs):
        for key, value in epochs[epoch].items():
            series.setdefault(key, []).append((epoch, float(value)))
    return Curves(series, unreadable)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
