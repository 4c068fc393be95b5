"""Means over seeds with their 95 % intervals, by Student's t distribution."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

# 97.5 % quantiles of t for 1, 2, ... 30 degrees of freedom; the last serves more, a little wide.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The interval is `mean` plus or minus `half_width`; None where n values give none."""

    mean: float | None
    half_width: float | None
    n: int


def estimate(values: Sequence[float | None]) -> Estimate:
    """Mean and interval of independent values, n - 1 degrees of freedom; None is no value."""
    known = [value for value in values if value is not None]
    if not known:
        return Estimate(None, None, 0)
    n = len(known)
    if n == 1:
        return Estimate(known[0], None, 1)
    half_width = _T[min(n - 1, len(_T)) - 1] * statistics.stdev(known) / math.sqrt(n)
    return Estimate(statistics.fmean(known), half_width, n)


def paired(
    values: Mapping[int, float | None], reference: Mapping[int, float | None]
) -> dict[int, float | None]:
    """Differences from the reference by seed, of the seeds that both have."""
    return {
        seed: None if value is None or other is None else value - other
        for seed, value in values.items()
        if seed in reference
        for other in [reference[seed]]
    }


def paired_percent(
    values: Mapping[int, float | None], reference: Mapping[int, float | None]
) -> dict[int, float | None]:
    """As `paired`, in percent of the reference; None where that is zero."""
    found: dict[int, float | None] = {}
    for seed, difference in paired(values, reference).items():
        base = reference[seed]
        found[seed] = 100 * difference / base if difference is not None and base else None
    return found
