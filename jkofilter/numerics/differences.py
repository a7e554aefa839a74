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
    d[-2:] = (-_ONE_SIDED @ x[:-6:-1])[::-1]
    return d


class PentadiagonalLU:
    """LU factors of a pentadiagonal matrix.

    Args:
        storage: (7, n), entry (i, j) in storage[4 + i - j, j], as LAPACK wants it; overwritten. Rows 0 and 1 are
            work space.

    Raises:
        np.linalg.LinAlgError: the matrix is singular.
    """

    def __init__(self, storage: Array) -> None:
        self._lu, self._pivots, info = lapack.dgbtrf(storage, BANDWIDTH, BANDWIDTH, overwrite_ab=True)
        if info != 0:
            raise np.linalg.LinAlgError("pentadiagonal matrix is singular")

    def solve(self, b: Array) -> Array:
        """The solution for the right-hand side ``b`` (n,)."""
        solution, info = lapack.dgbtrs(self._lu, BANDWIDTH, BANDWIDTH, b, self._pivots)
        if info != 0:
            raise np.linalg.LinAlgError("pentadiagonal solve failed")
        return solution


def difference_matrix(first: Array, second: Array, diagonal: Array) -> Array:
    """LAPACK storage of diag(first) D1 + diag(second) D2 + diag(diagonal), (7, n).

    D1 and D2 are the matrices of ``first_difference`` and ``second_difference``.
    """
    n = first.shape[0]
    storage = np.zeros((7, n), order="F")
    a, b = first / 12.0, second / 12.0
    # Row i of the matrix has its five entries on the anti-diagonal of the storage: column j = i + k - 2, row 6 - k.
    storage[6, : n - 4] = (a - b)[2:-2]
    storage[5, 1 : n - 3] = (16.0 * b - 8.0 * a)[2:-2]
    storage[4] = diagonal
    storage[4, 2:-2] -= 30.0 * b[2:-2]
    storage[3, 3 : n - 1] = (16.0 * b + 8.0 * a)[2:-2]
    storage[2, 4:] = -(a + b)[2:-2]
    for i in (1, n - 2):
        storage[5, i - 1] = second[i] - 0.5 * first[i]
        storage[4, i] -= 2.0 * second[i]
        storage[3, i + 1] = second[i] + 0.5 * first[i]
    storage[4, 0] -= first[0]
    storage[3, 1] = first[0]
    storage[5, n - 2] = -first[-1]
    storage[4, n - 1] += first[-1]
    return storage
