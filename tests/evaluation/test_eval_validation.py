"""Weights of lists are chosen by what validation users do before as-of, and by nothing after it."""

import numpy as np
import pytest

from guim_tf.config import WindowConfig
from guim_tf.schema import DAY, Schema
from guim_tf.validation import Validation

HAD, NEW = "had", "new"
OTHERS = [f"item-{i:03d}" for i in range(99)]


class Cosines(Validation):
    """Encodes by hand: each item's cosine with everybody."""

    cosine: dict[str, float]

    def _items(self, model):
        cosine = np.array([self.cosine.get(x, 0.9) for x in self._catalogue.item_id])
        return np.stack([cosine, np.sqrt(1 - cosine**2)], axis=1).astype(np.float32)

    def _users(self, model, protocol):
        return np.tile(np.float32([1, 0]), (len(protocol), 1, 1))


@pytest.mark.parametrize(
    ("before", "after", "cosine", "repeat_weight"),
    [
        # What she has had is the last of 101 items, .05 below the others, and she buys it again:
        # .1 ln 2 is enough and .05 ln 2 is not.
        (HAD, NEW, {HAD: 0.85, NEW: 0.95}, 0.1),
        # A new item is the last, .05 below what she has had and above all else.
        (NEW, HAD, {NEW: 0.8, HAD: 0.85}, -0.1),
    ],
)
def test_the_weight_of_habits_is_that_of_the_time_before(
    shop_writer, tmp_path, before, after, cosine, repeat_weight
):
    # All is sold, long ago; nothing was in the month before T.
    log = {"all": [(-200, item) for item in [*OTHERS, HAD, NEW]]}
    log["zoe"] = [(-100, HAD), (-10, before), (10, after)]  # the only one in validation
    folder = shop_writer(tmp_path / "dataset", log)
    cutoff = Schema.load(folder).as_of - 30 * DAY
    validation = Cosines(folder, cutoff, WindowConfig(target_days=30))
    validation.cosine = cosine
    assert validation.users == 1
    chosen = validation.best_weights(model=None)
    assert chosen == {"repeat_weight": repeat_weight, "popularity_weight": 0.1}


def test_the_prior_is_what_sold_before(shop_writer, tmp_path):
    """A new item that many bought in the month before T, far below the others: .4 of the prior."""
    log = {"all": [(-200, item) for item in [*OTHERS, HAD, NEW]]}
    log |= {f"buyer-{i}": [(-40, NEW)] for i in range(5)}
    log["zoe"] = [(-100, HAD), (-10, NEW), (10, OTHERS[0])]
    folder = shop_writer(tmp_path / "dataset", log)
    cutoff = Schema.load(folder).as_of - 30 * DAY
    validation = Cosines(folder, cutoff, WindowConfig(target_days=30))
    validation.cosine = {NEW: 0.55}
    chosen = validation.best_weights(model=None)
    assert chosen == {"repeat_weight": 0.0, "popularity_weight": 0.4}
