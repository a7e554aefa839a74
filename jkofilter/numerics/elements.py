"""Functions on an interval cut into elements, a polynomial on each: nodes, quadrature, derivatives, interpolation.

Nodes are those of Gauss-Lobatto-Legendre quadrature, which neighbouring elements share at their ends: the spectral
element method (Patera 1984, J. Comput. Phys. 54, 468-488; Karniadakis & Sherwin, Spectral/hp Element Methods, 2005).
Smooth functions are integrated and interpolated with errors that fall exponentially with the degree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.polynomial import legendre

from jkofilter._typing import Array

DEGREE = 10
"""Of the polynomials: of 6 to 16, those that filter the sine problem to 1e-9 with the fewest nodes, within a tenth."""
_INNER = legendre.Legendre.basis(DEGREE).deriv().roots().real
NODES = np.concatenate([[-1.0], _INNER, [1.0]])
"""Gauss-Lobatto nodes of [-1, 1], (DEGREE + 1,)."""
WEIGHTS = 2.0 / (DEGREE * (DEGREE + 1) * legendre.legval(NODES, np.eye(DEGREE + 1)[DEGREE]) ** 2)
"""Their quadrature weights; exact to degree 2 DEGREE - 1."""
ANALYSIS = np.linalg.inv(legendre.legvander(NODES, DEGREE))
"""Legendre coefficients, (DEGREE + 1,), of the polynomial with given values at the nodes."""
_SCALES = 1.0 / (NODES[:, None] - NODES + np.eye(DEGREE + 1)).prod(-1)
DERIVATIVE = np.stack([legendre.legval(NODES, legendre.legder(row)) for row in np.eye(DEGREE + 1)], -1) @ ANALYSIS
"""Derivatives at the nodes of that polynomial, by the values."""
_SHORTEST = 1e-12
"""Of an element, as a share of the interval."""


def lagrange(t: Array) -> Array:
    """The polynomials that are one at one node and zero at the others, (n, DEGREE + 1) at points ``t`` (n,) of [-1, 1].

    Barycentric form (Berrut & Trefethen 2004, SIAM Review 46, 501-517); exact at the nodes themselves.
    """
    out = t[:, None] - NODES
    at_node = out == 0.0
    terms = _SCALES / np.where(at_node, 1.0, out)
    values = terms / terms.sum(-1, keepdims=True)
    hit = at_node.any(-1)
    values[hit] = at_node[hit]
    return np.asarray(values)


@dataclass(frozen=True, eq=False)
class Elements:
    """An interval cut at increasing ``edges``, (k + 1,); N = k DEGREE + 1 nodes."""

    edges: Array

    @property
    def size(self) -> int:
        """How many nodes, N."""
        return (self.edges.size - 1) * DEGREE + 1

    @cached_property
    def halves(self) -> Array:
        """Half the length of every element, (k,)."""
        return 0.5 * np.diff(self.edges)

    @cached_property
    def by_element(self) -> Array:
        """Indices of the nodes of every element, (k, DEGREE + 1)."""
        return np.arange(self.edges.size - 1)[:, None] * DEGREE + np.arange(DEGREE + 1)

    @cached_property
    def nodes(self) -> Array:
        """Increasing, (N,)."""
        inner = self.edges[:-1, None] + self.halves[:, None] * (NODES[:-1] + 1.0)
        return np.append(inner.reshape(-1), self.edges[-1])

    @cached_property
    def weights(self) -> Array:
        """Of the nodes in an integral over the interval, (N,)."""
        return self.gathered(self.halves[:, None] * WEIGHTS)

    def gathered(self, parts: Array) -> Array:
        """Sums (N,) at the nodes of what elements have there, (k, DEGREE + 1)."""
        total = np.append(parts[:, :-1].reshape(-1), 0.0)
        total[DEGREE::DEGREE] += parts[:, -1]
        return total

    def locate(self, x: Array) -> tuple[Array, Array]:
        """Element of every point (n,), and where in it, from -1 to 1; beyond the interval its first or last one."""
        element = np.clip(np.searchsorted(self.edges, x, side="right") - 1, 0, self.edges.size - 2)
        return element, (x - self.edges[element]) / self.halves[element] - 1.0

    def value(self, values: Array, x: Array) -> Array:
        """The function with these values (N,) at the nodes, at points (n,) of the interval."""
        element, t = self.locate(x)
        return np.asarray((lagrange(t) * values[self.by_element[element]]).sum(-1))

    def deposited(self, x: Array, masses: Array) -> Array:
        """Weights (N,) of the nodes that integrate polynomials of the elements as masses (n,) at points (n,) do."""
        element, t = self.locate(x)
        parts = lagrange(t) * masses[:, None]
        total: Array = np.bincount(self.by_element[element].reshape(-1), parts.reshape(-1), minlength=self.size)
        return total

    @staticmethod
    def tails(parts: Array) -> Array:
        """The two highest Legendre terms of polynomials with values (..., DEGREE + 1) at the nodes of an element.

        Relative to the largest of the values.
        """
        highest = np.abs(parts @ ANALYSIS[-2:].T).sum(-1)
        return np.asarray(highest / np.maximum(np.abs(parts).max(-1), np.finfo(float).tiny))

    def roughness(self, values: Array) -> Array:
        """The two highest Legendre terms of a function, or each of m, where they are largest, as a share of it.

        Args:
            values: at the nodes, (N,) or (m, N).
        """
        return np.asarray(self.terms(values).max(-1) / np.maximum(np.abs(values).max(-1), np.finfo(float).tiny))

    def terms(self, values: Array) -> Array:
        """The two highest Legendre terms on every element, (..., k), of a function with these values (..., N)."""
        return np.asarray(np.abs(values[..., self.by_element] @ ANALYSIS[-2:].T).sum(-1))


def refined(
    edges: Array, rough: Callable[[Elements], Array], most: int, walls: tuple[bool, bool] = (False, False)
) -> tuple[Elements, bool]:
    """Elements halved until none is rough; those at a wall are cut at a quarter, for powers of the distance from it.

    Args:
        edges: to begin with.
        rough: tells which of some elements are, (k,) of bool.
        most: elements not to be exceeded.
        walls: whether the lower and the upper end are walls.

    Returns:
        The elements, and whether all are smooth.
    """
    while True:
        elements = Elements(edges)
        chosen = rough(elements) & (elements.halves > _SHORTEST * (edges[-1] - edges[0]))
        if not chosen.any():
            return elements, True
        if edges.size - 1 + int(chosen.sum()) > most:
            return elements, False
        cut = np.full(edges.size - 1, 0.5)
        cut[0], cut[-1] = (0.25 if walls[0] else 0.5), (0.75 if walls[1] else 0.5)
        if edges.size == 2:
            cut[0] = 0.5
        edges = np.sort(np.append(edges, (edges[:-1] + cut * np.diff(edges))[chosen]))
