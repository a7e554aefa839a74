"""Which directions a ridge spline is written in: found from the potential, tuned on the velocity of the flow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jkofilter._typing import Points, Scalars
from jkofilter.models.potentials import Potential
from jkofilter.numerics.linalg import safe_cholesky
from jkofilter.transport.maps.ridge import Ridges, RidgeSpline
from jkofilter.transport.steps.ridge_design import RidgeDesign

PROBES = 64
"""Particles whose Hessians propose directions."""
SAME = 0.98
"""Cosine from which two directions count as one."""
ROUNDS = 4
MOVES = 15
RATE = 0.05
GAIN = 0.97
"""A round of tuning that leaves more than this share of the error is the last."""
REGULARISATION = 1e-6
UNSEEN = 1e-8
"""Share of the largest mean square of the features of a direction below which one counts as this much."""
TEMPER = 16.0
"""Particles this many times faster than the median square velocity lose weight: they are few, and soon are not."""


@dataclass(frozen=True, eq=False)
class VelocityFit:
    """A field written as a quadratic plus ridges, by least squares.

    Attributes:
        psi: the (not necessarily convex) potential whose gradient is the fit.
        error: what is left of the field, (n, d).
        mean_square: weighted mean of its square.
    """

    psi: RidgeSpline
    error: Points
    mean_square: float


def tempered_weights(velocity: Points) -> Scalars:
    """Weights that keep a few fast particles of the tails from deciding a fit, (n,)."""
    square = velocity.square().sum(-1)
    return 1 / (1 + square / (TEMPER * square.median()).clamp(min=torch.finfo(square.dtype).tiny))


def fit_velocity(x: Points, velocity: Points, weights: Scalars, ridges: Ridges) -> VelocityFit:
    """Least squares over quadratics and the ridges of a dictionary."""
    design = RidgeDesign.build(x, ridges, 1.0)
    gram = design.least_squares(weights)
    right = design.pulled(velocity * weights.unsqueeze(-1), torch.zeros_like(x).diag_embed()[:1])
    scale = _sizes(design, gram.diagonal()).sqrt()
    gram = gram / scale / scale[:, None]
    gram.diagonal().add_(max(REGULARISATION, 1e3 * torch.finfo(x.dtype).eps))
    theta = torch.cholesky_solve((right / scale).unsqueeze(-1), safe_cholesky(gram)[0]).squeeze(-1) / scale
    error = velocity - design.map(theta)[0]
    return VelocityFit(design.spline(theta), error, (error.square().sum(-1) * weights).mean().item())


def _sizes(design: RidgeDesign, squares: Tensor) -> Tensor:
    """Mean squares of the features, no less than UNSEEN of the largest of the same kind and direction.

    What no particle bends has a column of rounding errors. Shifts, curvatures of the quadratic and those of the ridges
    have units of their own, and the law a width of its own in every direction.
    """
    d, end = design.split
    ridges = squares[end:].reshape(design.slope_mean.shape)
    if ridges.numel():
        ridges = torch.maximum(ridges, UNSEEN * ridges.amax(1, keepdim=True))
    return torch.cat((squares[:end], ridges.reshape(-1))).clamp(min=torch.finfo(squares.dtype).tiny)


def proposed_directions(potential: Potential, x: Points, most: int) -> Float[Tensor, "k d"]:
    """Eigenvectors of Hess V at some particles, the same direction once, the most frequent first.

    A rotated product has d of them however many particles are asked; a coupled potential has many.
    """
    hessians = potential.hessian(x[:PROBES])
    vectors = torch.linalg.eigh(hessians).eigenvectors.mT.reshape(-1, x.shape[1])
    counts: list[int] = []
    kept = vectors[:0]
    for vector in vectors:
        cosines = (kept @ vector).abs()
        if cosines.numel() and cosines.max() > SAME:
            counts[int(cosines.argmax())] += 1
        else:
            kept = torch.cat((kept, vector.unsqueeze(0)))
            counts.append(1)
    order = sorted(range(len(counts)), key=lambda i: -counts[i])[:most]
    return kept[order]


def tuned(
    x: Points, velocity: Points, weights: Scalars, directions: Float[Tensor, "k d"], cells: int
) -> tuple[Float[Tensor, "k d"], VelocityFit]:
    """Directions turned to lower the least-squares error of the velocity, and the fit they give.

    Rounds of a linear solve for the ridges with moves of the directions at fixed ridges (gradient steps on the sphere,
    each direction scaled by its own running gradient, as in Adam) go on as long as they pay.
    """
    fit = fit_velocity(x, velocity, weights, Ridges.spanning(x, directions, cells))
    best = directions, fit
    for _ in range(ROUNDS):
        directions = _turned(x, velocity, weights, directions, fit.psi)
        fit = fit_velocity(x, velocity, weights, Ridges.spanning(x, directions, cells))
        gained = fit.mean_square < GAIN * best[1].mean_square
        if fit.mean_square < best[1].mean_square:
            best = directions, fit
        if not gained:
            break
    return best


def _turned(
    x: Points, velocity: Points, weights: Scalars, directions: Float[Tensor, "k d"], psi: RidgeSpline
) -> Float[Tensor, "k d"]:
    target = velocity - velocity.mean(0) - (x - x.mean(0)) @ psi.quadratic
    momentum, square = torch.zeros_like(directions), torch.zeros_like(directions[:, :1])
    for move in range(1, MOVES + 1):
        ridges = Ridges(directions, psi.ridges.lower, psi.ridges.width, psi.ridges.cells)
        slope, curvature = RidgeSpline(psi.quadratic, psi.shift, ridges, psi.coefficients).along(x)
        slope = slope - slope.mean(0)
        error = (target - slope @ directions) * weights.unsqueeze(-1)
        gradient = -((error @ directions.mT * curvature).mT @ x + slope.mT @ error)
        gradient = gradient - (gradient * directions).sum(1, keepdim=True) * directions
        momentum = 0.8 * momentum + 0.2 * gradient
        square = 0.95 * square + 0.05 * gradient.square().sum(1, keepdim=True)
        rate = RATE * (1 - 0.95**move) ** 0.5 / (1 - 0.8**move)
        directions = directions - rate * momentum / square.sqrt().clamp(min=torch.finfo(x.dtype).tiny)
        directions = directions / directions.norm(dim=1, keepdim=True)
    return directions


def widened(
    directions: Float[Tensor, "k d"], x: Points, error: Points, weights: Scalars, more: int
) -> Float[Tensor, "k d"]:
    """The directions and up to ``more`` new ones, along the largest errors that no direction points along yet."""
    order = (error.square().sum(-1) * weights).argsort(descending=True)[: 20 * more]
    for candidate in error[order]:
        if more == 0:
            break
        unit = candidate / candidate.norm().clamp(min=torch.finfo(x.dtype).tiny)
        if directions.shape[0] == 0 or (directions @ unit).abs().max() < SAME:
            directions = torch.cat((directions, unit.unsqueeze(0)))
            more -= 1
    return directions
