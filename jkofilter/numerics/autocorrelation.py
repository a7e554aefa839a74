"""How much numbers in a row remember."""

from __future__ import annotations

import numpy as np

from jkofilter._typing import Array


def autocorrelation(x: Array, lags: int) -> Array:
    """Sample autocorrelation of numbers (n,) at the lags 1 to ``lags`` < n, (lags,)."""
    centred = x - x.mean()
    return np.array([centred[k:] @ centred[:-k] for k in range(1, lags + 1)]) / float(centred @ centred)
