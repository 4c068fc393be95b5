"""The prior of recent popularity, and vectors that carry it."""

import numpy as np

from guim_tf.popularity import prior, unit, with_coordinate


def test_the_most_popular_item_gets_the_weight_and_others_less_by_the_logarithm():
    found = prior(np.array([0, 1, 7, 3]), 0.3, sold=np.ones(4, bool))
    np.testing.assert_allclose(found, 0.3 * np.array([0, 1, 3, 2]) / 3, rtol=1e-6)
    assert found.dtype == np.float32


def test_where_nobody_bought_anything_there_is_no_prior():
    for sold in (np.ones(3, bool), np.zeros(3, bool)):
        np.testing.assert_array_equal(prior(np.zeros(3), 0.3, sold=sold), np.zeros(3))
    assert prior(np.zeros(0), 0.3, sold=np.zeros(0, bool)).shape == (0,)


def test_an_item_that_never_sold_gets_the_mean_of_the_others():
    """What sold once and not lately is known to sell badly; of a new item nothing is known."""
    found = prior(np.array([0, 0, 7, 3]), 0.3, sold=np.array([False, True, True, True]))
    np.testing.assert_allclose(found, 0.3 * np.array([5 / 3, 0, 3, 2]) / 3, rtol=1e-6)


def test_the_inner_product_is_cosine_plus_prior():
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(5, 2, 8)), 3 * rng.normal(size=(7, 8))
    added = rng.uniform(size=7)
    found = np.einsum("ucd,xd->ucx", with_coordinate(users, 1.0), with_coordinate(items, added))
    norms = np.linalg.norm(users, axis=-1)[..., None] * np.linalg.norm(items, axis=-1)
    expected = np.einsum("ucd,xd->ucx", users, items) / norms + added
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_vector_of_zeros_stays():
    np.testing.assert_array_equal(unit(np.zeros((2, 3))), np.zeros((2, 3)))
