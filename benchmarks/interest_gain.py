"""Who gains by several interests: users by how alike the items of their history are.

Compares models of C vectors with models of one, by vectors alone (CMP-L, recall@100). A history is
as alike as the mean cosine between two of its distinct items, by the item vectors of the model with
one. If interests are what C vectors are for, users whose items are unlike each other gain most.
Prints one JSON line: quarters of the users, those with the least alike histories first, each with
its mean over the pairs of models and half of the 95 % interval.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

if TYPE_CHECKING:
    from guim_tf.evaluation.ragged import Ragged

_EXAMPLES = """\
example, of the models that `guim benchmark` has exported:
  python benchmarks/interest_gain.py --dataset work/dataset \\
      --one work/suite/models/GUIM-C1/0 work/suite/models/GUIM-C1/1 \\
      --many work/suite/models/GUIM-C4/0 work/suite/models/GUIM-C4/1
"""
PARTS = 4


def alikeness(item_embedding: np.ndarray, history: "Ragged") -> np.ndarray:
    """`[U]`: the mean cosine between two distinct items of each history; NaN of a single one."""
    length = np.linalg.norm(item_embedding, axis=1, keepdims=True)
    unit = item_embedding / np.maximum(length, 1e-12)
    items = history.distinct()
    total = np.zeros((len(items), unit.shape[1]))
    np.add.at(total, items.owners, unit[items.values])
    n = items.lengths
    # |sum|^2 is n times 1 and each pair twice.
    return np.where(n > 1, ((total**2).sum(axis=1) - n) / np.maximum(n * (n - 1), 1), np.nan)


def gains(*, dataset: str, one: Sequence[str], many: Sequence[str]) -> list[dict[str, list[float]]]:
    """For each pair of models: alikeness and gain in recall@100 of each quarter, and of all.

    Raises:
      ValueError: as many of one as of the other are needed, and of one vector where `one` says so;
        or there are too few users.
    """
    from guim_tf.evaluation.metrics import recall_at_k
    from guim_tf.evaluation.protocol import load_protocol
    from guim_tf.evaluation.tasks import K
    from guim_tf.evaluation.vectors import encode, rank_vectors

    if len(one) != len(many):
        raise ValueError(f"--one names {len(one)} models and --many {len(many)}: give pairs.")
    protocol = load_protocol(dataset)
    truth = protocol.future.items.distinct()
    found = []
    for single, several in zip(one, many, strict=True):
        vectors = [encode(models, protocol).alone for models in (single, several)]
        if vectors[0].interests != 1 or vectors[1].interests == 1:
            raise ValueError(
                f"{single} has {vectors[0].interests} vectors a user and {several} "
                f"{vectors[1].interests}: --one takes models of one, --many of several."
            )
        less, more = (recall_at_k(rank_vectors(of)[0], truth, K) for of in vectors)
        alike = alikeness(vectors[0].item_embedding, protocol.history.items)
        known = np.flatnonzero(~np.isnan(alike))
        if len(known) < PARTS:
            raise ValueError(
                f"{len(known)} users of {dataset} have two items in their history: too few to part."
            )
        quarters = np.array_split(known[np.argsort(alike[known], kind="stable")], PARTS)
        found.append(
            {
                "alike": [float(alike[rows].mean()) for rows in quarters],
                "gain": [float((more - less)[rows].mean()) for rows in quarters],
                "gain_of_all": [float((more - less).mean())],
            }
        )
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", required=True, help="what `guim build-dataset` wrote")
    parser.add_argument("--one", required=True, nargs="+", help="folders of models with one vector")
    parser.add_argument("--many", required=True, nargs="+", help="the same seeds with several")
    arguments = parser.parse_args(argv)
    try:
        found = gains(**vars(arguments))
    except (ValueError, OSError) as e:
        print(f"interest_gain: {e}", file=sys.stderr)
        return 2
    line = {"benchmark": "interest_gain", "dataset": str(arguments.dataset), "pairs": len(found)}
    print(json.dumps(line | {key: _over_pairs([pair[key] for pair in found]) for key in found[0]}))
    return 0


def _over_pairs(values: list[list[float]]) -> list[list[float | None]]:
    """Mean and half of the 95 % interval of each part."""
    from guim_tf.benchmark.intervals import estimate

    found = [estimate(of) for of in zip(*values, strict=True)]
    return [[None if x is None else round(x, 4) for x in (e.mean, e.half_width)] for e in found]


if __name__ == "__main__":
    sys.exit(main())
