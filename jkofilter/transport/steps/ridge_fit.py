"""The JKO step over convex ridge splines: a convex program, solved by an interior Newton method."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jkofilter._typing import Matrix, Points
from jkofilter.errors import FilterError
from jkofilter.transport.maps.convex import log_det
from jkofilter.transport.maps.ridge import RidgeSpline
from jkofilter.transport.steps.problem import StepProblem
from jkofilter.transport.steps.ridge_design import RidgeDesign

FIRST_BARRIER, LAST_BARRIER, SHRINK = 1e-2, 1e-5, 0.01
"""Weight of the barrier -log c - log det Q, in units of the log determinant term: first, last, and ratio."""
CENTRED = 0.3
"""Step length from which an iterate counts as close enough to the central path for the barrier to shrink."""
DECREMENT = 5e-6
"""Newton decrement per dimension at which a solve stops, in units of the log determinant term. What is left then is
mostly an exchange of curvature between ridges and Q that changes the map very little."""
MAX_ITERATIONS = 40
EXACT = 1000
"""Parameters up to which the Hessian is formed and factorised; above, conjugate gradients never form it."""
RENEW = 4
CG_STEPS = 25
CG_REDUCTION = 1e-2
_FLOOR = 0.1
_TO_BOUNDARY = 0.95


@dataclass(frozen=True, eq=False)
class RidgeFit:
    """A solved step.

    Attributes:
        psi: the potential.
        loss: the objective.
        iterations: Newton steps taken.
    """

    psi: RidgeSpline
    loss: float
    iterations: int


@dataclass(frozen=True, eq=False)
class _State:
    """The objective and its ingredients at one parameter vector."""

    theta: Tensor
    value: float
    y: Points
    factor: Float[Tensor, "n d d"]
    quadratic_factor: Matrix


def best_start(problem: StepProblem, safe: RidgeSpline, others: list[RidgeSpline]) -> tuple[RidgeSpline, bool]:
    """The feasible one of least objective among potentials on the same ridges, and whether it is one of ``others``."""
    design, barrier = RidgeDesign.build(problem.pool.x, safe.ridges, problem.h), LAST_BARRIER / problem.beta
    found = [_evaluate(problem, design, design.pack(psi), barrier) for psi in (safe, *others)]
    values = [math.inf if state is None else state.value for state in found]
    best = values.index(min(values))
    return (safe, *others)[best], best > 0


def fit_ridge(problem: StepProblem, start: RidgeSpline, warm: bool = False) -> RidgeFit:
    """Solve a step over the ridge splines on the dictionary of ``start``.

    Newton's method with conjugate gradients on the objective plus a small log barrier for c > 0 and Q > 0.

    Args:
        problem: the step.
        start: feasible; its directions and knots are kept.
        warm: whether ``start`` solves a problem close to this one; the barrier then starts at its least weight.

    Raises:
        FilterError: the objective is not finite at the start, or the iteration does not converge.
    """
    design = RidgeDesign.build(problem.pool.x, start.ridges, problem.h)
    # Without ridges Q is the Hessian itself, and the log determinant barrier enough.
    last = LAST_BARRIER / problem.beta if start.coefficients.numel() else 0.0
    barrier = last if warm else min(FIRST_BARRIER / problem.beta, last / SHRINK**9)
    state = _evaluate(problem, design, design.pack(start), barrier)
    if state is None:
        raise FilterError("the step's objective is not finite at its starting map.")
    exact = start.coefficients.numel() > 0 and design.split[1] + start.coefficients.numel() <= EXACT
    limit = DECREMENT * problem.pool.x.shape[1] / problem.beta
    for iteration in range(MAX_ITERATIONS):
        local = _Local.at(problem, design, state, barrier)
        gradient = _gradient(problem, design, state, local)
        if exact:
            factor, scale = _preconditioner(design, _hessian(problem, design, local), local)
            direction = -torch.cholesky_solve((gradient / scale).unsqueeze(-1), factor).squeeze(-1) / scale
        else:
            if iteration % RENEW == 0:
                model = _model(problem, design, local)
            direction = _newton_direction(design, _preconditioner(design, model, local), gradient, local)
        decrement = -(gradient @ direction).item()
        moved, length = _line_search(problem, design, state, direction, decrement, barrier)
        if barrier == last and (decrement < limit or (moved is state and decrement < 1e3 * limit)):
            return RidgeFit(design.spline(moved.theta), moved.value, iteration + 1)
        if barrier == last and moved is state:
            break
        if barrier > last and (length >= CENTRED or moved is state):
            barrier = max(last, SHRINK * barrier)
            # The objective contains the barrier, so it changes with it.
            moved = _evaluate(problem, design, moved.theta, barrier) or moved
        state = moved
    raise FilterError(f"the convex program did not converge in {iteration + 1} iterations (decrement {decrement:.1e}).")


def _evaluate(problem: StepProblem, design: RidgeDesign, theta: Tensor, barrier: float) -> _State | None:
    """The objective with its barrier; None outside the feasible set or where it is not finite."""
    _, quadratic, c = design.unpack(theta)
    if c.numel() and c.min() <= 0:
        return None
    quadratic_factor, info = torch.linalg.cholesky_ex(quadratic)
    if info.item() != 0:
        return None
    y, hessian = design.map(theta)
    factor, infos = torch.linalg.cholesky_ex(hessian)
    if infos.any():
        return None
    value = problem.energies(y, hessian, log_det(factor)).mean()
    value = value - barrier * (log_det(quadratic_factor) + c.log().sum()) + 0.5 * c.reshape(-1) @ design.rough(c)
    if not torch.isfinite(value):
        return None
    return _State(theta, value.item(), y, factor, quadratic_factor)


@dataclass(frozen=True, eq=False)
class _Local:
    """Second derivatives at one parameter vector.

    Attributes:
        metric: I/h + Hess V at the images, (n, d, d).
        inverse: inverse Hessians of the potential, (n or 1, d, d).
        quadratic_inverse: Q^-1, (d, d).
        c: coefficients, flat.
        barrier: weight of the barrier.
        beta: inverse temperature.
    """

    metric: Float[Tensor, "n d d"]
    inverse: Float[Tensor, "n d d"]
    quadratic_inverse: Matrix
    c: Tensor
    barrier: float
    beta: float

    @staticmethod
    def at(problem: StepProblem, design: RidgeDesign, state: _State, barrier: float) -> _Local:
        metric = problem.sde.potential.hessian(state.y)
        metric = metric + torch.eye(metric.shape[-1], dtype=metric.dtype, device=metric.device) / problem.h
        inverse = torch.cholesky_inverse(state.factor)
        c = state.theta[design.split[1] :]
        return _Local(metric, inverse, torch.cholesky_inverse(state.quadratic_factor), c, barrier, problem.beta)


def _gradient(problem: StepProblem, design: RidgeDesign, state: _State, local: _Local) -> Tensor:
    force = (state.y - problem.centre) / problem.h + problem.sde.potential.gradient(state.y)
    force = force + problem.score / problem.beta
    if problem.inverse_jacobian is None:
        reference = torch.eye(force.shape[-1], dtype=force.dtype, device=force.device)
    else:
        reference = problem.inverse_jacobian
    strain = (reference - local.inverse) / problem.beta
    gradient = design.pulled(force, strain, -local.barrier * local.quadratic_inverse)
    gradient[design.split[1] :] += design.rough(local.c) - local.barrier / local.c
    return gradient


def _curvature_times(design: RidgeDesign, local: _Local, vector: Tensor) -> Tensor:
    """The exact Hessian of objective and barrier times a vector, without forming it."""
    moved, bent = design.map(vector)
    _, quadratic, _ = design.unpack(vector)
    force = (local.metric @ moved.unsqueeze(-1)).squeeze(-1)
    strain = local.inverse @ bent @ local.inverse / local.beta
    on_quadratic = local.barrier * local.quadratic_inverse @ quadratic @ local.quadratic_inverse
    product = design.pulled(force, strain, on_quadratic)
    end = design.split[1]
    product[end:] += local.barrier * vector[end:] / local.c.square() + design.rough(vector[end:])
    return product


def _hessian(problem: StepProblem, design: RidgeDesign, local: _Local) -> Matrix:
    """The Hessian without its barrier, with the metric made positive where the potential is not convex enough."""
    metric = local.metric
    folded = torch.linalg.cholesky_ex(metric).info != 0
    if folded.any():
        metric = metric.clone()
        metric[folded] = _floored(metric[folded], _FLOOR / problem.h)
    total = design.second_derivatives(metric, local.inverse, local.beta)
    end = design.split[1]
    total[end:, end:] += torch.block_diag(*design.roughness)
    return total


def _model(problem: StepProblem, design: RidgeDesign, local: _Local) -> Matrix:
    """A positive definite stand-in for the Hessian without its barrier, to precondition with.

    Each pair of ridges gets the geometric mean of their weights times the cosine of their directions in the mean
    metric: positive definite by Schur's product theorem, exact where the weights are constant or the directions
    coincide. A share of the particles is enough for it.
    """
    parameters = design.pairs.shape[0] + design.slope_mean.numel()
    n = min(design.x.shape[0], max(1024, 2 * parameters))
    metric, inverse = local.metric[:n], local.inverse[:n]
    d, floor = metric.shape[-1], _FLOOR / problem.h
    mean_metric, mean_inverse = _floored(metric.mean(0), floor), inverse.mean(0)
    pair_metric, ridge_metric = (w.clamp(min=floor) for w in design.weights_along(metric))
    pair_mean, ridge_mean = design.weights_along(mean_metric.unsqueeze(0))
    own_weight = metric.diagonal(dim1=-2, dim2=-1).clamp(min=floor) / mean_metric.diagonal()
    pair_strain, ridge_strain = design.weights_along(inverse)
    pair_unit, ridge_unit = design.weights_along(mean_inverse.unsqueeze(0))
    own = own_weight.sqrt(), (design.x[:n] @ design.pairs.mT) * (pair_metric / pair_mean).sqrt()
    rises, bends = design.ridges.basis(design.x[:n] + design.x_mean)
    slopes = torch.cat(
        (*own, _weighted((rises - design.slope_mean).transpose(0, 1), (ridge_metric / ridge_mean).sqrt())), 1
    )
    pair_weight = (pair_strain / pair_unit).expand(n, -1)
    curvatures = torch.cat((pair_weight, _weighted(bends.transpose(0, 1), ridge_strain / ridge_unit)), 1)
    repeated = design.ridges.directions.repeat_interleave(design.slope_mean.shape[1], 0)
    vectors = torch.cat((torch.eye(d, dtype=metric.dtype, device=metric.device), design.pairs, repeated))
    model = (vectors @ mean_metric @ vectors.mT) * (slopes.mT @ slopes) / n
    strains = (vectors[d:] @ mean_inverse @ vectors[d:].mT).square()
    model[d:, d:] += strains * (curvatures.mT @ curvatures) / (n * problem.beta)
    end = design.split[1]
    if end < len(model):
        model[end:, end:] += torch.block_diag(*design.roughness)
    return model


def _weighted(basis: Float[Tensor, "k n j"], weights: Float[Tensor, "n k"]) -> Tensor:
    """One column a coefficient, each row times the weight of its particle and direction."""
    return (basis.transpose(0, 1) * weights.unsqueeze(-1)).reshape(basis.shape[1], -1)


def _floored(matrix: Float[Tensor, "*n d d"], floor: float) -> Float[Tensor, "*n d d"]:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=floor).unsqueeze(-2)) @ vectors.mT


def _preconditioner(design: RidgeDesign, model: Matrix, local: _Local) -> tuple[Matrix, Tensor]:
    """Cholesky factor of the scaled model with its barrier, and the scale."""
    d, end = design.split
    full = model.clone()
    full[d:end, d:end] += local.barrier * (design.pairs @ local.quadratic_inverse @ design.pairs.mT).square()
    full.diagonal()[end:] += local.barrier / local.c.square()
    scale = full.diagonal().sqrt()
    full = full / scale / scale[:, None]
    for jitter in (1e-10, 1e-8, 1e-6):
        full.diagonal().add_(jitter)
        factor, info = torch.linalg.cholesky_ex(full)
        if info.item() == 0:
            return factor, scale
    raise FilterError("the step's curvature is not positive definite, even with a jitter of 1e-6 of its diagonal.")


def _newton_direction(
    design: RidgeDesign, preconditioner: tuple[Matrix, Tensor], gradient: Tensor, local: _Local
) -> Tensor:
    """Conjugate gradients on the exact Hessian until the residual falls tenfold in the model's norm."""
    factor, scale = preconditioner

    def solved(right: Tensor) -> Tensor:
        return torch.cholesky_solve((right / scale).unsqueeze(-1), factor).squeeze(-1) / scale

    direction, residual = torch.zeros_like(gradient), -gradient
    guess = solved(residual)
    along = guess
    size = first = (residual @ guess).item()
    for _ in range(CG_STEPS):
        image = _curvature_times(design, local, along)
        bend = (along @ image).item()
        # Where the potential is not convex enough the Hessian can be indefinite far from the solution.
        if bend <= 0:
            return guess if direction.count_nonzero() == 0 else direction
        direction = direction + (size / bend) * along
        residual = residual - (size / bend) * image
        guess = solved(residual)
        new = (residual @ guess).item()
        if new <= CG_REDUCTION * first:
            break
        along, size = guess + (new / size) * along, new
    return direction


def _line_search(
    problem: StepProblem, design: RidgeDesign, state: _State, direction: Tensor, decrement: float, barrier: float
) -> tuple[_State, float]:
    """The state after the first halving of the step that lowers the objective enough, and the length."""
    end = design.split[1]
    falling = direction[end:] < 0
    length = 1.0
    if falling.any():
        length = min(1.0, _TO_BOUNDARY * (state.theta[end:] / -direction[end:])[falling].min().item())
    for _ in range(30):
        trial = _evaluate(problem, design, state.theta + length * direction, barrier)
        if trial is not None and trial.value <= state.value - 1e-4 * length * decrement:
            return trial, length
        length *= 0.5
    return state, 0.0
