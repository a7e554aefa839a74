"""The median of a few runs, and how well they tell it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import binom

from jkofilter._typing import Array


class MedianInterval(NamedTuple):
    """A sample median between two values of the sample; NaN where there is no sample."""

    median: float
    low: float
    high: float


def median_interval(values: Array, level: float = 0.95) -> MedianInterval:
    """The sample median, and an interval that holds the true one with at least this probability.

    Between the k-th smallest and the k-th largest of n values the median of any continuous law lies with probability
    1 - 2 P(B < k), B binomial (n, 1/2) (David & Nagaraja, Order Statistics, 2003, section 7.1); k is the largest that
    reaches ``level``. Fewer values than reach it (six for 0.95) give their range, which holds the median with
    probability 1 - 2^(1 - n) only.

    Args:
        values: (n,), NaN left out.
        level: between 0 and 1.
    """
    data = np.sort(np.asarray(values, dtype=float))
    data = data[~np.isnan(data)]
    n = data.size
    if n == 0:
        return MedianInterval(np.nan, np.nan, np.nan)
    # P(B <= k - 1) <= (1 - level)/2 for the largest k; at least the smallest and the largest value.
    k = max(int(np.searchsorted(binom.cdf(np.arange(n), n, 0.5), (1 - level) / 2, side="right")), 1)
    return MedianInterval(float(np.median(data)), float(data[k - 1]), float(data[n - k]))
