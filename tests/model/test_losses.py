"""InfoNCE against other users of the batch: what counts as a negative, and how much."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_recommenders as tfrs

from guim_tf import shared_negatives
from guim_tf.drawn_negatives import DrawnNegatives
from guim_tf.losses import Candidates, InfoNCE, draw_negatives, ownership
from guim_tf.shared_negatives import SharedNegatives

SEED = tf.constant([0, 1], tf.int64)


def items(vectors, owner, key, probability=None) -> Candidates:
    """Events by owner and key; those of one key are one candidate, with the first's vector."""
    keys, first, item = np.unique(key, return_index=True, return_inverse=True)
    probability = np.array(probability or [1 / len(owner)] * len(owner))
    return Candidates(
        vector=tf.constant(np.array(vectors)[first], tf.float32),
        key=tf.constant(keys, tf.int64),
        probability=tf.constant(probability[first], tf.float32),
        item=tf.constant(item, tf.int32),
        owner=tf.constant(owner, tf.int32),
    )


def loss(queries, candidates, positive, *, negatives_per_user=None, logq=False, seed=SEED):
    info_nce = InfoNCE(20.0, negatives_per_user, logq)
    queries = tf.constant(queries, tf.float32)
    return float(info_nce(queries, tf.where(positive)[:, 0], candidates, seed=seed))


def test_loss_is_eq_4_with_eq_3_scores():
    # User 0's vectors are (1, 0) and (0, 1); the positive is (1, 1): max cosine .70711.
    # The other user's items are (-1, 0), max cosine 0, and (0, 1), max cosine 1.
    candidates = items([[1, 1], [-1, 0], [0, 1]], [0, 1, 1], [10, 11, 12])
    logits = 20 * np.array([2**-0.5, 0.0, 1.0])
    expected = -logits[0] + np.log(np.exp(logits).sum())
    got = loss([[[1, 0], [0, 1]]], candidates, [True, False, False])
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_users_own_items_are_no_negatives():
    alone = items([[1, 0], [0, 1]], [0, 1], [10, 11])
    more = items([[1, 0], [1, 0], [0, 1]], [0, 0, 1], [10, 12, 11])
    query = [[[1.0, 0.2]]]
    np.testing.assert_allclose(
        loss(query, more, [True, False, False]), loss(query, alone, [True, False]), rtol=1e-5
    )


def test_an_item_of_the_user_is_no_negative_whoever_else_has_it():
    alone = items([[1, 0], [0, 1]], [0, 1], [10, 11])
    shared = items([[1, 0], [1, 0.1], [1, 0.1], [0, 1]], [0, 0, 1, 1], [10, 12, 12, 11])
    query = [[[1.0, 0.2]]]
    np.testing.assert_allclose(
        loss(query, shared, [True, False, False, False]),
        loss(query, alone, [True, False]),
        rtol=1e-5,
    )


def test_of_the_whole_batch_every_distinct_item_is_one_negative():
    once = items([[1, 0], [0, 1]], [0, 1], [10, 11])
    often = items([[1, 0], [0, 1], [0, 1], [0, 1]], [0, 1, 2, 3], [10, 11, 11, 11])
    query = [[[1.0, 0.2]]]
    np.testing.assert_allclose(
        loss(query, often, [True, False, False, False]), loss(query, once, [True, False]), rtol=1e-5
    )


def test_an_accidental_hit_weighs_nothing():
    without = items([[1, 0], [0, 1]], [0, 1], [10, 11])
    hit = items([[1, 0], [1, 0], [0, 1]], [0, 1, 1], [10, 10, 11])
    query = [[[1.0, 0.2]]]
    np.testing.assert_allclose(
        loss(query, hit, [True, False, False]), loss(query, without, [True, False]), rtol=1e-5
    )


def test_with_logq_a_popular_negative_weighs_less_than_a_rare_one():
    def with_negative_of(probability):
        candidates = items([[1, 0], [1, 0]], [0, 1], [10, 11], [0.1, probability])
        return loss([[[1.0, 0.0]]], candidates, [True, False], logq=True)

    popular, rare = with_negative_of(0.5), with_negative_of(0.01)
    assert popular < rare
    # logits 20 - ln q: the negative's odds against the positive are q_positive / q_negative
    np.testing.assert_allclose(popular, np.log(1 + 0.1 / 0.5), rtol=1e-4)
    np.testing.assert_allclose(rare, np.log(1 + 0.1 / 0.01), rtol=1e-4)


