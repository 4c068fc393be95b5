"""Quotas: the merge against a greedy loop in plain Python."""

import numpy as np
import pytest
import tensorflow as tf

from guim_tf.mixture import merge_interests, prefer_repeats


def greedy(scores, rows, *, k, quota, exclude=()):
    """Best first (equal: lower row, lower interest); an item comes while its interest has room."""
    triples = sorted(
        (-scores[c][m], rows[c][m], c) for c in range(len(rows)) for m in range(len(rows[c]))
    )
    found, room = [], [quota] * len(rows)
    for score, row, c in triples:
        if row >= 0 and row not in exclude and room[c] and row not in [x[0] for x in found]:
            found.append((row, -score, c))
            room[c] -= 1
    return found[:k]


def test_a_quota_gives_an_item_to_its_next_interest_when_the_first_is_full():
    scores = tf.constant([[[0.9, 0.8, 0.1], [0.7, 0.5, 0.3]]])
    rows = tf.constant([[[3, 1, 0], [1, 2, 4]]])
    rows, scores, interests = merge_interests(scores, rows, k=3, per_interest=tf.constant(1))
    # item 3 fills interest 0; item 1 then comes by interest 1 with .7, which fills that
    assert rows.numpy().tolist() == [[3, 1, -1]]
    np.testing.assert_allclose(scores[0, :2], [0.9, 0.7])
    assert interests.numpy().tolist() == [[0, 1, -1]]


@pytest.mark.parametrize("quota", [1, 2, 3, 5, 100])
def test_a_quota_is_the_greedy_choice(quota):
    """Random lists with many items in common, equal scores, holes and excluded items."""
    rng = np.random.default_rng(quota)
    users, interests, length, k = 30, 4, 12, 8
    scores = -np.sort(-rng.integers(0, 20, (users, interests, length)) / 20, axis=2)
    rows = np.stack(
        [[rng.permutation(18)[:length] for _ in range(interests)] for _ in range(users)]
    )
    rows[rng.random(rows.shape) < 0.1] = -1
    exclude = rng.integers(-1, 18, (users, 3))
    merge = tf.function(merge_interests)
    got = merge(
        tf.constant(scores, tf.float32),
        tf.constant(rows),
        k=tf.constant(k),
        exclude=tf.constant(exclude),
        per_interest=tf.constant(quota),
    )
    for user in range(users):
        expected = greedy(scores[user], rows[user], k=k, quota=quota, exclude=exclude[user])
        padded = expected + [(-1, -np.inf, -1)] * (k - len(expected))
        for given, wanted in zip(got, zip(*padded, strict=True), strict=True):
            np.testing.assert_allclose(given[user], wanted, rtol=1e-6)


def test_lists_of_k_and_the_excluded_are_long_enough_for_any_quota():
    """As long as the whole catalogue they give the same."""
    rng = np.random.default_rng(0)
    users = rng.normal(size=(20, 3, 4)).astype(np.float32)
    users[:, 1] = users[:, 0] + 0.1 * users[:, 1]  # two interests with nearly the same list
    items = rng.normal(size=(60, 4)).astype(np.float32)
    exclude = rng.integers(0, 60, (20, 5))
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (users, items)]
    cosine = np.einsum("ucd,xd->ucx", *unit)
    order = np.argsort(-cosine, axis=2)
    sorted_cosine = np.take_along_axis(cosine, order, axis=2)
    for k, quota in ((9, 3), (9, 4), (6, 1)):
        short, whole = (
            merge_interests(
                tf.constant(sorted_cosine[:, :, :length]),
                tf.constant(order[:, :, :length]),
                k=k,
                exclude=tf.constant(exclude),
                per_interest=tf.constant(quota),
            )
            for length in (k + 5, 60)
        )
        np.testing.assert_array_equal(short[0], whole[0])
        np.testing.assert_array_equal(short[2], whole[2])
        assert ((short[0].numpy() >= 0).sum(axis=1) == min(k, 3 * quota)).all()


def test_a_quota_below_the_best_list_does_nothing():
    scores, rows = tf.random.stateless_uniform([5, 3, 9], [1, 2]), tf.range(135) % 20
    rows = tf.reshape(rows, [5, 3, 9])
    plain = merge_interests(scores, rows, k=7)
    for x, y in zip(
        plain, merge_interests(scores, rows, k=7, per_interest=tf.constant(7)), strict=True
    ):
        np.testing.assert_array_equal(x, y)


def test_bought_items_count_for_a_quota():
    rng = np.random.default_rng(0)
    users, items = (tf.constant(rng.normal(size=s), tf.float32) for s in ((4, 3, 8), (40, 8)))
    seen = tf.constant(rng.integers(0, 40, (4, 6)))
    scores, rows = tf.math.top_k(
        tf.einsum("bcd,xd->bcx", tf.math.l2_normalize(users, -1), tf.math.l2_normalize(items, -1)),
        k=15,
    )
    quota = tf.constant(3)
    found = merge_interests(scores, rows, k=9, exclude=seen, per_interest=quota)
    rows, scores, interests = prefer_repeats(
        found,
        users,
        seen=seen,
        seen_embedding=tf.gather(items, seen),
        weight=5.0,
        per_interest=quota,
    )
    for user in range(4):
        assert (np.bincount(interests[user].numpy(), minlength=3) == 3).all()
        assert len(set(rows[user].numpy())) == 9
        repeats = np.isin(rows[user].numpy(), seen[user].numpy())
        assert repeats[: repeats.sum()].all(), "5 ln 2 outweighs any cosine"
        assert repeats.any()
