"""`guim compatibility`: how well a release goes on with what was made for the one before it.

Services keep an index of yesterday's items for a while, and teams keep models that they have fitted
to yesterday's users. What do today's vectors give to both?
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

TASK, METRIC = "CMP-L", "recall@100"
PREVIOUS, MIXED, CURRENT = "previous", "current on previous", "current"


@dataclasses.dataclass(frozen=True)
class Compatibility:
    """Two releases compared, on the users and items of one data set.

    Attributes:
      previous, current: the item encoders.
      item_cosine: mean cosine of an item's two vectors, over the items that were ever bought.
      recall: CMP-L recall@100 by vectors alone: `PREVIOUS` users and items, `MIXED`, today's users
        among yesterday's items, and `CURRENT` users and items. Empty where nobody has events after
        the `as_of` of the data set.
      accuracy: by label, of profile networks that were fitted and tested on `PREVIOUS` vectors,
        fitted on them and tested on today's, `MIXED`, and fitted and tested on `CURRENT` ones.
        Empty where the data set has no labels.
      kept: `MIXED` over `PREVIOUS` of each: 1 says that nobody notices the new release.
    """

    previous: str
    current: str
    item_cosine: float
    recall: dict[str, float]
    accuracy: dict[str, dict[str, float]]
    kept: dict[str, float]


def compare(
    *,
    dataset: str | pathlib.Path,
    models: str | pathlib.Path,
    previous: str | pathlib.Path | None = None,
    progress: bool = True,
) -> Compatibility:
    """Compares the highest versions of two folders of models, or the two highest of one.

    Args:
      dataset: its items and users are encoded by both, from strings.
      models: folder with today's `user_encoder` and `item_encoder`.
      previous: folder with yesterday's; None for `models`, where they are the version before.
      progress: shows bars on stderr.

    Raises:
      ValueError: the input is missing, damaged or does not fit together.
    """
    # TensorFlow loads here, so that `--help` does not wait for it.
    from guim_tf.catalogue import Catalogue
    from guim_tf.encoders import ModelError, encode_histories, encode_items, load_encoder
    from guim_tf.evaluation import metrics
    from guim_tf.evaluation.population import Population, has_labels, load_population
    from guim_tf.evaluation.profile import Features, evaluate_profile
    from guim_tf.evaluation.protocol import Protocol, ProtocolError, load_protocol
    from guim_tf.evaluation.search import search
    from guim_tf.evaluation.tasks import K, truths

    catalogue = Catalogue(dataset)
    releases: dict[str, dict[str, Any]] = {
        PREVIOUS: {
            "models": models if previous is None else previous,
            "back": int(previous is None),
        },
        CURRENT: {"models": models},
    }
    paths, items, encoders = {}, {}, {}
    for name, release in releases.items():
        paths[name], encoder = load_encoder(name="item_encoder", **release)
        items[name] = encode_items(encoder, catalogue, progress=progress)
        _, encoders[name] = load_encoder(name="user_encoder", **release)
    if items[PREVIOUS].shape != items[CURRENT].shape:
        raise ModelError(
            f"{paths[PREVIOUS]} has vectors of size {items[PREVIOUS].shape[1]} and "
            f"{paths[CURRENT]} of size {items[CURRENT].shape[1]}: none can stand in for the other."
        )

    def encode(of: Protocol | Population) -> dict[str, np.ndarray]:
        rows, times = of.history.lists()
        return {
            name: encode_histories(model, catalogue, rows, times, as_of=of.as_of, progress=progress)
            for name, model in encoders.items()
        }

    recall: dict[str, float] = {}
    try:
        protocol = load_protocol(dataset)
    except ProtocolError:  # the log ends at as_of: what is bought next is not known yet
        protocol = None
    if protocol is not None:
        users, truth = encode(protocol), truths(protocol)[TASK]
        pairs = {PREVIOUS: (PREVIOUS, PREVIOUS), MIXED: (CURRENT, PREVIOUS)}
        for name, (of_users, of_items) in (pairs | {CURRENT: (CURRENT, CURRENT)}).items():
            found = search(users[of_users], items[of_items], K)
            recall[name] = metrics.mean(metrics.recall_at_k(found.rows, truth, K)).mean
    accuracy: dict[str, dict[str, float]] = {}
    if has_labels(dataset):
        population = load_population(dataset)
        flat = {name: x.reshape(len(x), -1) for name, x in encode(population).items()}
        features = [
            Features(PREVIOUS, "", flat[PREVIOUS]),
            Features(MIXED, "", flat[PREVIOUS], tested=flat[CURRENT]),
            Features(CURRENT, "", flat[CURRENT]),
        ]
        for method in evaluate_profile(population, features, with_baselines=False).methods:
            for label, mean in method.accuracy.items():
                accuracy.setdefault(label, {})[method.name] = mean.mean
    bought = catalogue.count > 0
    both = {METRIC: recall, **accuracy}
    return Compatibility(
        previous=str(paths[PREVIOUS]),
        current=str(paths[CURRENT]),
        item_cosine=float((items[PREVIOUS] * items[CURRENT]).sum(axis=1)[bought].mean()),
        recall=recall,
        accuracy=accuracy,
        kept={name: of[MIXED] / of[PREVIOUS] for name, of in both.items() if of and of[PREVIOUS]},
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command `guim compatibility`."""
    parser = argparse.ArgumentParser(
        prog="guim compatibility",
        description="Says how well the vectors of a release go on with what was made for the one "
        "before: recall of its users among the other one's items, and accuracy of profile networks "
        "that were fitted to the other one's users. Prints one JSON line.",
        epilog="examples:\n"
        "  guim compatibility --dataset work/today --models saved_models\n"
        "  guim compatibility --dataset work/today --models new --previous released\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", required=True, help="folder of `guim build-dataset`")
    parser.add_argument("--models", required=True, help="folder of the new release")
    parser.add_argument(
        "--previous",
        metavar="MODELS",
        help="folder of the release before it (default: the version before, in the same folder)",
    )
    arguments = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow loads
    try:
        found = compare(
            dataset=arguments.dataset, models=arguments.models, previous=arguments.previous
        )
    except (ValueError, OSError) as e:
        print("guim compatibility: " + " ".join(str(e).split()), file=sys.stderr)
        return 2
    print(json.dumps(dataclasses.asdict(found)))
    return 0
