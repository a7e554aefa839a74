"""A density on the line from its masses at the nodes of elements: evaluated anywhere, and inverted for quantiles."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jkofilter._typing import Array
from jkofilter.numerics.elements import ANALYSIS, DEGREE, Elements, lagrange

_FIT_NATS = 12.0
"""How deep into the known part of a tail the parabola that continues it reaches for its slope and curvature."""
_TAIL_NATS = 45.0
_EDGE_NATS = 12.0
"""Depth above which a law with no mass at the next node ends there, as at an edge of a prior: rounding hides less."""
_TAIL_ELEMENTS = 6
_POLISH = 4
_TRUSTED = 10.0
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(10)


@dataclass(frozen=True, eq=False)
class NodalLaw:
    """exp of polynomials on elements, continued by parabolas; zero below ``low`` and above ``high``.

    Attributes:
        elements: N nodes.
        masses: of the law at the nodes, (N,); zero where it is not known.
        low: lower wall, or minus infinity.
        high: upper wall, or infinity.
    """

    elements: Elements
    masses: Array
    low: float
    high: float

    @cached_property
    def _known(self) -> tuple[Array, Array]:
        """Which nodes hold mass, as indices, and the log densities there."""
        index = np.flatnonzero(self.masses > 0.0)
        return index, np.log(self.masses[index] / self.elements.weights[index])

    @cached_property
    def _tails(self) -> tuple[tuple[float, float, float, float], tuple[float, float, float, float]]:
        """Of the lower and the upper tail: where it begins, value, outward slope and curvature there."""
        index, value = self._known
        lower = _tail(-self.elements.nodes[index][::-1], value[::-1])
        upper = _tail(self.elements.nodes[index], value)
        nodes, shallow = self.elements.nodes, value.max() - _EDGE_NATS
        if value[0] > shallow and index[0] > 0:
            lower = _edge(*lower[:2], nodes[index[0]] - nodes[index[0] - 1])
        if value[-1] > shallow and index[-1] < nodes.size - 1:
            upper = _edge(*upper[:2], nodes[index[-1] + 1] - nodes[index[-1]])
        return lower, upper

    @cached_property
    def values(self) -> Array:
        """Log density at all nodes, (N,), normalised but for rounding."""
        index, value = self._known
        nodes = self.elements.nodes
        if index.size == nodes.size:
            return value
        filled = np.interp(nodes, nodes[index], value)
        self._continue(nodes, filled)
        filled[index] = value
        return filled

    def _continue(self, x: Array, value: Array) -> None:
        """Put the tails in ``value`` at points beyond the nodes that hold mass."""
        for (start, level, slope, curvature), sign in zip(self._tails, (-1.0, 1.0), strict=True):
            out = sign * x - start
            beyond = out > 0.0
            value[beyond] = level + slope * out[beyond] + 0.5 * curvature * np.square(out[beyond])

    @cached_property
    def _density(self) -> Array:
        return self.masses / self.elements.weights

    @cached_property
    def _plain(self) -> tuple[Array, Array]:
        """Elements on which the density itself, not its logarithm, is the better polynomial, (k,), and its error there.

        So it is where small masses are uncertain, and next to walls, where a density may vanish or grow as a power.
        """
        nodes = self.elements.by_element
        density = self._density[nodes]
        error = np.abs(density @ ANALYSIS[-2:].T).sum(-1)
        log_error = np.abs(self.values[nodes] @ ANALYSIS[-2:].T).sum(-1) * density.max(-1)
        return log_error > error, error

    @cached_property
    def _at_wall(self) -> Array:
        """Which elements end at a wall, (k,)."""
        touching = np.zeros(self.elements.edges.size - 1, dtype=bool)
        touching[0], touching[-1] = self.elements.edges[0] <= self.low, self.elements.edges[-1] >= self.high
        return touching

    def log_density(self, x: Array) -> Array:
        """At any points, (n,)."""
        finite = np.where(np.isfinite(x), x, self.elements.nodes[0])
        element, t = self.elements.locate(finite)
        within = np.abs(t) <= 1.0
        value = np.empty_like(finite)
        nodes, basis = self.elements.by_element[element[within]], lagrange(t[within])
        inner = (basis * self.values[nodes]).sum(-1)
        plain, error = self._plain
        chosen = plain[element[within]]
        if chosen.any():
            density = (basis * self._density[nodes]).sum(-1)
            # Not where a polynomial dips below its own error, but next to walls its logarithm is worse.
            told = chosen & ((density > _TRUSTED * error[element[within]]) | self._at_wall[element[within]])
            inner = np.where(told, np.log(np.maximum(density, np.finfo(float).tiny)), inner)
        value[within] = inner
        self._continue(finite, value)
        value = np.where((x < self.low) | (x > self.high) | np.isinf(x), -np.inf, value)
        return np.where(np.isnan(x), np.nan, value)

    @cached_property
    def _table(self) -> tuple[Array, Array, float]:
        """Edges of the elements and of the tails beyond them, the distribution function there, and all mass."""
        edges, ends = self.elements.edges, []
        for (start, _, slope, curvature), sign, last in zip(self._tails, (-1.0, 1.0), edges[[0, -1]], strict=True):
            reach = 2.0 * _TAIL_NATS / (-slope + np.sqrt(slope * slope - 2.0 * _TAIL_NATS * curvature))
            end = np.clip(sign * (start + reach), self.low, self.high)
            beyond = sign * (end - last) > 0.0
            ends.append(last + (end - last) * np.arange(1, _TAIL_ELEMENTS + 1) / _TAIL_ELEMENTS if beyond else [])
        table = np.concatenate([ends[0][::-1], edges, ends[1]])
        cumulative = np.append(0.0, np.cumsum(self._between(table[:-1], table[1:])))
        return table, cumulative / cumulative[-1], float(cumulative[-1])

    def _between(self, low: Array, high: Array) -> Array:
        """Mass between pairs of points of one element each, (n,)."""
        half = 0.5 * (high - low)
        points = low[:, None] + half[:, None] * (_POINTS + 1.0)
        return half * (np.exp(self.log_density(points.reshape(-1)).reshape(points.shape)) @ _WEIGHTS)

    def cumulative(self, x: Array) -> Array:
        """The distribution function at any points, (n,)."""
        edges, at_edges, total = self._table
        at = np.clip(x, edges[0], edges[-1])
        cell = np.clip(np.searchsorted(edges, at, side="right") - 1, 0, edges.size - 2)
        # From the nearer end, so that both tails keep their digits next to it.
        first = at - edges[cell] < edges[cell + 1] - at
        near = np.where(first, edges[cell], edges[cell + 1])
        value = at_edges[np.where(first, cell, cell + 1)] + self._between(near, at) / total
        return np.clip(value, at_edges[cell], at_edges[cell + 1])

    def inverse(self, u: Array) -> Array:
        """Quantiles of the levels ``u`` in [0, 1], (n,): log-linear between finely spaced points, then Newton's."""
        edges, cumulative, _ = self._table
        share = (np.arange(DEGREE)[:, None] / DEGREE * np.diff(edges) + edges[:-1]).T.reshape(-1)
        fine = np.append(share, edges[-1])
        at_fine = np.append(0.0, np.cumsum(self._between(fine[:-1], fine[1:])))
        at_fine /= at_fine[-1]
        value = np.maximum(self.log_density(np.clip(fine, edges[0], edges[-1])), -700.0)
        cell = np.clip(np.searchsorted(at_fine, u, side="right") - 1, 0, fine.size - 2)
        width, mass = np.diff(fine)[cell], np.diff(at_fine)[cell]
        wanted = np.clip(u - at_fine[cell], 0.0, mass)
        part = wanted / np.where(mass > 0.0, mass, 1.0)
        tilt = np.clip(np.diff(value)[cell], -500.0, 500.0)
        flat = np.abs(tilt) < 1e-8
        safe = np.where(flat, 1.0, tilt)
        out = width * np.where(flat, part, np.log1p(part * np.expm1(safe)) / safe)
        start = fine[cell]
        for _ in range(_POLISH):
            density = np.exp(self.log_density(start + out))
            move = (wanted - self._between(start, start + out)) / np.maximum(density, np.finfo(float).tiny)
            out = np.clip(out + np.clip(move, -0.5 * width, 0.5 * width), 0.0, width)
        return np.asarray(start + out)


