"""Means over seeds and their intervals, with values worked out by hand."""

import pytest

from guim_tf.benchmark.intervals import Estimate, estimate, paired, paired_percent


def test_two_seeds():
    # Deviations -1 and 1: variance 2 / 1, standard error sqrt(2) / sqrt(2) = 1, times t = 12.706.
    assert estimate([3, 5]) == Estimate(4, pytest.approx(12.706), 2)


def test_three_seeds():
    # Deviations -2, 0, 2: variance 8 / 2 = 4, standard error 2 / sqrt(3), times t = 4.303.
    assert estimate([1, 3, 5]) == Estimate(3, pytest.approx(4.303 * 2 / 3**0.5), 3)


@pytest.mark.parametrize(("n", "quantile"), [(5, 2.776), (10, 2.262), (31, 2.042), (99, 2.042)])
def test_more_seeds_by_the_table(n, quantile):
    # Half of the values 0, half 2, one 1 where n is odd: deviations of 1.
    values = [0, 2] * (n // 2) + [1] * (n % 2)
    deviation = (2 * (n // 2) / (n - 1)) ** 0.5
    assert estimate(values).half_width == pytest.approx(quantile * deviation / n**0.5)


def test_one_seed_has_no_interval_and_none_no_mean():
    assert estimate([0.5]) == Estimate(0.5, None, 1)
    assert estimate([]) == estimate([None]) == Estimate(None, None, 0)


def test_absent_values_do_not_count():
    assert estimate([3, None, 5]) == estimate([3, 5])


def test_equal_values_have_an_interval_of_no_width():
    assert estimate([2, 2, 2]) == Estimate(2, 0, 3)


def test_pairs_are_of_the_same_seed():
    assert paired({0: 5.0, 1: 7.0, 2: 1.0}, {1: 4.0, 0: 4.0}) == {0: 1, 1: 3}
    assert paired({0: None, 1: 2.0}, {0: 1.0, 1: None}) == {0: None, 1: None}


def test_percent_of_the_reference_of_the_same_seed():
    assert paired_percent({0: 5.0, 1: 3.0}, {0: 4.0, 1: 4.0}) == {0: 25, 1: -25}
    assert paired_percent({0: 5.0, 1: None}, {0: 0.0, 1: 4.0}) == {0: None, 1: None}


def test_pairing_narrows_an_interval_that_seeds_share():
    # 1 apart with either seed, though seeds are 10 apart: the difference is certain.
    mine, other = {0: 11.0, 1: 21.0}, {0: 10.0, 1: 20.0}
    assert estimate(list(paired(mine, other).values())).half_width == 0
    assert estimate(list(mine.values())).half_width == pytest.approx(12.706 * 5)
