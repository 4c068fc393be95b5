"""How often each item comes up as a candidate of the softmax: what logQ corrects for."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from guim_tf import schema as names


@dataclasses.dataclass(frozen=True)
class Candidates:
    """What one pass over training batches shows.

    users: how many there are. probability: `[item rows]` float32, how often one candidate is an
    item of that row.
    """

    users: int
    probability: np.ndarray


def measure_candidates(
    batches: Iterable[dict], *, item_rows: int, negatives_per_user: int | None
) -> Candidates:
    """Measures the distribution that negatives are drawn from, on the cut histories and targets.

    The paper draws an item of each other user, whatever the length of his sequence: then an item's
    probability is the mean of its share in each sequence. Where all items of all users are
    candidates it is its share of all events. Items outside of the vocabulary have one row; its
    value is the mean over the items seen there. An item that the pass came by nowhere is as likely
    as the rarest one of it: random cut-offs of another pass may well show it, and the logarithm
    of next to nothing would outweigh all others.

    Args:
      batches: of `load_dataset`.
      item_rows: rows of the item table.
      negatives_per_user: as in `LossConfig`.
    """
    weight = np.zeros(item_rows)
    users = 0
    unknown: set[int] = set()
    for batch in batches:
        parts = (batch["history"], batch["targets"])
        index = np.concatenate([part[names.ITEM_INDEX] for part in parts], axis=1)
        key = np.concatenate([part[names.ITEM_KEY] for part in parts], axis=1)
        present = index != names.PADDING_ROW
        events = np.ones_like(index, float)
        if negatives_per_user is not None:
            events /= np.maximum(present.sum(axis=1, keepdims=True), 1)
        weight += np.bincount(index[present], weights=events[present], minlength=item_rows)
        unknown.update(key[index == names.UNKNOWN_ROW].tolist())
        users += len(index)
    total = max(weight.sum(), 1)
    weight[names.UNKNOWN_ROW] /= max(len(unknown), 1)
    rarest = np.min(weight, where=weight > 0, initial=total)
    of_items = weight[names.UNKNOWN_ROW :]
    np.maximum(of_items, rarest, out=of_items)
    return Candidates(users, (weight / total).astype(np.float32))