def _edge(start: float, level: float, gap: float) -> tuple[float, float, float, float]:
    """A tail with no more than what fits between a node and the next one."""
    return start, level, -1.0 / float(gap), 0.0


def _tail(x: Array, value: Array) -> tuple[float, float, float, float]:
    """A parabola through three known points at the end of a tail, in the outward distance ``x``: increasing.

    It falls: with the slope of a nat per node where the law does not.
    """
    last = value.size - 1
    if last == 0:
        return float(x[0]), float(value[0]), -1.0, 0.0
    deep = np.flatnonzero(value > value[-1] + _FIT_NATS)
    first = max(int(deep[-1]) if deep.size else 0, last - 4 * DEGREE, 0)
    middle = (first + last) // 2
    if middle in (first, last):
        slope, curvature = (value[last] - value[first]) / (x[last] - x[first]), 0.0
    else:
        near, far = ((value[b] - value[a]) / (x[b] - x[a]) for a, b in ((middle, last), (first, middle)))
        curvature = 2.0 * (near - far) / (x[last] - x[first])
        slope = near + 0.5 * curvature * (x[last] - x[middle])
    if curvature > 0.0:
        slope, curvature = (value[last] - value[middle]) / (x[last] - x[middle]), 0.0
    if slope >= 0.0:
        slope = -1.0 / (x[last] - x[last - 1])
    return float(x[last]), float(value[last]), float(slope), float(curvature)
