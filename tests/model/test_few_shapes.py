"""Sizes of a batch, rounded up to few."""

import numpy as np
import tensorflow as tf

from guim_tf.few_shapes import pad_rows, round_up


def rounded(sizes) -> np.ndarray:
    return np.array([int(round_up(tf.constant(int(size)))) for size in sizes])


def test_small_sizes_stay():
    np.testing.assert_array_equal(rounded(range(64)), range(64))


def test_a_size_grows_by_less_than_a_32nd():
    sizes = np.unique(np.geomspace(1, 1_000_000, 500).astype(int))
    found = rounded(sizes)
    assert (found >= sizes).all()
    assert (found < sizes * (1 + 1 / 32)).all()


def test_sizes_are_few_and_each_is_its_own():
    found = np.unique(rounded(range(2048, 4097)))
    assert len(found) <= 33
    np.testing.assert_array_equal(rounded(found), found)


def test_padding_is_zeros_behind():
    found = pad_rows(tf.constant([[1, 2], [3, 4]]), tf.constant(3))
    assert found.numpy().tolist() == [[1, 2], [3, 4], [0, 0]]
    assert pad_rows(tf.constant([1]), tf.constant(1)).numpy().tolist() == [1]
