"""The backward equation of a diffusion of the line on unequal cells: for laws that no eigenbasis holds.

Such laws are far wider than the speed density, and only the way down from there is wanted. Rates between neighbouring
cells are Chang and Cooper's, and the steps are those of TR-BDF2 (``chang_cooper``), of the transposed generator, whose
solutions keep constants and need no quotient of densities.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import solve_banded

from jkofilter._typing import Array
from jkofilter.numerics.chang_cooper import backward_step, face_weights
from jkofilter.numerics.reversible_line import ReversibleLine

_STEPS, _GROWTH = 120, 1.2
_DOUBLINGS = 16
_TOGETHER = 2048


@dataclass(frozen=True, eq=False)
class BackwardCells:
    """Cells of an interval with closed ends.

    Attributes:
        line: the diffusion.
        edges: of the cells, increasing, (n + 1,).
    """

    line: ReversibleLine
    edges: Array

    @cached_property
    def centres(self) -> Array:
        """(n,)."""
        return np.asarray(0.5 * (self.edges[1:] + self.edges[:-1]))

    @cached_property
    def _rates(self) -> tuple[Array, Array]:
        """To the right and to the left between neighbours, (n - 1,) each."""
        right, left = face_weights(-np.diff(self.line.log_speed(self.line.inside(self.centres))))
        speed = self.line.diffusivity(self.line.inside(self.edges[1:-1])) / np.diff(self.centres)
        widths = np.diff(self.edges)
        return speed * right / widths[:-1], speed * left / widths[1:]

    def earlier(self, log_h: Array, duration: float) -> Array:
        """log E[h(X after duration) | X in the cell now], (n,), from log h in the cells."""
        top = float(log_h.max())
        h = np.exp(log_h - top)
        longest, passed, step = duration / _STEPS, 0.0, duration / _STEPS / 256.0
        while passed < duration * (1.0 - 1e-12):
            # Short steps first: h may just have been multiplied by a sharp likelihood.
            step = min(step, duration - passed)
            h, passed, step = backward_step(h, step, *self._rates), passed + step, min(_GROWTH * step, longest)
        return np.asarray(np.log(np.maximum(h, np.finfo(float).tiny)) + top)

    def transition(self, duration: float) -> Array:
        """P(in cell j after duration | in cell i now) over the width of j, (n, n)."""
        right, left = self._rates
        step, outflow = duration / 2**_DOUBLINGS, np.append(right, 0.0) + np.append(0.0, left)
        bands = np.zeros((3, self.centres.size))
        bands[0, 1:], bands[1], bands[2, :-1] = -step * right, 1.0 + step * outflow, -step * left
        # Backward Euler, so short that its error is gone, for no probability may come out negative.
        moves = solve_banded((1, 1), bands, np.eye(self.centres.size), check_finite=False)
        for _ in range(_DOUBLINGS):
            moves = moves @ moves
        return np.asarray(moves / np.diff(self.edges))

    def drawn(self, density: Array, transition: Array, after: Array, u: Array) -> Array:
        """One X_s for every X_t = ``after``, (n,).

        Args:
            density: of X_s in the cells, up to a constant, (n,).
            transition: that from s to t.
            after: X_t.
            u: uniform, (n, 2): for the cell, and where in it.
        """
        place = np.interp(after, self.centres, np.arange(self.centres.size))
        first = np.minimum(place.astype(int), self.centres.size - 2)
        share = (place - first)[:, None]
        backward = np.ascontiguousarray(transition.T)
        cells = np.empty(after.size, dtype=int)
        masses = density * np.diff(self.edges)
        for start in range(0, after.size, _TOGETHER):
            some = slice(start, start + _TOGETHER)
            at, part = first[some], share[some]
            cumulative = np.cumsum(((1.0 - part) * backward[at] + part * backward[at + 1]) * masses, -1)
            cells[some] = (cumulative <= u[some, :1] * cumulative[:, -1:]).sum(-1)
        cells = np.minimum(cells, masses.size - 1)
        return np.asarray(self.edges[cells] + u[:, 1] * np.diff(self.edges)[cells])


def cells_over(one: Array, other: Array, cells: int) -> Array:
    """Edges (cells + 1,) of cells that are as fine everywhere as the finer of two sets of elements (k + 1,)."""
    edges = np.union1d(one, other)
    middles = 0.5 * (edges[1:] + edges[:-1])
    lengths = np.stack([_lengths(elements, middles) for elements in (one, other)])
    passed = np.append(0.0, np.cumsum(np.diff(edges) / lengths.min(0)))
    return np.asarray(np.interp(np.linspace(0.0, passed[-1], cells + 1), passed, edges))


def _lengths(edges: Array, x: Array) -> Array:
    """Length of the element that every point (n,) is in, that of all where it is in none."""
    place = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, edges.size - 2)
    inside = (x > edges[0]) & (x < edges[-1])
    return np.where(inside, np.diff(edges)[place], edges[-1] - edges[0])
