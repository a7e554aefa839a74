"""Fourth-order finite differences on a uniform index, and the pentadiagonal solves that go with them."""

from __future__ import annotations

import numpy as np
from scipy.linalg import lapack

from jkofilter._typing import Array

BANDWIDTH = 2

_ONE_SIDED = np.array([[-25.0, 48.0, -36.0, 16.0, -3.0], [-3.0, -10.0, 18.0, -6.0, 1.0]]) / 12.0


def first_difference(x: Array) -> Array:
    """dx/ds at every index s = 0, 1, ..., n - 1: five-point centred, lower order in the last two nodes of each end.

    The end stencils are the shortest ones on purpose: they keep a monotone ``x`` monotone and are exact for an
    affine ``x``, and the nodes they serve carry a mass far below rounding.
    """
    d = np.empty_like(x)
    d[2:-2] = (8.0 * (x[3:-1] - x[1:-3]) - (x[4:] - x[:-4])) / 12.0
    d[1] = 0.5 * (x[2] - x[0])
    d[-2] = 0.5 * (x[-1] - x[-3])
    d[0] = x[1] - x[0]
    d[-1] = x[-1] - x[-2]
    return d


def second_difference(x: Array) -> Array:
    """d2x/ds2 at every index; zero at the two ends, three-point next to them, five-point inside."""
    d = np.empty_like(x)
    d[2:-2] = (16.0 * (x[3:-1] + x[1:-3]) - (x[4:] + x[:-4]) - 30.0 * x[2:-2]) / 12.0
    d[1] = x[2] - 2.0 * x[1] + x[0]
    d[-2] = x[-1] - 2.0 * x[-2] + x[-3]
    d[0] = d[-1] = 0.0
    return d


def smooth_first_difference(x: Array) -> Array:
    """dx/ds to fourth order at every index, one-sided at the ends: for data that need not stay monotone."""
    d = first_difference(x)
    d[:2] = _ONE_SIDED @ x[:5]
    d[-2:] = (-_ONE_SIDED @ x[: -6 : -1])[::-1]
    return d


def difference_bands(n: int) -> tuple[Array, Array]:
    """Coefficients of ``first_difference`` and ``second_difference`` by diagonal: band[k, i] multiplies x[i + k - 2].

    Returns:
        Two arrays (5, n).
    """
    first, second = np.zeros((5, n)), np.zeros((5, n))
    first[:, 2:-2] = np.array([1.0, -8.0, 0.0, 8.0, -1.0])[:, None] / 12.0
    second[:, 2:-2] = np.array([-1.0, 16.0, -30.0, 16.0, -1.0])[:, None] / 12.0
    for i in (1, n - 2):
        first[1, i], first[3, i] = -0.5, 0.5
        second[1:4, i] = (1.0, -2.0, 1.0)
    first[2, 0], first[3, 0] = -1.0, 1.0
    first[1, -1], first[2, -1] = -1.0, 1.0
    return first, second


class PentadiagonalLU:
    """LU factors of a pentadiagonal matrix.

    Args:
        rows: (5, n); rows[k, i] is entry (i, i + k - 2).

    Raises:
        np.linalg.LinAlgError: the matrix is singular or not finite.
    """

    def __init__(self, rows: Array) -> None:
        n = rows.shape[1]
        # LAPACK wants entry (i, j) in storage[4 + i - j, j]: each diagonal of rows shifted by its offset.
        storage = np.zeros((n, 3 * BANDWIDTH + 1)).T
        for k in range(5):
            offset = k - BANDWIDTH
            start, stop = max(0, -offset), n - max(0, offset)
            storage[6 - k, start + offset : stop + offset] = rows[k, start:stop]
        self._lu, self._pivots, info = lapack.dgbtrf(storage, BANDWIDTH, BANDWIDTH, overwrite_ab=True)
        if info != 0:
            raise np.linalg.LinAlgError("pentadiagonal matrix is singular")

    def solve(self, b: Array) -> Array:
        """The solution for the right-hand side ``b`` (n,)."""
        solution, info = lapack.dgbtrs(self._lu, BANDWIDTH, BANDWIDTH, b, self._pivots)
        if info != 0:
            raise np.linalg.LinAlgError("pentadiagonal solve failed")
        return solution
