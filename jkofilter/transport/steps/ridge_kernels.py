"""Sums over the particles and ridges of a step, compiled: every basis function is zero but on four or five cells.

Written as loops for numba, direction by direction, so that the rows of a table that are read or added to stay in a
core's nearest cache. ``index`` is the first of a particle's slots in a direction's table, ``rises`` and ``bumps`` are
what stands in them (``ridge_design``).
"""

from __future__ import annotations

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
def add_products(index, rises, bumps, directions, pulled, strained, sums, values):  # type: ignore[no-untyped-def]
    """Second moments of the slots of every pair of directions, of which the second is not after the first.

    Args:
        index: (k, n).
        rises: (k, n, 5).
        bumps: (k, n, 4).
        directions: a, (k, d).
        pulled: M a of every particle's metric M, (k, n, d).
        strained: H^-1 a of every particle's Jacobian H, (k, n, d).
        sums: products of rises times a' M a are added here, (k, k, m + 1, m + 1).
        values: products of bumps times (a' H^-1 a)^2 are added here, (k, k, m, m).
    """
    d = directions.shape[1]
    for k in range(index.shape[0]):
        for j in range(k + 1):
            to_sums, to_values = sums[k, j], values[k, j]
            for i in range(index.shape[1]):
                metric = strain = directions[j, 0] * 0
                for c in range(d):
                    metric += pulled[k, i, c] * directions[j, c]
                    strain += strained[k, i, c] * directions[j, c]
                strain *= strain
                row, column = index[k, i], index[j, i]
                for s in range(5):
                    left = metric * rises[k, i, s]
                    for r in range(5):
                        to_sums[row + s, column + r] += left * rises[j, i, r]
                for s in range(4):
                    left = strain * bumps[k, i, s]
                    for r in range(4):
                        to_values[row + s, column + r] += left * bumps[j, i, r]
