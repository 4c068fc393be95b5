"""Metrics by hand, one row of the table a situation."""

import math

import numpy as np
import pytest

from guim_tf.evaluation import metrics
from guim_tf.evaluation.ragged import Ragged, ragged

NAN = math.nan
SECOND = 1 / math.log2(3)  # gain of the second place; the first has 1
THIRD = 1 / 2

# ranked, truth, k, recall, ndcg
TABLE = {
    "all found": ([1, 2], [2, 1], 2, 1, 1),
    "second of two": ([9, 1], [1], 2, 1, SECOND),
    "half found": ([1, 9], [1, 2], 2, 0.5, 1 / (1 + SECOND)),
    "nothing found": ([7, 8, 9], [1], 3, 0, 0),
    "no truth": ([1, 2], [], 2, NAN, NAN),
    "k cuts": ([9, 8, 1], [1], 2, 0, 0),
    "k beyond the list": ([9, 1], [1, 2], 50, 0.5, SECOND / (1 + SECOND)),
    "more truth than k": ([1], [1, 2, 3, 4], 1, 0.25, 1),
    "list ended": ([9, -1, -1], [1], 3, 0, 0),
    "empty list": ([], [1], 3, 0, 0),
    "id twice in the list": ([1, 1, 1], [1, 2], 3, 0.5, 1 / (1 + SECOND)),
    "id twice, late": ([9, 9, 1], [1], 3, 1, THIRD),
    "id twice in truth": ([1, 9], [1, 1], 2, 1, 1),
    "row 0 is an id": ([0], [0], 1, 1, 1),
}


@pytest.mark.parametrize("situation", TABLE)
def test_metrics_of_one_user(situation):
    ranked, truth, k, *expected = TABLE[situation]
    functions = (metrics.recall_at_k, metrics.ndcg_at_k)
    ranked = np.array([ranked], np.int64).reshape(1, -1)
    for function, value in zip(functions, expected, strict=True):
        np.testing.assert_allclose(function(ranked, ragged([truth]), k), [value], rtol=1e-12)


def test_users_do_not_share_their_truth():
    ranked = np.array([[1, 2], [1, 2], [-1, 5]])
    truth = ragged([[2], [3], [0, 4]])
    # The -1 of the last user must not read as an id of the user before.
    np.testing.assert_array_equal(metrics.recall_at_k(ranked, truth, 2), [1, 0, 0])


def test_metrics_agree_with_sets():
    rng = np.random.default_rng(3)
    ranked = np.stack([rng.permutation(40)[:10] for _ in range(50)])
    lists = [rng.integers(0, 40, rng.integers(0, 8)) for _ in range(50)]
    expected = [
        len(set(row[:7]) & set(truth)) / len(set(truth)) if len(truth) else NAN
        for row, truth in zip(ranked.tolist(), map(np.ndarray.tolist, lists), strict=True)
    ]
    np.testing.assert_allclose(metrics.recall_at_k(ranked, ragged(lists), 7), expected)


def test_metrics_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match=r"ranked has shape \(1, 2\).*\[2, K\]"):
        metrics.recall_at_k(np.zeros((1, 2), int), ragged([[1], [2]]), 2)
    with pytest.raises(ValueError, match="k is 0, expected at least 1"):
        metrics.ndcg_at_k(np.zeros((1, 2), int), ragged([[1]]), 0)


def test_mean_leaves_out_users_without_truth():
    found = metrics.mean(np.array([0.0, NAN, 1.0, NAN]))
    # Standard deviation of 0 and 1 is sqrt(1/2); over sqrt(2) users that is 1/2.
    assert found == metrics.Mean(mean=0.5, half_width=pytest.approx(1.96 / 2), users=2)


def test_mean_of_one_and_of_nobody():
    one, nobody = metrics.mean(np.array([0.25])), metrics.mean(np.array([NAN]))
    assert (one.mean, one.users) == (0.25, 1)
    assert math.isnan(one.half_width)
    assert math.isnan(nobody.mean)
    assert nobody.users == 0


def test_top_k_breaks_ties_by_the_lower_column():
    scores = np.array([[1, 3, 2, 3, 2, 2], [5, 5, 5, 5, 5, 5]], np.float32)
    np.testing.assert_array_equal(metrics.top_k(scores, 4), [[1, 3, 2, 4], [0, 1, 2, 3]])


def test_top_k_is_a_stable_sort():
    scores = np.random.default_rng(0).integers(0, 5, (20, 60)).astype(np.float64)
    scores[3] = -np.inf
    expected = np.argsort(-scores, axis=1, kind="stable")
    for k in (1, 7, 59, 60):
        np.testing.assert_array_equal(metrics.top_k(scores, k), expected[:, :k])


def test_top_k_beyond_the_columns_ends_the_list():
    np.testing.assert_array_equal(metrics.top_k(np.array([[1.0, 2.0]]), 4), [[1, 0, -1, -1]])


def test_top_k_refuses_nan():
    with pytest.raises(ValueError, match="scores hold NaN"):
        metrics.top_k(np.array([[1.0, NAN]]), 1)


def test_ragged_parts():
    lists = ragged([[3, 1, 3], [], [2]])
    as_lists = lambda x: [x[i].tolist() for i in range(len(x))]  # noqa: E731
    assert as_lists(lists.distinct()) == [[1, 3], [], [2]]
    assert as_lists(lists.first()) == [[3], [], [2]]
    assert as_lists(lists.take(np.array([2, 0, 1]))) == [[2], [3, 1, 3], []]
    assert as_lists(lists.where(lists.values > 1)) == [[3, 3], [], [2]]
    np.testing.assert_array_equal(
        lists.contains(np.array([0, 1, 2, 2]), np.array([1, 1, 2, -1])), [True, False, True, False]
    )


def test_ragged_of_nothing():
    empty = Ragged(np.zeros(3, np.int64), np.empty(0, np.int64))
    assert empty.distinct().lengths.tolist() == [0, 0]
    assert empty.first().lengths.tolist() == [0, 0]
    assert not empty.contains(np.array([0, 1]), np.array([0, 5])).any()
