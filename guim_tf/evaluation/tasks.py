"""The consumer matching tasks, their slices, and the measuring of a ranking on them.

A slice of a task is the same task with a part of its truth, so everything is measured alike.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np

from guim_tf.evaluation import metrics
from guim_tf.evaluation.metrics import Mean
from guim_tf.evaluation.protocol import Protocol
from guim_tf.evaluation.ragged import Ragged
from guim_tf.schema import DAY

K = 100  # length of a ranking (M in Eq. 5)
Metric = Callable[[np.ndarray, Ragged], np.ndarray]


def _metrics(*, recall: tuple[int, ...], ndcg: tuple[int, ...]) -> dict[str, Metric]:
    found: dict[str, Metric] = {f"recall@{k}": partial(metrics.recall_at_k, k=k) for k in recall}
    return found | {f"ndcg@{k}": partial(metrics.ndcg_at_k, k=k) for k in ndcg}


# The next item is one item: its recall@k is the hit rate, HR@k, of leave-one-out comparisons.
METRICS: dict[str, dict[str, Metric]] = {
    "CMP-L": _metrics(recall=(100, 20), ndcg=(20,)),
    "CMP-S": _metrics(recall=(100, 20), ndcg=(20,)),
    "CMP-N": _metrics(recall=(100, 20, 10, 5), ndcg=(20, 10, 5)),
}
SLICE_METRIC = "recall@100"
HISTORY_LENGTHS = (1, 11, 51, 201)  # the first length of each group, in events
_CHUNK_SCORES = 4_000_000  # scores in memory at once


def truths(protocol: Protocol) -> dict[str, Ragged]:
    """Catalogue rows that each user bought, by task (section 4.2.1).

    CMP-L is the whole test window, CMP-S its first day, CMP-N the first item of it (of equal
    times the first in the log). Users without events on the first day have no truth in CMP-S.
    """
    first_day = protocol.future.between(protocol.as_of, protocol.as_of + DAY)
    return {
        "CMP-L": protocol.future.items.distinct(),
        "CMP-S": first_day.items.distinct(),
        "CMP-N": protocol.future.items.first(),
    }


def slices(protocol: Protocol, truth: Ragged) -> dict[str, dict[str, Ragged]]:
    """Parts of a task's truth: `{what divides it: {part: truth}}`.

    purchase: whether the user's history has the item. history length: events in the history; a
    user is in one part. item popularity: items known at `as_of`, most bought first, divided where
    they make up a third and two thirds of all past events; `never seen` had none.
    """
    owners, history = truth.owners, protocol.history.items
    repeated = history.contains(owners, truth.values)
    parts = {"purchase": {"new": truth.where(~repeated), "repeated": truth.where(repeated)}}

    group = np.searchsorted(HISTORY_LENGTHS, history.lengths, side="right")[owners]
    ends = [f" to {start - 1}" for start in HISTORY_LENGTHS[1:]] + [" or more"]
    parts["history length"] = {
        f"{start}{end}": truth.where(group == i + 1)
        for i, (start, end) in enumerate(zip(HISTORY_LENGTHS, ends, strict=True))
    }
    band = popularity_bands(protocol)[truth.values]
    parts["item popularity"] = {
        name: truth.where(band == i) for i, name in enumerate(("head", "middle", "tail"))
    } | {"never seen": truth.where(band == 3)}
    return parts


def popularity_bands(protocol: Protocol) -> np.ndarray:
    """0 head, 1 middle, 2 tail, 3 never seen: `[X]`; see `slices`."""
    counts = np.bincount(protocol.past.items.values, minlength=len(protocol.catalogue))
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]  # events of all more popular items
    bands = np.empty(len(counts), np.int64)
    bands[order] = np.minimum(3 * before // max(counts.sum(), 1), 2)
    bands[counts == 0] = 3
    return bands


@dataclasses.dataclass(frozen=True)
class Measured:
    """A ranking on all tasks.

    Attributes:
      values: `{task: {metric: [U]}}`, NaN for users without truth.
      slices: `{task: {what divides: {part: Mean}}}` of `SLICE_METRIC`.
    """

    values: dict[str, dict[str, np.ndarray]]
    slices: dict[str, dict[str, dict[str, Mean]]]

    def mean(self, task: str, metric: str) -> Mean:
        return metrics.mean(self.values[task][metric])


def measure(protocol: Protocol, ranked: np.ndarray) -> Measured:
    """Measures rankings `[U, K]` of catalogue rows, best first, -1 for none."""
    tasks = truths(protocol)
    return Measured(
        values={
            task: {name: metric(ranked, truth) for name, metric in METRICS[task].items()}
            for task, truth in tasks.items()
        },
        slices={
            task: {
                division: {
                    part: metrics.mean(METRICS[task][SLICE_METRIC](ranked, some))
                    for part, some in parts.items()
                }
                for division, parts in slices(protocol, truth).items()
            }
            for task, truth in tasks.items()
        },
    )


def rank(
    score: Callable[[np.ndarray], np.ndarray],
    *,
    users: int,
    items: int,
    k: int = K,
    exclude: Ragged | None = None,
) -> np.ndarray:
    """Ranks all items for all users, a chunk of users at a time.

    Args:
      score: user rows `[b]` -> scores `[b, items]`.
      users: number of users.
      items: number of items.
      k: length of a ranking.
      exclude: items that must not be ranked, a list for each user.

    Returns:
      `[users, k]` int64, -1 where a list has ended; the tie rule is that of `metrics.top_k`.
    """
    ranked = np.full((users, k), -1, np.int64)
    chunk = max(1, _CHUNK_SCORES // items)
    for start in range(0, users, chunk):
        rows = np.arange(start, min(start + chunk, users))
        scores = score(rows)
        if exclude is None:
            ranked[rows] = metrics.top_k(scores, k)
            continue
        scores = np.array(scores, np.float32)
        gone = exclude.take(rows)
        scores[gone.owners, gone.values] = -np.inf
        best = metrics.top_k(scores, k)
        ended = np.isneginf(np.take_along_axis(scores, best, axis=1))
        ranked[rows] = np.where(ended, -1, best)
    return ranked
