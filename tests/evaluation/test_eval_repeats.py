"""Habits in rankings: by hand, against the served merge step, and for weights of either sign."""

import numpy as np
import pytest
import tensorflow as tf

from guim_tf.evaluation.ragged import ragged
from guim_tf.evaluation.repeats import HabitSearch
from guim_tf.evaluation.search import search
from guim_tf.mixture import prefer_repeats, search_exact

USER = np.array([[[1.0, 0.0], [0.0, 1.0]]], np.float32)
# the better interest has cosines 1, .8, 0, .8 and 0 with them
ITEMS = np.array([[1, 0], [0.6, 0.8], [-1, 0], [0.8, 0.6], [0, -1]], np.float32)


def test_a_bought_item_rises_with_the_logarithm_of_how_often():
    history = ragged([[2, 4, 2, 2]])
    found = HabitSearch(USER, ITEMS, history, 5).lists(0.5)
    expected = [1.0, 0.8, 0.5 * np.log(4), 0.8, 0.5 * np.log(2)]
    assert found.rows[0].tolist() == [0, 1, 3, 2, 4]  # equal scores: lower row first
    np.testing.assert_allclose(found.scores[0], np.array(expected)[[0, 1, 3, 2, 4]], rtol=1e-6)
    assert found.interests[0].tolist() == [0, 1, 0, 1, 0]


def test_below_zero_what_was_bought_goes_down():
    found = HabitSearch(USER, ITEMS, ragged([[0, 3]]), 5).lists(-1.0)
    # bought items have 1 - ln 2 and .8 - ln 2, and are still above the two of cosine 0
    assert found.rows[0].tolist() == [1, 0, 3, 2, 4]
    np.testing.assert_allclose(found.scores[0, 1:3], np.array([1.0, 0.8]) - np.log(2), rtol=1e-6)


def test_weight_zero_is_plain_search():
    rng = np.random.default_rng(0)
    users, items = (rng.normal(size=s).astype(np.float32) for s in ((9, 3, 4), (40, 4)))
    history = ragged([rng.integers(0, 40, n) for n in range(9)])
    habits = HabitSearch(users, items, history, 10).lists(0.0)
    plain = search(users, items, 10)
    np.testing.assert_array_equal(habits.rows, plain.rows)
    np.testing.assert_array_equal(habits.interests, plain.interests)
    np.testing.assert_allclose(habits.scores, plain.scores, atol=1e-6)


def test_a_prior_is_added_to_bought_and_new_items_alike():
    prior = np.array([0, 0.3, 0, 0, 0.2], np.float32)
    found = HabitSearch(USER, ITEMS, ragged([[2, 4]]), 5, prior=prior).lists(0.5)
    expected = np.array([1.0, 1.1, 0.5 * np.log(2), 0.8, 0.2 + 0.5 * np.log(2)])
    assert found.rows[0].tolist() == [1, 0, 3, 4, 2]
    np.testing.assert_allclose(found.scores[0], expected[[1, 0, 3, 4, 2]], rtol=1e-6)
    assert found.interests[0].tolist() == [1, 0, 0, 0, 1]


@pytest.mark.parametrize("weight", [0.3, -0.4])
def test_evaluation_ranks_as_the_served_model_does(weight):
    rng = np.random.default_rng(1)
    users, items = (rng.normal(size=s).astype(np.float32) for s in ((300, 3, 4), (60, 4)))
    lists = [rng.integers(0, 60, 1 + n % 7) for n in range(300)]
    seen = np.full([300, 7], -1)
    for row, bought in zip(seen, lists, strict=True):
        row[: len(bought)] = bought
    found = HabitSearch(users, items, ragged(lists), 12).lists(weight)
    new = search_exact(tf.constant(users), tf.constant(items), 12, exclude=tf.constant(seen))
    rows, scores, interests = prefer_repeats(
        new,
        tf.constant(users),
        seen=tf.constant(seen),
        seen_embedding=tf.gather(tf.constant(items), np.maximum(seen, 0)),
        weight=weight,
    )
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    assert (found.rows == rows.numpy()).mean() > 0.999  # scores may tie within rounding
    assert (found.interests == interests.numpy()).mean() > 0.999


def test_what_is_excluded_does_not_come_back_bought_or_not():
    history, exclude = ragged([[2, 4]]), ragged([[1, 4]])
    found = HabitSearch(USER, ITEMS, history, 5, exclude=exclude).lists(3.0)
    assert found.rows[0].tolist() == [2, 0, 3, -1, -1]
    assert np.isneginf(found.scores[0, 3:]).all()


def test_users_without_purchases_and_none_at_all():
    assert HabitSearch(USER, ITEMS, ragged([[]]), 2).lists(1.0).rows.tolist() == [[0, 1]]
    nobody = HabitSearch(USER[:0], ITEMS, ragged([]), 2).lists(1.0)
    assert nobody.rows.shape == (0, 2)
