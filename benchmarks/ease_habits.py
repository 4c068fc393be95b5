"""EASE with what the lists of GUIM have beside their vectors: habits and recent popularity.

    score = EASE + repeat_weight * ln(1 + times bought) + popularity_weight * prior

Prints one JSON line: recall of the plain and of the added scores, and the weights. They are those
with the best recall@100 of CMP-L over some moments before `as_of`, a test window apart, with EASE
made anew for each from what was known then.
"""

import argparse
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from guim_tf.evaluation import baselines, metrics
from guim_tf.evaluation.protocol import Protocol, ProtocolError, load_protocol
from guim_tf.evaluation.tasks import METRICS, SLICE_METRIC, K, truths
from guim_tf.popularity import prior
from guim_tf.schema import DAY

WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)  # of either; scores of EASE are about 0 to 1
MOMENTS = 3
_USERS_AT_ONCE = 256
_EXAMPLES = """\
example:
  python benchmarks/ease_habits.py --dataset work/online_retail/dataset
"""


def lists(protocol: Protocol, weights: Sequence[tuple[float, float]]) -> Iterator[np.ndarray]:
    """Rows of the best items, `[U, K]`, for each pair of weights of habits and of popularity.

    Raises:
      ValueError: the catalogue is too large for EASE.
    """
    items = len(protocol.catalogue)
    made, reasons = baselines.baselines(protocol)
    ease = next((x for x in made if x.name == "EASE"), None)
    if ease is None:
        raise ValueError(" ".join(reasons))
    popular = prior(
        baselines.recent_buyers(protocol.past, protocol.as_of, items),
        1.0,
        sold=baselines.buyers(protocol.past, items) > 0,
    )
    users = np.arange(len(protocol))
    plain = ease.score(users)
    habits = np.log1p(baselines.counts(protocol.history.items, items))
    for repeat, popularity in weights:
        yield np.concatenate(
            [
                metrics.top_k(
                    plain[some] + np.float32(repeat) * habits[some] + popularity * popular, K
                )
                for some in np.array_split(users, -(-len(users) // _USERS_AT_ONCE))
            ]
        )


def best_weights(dataset: str | pathlib.Path, *, as_of: int, test_days: int) -> tuple[float, float]:
    """The pair with the best mean recall over the moments before `as_of`.

    Raises:
      ProtocolError: at none of them a user has a past and a future.
    """
    pairs = list(itertools.product(WEIGHTS, WEIGHTS))
    recalls: dict[tuple[float, float], list[np.ndarray]] = {pair: [] for pair in pairs}
    error = None
    for moment in range(1, MOMENTS + 1):
        try:
            protocol = load_protocol(
                dataset, as_of=as_of - moment * test_days * DAY, test_days=test_days
            )
        except ProtocolError as e:
            error = e
            continue
        truth = truths(protocol)["CMP-L"]
        for pair, rows in zip(pairs, lists(protocol, pairs), strict=True):
            recalls[pair].append(METRICS["CMP-L"][SLICE_METRIC](rows, truth))
    if error is not None and not recalls[pairs[0]]:
        raise error
    return max(pairs, key=lambda pair: metrics.mean(np.concatenate(recalls[pair])).mean)


def ease_habits(dataset: str | pathlib.Path, *, test_days: int) -> dict[str, object]:
    """What `main` prints."""
    protocol = load_protocol(dataset, test_days=test_days)
    best = best_weights(dataset, as_of=protocol.as_of, test_days=test_days)
    truth = truths(protocol)
    found = [
        {
            f"{task} {name}": round(metrics.mean(measure(rows, truth[task])).mean, 4)
            for task in METRICS
            for name, measure in METRICS[task].items()
            if name.startswith("recall@")
        }
        for rows in lists(protocol, [(0.0, 0.0), best])
    ]
    weights = dict(zip(("repeat_weight", "popularity_weight"), best, strict=True))
    return {"users": len(protocol), **weights, "ease": found[0], "with_habits": found[1]}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", required=True, help="what `guim build-dataset` wrote")
    parser.add_argument("--test-days", type=int, default=30, help="length of the window (30)")
    arguments = parser.parse_args(argv)
    try:
        print(json.dumps(ease_habits(arguments.dataset, test_days=arguments.test_days)))
    except (ValueError, OSError) as e:
        print(f"ease_habits: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