def test_without_logq_popularity_does_not_matter():
    one = items([[1, 0], [1, 0]], [0, 1], [10, 11], [0.1, 0.5])
    two = items([[1, 0], [1, 0]], [0, 1], [10, 11], [0.1, 0.01])
    assert loss([[[1.0, 0]]], one, [True, False]) == loss([[[1.0, 0]]], two, [True, False])


def test_positives_may_stand_anywhere_and_are_summed():
    candidates = items([[0, 1], [1, 0], [1, 1]], [1, 0, 2], [10, 11, 12])
    queries = [[[1.0, 0.0]], [[1.0, 1.0]]]  # of positives 11 and 12
    both = loss(queries, candidates, [False, True, True])
    first = loss(queries[:1], candidates, [False, True, False])
    second = loss(queries[1:], candidates, [False, False, True])
    np.testing.assert_allclose(both, first + second, rtol=1e-5)


def test_the_loss_is_the_same_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    candidates = items(rng.normal(size=[12, 4]), np.repeat(np.arange(4), 3), np.arange(12) % 9)
    queries = rng.normal(size=[7, 2, 4])
    positive = [True] * 7 + [False] * 5
    whole = loss(queries, candidates, positive, logq=True)
    monkeypatch.setattr(shared_negatives, "_LEAST_AT_ONCE", 3)
    monkeypatch.setattr(shared_negatives, "_SCORES_AT_ONCE", 1)
    np.testing.assert_allclose(loss(queries, candidates, positive, logq=True), whole, rtol=1e-5)


def test_padding_behind_the_candidates_weighs_nothing():
    """No event is of it."""
    candidates = items([[1, 0], [0, 1]], [0, 1], [10, 11])
    padded = candidates._replace(
        vector=tf.concat([candidates.vector, [[1.0, 0.0]]], axis=0),
        key=tf.concat([candidates.key, [0]], axis=0),
        probability=tf.concat([candidates.probability, [0.1]], axis=0),
    )
    query, positive = [[[1.0, 0.2]]], [True, False]
    assert loss(query, padded, positive) == pytest.approx(loss(query, candidates, positive))


def test_a_query_may_have_several_positives_or_none():
    candidates = items([[1, 0], [1, 1], [0, 1]], [0, 0, 1], [10, 11, 12])
    info_nce = InfoNCE(20.0, None, logq=True)
    queries = tf.constant([[[0.3, 1.0]], [[1.0, 0.2]]])  # the first has none
    both = info_nce(queries, tf.constant([1, 0]), candidates, query=tf.constant([1, 1]), seed=SEED)
    each = [
        info_nce(queries[1:], tf.constant([positive]), candidates, seed=SEED) for positive in (0, 1)
    ]
    np.testing.assert_allclose(both, each[0] + each[1], rtol=1e-5)


def test_an_event_may_be_the_positive_of_several_queries():
    candidates = items([[1, 0], [0, 1]], [0, 1], [10, 11])
    info_nce = InfoNCE(20.0, None, logq=False)
    queries = tf.constant([[[1.0, 0.2]], [[0.3, 1.0]]])
    both = info_nce(queries, tf.constant([0, 0]), candidates, seed=SEED)
    each = [info_nce(queries[i : i + 1], tf.constant([0]), candidates, seed=SEED) for i in (0, 1)]
    np.testing.assert_allclose(both, each[0] + each[1], rtol=1e-5)


def test_gradients_reach_all_vectors_of_a_user():
    """Each of C vectors is the nearest to some candidate, and so has a part in the softmax."""
    candidates = items([[1, 0], [0, 1], [-1, 0.1], [0.1, -1]], [0, 1, 1, 1], [10, 11, 12, 13])
    queries = tf.Variable([[[1.0, 0.1], [0.1, 1.0], [-1.0, 0.2], [0.2, -1.0]]])
    with tf.GradientTape() as tape:
        total = InfoNCE(2.0, None, logq=False)(queries, tf.constant([0]), candidates, seed=SEED)
    assert (np.abs(tape.gradient(total, queries)[0]).max(axis=-1) > 1e-3).all()


