"""Scores of a set of vectors, and merging the lists that they fetch."""

import numpy as np
import pytest
import tensorflow as tf

from guim_tf.mixture import (
    max_score,
    mean_pairwise_cosine,
    merge_interests,
    prefer_repeats,
    rescore,
    search_exact,
    softmax_score,
)


def test_max_score_takes_the_nearest_vector_by_angle_alone():
    users = tf.constant([[[3.0, 0.0], [0.0, 0.1]]])
    items = tf.constant([[5.0, 0.0], [0.0, 2.0], [1.0, 1.0], [-1.0, 0.0]])
    # cosines with (1, 0): 1, 0, .7071, -1; with (0, 1): 0, 1, .7071, 0
    np.testing.assert_allclose(max_score(users, items), [[1, 1, 2**-0.5, 0]], atol=1e-6)


def test_softmax_score_lies_between_the_mean_and_the_maximum():
    users = tf.constant([[[1.0, 0.0], [0.0, 1.0]]])
    items = tf.constant([[1.0, 0.0]])  # cosines 1 and 0
    np.testing.assert_allclose(softmax_score(users, items, sharpness=0.0), [[0.5]], atol=1e-6)
    # weights e/(e+1), 1/(e+1): the score is e/(e+1)
    np.testing.assert_allclose(softmax_score(users, items, sharpness=1.0), [[0.731059]], atol=1e-5)
    np.testing.assert_allclose(softmax_score(users, items, sharpness=100.0), [[1.0]], atol=1e-6)


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [
        ([[1.0, 0.0], [2.0, 0.0]], 1.0),
        ([[1.0, 0.0], [0.0, 3.0]], 0.0),
        ([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], -1 / 3),  # pairs: -1, 0, 0
        ([[1.0, 0.0]], 0.0),
    ],
)
def test_mean_pairwise_cosine(vectors, expected):
    np.testing.assert_allclose(mean_pairwise_cosine(tf.constant([vectors])), [expected], atol=1e-6)


def test_merging_keeps_each_item_once_with_its_best_score_and_interest():
    scores = tf.constant([[[0.9, 0.5, 0.1], [0.8, 0.7, 0.5]]])
    rows = tf.constant([[[3, 1, 0], [1, 3, 2]]])
    rows, scores, interests = merge_interests(scores, rows, k=4)
    # item 3: .9 by interest 0; item 1: .8 by interest 1; item 2: .5 by 1; item 0: .1 by 0
    assert rows.numpy().tolist() == [[3, 1, 2, 0]]
    np.testing.assert_allclose(scores, [[0.9, 0.8, 0.5, 0.1]])
    assert interests.numpy().tolist() == [[0, 1, 1, 0]]


def test_merging_breaks_ties_by_row_and_then_by_interest():
    scores = tf.constant([[[0.5, 0.5], [0.5, 0.5]]])
    rows = tf.constant([[[9, 4], [7, 4]]])
    rows, _, interests = merge_interests(scores, rows, k=3)
    assert rows.numpy().tolist() == [[4, 7, 9]]
    assert interests.numpy().tolist() == [[0, 1, 0]]


def test_merging_leaves_out_what_is_excluded_and_marks_what_is_missing():
    scores = tf.constant([[[0.9, 0.5], [0.8, 0.7]], [[0.9, 0.5], [0.8, 0.7]]])
    rows = tf.constant([[[3, 1], [1, 2]], [[3, 1], [1, -1]]])
    exclude = tf.constant([[3, -1], [-1, -1]])
    rows, scores, interests = merge_interests(scores, rows, k=3, exclude=exclude)
    assert rows.numpy().tolist() == [[1, 2, -1], [3, 1, -1]]
    assert interests.numpy().tolist() == [[1, 1, -1], [0, 1, -1]]
    assert np.isneginf(scores.numpy()[:, 2]).all()


def test_merging_fewer_than_k_pads_the_list():
    rows, scores, interests = merge_interests(tf.constant([[[0.4]]]), tf.constant([[[5]]]), k=3)
    assert rows.numpy().tolist() == [[5, -1, -1]]
    assert interests.numpy().tolist() == [[0, -1, -1]]
    assert np.isneginf(scores.numpy()[0, 1:]).all()


@pytest.mark.parametrize("exclude", [False, True])
def test_exact_search_equals_sorting_all_scores_in_numpy(exclude):
    rng = np.random.default_rng(0)
    users = rng.normal(size=(7, 4, 8)).astype(np.float32)
    items = rng.normal(size=(50, 8)).astype(np.float32)
    seen = rng.integers(0, 50, (7, 6)) if exclude else None
    rows, scores, interests = search_exact(
        tf.constant(users), tf.constant(items), 10, None if seen is None else tf.constant(seen)
    )
    unit = users / np.linalg.norm(users, axis=-1, keepdims=True)
    cosine = unit @ (items / np.linalg.norm(items, axis=-1, keepdims=True)).T
    best = cosine.max(axis=1)
    if seen is not None:
        np.put_along_axis(best, seen, -2, axis=1)
    expected = np.argsort(-best, axis=1, kind="stable")[:, :10]
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(scores, np.take_along_axis(best, expected, 1), atol=1e-6)
    winner = cosine.argmax(axis=1)
    np.testing.assert_array_equal(interests, np.take_along_axis(winner, expected, 1))
    assert all(len(set(row)) == 10 for row in rows.numpy())


def test_k_may_be_a_tensor_inside_a_graph():
    search = tf.function(search_exact)
    rows, _, _ = search(tf.ones([1, 2, 3]), tf.eye(3), tf.constant(2))
    assert rows.shape == [1, 2]


