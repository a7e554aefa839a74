"""Whether a potential is one, and its derivatives its own, at draws of the prior."""

from __future__ import annotations

import torch

from jkofilter._typing import Points
from jkofilter.errors import InputError
from jkofilter.models.potentials import Potential
from jkofilter.models.probes import NOT_A_GRADIENT, require_derivative, require_pointwise, turns
from jkofilter.numerics.threads import one_thread

ENTRIES = 4096
"""Coordinates of draws that derivatives are tried at: in many dimensions fewer draws will do."""

LARGE = 256
"""Above so many dimensions Hessians are matrices that nobody wants many of."""

BRANCHES = (
    "torch.where differentiates the branch it does not take too; give that branch an argument that is safe, as in "
    "torch.where(x > 0, torch.log(torch.where(x > 0, x, 1.0)), 0.0)"
)
"""Why a gradient is NaN where the value is finite, and what to do."""
AROUND = (1.0, 2.0, 4.0, 8.0)
"""Spreads of a law that a breakdown is looked for in."""


@one_thread()
def check_potential(potential: Potential, draws: Points) -> None:
    """Try a potential out at draws of a law, (n, d), n of at least ten: the prior, or where a flow has come to.

    Raises:
        InputError: it couples the points of a batch, is NaN at a draw, or its gradient or Hessian is NaN where it is
            finite, or not that of V.
    """
    dim, kind = potential.dim, type(potential)
    require_pointwise(potential, draws, "potential", ())
    value = potential(draws).detach()
    if torch.isnan(value).any():
        raise InputError(
            "potential is NaN where the law has mass; give a function that is defined there, or a prior that stays "
            "where it is."
        )
    if kind.gradient is not Potential.gradient:
        require_pointwise(potential.gradient, draws, "potential.gradient()", (dim,))
    gradient, inside = potential.gradient(draws).detach(), torch.isfinite(value)
    if torch.isnan(gradient[inside]).any():
        raise InputError(f"potential has a NaN gradient where the law has mass and its value is finite: {BRANCHES}.")
    inner = draws[inside & torch.isfinite(gradient).all(-1)]
    inner = inner[: max(4, ENTRIES // dim)]
    if len(inner) < 2 or not (inner.std(0) > 0).all():
        return
    require_derivative(potential, potential.gradient, inner, lambda: _gradient_complaint(potential, inner))
    if kind.hessian is not Potential.hessian and dim <= LARGE:
        require_pointwise(potential.hessian, draws, "potential.hessian()", (dim, dim))
        require_derivative(potential.gradient, potential.hessian, inner, lambda: _HESSIAN)


_HESSIAN = (
    "potential has a hessian() that is not the derivative of its gradient(); leave the method out, and torch "
    "differentiates V twice."
)


def _gradient_complaint(potential: Potential, points: Points) -> str:
    cure = "leave the method out, and torch differentiates V"
    if turns(potential.gradient, points):
        return (
            "potential has a gradient() with curl, which is no gradient of V (a rotation on top of one?): "
            f"{NOT_A_GRADIENT}; {cure}."
        )
    if type(potential).gradient is Potential.gradient:
        return (
            "potential has a gradient by torch that is not the slope of its values: something in it is rounded, "
            "detached or drawn at random; make it a smooth function of the state."
        )
    return (
        f"potential has a gradient() that is not that of its values, and {NOT_A_GRADIENT}; check factor and sign, or "
        f"{cure}."
    )


def trouble_around(potential: Potential, points: Points) -> str:
    """What is wrong with a potential about a law that broke down, as a sentence; empty where it is finite there.

    Args:
        potential: V.
        points: of the law before it broke down, (n, d); they are looked at as they are and spread out.
    """
    spread = _around(points)
    branch = nan_branch_around(potential, points)
    if branch or not torch.isnan(potential(spread)).any():
        return branch
    return "potential is NaN around the law; give a function that is finite wherever the law may come."


def nan_branch_around(potential: Potential, points: Points) -> str:
    """As ``trouble_around``, of the gradient alone."""
    spread = _around(points)
    value, gradient = potential(spread).detach(), potential.gradient(spread).detach()
    if torch.isnan(gradient[torch.isfinite(value)]).any():
        return f"potential has a NaN gradient around the law where its value is finite: {BRANCHES}."
    return ""


def _around(points: Points) -> Points:
    """The finite ones of some points as they are and spread out."""
    some = points[torch.isfinite(points).all(-1)][:ENTRIES]
    centre = some.mean(0)
    return torch.cat([centre + factor * (some - centre) for factor in AROUND])
