"""What logQ corrects for: the distribution that negatives are really drawn from."""

import numpy as np
import pytest
import tensorflow as tf

from guim_tf.losses import draw_negatives
from guim_tf.sampling import measure_candidates


def batch(histories, targets, keys=None):
    def dense(rows):
        width = max(map(len, rows))
        return np.array([row + [0] * (width - len(row)) for row in rows])

    def events(rows):
        index = dense(rows)
        return {"item_index": index, "item_key": index * 10 if keys is None else keys[index]}

    return {"history": events(histories), "targets": events(targets)}


BATCHES = [batch([[2, 2, 3]], [[4]]), batch([[3]], [[3]])]


def test_one_draw_of_each_user_is_the_mean_share():
    found = measure_candidates(BATCHES, item_rows=6, negatives_per_user=1)
    # user 0: item 2 1/2, 3 1/4, 4 1/4; user 1: item 3 all
    np.testing.assert_allclose(found.probability[2:5], [1 / 4, 5 / 8, 1 / 8])
    assert found.users == 2


def test_all_items_as_candidates_is_the_share_of_events():
    found = measure_candidates(BATCHES, item_rows=6, negatives_per_user=None)
    np.testing.assert_allclose(found.probability[2:5], [2 / 6, 3 / 6, 1 / 6], rtol=1e-6)


@pytest.mark.parametrize(("negatives", "rarest"), [(1, 1 / 8), (None, 1 / 6)])
def test_an_item_that_a_pass_has_missed_is_as_likely_as_the_rarest(negatives, rarest):
    found = measure_candidates(BATCHES, item_rows=6, negatives_per_user=negatives)
    assert found.probability[0] == 0  # padding is no item
    np.testing.assert_allclose(found.probability[[1, 5]], rarest, rtol=1e-6)


@pytest.mark.parametrize("unknown", [[[1, 1, 2]], [[1, 2, 1]]])
def test_items_outside_of_the_vocabulary_share_a_row_by_their_mean(unknown):
    batches = [batch(unknown, [[2]], keys=np.array([0, 7, 20]))]
    batches += [batch([[1, 1]], [[2]], keys=np.array([0, 8, 20]))]
    found = measure_candidates(batches, item_rows=3, negatives_per_user=None)
    # four events of two unknown items, 7 and 8, beside three of item 2
    np.testing.assert_allclose(found.probability, [0, 2 / 7, 3 / 7], rtol=1e-6)


def test_it_is_the_frequency_of_the_negatives_that_are_drawn():
    items = np.array([2, 2, 3, 4, 3, 3])
    owner = tf.constant([1, 1, 1, 1, 2, 2], tf.int32)  # users of BATCHES; the query is of user 0
    seed = tf.constant([0, 1], tf.int64)
    event, drawn = draw_negatives(tf.zeros([20_000], tf.int32), owner, 1, seed)
    frequency = np.bincount(items[event.numpy()[drawn.numpy()]], minlength=6) / 40_000
    expected = measure_candidates(BATCHES, item_rows=6, negatives_per_user=1).probability
    np.testing.assert_allclose(frequency[2:5], expected[2:5], atol=0.01)


def test_no_users():
    found = measure_candidates([], item_rows=3, negatives_per_user=1)
    assert found.users == 0
    assert np.isfinite(found.probability).all()
