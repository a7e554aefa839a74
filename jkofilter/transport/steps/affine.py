"""The affine map that solves a step best: where all engines start."""

from __future__ import annotations

import math

import torch

from jkofilter.errors import FilterError
from jkofilter.transport.maps.ridge import RidgeSpline
from jkofilter.transport.steps.problem import StepProblem
from jkofilter.transport.steps.ridge_fit import RidgeFit, fit_ridge


def fit_affine(problem: StepProblem) -> RidgeFit:
    """The affine (Gaussian) map that solves a step best, from which all engines start; the identity if none is found.

    For a Gaussian pool and a quadratic potential it is the step's solution.

    Raises:
        FilterError: the objective is not finite at the identity.
    """
    start = identity(problem)
    try:
        return fit_ridge(problem, start)
    except FilterError:
        y, hessian = start.gradient_and_hessian(problem.pool.x)
        loss = problem.energies(y, hessian, torch.zeros_like(problem.pool.log_prob)).mean().item()
        if not math.isfinite(loss):
            raise
        return RidgeFit(start, loss, 0)


def identity(problem: StepProblem) -> RidgeSpline:
    """The map that leaves the problem's particles where they are, without ridges."""
    x = problem.pool.x
    return RidgeSpline.affine(torch.eye(x.shape[1]).to(x), torch.zeros_like(x[0]))
