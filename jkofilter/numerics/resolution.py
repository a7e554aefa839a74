"""Whether cells see the potential between their centres: narrow wells and barriers that would be stepped over."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import logsumexp

from jkofilter._typing import Array
from jkofilter.numerics.grids import Axis

_CORE = 12.0
_LOOKS = 16
_FEWEST = 8
_STEEPEST = 500.0
_CLEAR = 1e-3


def unresolved(energy: Callable[[Array], Array], axis: Axis, log_density: Array) -> float:
    """How much the weight of wells, or the resistance of barriers, is off near where a law has its bulk, as a share.

    Between centres the scheme takes the potential as linear. That is compared with the potential at sixteen places,
    in windows of a standard deviation of the law: integrals of exp(-energy), which is where mass settles, and of
    exp(height), the height that of a barrier above the lower of the lands on its two sides, which is how long crossing
    it takes. Where the two potentials are nowhere apart by more than a trifle, the share returned is the bound that
    follows from that.

    Args:
        energy: beta V at points (n, 1), (n,).
        axis: the cells.
        log_density: of the law at their centres, (cells,), any additive constant.
    """
    bulk = np.flatnonzero(log_density > log_density.max() - _CORE)
    first, last = max(int(bulk[0]) - _FEWEST, 0), min(int(bulk[-1]) + _FEWEST, axis.cells - 1)
    x = axis.centres[first : last + 1]
    if x.size < 2:
        return 0.0
    share = (np.arange(_LOOKS) + 0.5) / _LOOKS
    between = (x[:-1, None] + axis.width * share).reshape(-1)
    at_centres = energy(x[:, None])
    assumed = (at_centres[:-1, None] + np.diff(at_centres)[:, None] * share).reshape(-1)
    found = energy(between[:, None])
    found = np.where(np.isfinite(found), found, assumed)
    apart = float(np.abs(found - assumed).max())
    if apart < _CLEAR:
        # Heights are differences of two energies.
        return math.expm1(2.0 * apart)
    window = min(max(_FEWEST, round(_deviation(axis, log_density) / axis.width)), x.size - 1)
    wells = _apart(-found, -assumed, window)
    return max(wells, _apart(_heights(found), _heights(assumed), window))


def _deviation(axis: Axis, log_density: Array) -> float:
    p = np.exp(log_density - log_density.max())
    mean = p @ axis.centres / p.sum()
    return float(np.sqrt(p @ (axis.centres - mean) ** 2 / p.sum()))


def _heights(energy: Array) -> Array:
    """Of every place above the higher of the lowest places to its left and to its right: zero on slopes."""
    left, right = np.minimum.accumulate(energy), np.minimum.accumulate(energy[::-1])[::-1]
    return np.minimum(energy - np.maximum(left, right), _STEEPEST)


def _apart(found: Array, assumed: Array, window: int) -> float:
    """Largest integral of |exp(found) - exp(assumed)| over windows of so many cells, as a share of the latter's."""
    with np.errstate(divide="ignore"):
        missed = np.maximum(found, assumed) + np.log(-np.expm1(-np.abs(found - assumed)))
    shares = _sums(missed, window) - _sums(assumed, window)
    return float(np.exp(np.minimum(shares.max(), _STEEPEST)))


def _sums(logs: Array, window: int) -> Array:
    """Logarithms of the sums over windows of so many cells, four to a window's length."""
    cells = logsumexp(logs.reshape(-1, _LOOKS), axis=1)
    return np.asarray(logsumexp(sliding_window_view(cells, window)[:: max(window // 4, 1)], axis=1))