def test_no_positive_gives_no_loss():
    candidates = items([[1, 0], [0, 1]], [0, 1], [10, 11])
    assert loss(np.zeros([0, 1, 2]), candidates, [False, False]) == 0


def test_negatives_are_one_of_each_other_user():
    """At a batch of 32 these are the paper's K = 31."""
    owner = np.repeat(np.arange(32), 3)
    own = [0, 0, 5]
    event, drawn = draw_negatives(tf.constant(own, tf.int32), tf.constant(owner, tf.int32), 1, SEED)
    assert drawn.numpy().sum(axis=1).tolist() == [31, 31, 31]
    for row, there, user in zip(event.numpy(), drawn.numpy(), own, strict=True):
        assert sorted(owner[row[there]]) == [u for u in range(32) if u != user]
    assert (event[0] != event[1]).numpy().any(), "positives of one user draw independently"


def test_every_item_of_a_user_is_drawn_equally_often():
    owner = tf.constant([1, 0, 1, 1, 1], tf.int32)
    event, drawn = draw_negatives(tf.zeros([4000], tf.int32), owner, 1, SEED)
    shares = np.bincount(event.numpy()[drawn.numpy()], minlength=5) / 4000
    np.testing.assert_allclose(shares, [0.25, 0, 0.25, 0.25, 0.25], atol=0.03)


def test_several_items_of_each_user_may_be_drawn():
    owner = tf.constant([0, 1, 1, 2], tf.int32)
    event, drawn = draw_negatives(tf.constant([0], tf.int32), owner, 3, SEED)
    found = event.numpy()[drawn.numpy()]
    assert np.bincount(owner.numpy()[found], minlength=3).tolist() == [0, 3, 3]


def test_drawn_negatives_are_the_ones_in_the_softmax():
    """With one other user of one item, drawing and taking all are the same."""
    candidates = items([[1, 0], [0, 1], [1, 1]], [0, 1, 0], [10, 11, 12])
    query = [[[1.0, 0.5]]]
    positive = [True, False, False]
    np.testing.assert_allclose(
        loss(query, candidates, positive, negatives_per_user=1),
        loss(query, candidates, positive),
        atol=1e-6,
    )


def test_a_user_without_items_is_no_one_to_draw_from():
    owner = tf.constant([0, 2], tf.int32)  # user 1 has none
    event, drawn = draw_negatives(tf.constant([0], tf.int32), owner, 1, SEED)
    assert drawn.numpy().tolist() == [[False, False, True]]
    assert event[0, 2] == 1


def test_a_drawn_accidental_hit_weighs_nothing():
    without = items([[1, 0], [0, 1]], [0, 1], [10, 11])
    hit = items([[1, 0], [0, 1], [1, 0]], [0, 1, 2], [10, 11, 10])
    query = [[[1.0, 0.2]]]
    np.testing.assert_allclose(
        loss(query, hit, [True, False, False], negatives_per_user=1),
        loss(query, without, [True, False], negatives_per_user=1),
        rtol=1e-5,
    )


