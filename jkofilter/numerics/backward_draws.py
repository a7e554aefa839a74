"""Where a diffusion of the line was, given where it is: exact draws by its eigenfunctions.

With p(x_s) the law then, the transition density is K(x_s -> x_t) = sqrt(pi(x_t) / pi(x_s)) S(x_s, x_t), and

    S(x, y) = sum_j u_j(x) exp(-l_j (t - s)) u_j(y),      u_j = sqrt(pi) times the j-th eigenfunction,

is symmetric. So the law of X_s given X_t = y has the density p(x) / sqrt(pi(x)) S(x, y) up to a constant, for as many y
at once as one likes. Over times too short for any elements S is its own short-time limit, the heat kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.special import ndtri

from jkofilter._typing import Array
from jkofilter.numerics.eigenbasis import FORGOTTEN, Eigenbasis
from jkofilter.numerics.elements import ANALYSIS, DEGREE, WEIGHTS, Elements, lagrange

_FINE = 24
"""Pieces of an element between which its distribution function is taken as linear."""
_TOGETHER = 2048
_MOST_BEND = 0.9


def _integrals() -> Array:
    """Integrals from -1 to each of the fine points of the polynomials that are one at one node, (fine + 1, nodes)."""
    t = np.linspace(-1.0, 1.0, _FINE + 1)
    columns = [np.polynomial.legendre.legint(row, lbnd=-1.0) for row in np.eye(DEGREE + 1)]
    return np.stack([np.polynomial.legendre.legval(t, one) for one in columns], -1) @ ANALYSIS


_TO_FINE = _integrals()


@dataclass(frozen=True, eq=False)
class BackwardKernel:
    """S between any points and the nodes of some elements, for one length of time.

    Attributes:
        basis: of the diffusion, which resolves S.
        elements: on which laws before are given, N nodes.
        table: S between the nodes of the basis and those, (M, N).
    """

    basis: Eigenbasis
    elements: Elements
    table: Array

    @classmethod
    def of(cls, basis: Eigenbasis, elements: Elements, duration: float) -> BackwardKernel:
        """The kernel over ``duration``, with the modes that are left of it."""
        kept = int(np.searchsorted(basis.rates, FORGOTTEN / duration, side="right"))
        modes = basis.modes[:, :kept] / np.sqrt(basis.elements.weights)[:, None]
        here = modes if elements is basis.elements else interpolation(basis.elements, elements.nodes) @ modes
        return cls(basis, elements, (modes * np.exp(-duration * basis.rates[:kept])) @ here.T)

    def drawn(self, law: Array, after: Array, u: Array) -> Array:
        """One X_s for every X_t = ``after``, (n,).

        Args:
            law: density of X_s over sqrt(pi), at the nodes, (N,); any constant.
            after: X_t, (n,), within the basis' interval.
            u: independent and uniform on [0, 1), (n, 2).
        """
        parts = []
        for first in range(0, after.size, _TOGETHER):
            some = slice(first, first + _TOGETHER)
            density = interpolation(self.basis.elements, after[some]) @ self.table
            parts.append(drawn_on(self.elements, np.maximum(density * law, 0.0), u[some]))
        return np.concatenate(parts)


def interpolation(elements: Elements, x: Array) -> csr_array:
    """The matrix (n, N) from values at nodes to those at points (n,) of the interval."""
    element, t = elements.locate(x)
    starts = np.arange(x.size + 1) * (DEGREE + 1)
    return csr_array(
        (lagrange(np.clip(t, -1.0, 1.0)).reshape(-1), elements.by_element[element].reshape(-1), starts),
        shape=(x.size, elements.size),
    )


def drawn_on(elements: Elements, density: Array, u: Array) -> Array:
    """A draw of each of n laws, (n,), with densities (n, N) at the nodes up to a constant each.

    An element first, by its mass, then within it by the integral of its polynomial.
    """
    parts = density[:, elements.by_element]
    masses = np.maximum(parts @ WEIGHTS, 0.0) * elements.halves
    cumulative = np.cumsum(masses, -1)
    wanted = u[:, :1] * cumulative[:, -1:]
    element = np.minimum((cumulative <= wanted).sum(-1), elements.edges.size - 2)
    rows = np.arange(len(density))
    # Where a polynomial dips below zero, its integral must not turn back.
    within = np.maximum.accumulate(parts[rows, element] @ _TO_FINE.T, -1)
    level = u[:, 1] * within[:, -1]
    piece = np.clip((within <= level[:, None]).sum(-1) - 1, 0, _FINE - 1)
    below, width = within[rows, piece], within[rows, piece + 1] - within[rows, piece]
    share = np.clip((level - below) / np.where(width > 0.0, width, 1.0), 0.0, 1.0)
    return np.asarray(elements.edges[element] + 2.0 * elements.halves[element] * (piece + share) / _FINE)


def drawn_nearby(log_law: Callable[[Array], Array], after: Array, spread: Array, u: Array) -> Array:
    """One X_s for every X_t = ``after``, (n,), over a time so short that S is the heat kernel.

    The law is taken as Gaussian within a few times its width.

    Args:
        log_law: log of the density of X_s over sqrt(pi), at any points (k,).
        after: X_t, (n,).
        spread: standard deviation of the motion there, (n,).
        u: uniform, (n, 2); the first column is used.
    """
    at = np.stack([after - spread, after, after + spread])
    below, here, above = log_law(at.reshape(-1)).reshape(at.shape)
    with np.errstate(invalid="ignore"):
        slope, bend = 0.5 * (above - below), above - 2.0 * here + below
    # Across an edge of the law there is neither; the edge itself is for the caller to keep.
    slope, bend = (
        np.where(np.isfinite(slope), slope, 0.0),
        np.where(np.isfinite(bend), np.minimum(bend, _MOST_BEND), 0.0),
    )
    return np.asarray(after + spread * (slope / (1.0 - bend) + ndtri(u[:, 0]) / np.sqrt(1.0 - bend)))
