"""A density on the line as the exponential of a spline, with its mass, moments and quantiles.

Everything is an integral of the one function that is evaluated: Gauss-Legendre in every cell of the spline and of its
tails, so that what is called normalised is so to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jkofilter._typing import Array
from jkofilter.numerics.mesh import edge_parabola, falling
from jkofilter.numerics.splines import cubics, value_at

_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(8)
_POINTS, _WEIGHTS = 0.5 * (_POINTS + 1.0), 0.5 * _WEIGHTS

_TAIL_NATS = 45.0
_TAIL_CELLS = 24
"""How far below its last node a tail is integrated, and in how many cells."""

_POLISH = 3


@dataclass(frozen=True, eq=False)
class LogSpline:
    """exp of a cubic spline through log densities at nodes, with quadratic tails beyond them.

    Attributes:
        x: increasing nodes, (n,).
        log_density: finite, any additive constant, (n,).
    """

    x: Array
    log_density: Array

    @cached_property
    def cells(self) -> tuple[Array, Array]:
        """Cell edges (k + 1,) and the cubics between them, (4, k), in the distance from the left edge.

        The first and last of them are those of the tails, whose cubics hold beyond the outermost edges as well.
        """
        below, below_cubics = self._tail(upper=False)
        above, above_cubics = self._tail(upper=True)
        edges = np.concatenate([below, self.x, above])
        return edges, np.concatenate([below_cubics, cubics(self.x, self.log_density), above_cubics], axis=1)

    def _tail(self, upper: bool) -> tuple[Array, Array]:
        """Edges beyond the last node, and the cubics between and beyond them, in increasing order."""
        edge, level, slope, curvature = edge_parabola(self.x, self.log_density, upper)
        slope = falling(self.x, slope, upper)
        reach = 2.0 * _TAIL_NATS / (-slope + np.sqrt(slope * slope - 2.0 * _TAIL_NATS * curvature))
        out = reach * np.arange(_TAIL_CELLS + 1) / _TAIL_CELLS
        value = level + slope * out + 0.5 * curvature * out * out
        slopes, bend = slope + curvature * out, np.full(_TAIL_CELLS + 1, 0.5 * curvature)
        if upper:
            return edge + out[1:], np.stack([0.0 * bend, bend, slopes, value])[:, :-1]
        return edge - out[:0:-1], np.stack([0.0 * bend, bend, -slopes, value])[:, :0:-1]

    def __call__(self, points: Array) -> Array:
        """Log density at any points, (n,)."""
        return np.asarray(value_at(*self.cells, np.ascontiguousarray(points, dtype=np.float64)))

    @cached_property
    def _quadrature(self) -> tuple[Array, Array, float]:
        """Points (k, 8), masses there relative to exp(top), (k, 8), and top."""
        edges, pieces = self.cells
        top = float(self.log_density.max())
        widths = np.diff(edges)[:, None]
        distance = widths * _POINTS
        value = _cubic(pieces[:, :, None], distance)
        return edges[:-1, None] + distance, widths * _WEIGHTS * np.exp(value - top), top

    @cached_property
    def log_mass(self) -> float:
        """Log of the integral over the whole line."""
        _, masses, top = self._quadrature
        return top + float(np.log(masses.sum()))

    @cached_property
    def mean(self) -> float:
        """Of the density normalised."""
        points, masses, _ = self._quadrature
        middle = 0.5 * (self.x[0] + self.x[-1])
        return float(middle + np.vdot(masses, points - middle) / masses.sum())

    @cached_property
    def variance(self) -> float:
        """Of the density normalised."""
        points, masses, _ = self._quadrature
        return float(np.vdot(masses, (points - self.mean) ** 2) / masses.sum())

    @cached_property
    def _cumulative(self) -> Array:
        """Mass below every edge of the normalised density, (k + 1,)."""
        cumulative = np.append(0.0, np.cumsum(self._quadrature[1].sum(-1)))
        return cumulative / cumulative[-1]

    def cdf(self, points: Array) -> Array:
        """Mass of the normalised density below each point, (n,)."""
        edges, _ = self.cells
        cell = np.clip(np.searchsorted(edges, points, side="right") - 1, 0, edges.size - 2)
        out = np.clip(points, edges[0], edges[-1]) - edges[cell]
        return self._cumulative[cell] + self._part(cell, out)

    def _part(self, cell: Array, out: Array) -> Array:
        """Mass of the normalised density in the first ``out`` of each cell, (n,)."""
        value = _cubic(self.cells[1][:, cell, None], out[:, None] * _POINTS)
        return out * (np.exp(value - self.log_mass) @ _WEIGHTS)

    def inverse(self, u: Array) -> Array:
        """Quantiles of the levels ``u`` in [0, 1], (n,): a log-linear guess within its cell, polished by Newton."""
        (edges, pieces), cumulative = self.cells, self._cumulative
        cell = np.clip(np.searchsorted(cumulative, u, side="right") - 1, 0, edges.size - 2)
        width, mass = np.diff(edges)[cell], np.diff(cumulative)[cell]
        wanted = np.clip(u - cumulative[cell], 0.0, mass)
        tilt = np.clip(_cubic(pieces[:, cell], width) - pieces[3, cell], -500.0, 500.0)
        flat = np.abs(tilt) < 1e-8
        safe = np.where(flat, 1.0, tilt)
        share = wanted / np.where(mass > 0.0, mass, 1.0)
        out = width * np.where(flat, share, np.log1p(share * np.expm1(safe)) / safe)
        for _ in range(_POLISH):
            density = np.exp(_cubic(pieces[:, cell], out) - self.log_mass)
            move = (wanted - self._part(cell, out)) / np.maximum(density, np.finfo(float).tiny)
            out = np.clip(out + np.clip(move, -0.5 * width, 0.5 * width), 0.0, width)
        return edges[cell] + out


def _cubic(coefficients: Array, t: Array) -> Array:
    """The cubics with these coefficients, (4, ...), at ``t``."""
    value = ((coefficients[0] * t + coefficients[1]) * t + coefficients[2]) * t + coefficients[3]
    return np.asarray(value)
