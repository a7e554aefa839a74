"""Sums over the particles and ridges of a step, compiled: every basis function is zero but on four or five cells.

Written as loops for numba, direction by direction, so that the rows of a table that are read or added to stay in a
core's nearest cache. ``index`` is the first of a particle's slots in a direction's table, ``rises`` and ``bumps`` are
what stands in them (``ridge_design``).
"""

from __future__ import annotations

import numpy as np
from numba import njit

_FLAGS = {"contract", "reassoc"}
"""Sums may be reordered and fused into products; NaN and infinity keep their meaning."""


@njit(cache=True, nogil=True, fastmath=_FLAGS)
def look_up(index, rises, bumps, sums, values, slope, curvature):  # type: ignore[no-untyped-def]
    """Slope and curvature of every ridge at every particle.

    Args:
        index: (k, n).
        rises: (k, n, 5).
        bumps: (k, n, 4).
        sums: running sums of the coefficients, starting with zero, (k, m + 1).
        values: coefficients of all B-splines, (k, m).
        slope: is written here, (k, n).
        curvature: is written here, (k, n).
    """
    for k in range(index.shape[0]):
        for i in range(index.shape[1]):
            at = index[k, i]
            slope[k, i] = (
                rises[k, i, 0] * sums[k, at]
                + rises[k, i, 1] * sums[k, at + 1]
                + rises[k, i, 2] * sums[k, at + 2]
                + rises[k, i, 3] * sums[k, at + 3]
                + rises[k, i, 4] * sums[k, at + 4]
            )
            curvature[k, i] = (
                bumps[k, i, 0] * values[k, at]
                + bumps[k, i, 1] * values[k, at + 1]
                + bumps[k, i, 2] * values[k, at + 2]
                + bumps[k, i, 3] * values[k, at + 3]
            )


@njit(cache=True, nogil=True, fastmath=_FLAGS)
def add_up(index, rises, bumps, force, strain, sums, values):  # type: ignore[no-untyped-def]
    """The adjoint of ``look_up``: adds to ``sums`` and ``values`` what ``force`` and ``strain``, (k, n), pull at."""
    for k in range(index.shape[0]):
        for i in range(index.shape[1]):
            at = index[k, i]
            for s in range(5):
                sums[k, at + s] += force[k, i] * rises[k, i, s]
            for s in range(4):
                values[k, at + s] += strain[k, i] * bumps[k, i, s]


@njit(cache=True, nogil=True, fastmath=_FLAGS)
def fill_products(  # type: ignore[no-untyped-def]
    index, rises, bumps, directions, pulled, strained, width, mean, weight, total
):
    """Second moments of centred slopes, times a' M a, and of curvatures, times (a' H^-1 a)^2, of every two directions.

    Args:
        index: (k, n).
        rises: (k, n, 5).
        bumps: (k, n, 4).
        directions: a, (k, d).
        pulled: M a of every particle's metric M, (k, n, d).
        strained: H^-1 a of every particle's Jacobian H, (k, n, d).
        width: of the cells, (k,).
        mean: of the slopes, (k, j).
        weight: of the curvatures.
        total: sums over the particles are written here, (k, j, k, j).
    """
    n, d, size = index.shape[1], directions.shape[1], mean.shape[1] + 4
    kind = total.dtype
    sums, values = np.empty((size + 1, size + 1), kind), np.empty((size, size), kind)
    for k in range(index.shape[0]):
        for j in range(k + 1):
            sums[:], values[:] = 0, 0
            for i in range(n):
                metric = strain = directions[j, 0] * 0
                for c in range(d):
                    metric += pulled[k, i, c] * directions[j, c]
                    strain += strained[k, i, c] * directions[j, c]
                strain *= strain * weight
                row, column = index[k, i], index[j, i]
                for s in range(5):
                    left = metric * rises[k, i, s]
                    for r in range(5):
                        sums[row + s, column + r] += left * rises[j, i, r]
                for s in range(4):
                    left = strain * bumps[k, i, s]
                    for r in range(4):
                        values[row + s, column + r] += left * bumps[j, i, r]
            _integrate(sums)
            _tie(sums, values, width[k], width[j], mean[k], mean[j], total[k, :, j])
            if j < k:
                total[j, :, k] = total[k, :, j].T


@njit(cache=True, nogil=True)
def _integrate(table):  # type: ignore[no-untyped-def]
    """Running sums from the last slot on, in both ways: differences of antiderivatives become antiderivatives."""
    size = table.shape[0]
    for row in range(size - 2, -1, -1):
        for column in range(size):
            table[row, column] += table[row + 1, column]
    for row in range(size):
        for column in range(size - 2, -1, -1):
            table[row, column] += table[row, column + 1]


@njit(cache=True, nogil=True)
def _tie(sums, values, wide, high, mean, centre, block):  # type: ignore[no-untyped-def]
    """Centre the slopes and add up the first and the last three B-splines of both directions; slot 0 of sums is one."""
    last = block.shape[0] - 1
    block[:] = 0
    for row in range(values.shape[0]):
        at = min(max(row - 2, 0), last)
        for column in range(values.shape[0]):
            to = min(max(column - 2, 0), last)
            block[at, to] += wide * high * sums[row + 1, column + 1] + values[row, column]
        for to in range(last + 1):
            block[at, to] -= wide * sums[row + 1, 0] * centre[to]
            block[to, at] -= high * sums[0, row + 1] * mean[to]
    for row in range(last + 1):
        for column in range(last + 1):
            block[row, column] += mean[row] * centre[column] * sums[0, 0]
