"""Which directions and how many knots: the cheapest dictionary in which the velocity of the flow is resolved.

The potential may tell: where V is a quadratic and a few ridges, the variations of its Hessian span just their a a', and
these are found among all matrices. Else the directions are spread evenly over the sphere, in units of the law's
own spread: in few dimensions sums of ridges along enough of them come to any smooth function.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from jkofilter._typing import Points, Scalars
from jkofilter.models.potentials import Potential
from jkofilter.numerics.draws import standard_normal, stream
from jkofilter.transport.maps.ridge import Ridges
from jkofilter.transport.steps.dictionary import SAME, VelocityFit, fit_velocity

SPREAD = {1: (1,), 2: (12, 24, 32), 3: (16, 24, 32), 4: (24, 40)}
"""Numbers of evenly spread directions that are tried, by dimension; in more dimensions they would be too many."""
CELLS = (12, 16, 24, 32, 48, 72)
"""Numbers of knot intervals that are tried."""
COEFFICIENTS = 850
"""Most coefficients of a dictionary, where there are particles for them."""
COARSEST = 8
"""Fewest cells, however few particles there are."""
RESERVE, KNOTS = 0.25, 0.01
"""Shares of what is good enough that new dictionaries are asked for, the second where directions are few and knots cost
little: a step is rougher than the velocity that it starts with."""
WORTH = 0.5
"""Share of the error that a finer dictionary may leave. Where none resolves the velocity they differ by chance."""
CROSSING = 0.05
"""Cosine from which two ridges are not orthogonal."""
FEWEST, EQUATIONS = 1024, 6
"""Particles and equations for each coefficient that a choice needs."""
SAMPLE = 512
"""Particles whose Hessians tell the ridges of a potential."""
RANK, RIDGE, STARTS, TURNS = 1e-7, 1 - 1e-6, 12, 200
"""Singular values below this share of the first are none; share of a a' within the span from which a is a ridge; starts
of the search for each direction that may be left, and its iterations."""


@dataclass(frozen=True, eq=False)
class Flow:
    """The velocity field that a dictionary is to resolve.

    Attributes:
        x: particles, (n, d).
        velocity: at each, (n, d).
        weights: of each, (n,).
        enough: weighted mean square error that is good enough.
    """

    x: Points
    velocity: Points
    weights: Scalars
    enough: float

    def fit(self, ridges: Ridges) -> VelocityFit:
        """By least squares."""
        return fit_velocity(self.x, self.velocity, self.weights, ridges)

    @property
    def affordable(self) -> int:
        """Most coefficients of a dictionary."""
        return min(COEFFICIENTS, len(self.x) * self.x.shape[1] // EQUATIONS)

    def few(self, coefficients: int) -> Flow:
        """As many particles as so many coefficients need."""
        n = max(FEWEST, EQUATIONS * coefficients // self.x.shape[1])
        return Flow(self.x[:n], self.velocity[:n], self.weights[:n], self.enough)


@dataclass(frozen=True, eq=False)
class _Tried:
    directions: Float[Tensor, "k d"]
    cells: int
    error: float

    @property
    def price(self) -> float:
        """Error times coefficients: a finer dictionary must lower the one by more than it raises the other."""
        return self.error * len(self.directions) * (self.cells - 1)


def resolving(
    flow: Flow, directions: Float[Tensor, "k d"], cells: int, most: int | None, finest: int = CELLS[-1]
) -> Ridges:
    """The first dictionary that resolves the velocity, as finer ones are tried from this one on, or the best of them.

    Args:
        flow: what is to be resolved.
        directions: to start from; where there are none, the axes of the law are tried, and if they do not resolve it
            directions that are spread evenly.
        cells: to start from.
        most: directions, or None for as many as there are coefficients for.
        finest: most cells. Those of the last step should stay: the law that it left is bent by its knots, and finer
            ones would go after that.
    """
    sizes = [size for size in SPREAD.get(flow.x.shape[1], ()) if most is None or size <= most]
    if len(directions) == 0:
        if not sizes:
            return Ridges.spanning(flow.x, directions, cells)
        best = _finer(flow, principal_axes(flow.x), CELLS[1], [], CELLS[-1])
        if best.error > flow.enough:
            even = _finer(flow, spread_in(flow.x, sizes[0]), CELLS[1], sizes, CELLS[-1])
            best = even if even.error < WORTH * best.error else best
    else:
        best = _finer(flow, directions, cells, sizes, finest)
    return Ridges.spanning(flow.x, best.directions, best.cells)


def _finer(flow: Flow, directions: Float[Tensor, "k d"], cells: int, sizes: list[int], finest: int) -> _Tried:
    """Rising from one dictionary, by more cells or more directions, as long as that pays."""
    cells = max(min(cells, flow.affordable // len(directions) + 1), min(cells, COARSEST))
    best, share = _tried(flow, directions, cells), KNOTS if len(directions) <= flow.x.shape[1] else RESERVE
    if finest == cells and best.error <= flow.enough:
        return best
    while best.error > share * flow.enough:
        rung = CELLS.index(best.cells) if best.cells in CELLS else 0
        options = [(best.directions, count) for count in (*CELLS[rung + 2 : rung + 5 : 2], *CELLS[rung + 1 : rung + 2])]
        for size in [size for size in sizes if size > len(best.directions)][:2]:
            options += [(spread_in(flow.x, size), count) for count in CELLS[max(rung - 2, 0) : rung + 3 : 2]]
        allowed = [(a, n) for a, n in options if n <= finest and len(a) * (n - 1) <= flow.affordable]
        found = [tried for option in allowed if (tried := _tried(flow, *option)).error < WORTH * best.error]
        better = min(found, key=lambda tried: tried.price, default=best)
        if better.price >= best.price:
            break
        best = better
    return best


def _tried(flow: Flow, directions: Float[Tensor, "k d"], cells: int) -> _Tried:
    few = flow.few(len(directions) * (cells - 1))
    return _Tried(directions, cells, few.fit(Ridges.spanning(flow.x, directions, cells)).mean_square)


def crossed(flow: Flow, ridges: Ridges) -> Ridges:
    """With the sums and differences of directions that are not orthogonal, on finer knots, if there is room for them.

    The log determinant of a step, I + tau sum_k g_k'' a_k a_k', has products of the curvatures of every two such ridges
    in its second order, and the law after it bends in the planes that they span.
    """
    a = ridges.directions
    cosines = torch.triu(a @ a.mT, 1).abs()
    kept = a
    for i, j in torch.nonzero((cosines > CROSSING) & (cosines < SAME)).tolist():
        for candidate in (a[i] + a[j], a[i] - a[j]):
            unit = candidate / candidate.norm()
            if (kept @ unit).abs().max() < SAME:
                kept = torch.cat((kept, unit.unsqueeze(0)))
    cells = next((count for count in CELLS if count > ridges.cells), ridges.cells)
    if len(kept) == len(a) or len(kept) * (cells - 1) > flow.affordable:
        return ridges
    return Ridges.spanning(flow.x, kept, cells)


def principal_axes(x: Points) -> Float[Tensor, "d d"]:
    """Eigenvectors of the covariance: a product of laws has no other directions."""
    return torch.linalg.eigh(torch.atleast_2d(torch.cov(x.mT))).eigenvectors.mT


def spread_in(x: Points, count: int) -> Float[Tensor, "k d"]:
    """Directions that are spread evenly where ``x`` has unit covariance."""
    values, vectors = torch.linalg.eigh(torch.atleast_2d(torch.cov(x.mT)))
    floor = torch.finfo(x.dtype).eps * values[-1]
    turned = spread(count, x.shape[1]).to(x) @ ((vectors * values.clamp(min=floor).rsqrt()) @ vectors.mT)
    return turned / turned.norm(dim=1, keepdim=True)


@cache
def spread(count: int, dim: int) -> Float[Tensor, "k d"]:
    """Unit vectors a such that all a and -a are spread evenly over the sphere: charges that repel each other."""
    if dim <= 2:
        angle = torch.arange(count, dtype=torch.float64) * (torch.pi / count)
        return torch.stack((angle.cos(), angle.sin()), 1)[:, :dim]
    a = standard_normal(torch.zeros(count, dim, dtype=torch.float64), stream(0, "directions"))
    a = a / a.norm(dim=1, keepdim=True)
    for move in range(400):
        gaps = a[:, None] - torch.cat((a, -a))
        square = gaps.square().sum(-1)
        force = (gaps / square.clamp(min=1e-12).unsqueeze(-1) ** (dim / 2)).sum(1)
        force = force - (force * a).sum(1, keepdim=True) * a
        a = a + 0.1 / (1 + 0.05 * move) * force / force.norm(dim=1).max()
        a = a / a.norm(dim=1, keepdim=True)
    return a


def potential_ridges(potential: Potential, x: Points) -> Float[Tensor, "k d"]:
    """The a_k of a potential q(x) + sum_k v_k(a_k . x) with q quadratic, or none if it has no such form.

    The Hessian varies within the span of all a_k a_k', and a is one of them where the projection onto that span leaves
    a a' as it is: fixed points of the power iteration a <- P(a a') a (Kileel & Pereira 2019).
    """
    hessians = potential.hessian(x[:SAMPLE])
    d = x.shape[1]
    none = x.new_zeros(0, d)
    vary = (hessians - hessians.mean(0)).reshape(len(hessians), d * d)
    # Rows of like size, so that the tails do not hide the rest.
    size = vary.norm(dim=1, keepdim=True)
    if not size.max() > 0 or not torch.isfinite(size).all():
        return none
    vary = vary / size.clamp(min=size.median().clamp(min=1e-300))
    _, values, span = torch.linalg.svd(vary, full_matrices=False)
    span = span[values > RANK * values[0]]
    rank = len(span)
    if d > 1 and rank >= min(d * (d + 1) // 2, len(hessians) - 1):
        return none
    draws = standard_normal(x.new_zeros(STARTS * rank + STARTS, d), stream(0, "directions", x.device))
    a = draws / draws.norm(dim=1, keepdim=True)
    for _ in range(TURNS):
        inside = ((a[:, :, None] * a[:, None, :]).reshape(-1, d * d) @ span.mT) @ span
        a = (inside.reshape(-1, d, d) @ a.unsqueeze(-1)).squeeze(-1) + 0.2 * a
        a = a / a.norm(dim=1, keepdim=True)
    inside = (a[:, :, None] * a[:, None, :]).reshape(-1, d * d) @ span.mT
    kept = none
    for candidate in a[inside.square().sum(1) > RIDGE]:
        if not len(kept) or (kept @ candidate).abs().max() < SAME:
            kept = torch.cat((kept, candidate.unsqueeze(0)))
        # Where all of a subspace are, as with forces between particles, there are no ridges in particular.
        if len(kept) > rank:
            return none
    found = (kept[:, :, None] * kept[:, None, :]).reshape(-1, d * d)
    # They must span all that varies.
    complete = len(kept) and int(torch.linalg.matrix_rank(found @ span.mT, tol=1e-4)) == rank
    return kept if complete else none
