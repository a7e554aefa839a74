"""The Newton system of a one-dimensional JKO step, compiled: one pass of a few hundred pentadiagonal rows.

Written as loops for numba; as array expressions the same work takes three times as long, all of it call overhead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from jkofilter._typing import Array


@dataclass(frozen=True, eq=False)
class PentadiagonalLU:
    """LU factors, with row interchanges, of a pentadiagonal matrix.

    Attributes:
        upper: (n, 7), entry (i, j) of the upper factor in column j - i + 2; columns 0 and 1 are spent.
        multipliers: (n, 2), of the two rows below each pivot.
        pivots: row interchanged with each row, (n,).
    """

    upper: Array
    multipliers: Array
    pivots: Array

    def solve(self, b: Array) -> Array:
        """The solution for the right-hand side ``b`` (n,)."""
        x = b.copy()
        _substitute(self.upper, self.multipliers, self.pivots, x)
        return x


@dataclass(frozen=True, eq=False)
class NewtonMove:
    """A solved Newton system.

    Attributes:
        move: of every node, (n,).
        compression: largest part of a node spacing that the move closes; above 1 nodes collide.
        size: largest relative change of a spacing, weighted by relevance.
        factors: of I - h v'(X).
    """

    move: Array
    compression: float
    size: float
    factors: PentadiagonalLU


def newton_move(
    x: Array,
    centre: Array,
    slopes: tuple[Array, Array],
    log_mass_slope: Array,
    relevance: Array,
    h: float,
    beta: float,
) -> NewtonMove | None:
    """One Newton iteration for X - centre = h v(X), v = -V' + (X''/X'^2 - l'/X')/beta.

    The differences are those of ``numerics.differences``.

    Args:
        x: increasing nodes, (n,).
        centre: (n,).
        slopes: V' and V'' at the nodes, (n,) each.
        log_mass_slope: l', (n,).
        relevance: weight of each spacing in ``size``, (n - 1,).
        h: proximal length, time.
        beta: inverse temperature.

    Returns:
        The move, or None where the system is singular or not finite.
    """
    upper, right = _assemble(x, centre, slopes[0], slopes[1], log_mass_slope, h, beta)
    multipliers, pivots, regular = _factorise(upper)
    if not regular:
        return None
    _substitute(upper, multipliers, pivots, right)
    compression, size = _strain(x, right, relevance)
    if not np.isfinite(size):
        return None
    return NewtonMove(right, compression, size, PentadiagonalLU(upper, multipliers, pivots))


@njit(cache=True)
def is_increasing(x: Array) -> bool:
    """Whether the nodes, and their fourth-order stretch, increase."""
    n = x.shape[0]
    for i in range(n - 1):
        if not x[i + 1] > x[i]:
            return False
    for i in range(2, n - 2):  # noqa: SIM110 (numba takes no generator expressions)
        if not 8.0 * (x[i + 1] - x[i - 1]) > x[i + 2] - x[i - 2]:
            return False
    return True


@njit(cache=True)
def _assemble(x, centre, gradient, curvature, log_mass_slope, h, beta):  # type: ignore[no-untyped-def]
    n = x.shape[0]
    rows = np.zeros((n, 7))
    right = np.empty(n)
    for i in range(n):
        if i == 0:
            stretch, bend = x[1] - x[0], 0.0
        elif i == n - 1:
            stretch, bend = x[n - 1] - x[n - 2], 0.0
        elif i == 1 or i == n - 2:
            stretch = 0.5 * (x[i + 1] - x[i - 1])
            bend = x[i + 1] - 2.0 * x[i] + x[i - 1]
        else:
            near, far = x[i + 1] - x[i - 1], x[i + 2] - x[i - 2]
            stretch = (8.0 * near - far) / 12.0
            bend = (16.0 * (x[i + 1] + x[i - 1]) - (x[i + 2] + x[i - 2]) - 30.0 * x[i]) / 12.0
        bend /= stretch
        velocity = (bend - log_mass_slope[i]) / (stretch * beta) - gradient[i]
        right[i] = centre[i] - x[i] + h * velocity
        d = -h / (beta * stretch * stretch)
        a = -(2.0 * bend - log_mass_slope[i]) * d
        rows[i, 2] = 1.0 + h * curvature[i]
        if i == 0:
            rows[i, 2] -= a
            rows[i, 3] = a
        elif i == n - 1:
            rows[i, 1] = -a
            rows[i, 2] += a
        elif i == 1 or i == n - 2:
            rows[i, 1] = d - 0.5 * a
            rows[i, 2] -= 2.0 * d
            rows[i, 3] = d + 0.5 * a
        else:
            rows[i, 0] = (a - d) / 12.0
            rows[i, 1] = (16.0 * d - 8.0 * a) / 12.0
            rows[i, 2] -= 2.5 * d
            rows[i, 3] = (16.0 * d + 8.0 * a) / 12.0
            rows[i, 4] = -(a + d) / 12.0
    return rows, right


@njit(cache=True)
def _factorise(rows):  # type: ignore[no-untyped-def]
    n = rows.shape[0]
    multipliers = np.zeros((n, 2))
    pivots = np.empty(n, np.int64)
    for k in range(n):
        below, last = min(k + 3, n), min(k + 5, n)
        p = k
        for i in range(k + 1, below):
            if abs(rows[i, k - i + 2]) > abs(rows[p, k - p + 2]):
                p = i
        pivots[k] = p
        pivot = rows[p, k - p + 2]
        if pivot == 0.0 or not np.isfinite(pivot):
            return multipliers, pivots, False
        if p != k:
            for j in range(k, last):
                rows[k, j - k + 2], rows[p, j - p + 2] = rows[p, j - p + 2], rows[k, j - k + 2]
        for i in range(k + 1, below):
            factor = rows[i, k - i + 2] / pivot
            multipliers[k, i - k - 1] = factor
            for j in range(k + 1, last):
                rows[i, j - i + 2] -= factor * rows[k, j - k + 2]
    return multipliers, pivots, True


@njit(cache=True)
def _substitute(upper, multipliers, pivots, b):  # type: ignore[no-untyped-def]
    n = b.shape[0]
    for k in range(n):
        p = pivots[k]
        if p != k:
            b[k], b[p] = b[p], b[k]
        for i in range(k + 1, min(k + 3, n)):
            b[i] -= multipliers[k, i - k - 1] * b[k]
    for k in range(n - 1, -1, -1):
        total = b[k]
        for j in range(k + 1, min(k + 5, n)):
            total -= upper[k, j - k + 2] * b[j]
        b[k] = total / upper[k, 2]


@njit(cache=True)
def _strain(x, move, relevance):  # type: ignore[no-untyped-def]
    compression, size = -np.inf, 0.0
    for i in range(x.shape[0] - 1):
        strain = (move[i + 1] - move[i]) / (x[i + 1] - x[i])
        if not np.isfinite(strain):
            return np.inf, np.inf
        compression = max(compression, -strain)
        size = max(size, abs(strain) * relevance[i])
    return compression, size