@pytest.mark.parametrize("logq", [False, True])
def test_drawn_negatives_are_the_retrieval_task_of_the_library_with_a_mask(logq):
    rng = np.random.default_rng(0)
    positives, size, dim = 7, 12, 6
    query = tf.constant([0, 0, 2, 3, 3, 3, 4])  # of which one has no positive
    queries = tf.constant(rng.normal(size=[5, 3, dim]), tf.float32)
    vectors = tf.constant(rng.normal(size=[size, dim]), tf.float32)
    probability = tf.constant(rng.uniform(0.01, 0.9, size), tf.float32)
    positive = tf.constant(rng.integers(0, size, positives), tf.int32)
    negative = np.stack([rng.choice(size, 4, replace=False) for _ in range(positives)])
    negative[0, 2] = positive[0]  # an accidental hit
    drawn = rng.random([positives, 4]) < 0.8
    mask = np.zeros([positives, size], bool)
    for row in range(positives):
        mask[row, negative[row][drawn[row]]] = True

    def ours(queries, vectors):
        return DrawnNegatives(temperature=0.2)(
            queries,
            vectors,
            query=query,
            positive=positive,
            negative=tf.constant(negative, tf.int32),
            drawn=tf.constant(drawn),
            candidate_sampling_probability=probability if logq else None,
        )

    def the_librarys(queries, vectors):
        of_positives = tf.gather(probability, positive)
        return tfrs.tasks.Retrieval(temperature=0.2, remove_accidental_hits=True)(
            tf.gather(queries, query),
            tf.concat([tf.gather(vectors, positive), vectors], axis=0),
            candidate_sampling_probability=tf.concat([of_positives, probability], axis=0)
            if logq
            else None,
            candidate_ids=tf.concat([positive, tf.range(size)], axis=0),
            score_mask=tf.concat([tf.eye(positives, dtype=tf.bool), mask], axis=1),
            compute_metrics=False,
        )

    found = []
    for task in (ours, the_librarys):
        with tf.GradientTape() as tape:
            tape.watch([queries, vectors])
            total = task(queries, vectors)
        found.append([total, *map(tf.convert_to_tensor, tape.gradient(total, [queries, vectors]))])
    for mine, expected in zip(*found, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("interests", [1, 3])
@pytest.mark.parametrize("logq", [False, True])
@pytest.mark.parametrize("at_once", [4, 1024])
def test_shared_negatives_are_the_retrieval_task_of_the_library(
    interests, logq, at_once, monkeypatch
):
    """The loss and both gradients, against TensorFlow Recommenders op by op."""
    monkeypatch.setattr(shared_negatives, "_LEAST_AT_ONCE", at_once)
    monkeypatch.setattr(shared_negatives, "_SCORES_AT_ONCE", 1)
    rng = np.random.default_rng(0)
    users, positives, size, dim = 5, 11, 9, 6
    query = tf.constant([8, 0, 0, 2, 3, 3, 3, 5, 6, 7, 8])  # of which two have no positive
    queries = tf.constant(rng.normal(size=[10, interests, dim]), tf.float32)
    vectors = tf.constant(rng.normal(size=[size, dim]), tf.float32)
    probability = tf.constant(rng.uniform(0.01, 0.9, size), tf.float32)
    event_owner = tf.constant(rng.integers(0, users, 20), tf.int32)
    event_item = tf.constant(rng.integers(0, size, 20), tf.int32)
    owners = tf.constant(rng.integers(0, users, 10), tf.int32)
    negative = ~ownership(event_owner, event_item, tf.constant(size))
    owner = tf.gather(owners, query)
    own = [event_item.numpy()[event_owner.numpy() == user] for user in range(users)]
    which = tf.constant([rng.choice(own[user]) for user in owner.numpy()], tf.int32)

    def ours(queries, vectors):
        return SharedNegatives(temperature=0.2)(
            queries,
            vectors,
            query=query,
            positive=which,
            owner=owners,
            negative=negative,
            candidate_sampling_probability=probability if logq else None,
        )

    def the_librarys(queries, vectors):
        twice = tf.concat([tf.gather(vectors, which), vectors], axis=0)
        own = tf.eye(positives, dtype=tf.bool)
        return tfrs.tasks.Retrieval(temperature=0.2, remove_accidental_hits=True)(
            tf.gather(queries, query),
            twice,
            candidate_sampling_probability=tf.concat(
                [tf.gather(probability, which), probability], axis=0
            )
            if logq
            else None,
            candidate_ids=tf.concat([which, tf.range(size)], axis=0),
            score_mask=tf.concat([own, tf.gather(negative, owner)], axis=1),
            compute_metrics=False,
        )

    found = []
    for task in (ours, the_librarys):
        with tf.GradientTape() as tape:
            tape.watch([queries, vectors])
            total = tf.function(task)(queries, vectors)
        found.append([total, *map(tf.convert_to_tensor, tape.gradient(total, [queries, vectors]))])
    for mine, expected in zip(*found, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5)


def test_a_weighted_loss_has_weighted_gradients():
    candidates = items([[1, 0], [0, 1]], [0, 1], [10, 11])
    queries = tf.Variable([[[1.0, 0.4]]])
    gradients = []
    for weight in (1.0, 0.3):
        with tf.GradientTape() as tape:
            total = weight * InfoNCE(2.0, None, False)(
                queries, tf.constant([0]), candidates, seed=SEED
            )
        gradients.append(tape.gradient(total, queries).numpy())
    np.testing.assert_allclose(gradients[1], 0.3 * gradients[0], rtol=1e-5)
