"""Ranking metrics in numpy: ranked ids and truth in, one value a user out.

A ranking is `[U, K]` int64 ids, best first, -1 where a list has ended. Truth is a `Ragged` of U
lists of ids, in any order. A user with no truth has the value NaN. A list that names an id twice
is credited with it once, at its first place; an id that truth names twice counts once.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from guim_tf.evaluation.ragged import Ragged


def recall_at_k(ranked: np.ndarray, truth: Ragged, k: int) -> np.ndarray:
    """Share of a user's truth among the first k (Eq. 5): `[U]` float64."""
    found, sizes = _hits(ranked, truth, k)
    return _or_nan(found.sum(axis=1) / np.maximum(sizes, 1), sizes)


def ndcg_at_k(ranked: np.ndarray, truth: Ragged, k: int) -> np.ndarray:
    """Gain 1 / log2(1 + place) of each hit, over that of the best possible list: `[U]` float64."""
    found, sizes = _hits(ranked, truth, k)
    gains = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[1.0], np.cumsum(gains)])[np.minimum(sizes, k)]
    return _or_nan(found @ gains[: found.shape[1]] / ideal, sizes)


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over users; the 95 % interval is `mean` plus or minus `half_width`."""

    mean: float
    half_width: float
    users: int


def mean(values: np.ndarray) -> Mean:
    """Mean of the users that have a value, by the normal approximation; NaN where nobody has."""
    values = values[~np.isnan(values)]
    n = len(values)
    if n == 0:
        return Mean(np.nan, np.nan, 0)
    half_width = 1.96 * values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return Mean(float(values.mean()), float(half_width), n)


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """The k best columns of each row: by score descending, then by lower column.

    Args:
      scores: `[B, X]`, no NaN.
      k: how many; with k > X the lists end in -1.

    Returns:
      `[B, k]` int64.
    """
    _check_k(k)
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN, which has no place in a ranking; expected numbers.")
    rows, columns = scores.shape
    kept = min(k, columns)
    threshold = np.partition(scores, columns - kept, axis=1)[:, columns - kept, None]
    above, level = scores > threshold, scores == threshold
    # Of the columns that tie at the threshold, the lowest fill the places that are left.
    left = kept - above.sum(axis=1, keepdims=True)
    chosen = np.nonzero(above | (level & (np.cumsum(level, axis=1) <= left)))[1]
    by_column = chosen.reshape(rows, kept)
    order = np.argsort(-np.take_along_axis(scores, by_column, axis=1), axis=1, kind="stable")
    ranked = np.full((rows, k), -1, np.int64)
    ranked[:, :kept] = np.take_along_axis(by_column, order, axis=1)
    return ranked


def _hits(ranked: np.ndarray, truth: Ragged, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Hits at the first k places `[U, min(k, K)]` bool and the sizes of truth `[U]`."""
    _check_k(k)
    if ranked.ndim != 2 or len(ranked) != len(truth):
        raise ValueError(
            f"ranked has shape {ranked.shape}, expected [{len(truth)}, K]: one list for each of "
            f"the {len(truth)} users of truth."
        )
    truth, ranked = truth.distinct(), ranked[:, :k]
    found = truth.contains(np.arange(len(truth))[:, None], ranked)
    order = np.argsort(ranked, axis=1, kind="stable")
    ordered = np.take_along_axis(ranked, order, axis=1)
    repeated = np.zeros_like(found)
    np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return found & ~repeated, truth.lengths


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1.")


def _or_nan(values: npt.ArrayLike, sizes: np.ndarray) -> np.ndarray:
    return np.where(sizes > 0, values, np.nan)
