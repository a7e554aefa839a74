"""Intervals of the median between order statistics, against the binomial law and by simulation."""

import math

import numpy as np
import pytest

from jkofilter.numerics.intervals import median_interval


@pytest.mark.parametrize(("n", "k"), [(6, 1), (10, 2), (15, 4), (20, 6), (30, 10)])
def test_the_ends_are_the_order_statistics_of_the_textbook_tables(n: int, k: int) -> None:
    values = np.random.default_rng(n).permutation(np.arange(1.0, n + 1))
    assert median_interval(values) == ((n + 1) / 2, k, n + 1 - k)
    outside = 2 * sum(math.comb(n, j) for j in range(k)) / 2**n
    wider = outside + 2 * math.comb(n, k) / 2**n
    assert outside <= 0.05 < wider


def test_few_values_give_their_range_and_none_give_nan() -> None:
    assert median_interval(np.array([3.0, np.nan, 1.0])) == (2.0, 1.0, 3.0)
    assert median_interval(np.array([5.0])) == (5.0, 5.0, 5.0)
    assert all(math.isnan(value) for value in median_interval(np.array([np.nan])))


def test_infinite_values_stay_where_they_belong() -> None:
    assert median_interval(np.array([1.0, 2.0, math.inf])) == (2.0, 1.0, math.inf)


def test_the_interval_holds_the_true_median_as_often_as_it_says() -> None:
    source = np.random.default_rng(0)
    held = [
        low <= math.log(2) <= high
        for _, low, high in (median_interval(source.exponential(size=15)) for _ in range(4000))
    ]
    # Exact coverage of (4th, 12th) of 15 is 0.9648; four standard errors of 4000 trials are 0.012.
    assert np.mean(held) == pytest.approx(0.9648, abs=0.012)


def test_a_level_reached_exactly_is_reached() -> None:
    """Six values: outside the second and the fifth lies the median with probability 2 (1 + 6) / 64."""
    assert median_interval(np.arange(1.0, 7.0), 1 - 14 / 64) == (3.5, 2.0, 5.0)
    assert median_interval(np.arange(1.0, 7.0), 1 - 14 / 64 + 1e-9) == (3.5, 1.0, 6.0)
