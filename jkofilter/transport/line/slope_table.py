"""The slopes of a potential from a table: a flow asks for them a hundred times, and a user's function is slow.

Cubic Hermite interpolation of V' from V' and V'' on equal cells. A table is believed only where it agrees with the
potential at the middle of its cells; near a kink, on which no table does, the potential itself is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jkofilter._typing import Array
from jkofilter.numerics.splines import hermite_at

CELLS = (500, 4000)
"""Of a table; the second where the first is too coarse."""

SLOPE_ERROR = 1e-7
CURVATURE_ERROR = 1e-4
"""Share of its own size, or of what holds a law of these nodes together, by which a value may be off.

Errors of the curvature enter Newton's matrix alone: the slopes between which it lies are right.
"""

_MARGIN = 0.5
_DEVIATIONS = 28.0
"""Of a Gaussian law between its outermost nodes."""

_WORTH_IT = 2
"""Calls without a table after which it pays."""

Slopes = Callable[[Array], tuple[Array, Array]]
"""Maps states (n,) to (V', V''), (n,) each."""


@dataclass(frozen=True, eq=False)
class _Table:
    low: float
    width: float
    slope: Array
    curvature: Array

    def holds(self, x: Array) -> bool:
        """Whether all states, increasing, are within."""
        return bool(x[0] >= self.low and x[-1] <= self.low + self.width * (self.slope.size - 1))

    def __call__(self, x: Array) -> tuple[Array, Array]:
        found: tuple[Array, Array] = hermite_at(self.low, self.width, self.slope, self.curvature, x)
        return found


class TabulatedSlopes:
    """``slopes`` for increasing states, from a table that is laid around them and laid again where they leave it.

    Args:
        slopes: what is tabulated.
        beta: inverse temperature.
    """

    def __init__(self, slopes: Slopes, beta: float) -> None:
        self._slopes, self._beta = slopes, beta
        self._table: _Table | None = None
        self._asked, self._useless = 0, False

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """(V', V'') at increasing states (n,), (n,) each."""
        if self._table is not None and self._table.holds(x):
            return self._table(x)
        self._asked += 1
        if self._useless or self._asked <= _WORTH_IT:
            return self._slopes(x)
        self._table = self._laid(x)
        self._useless = self._table is None
        return self(x)

    def _laid(self, x: Array) -> _Table | None:
        """A table around the states, or None where none can be believed."""
        length = float(x[-1] - x[0])
        tables = (self._of_cells(float(x[0]) - _MARGIN * length, length, cells) for cells in CELLS)
        return next((table for table in tables if table is not None), None)

    def _of_cells(self, low: float, length: float, cells: int) -> _Table | None:
        states = low + (1.0 + 2.0 * _MARGIN) * length * np.arange(2 * cells + 1) / (2 * cells)
        if not (np.diff(states) > 0.0).all():
            return None
        slope, curvature = self._slopes(states)
        if not (np.isfinite(slope).all() and np.isfinite(curvature).all()):
            return None
        table = _Table(low, float(states[2] - states[0]), slope[::2].copy(), curvature[::2].copy())
        deviation = length / _DEVIATIONS
        believed = all(
            (np.abs(there - exact[1::2]) <= share * (np.abs(exact[1::2]) + least)).all()
            for there, exact, share, least in zip(
                table(states[1::2]),
                (slope, curvature),
                (SLOPE_ERROR, CURVATURE_ERROR),
                (1.0 / (self._beta * deviation), 1.0 / (self._beta * deviation**2)),
                strict=True,
            )
        )
        return table if believed else None
