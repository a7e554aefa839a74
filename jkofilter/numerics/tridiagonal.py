"""Tridiagonal systems of a hundred thousand rows, compiled: without interchanges, a third of LAPACK's time."""

from __future__ import annotations

import numpy as np
from numba import njit

from jkofilter._typing import Array


@njit(cache=True)
def factorised(below: Array, diagonal: Array, above: Array) -> tuple[Array, Array, Array]:
    """LU factors of a matrix whose columns are dominated by their diagonals, so that no rows need be interchanged.

    Args:
        below: next to the diagonal, (n - 1,).
        diagonal: (n,).
        above: (n - 1,).

    Returns:
        Multipliers (n - 1,), inverse pivots (n,), and ``above``.
    """
    n = diagonal.shape[0]
    multipliers, inverse = np.empty(n - 1), np.empty(n)
    inverse[0] = 1.0 / diagonal[0]
    for i in range(1, n):
        multipliers[i - 1] = below[i - 1] * inverse[i - 1]
        inverse[i] = 1.0 / (diagonal[i] - multipliers[i - 1] * above[i - 1])
    return multipliers, inverse, above


@njit(cache=True)
def solved(multipliers: Array, inverse: Array, above: Array, right: Array) -> Array:
    """The solution (n,) for the right-hand side ``right`` (n,), by what ``factorised`` returned."""
    n = right.shape[0]
    x = np.empty(n)
    x[0] = right[0]
    for i in range(1, n):
        x[i] = right[i] - multipliers[i - 1] * x[i - 1]
    x[n - 1] *= inverse[n - 1]
    for i in range(n - 2, -1, -1):
        x[i] = (x[i] - above[i] * x[i + 1]) * inverse[i]
    return x


@njit(cache=True)
def two_stages(
    p: Array,
    c: float,
    newer: float,
    older: float,
    rightward: Array,
    leftward: Array,
    multipliers: Array,
    inverse: Array,
    above: Array,
) -> tuple[Array, Array]:
    """A trapezoidal stage and a BDF2 one that share the matrix 1 - c A, A that of flows between neighbours.

    Args:
        p: densities, (n,).
        c: half the length of the trapezoidal stage, time.
        newer: weight of the inner stage in the second one.
        older: weight of ``p`` there, with a minus sign.
        rightward: rates to the right, (n - 1,).
        leftward: rates to the left, (n - 1,).
        multipliers: what ``factorised`` returned of the matrix,
        inverse: its inverse pivots,
        above: and what is above its diagonal.

    Returns:
        Densities after both stages and after the first, (n,) each.
    """
    n = p.shape[0]
    stage, after = np.empty(n), np.empty(n)
    flux = 0.0
    previous = 0.0
    for i in range(n):
        coming = flux
        flux = c * (rightward[i] * p[i] - leftward[i] * p[i + 1]) if i < n - 1 else 0.0
        previous = p[i] + (coming - flux) - (multipliers[i - 1] * previous if i > 0 else 0.0)
        stage[i] = previous
    stage[n - 1] *= inverse[n - 1]
    for i in range(n - 2, -1, -1):
        stage[i] = (stage[i] - above[i] * stage[i + 1]) * inverse[i]
    after[0] = newer * stage[0] - older * p[0]
    for i in range(1, n):
        after[i] = newer * stage[i] - older * p[i] - multipliers[i - 1] * after[i - 1]
    after[n - 1] *= inverse[n - 1]
    for i in range(n - 2, -1, -1):
        after[i] = (after[i] - above[i] * after[i + 1]) * inverse[i]
    return after, stage


@njit(cache=True)
def factorised_lines(below: Array, diagonal: Array, above: Array) -> tuple[Array, Array, Array]:
    """``factorised`` for many matrices at once, one to a column: (n - 1, lines), (n, lines) and (n - 1, lines)."""
    n, lines = diagonal.shape
    multipliers, inverse = np.empty((n - 1, lines)), np.empty((n, lines))
    for j in range(lines):
        inverse[0, j] = 1.0 / diagonal[0, j]
    for i in range(1, n):
        for j in range(lines):
            multipliers[i - 1, j] = below[i - 1, j] * inverse[i - 1, j]
            inverse[i, j] = 1.0 / (diagonal[i, j] - multipliers[i - 1, j] * above[i - 1, j])
    return multipliers, inverse, above


@njit(cache=True)
def solved_lines(multipliers: Array, inverse: Array, above: Array, right: Array) -> Array:
    """``solved`` for every column, (n, lines), by what ``factorised_lines`` returned."""
    n, lines = right.shape
    x = np.empty((n, lines))
    x[0] = right[0]
    for i in range(1, n):
        for j in range(lines):
            x[i, j] = right[i, j] - multipliers[i - 1, j] * x[i - 1, j]
    _back_substituted(inverse, above, x)
    return x


@njit(cache=True)
def two_stages_of_lines(
    p: Array,
    c: float,
    newer: float,
    older: float,
    rightward: Array,
    leftward: Array,
    multipliers: Array,
    inverse: Array,
    above: Array,
) -> tuple[Array, Array]:
    """``two_stages`` for every column, (n, lines). Columns do not wait for each other, so that it takes a third."""
    n, lines = p.shape
    stage, after = np.empty((n, lines)), np.empty((n, lines))
    flux = np.zeros(lines)
    for i in range(n):
        for j in range(lines):
            coming = flux[j]
            if i < n - 1:
                flux[j] = c * (rightward[i, j] * p[i, j] - leftward[i, j] * p[i + 1, j])
            else:
                flux[j] = 0.0
            stage[i, j] = p[i, j] + (coming - flux[j])
        if i > 0:
            for j in range(lines):
                stage[i, j] -= multipliers[i - 1, j] * stage[i - 1, j]
    _back_substituted(inverse, above, stage)
    for j in range(lines):
        after[0, j] = newer * stage[0, j] - older * p[0, j]
    for i in range(1, n):
        for j in range(lines):
            after[i, j] = newer * stage[i, j] - older * p[i, j] - multipliers[i - 1, j] * after[i - 1, j]
    _back_substituted(inverse, above, after)
    return after, stage


@njit(cache=True)
def _back_substituted(inverse: Array, above: Array, x: Array) -> None:
    n, lines = x.shape
    for j in range(lines):
        x[n - 1, j] *= inverse[n - 1, j]
    for i in range(n - 2, -1, -1):
        for j in range(lines):
            x[i, j] = (x[i, j] - above[i, j] * x[i + 1, j]) * inverse[i, j]