def test_bought_items_come_first_by_how_often_they_were_bought():
    users = tf.constant([[[1.0, 0.0], [0.0, 1.0]]])
    items = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]], np.float32)
    seen = tf.constant([[3, 1, 3, 3, -1]])
    found = search_exact(users, tf.constant(items), 3, exclude=seen)
    assert found[0].numpy().tolist() == [[0, 2, -1]]  # cosines 1 and 1
    rows, scores, interests = prefer_repeats(
        found,
        users,
        seen=seen,
        seen_embedding=tf.gather(items, tf.maximum(seen, 0)),
        weight=0.5,
    )
    # item 1: .8 + .5 ln 2 = 1.1466; item 0: 1; item 2: 1; item 3: 0 + .5 ln 4 = .6931
    assert rows.numpy().tolist() == [[1, 0, 2]]
    np.testing.assert_allclose(scores, [[0.8 + 0.5 * np.log(2), 1, 1]], rtol=1e-6)
    assert interests.numpy().tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("weight", [0.3, -0.3])
@pytest.mark.parametrize("exclude_seen", [False, True])
def test_preferring_repeats_after_a_search_is_scoring_them_all(exclude_seen, weight):
    rng = np.random.default_rng(0)
    users = rng.normal(size=(6, 3, 8)).astype(np.float32)
    items = rng.normal(size=(40, 8)).astype(np.float32)
    seen = rng.integers(-1, 12, (6, 9))
    exclude = tf.constant(seen) if exclude_seen else None
    found = search_exact(tf.constant(users), tf.constant(items), 10, tf.constant(seen))
    rows, scores, _ = prefer_repeats(
        found,
        tf.constant(users),
        seen=tf.constant(seen),
        seen_embedding=tf.gather(items, np.maximum(seen, 0)),
        weight=weight,
        exclude=exclude,
    )
    everything = max_score(users, items).numpy()
    for user, bought in enumerate(seen):
        for row in set(bought) - {-1}:
            times = (bought == row).sum()
            everything[user, row] += weight * np.log1p(times)
            if exclude_seen:
                everything[user, row] = -9
    expected = np.argsort(-everything, axis=1, kind="stable")[:, :10]
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(scores, np.take_along_axis(everything, expected, 1), atol=1e-5)


def test_without_purchases_nothing_changes():
    users, items = tf.ones([2, 1, 3]), tf.eye(3)
    found = search_exact(users, items, 2)
    after = prefer_repeats(
        found,
        users,
        seen=tf.fill([2, 1], -1),
        seen_embedding=tf.zeros([2, 1, 3]),
        weight=1.0,
    )
    for a, b in zip(found, after, strict=True):
        np.testing.assert_array_equal(a, b)


def test_rescoring_prefers_what_more_interests_like():
    users = tf.constant([[[1.0, 0.0], [0.0, 1.0]]])
    items = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, -1.0]], np.float32)
    found = search_exact(users, tf.constant(items), 3)
    assert found[0].numpy().tolist() == [[0, 1, 2]]  # cosines 1, .8 and 0
    rows, scores, interests = rescore(
        found, users, found_embedding=tf.gather(items, found[0]), sharpness=0.0, k=2
    )
    # at 0 both interests weigh the same: (1 + 0) / 2, (.8 + .6) / 2, (0 - 1) / 2
    assert rows.numpy().tolist() == [[1, 0]]
    np.testing.assert_allclose(scores, [[0.7, 0.5]], atol=1e-6)
    assert interests.numpy().tolist() == [[0, 0]], "who fetched an item does not change"


@pytest.mark.parametrize("sharpness", [0.0, 3.0, 20.0])
def test_rescoring_the_whole_catalogue_is_ranking_by_the_softmax_score(sharpness):
    rng = np.random.default_rng(0)
    users = rng.normal(size=(6, 3, 8)).astype(np.float32)
    items = rng.normal(size=(40, 8)).astype(np.float32)
    found = search_exact(tf.constant(users), tf.constant(items), 40)
    rows, scores, _ = rescore(
        found, users, found_embedding=tf.gather(items, found[0]), sharpness=sharpness, k=10
    )
    everything = softmax_score(users, items, sharpness=sharpness).numpy()
    expected = np.argsort(-everything, axis=1, kind="stable")[:, :10]
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(scores, np.take_along_axis(everything, expected, 1), atol=1e-5)
    if sharpness:  # what the length of the list relies on
        below = (max_score(users, items) - everything).numpy()
        assert (below >= -1e-6).all()
        assert (below <= np.log(3) / sharpness).all()


def test_rescoring_keeps_what_was_added_to_a_score_and_the_holes_of_a_list():
    users = tf.constant([[[1.0, 0.0], [0.0, 1.0]]])
    items = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)
    found = (
        tf.constant([[1, 0, -1]], tf.int64),
        tf.constant([[0.6 + 0.25, 1.0, float("-inf")]]),  # .25 for a repeat, by the weaker interest
        tf.constant([[0, 0, -1]]),
    )
    rows, scores, interests = rescore(
        found,
        users,
        found_embedding=tf.gather(items, tf.maximum(found[0], 0)),
        sharpness=0.0,
        k=4,
    )
    assert rows.numpy().tolist() == [[1, 0, -1, -1]]
    np.testing.assert_allclose(scores[:, :2], [[0.7 + 0.25, 0.5]], atol=1e-6)
    assert interests.numpy().tolist() == [[0, 0, -1, -1]]
