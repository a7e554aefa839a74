"""Fokker-Planck equation on a plane of cells: p_t = div(p grad V) + lap p / beta, by sweeps along its two axes.

Source of the splitting: Strang (1968), SIAM J. Numer. Anal. 5, 506-517. Each sweep is the one-dimensional Chang-Cooper
and TR-BDF2 of ``chang_cooper``, over all lines at once. The face weights of both sweeps come from differences of the
one V, so that exp(-beta V) at the cell centres makes every flux of each of them vanish: it is stationary exactly,
splitting included, also where V couples the coordinates.
"""

from __future__ import annotations

import numpy as np

from jkofilter._typing import Array
from jkofilter.numerics.chang_cooper import ChangCooper

_WORTH_CHECKING = 1e-3


class ChangCooper2D:
    """The generator on equal cells of a rectangle with closed sides, and its time step.

    Args:
        potential: V at the cell centres, finite, (n1, n2).
        widths: of a cell along the two axes, in units of the state.
        beta: inverse temperature.
    """

    # Looser than on the line: the splitting's part of the estimate hardly adds up from step to step.
    growth_tolerance = 3e-8

    def __init__(self, potential: Array, widths: tuple[float, float], beta: float) -> None:
        self.first = ChangCooper(potential, widths[0], beta)
        self.second = ChangCooper(np.ascontiguousarray(potential.T), widths[1], beta)

    def rate(self, p: Array) -> Array:
        """dp/dt, (n1, n2); sums to zero but for rounding."""
        return np.asarray(self.first.rate(p) + self.second.rate(p.T).T)

    def step(self, p: Array, duration: float, total: float | None = None) -> tuple[Array, Array | None, int]:
        """Half a sweep along the first axis, one along the second, half along the first; positive, second order.

        Every sweep is a TR-BDF2 step with the guard of ``ChangCooper.step``, its sum kept at ``total`` (by default
        that of ``p``).

        Returns:
            The density after the step, the same again (None where a guard acted), and the strongest guard of the
            three sweeps.
        """
        total = float(p.sum()) if total is None else total
        half, _, guard1 = self.first.step(np.ascontiguousarray(p), 0.5 * duration, total)
        turned, _, guard2 = self.second.step(np.ascontiguousarray(half.T), duration, total)
        after, _, guard3 = self.first.step(np.ascontiguousarray(turned.T), 0.5 * duration, total)
        guard = max(guard1, guard2, guard3)
        return after, None if guard else after, guard

    def local_error(self, p: Array, stage: Array, after: Array, duration: float) -> float:
        """Mass, as a share of all, that one step misplaces: against two steps of half its length.

        Unlike an estimate of each sweep it sees the error of the splitting. Cells are not compared one by one: where
        the law is steep the sweeps pull against each other, and leave small cells an error that stays but never adds
        up. While the law still changes much, the change itself is returned, which is larger.
        """
        total = float(p.sum())
        change = float(np.abs(after - p).sum()) / total
        if change > _WORTH_CHECKING:
            return change
        halves = p
        for _ in range(2):
            halves = self.step(halves, 0.5 * duration, total)[0]
        # Third-order local errors: the two halves leave a quarter of that of the whole.
        return 4.0 / 3.0 * float(np.abs(after - halves).sum()) / total
