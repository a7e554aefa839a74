"""The JKO step over convex ridge splines: a convex program, solved by an interior Newton method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jkofilter._typing import Matrix, Points
from jkofilter.errors import FilterError
from jkofilter.transport.maps.convex import log_det
from jkofilter.transport.maps.ridge import Ridges, RidgeSpline
from jkofilter.transport.steps.problem import StepProblem

FIRST_BARRIER, LAST_BARRIER, SHRINK = 1e-2, 1e-5, 0.1
"""Weight of the barrier -log c - log det Q, in units of the log determinant term: first, last, and ratio."""
CENTRED = 0.3
"""Step length from which an iterate counts as close enough to the central path for the barrier to shrink."""
DECREMENT = 5e-6
"""Newton decrement per dimension at which a solve stops, in units of the log determinant term. What is left then is
mostly an exchange of curvature between ridges and Q that changes the map very little."""
MAX_ITERATIONS = 40
SMOOTHING = 1e-4
"""Weight of squared second differences of a ridge's coefficients, in units of the transport term: decides where next to
no particles do, and counts like a share of 1e-4 of them."""
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
class _Design:
    """Everything about pool and dictionary that stays fixed during a solve.

    Parameters are (b, q, c): Q = sum_p q_p e_p e_p' over the d (d + 1) / 2 vectors e_i and (e_i + e_j) / sqrt(2).
    Slopes are centred, so that b is the mean of the map. ``features`` and ``curvatures`` hold one column a parameter.
    """

    ridges: Ridges
    pairs: Float[Tensor, "p d"]
    x: Points
    x_mean: Tensor
    slopes: Float[Tensor, "k n j"]
    slope_mean: Tensor
    curvatures: Float[Tensor, "k n j"]
    outer: Tensor
    roughness: Float[Tensor, "k j j"]

    @staticmethod
    def build(x: Points, ridges: Ridges, h: float) -> _Design:
        d = x.shape[1]
        slopes, curvatures = ridges.basis(x)
        mean = slopes.mean(0)
        # Direction by direction in memory: every product with these is then a sequential read.
        slopes, curvatures = (slopes - mean).transpose(0, 1).contiguous(), curvatures.transpose(0, 1).contiguous()
        directions = ridges.directions
        outer = (directions[:, :, None] * directions[:, None, :]).reshape(-1, d * d)
        x_mean = x.mean(0)
        bends = torch.diff(torch.eye(mean.shape[1], dtype=x.dtype, device=x.device), n=2, dim=0)
        roughness = SMOOTHING / h * ridges.width.square()[:, None, None] * (bends.mT @ bends)
        return _Design(ridges, symmetric_directions(x), x - x_mean, x_mean, slopes, mean, curvatures, outer, roughness)

    @property
    def split(self) -> tuple[int, int]:
        d = self.x.shape[1]
        return d, d + self.pairs.shape[0]

    def unpack(self, theta: Tensor) -> tuple[Tensor, Matrix, Tensor]:
        d, end = self.split
        quadratic = (self.pairs * theta[d:end, None]).mT @ self.pairs
        return theta[:d], quadratic, theta[end:].reshape(self.slope_mean.shape)

    def pack(self, psi: RidgeSpline) -> Tensor:
        shift = psi.shift + self.x_mean @ psi.quadratic
        shift = shift + (self.slope_mean * psi.coefficients).sum(1) @ self.ridges.directions
        twice = 2 * torch.tril(psi.quadratic, -1)
        own = torch.diag(psi.quadratic.diagonal() - 0.5 * (twice + twice.mT).sum(0))
        row, column = torch.tril_indices(*psi.quadratic.shape, device=shift.device)
        return torch.cat((shift, (twice + own)[row, column], psi.coefficients.reshape(-1)))

    def spline(self, theta: Tensor) -> RidgeSpline:
        shift, quadratic, c = self.unpack(theta)
        shift = shift - self.x_mean @ quadratic - (self.slope_mean * c).sum(1) @ self.ridges.directions
        return RidgeSpline(quadratic, shift, self.ridges, c.clone())

    def map(self, theta: Tensor) -> tuple[Points, Float[Tensor, "n d d"]]:
        shift, quadratic, c = self.unpack(theta)
        if c.numel() == 0:
            return self.x @ quadratic + shift, quadratic.unsqueeze(0)
        slope, curvature = ((basis @ c.unsqueeze(-1)).squeeze(-1).mT for basis in (self.slopes, self.curvatures))
        y = self.x @ quadratic + shift + slope @ self.ridges.directions
        return y, quadratic + (curvature @ self.outer).reshape(-1, *quadratic.shape)

    def rough(self, c: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        """Gradient of the smoothing term at flat coefficients."""
        rows = c.reshape(self.slope_mean.shape)
        return (self.roughness @ rows.unsqueeze(-1)).reshape(-1)

    def along(self, matrices: Float[Tensor, "n d d"]) -> tuple[Tensor, Tensor]:
        """e' M e for every pair vector (n, p) and every ridge direction (n, k)."""
        d = matrices.shape[-1]
        row, column = torch.tril_indices(d, d, device=matrices.device)
        own = matrices.diagonal(dim1=-2, dim2=-1)
        mixed = 0.5 * (own[:, row] + own[:, column]) + matrices[:, row, column]
        pairs = torch.where(row == column, own[:, row], mixed)
        return pairs, ((self.ridges.directions @ matrices) * self.ridges.directions).sum(-1)


def symmetric_directions(like: Tensor) -> Float[Tensor, "p d"]:
    """Unit vectors e_i and (e_i + e_j) / sqrt(2), whose outer products span the symmetric matrices."""
    d = like.shape[-1]
    row, column = torch.tril_indices(d, d, device=like.device)
    eye = torch.eye(d, dtype=like.dtype, device=like.device)
    sums = eye[row] + eye[column]
    return sums / sums.norm(dim=1, keepdim=True)


@dataclass(frozen=True, eq=False)
class _State:
    """The objective and its ingredients at one parameter vector."""

    theta: Tensor
    value: float
    y: Points
    factor: Float[Tensor, "n d d"]
    quadratic_factor: Matrix


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
    design = _Design.build(problem.pool.x, start.ridges, problem.h)
    # Without ridges Q is the Hessian itself, and the log determinant barrier enough.
    last = LAST_BARRIER / problem.beta if start.coefficients.numel() else 0.0
    barrier = last if warm else min(FIRST_BARRIER / problem.beta, last / SHRINK**9)
    state = _evaluate(problem, design, design.pack(start), barrier)
    if state is None:
        raise FilterError("the step's objective is not finite at its starting map.")
    limit = DECREMENT * problem.pool.x.shape[1] / problem.beta
    for iteration in range(MAX_ITERATIONS):
        local = _Local.at(problem, design, state, barrier)
        if iteration % RENEW == 0:
            model = _model(problem, design, local)
        gradient = _gradient(problem, design, state, local)
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


def _evaluate(problem: StepProblem, design: _Design, theta: Tensor, barrier: float) -> _State | None:
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
    def at(problem: StepProblem, design: _Design, state: _State, barrier: float) -> _Local:
        metric = problem.sde.potential.hessian(state.y)
        metric = metric + torch.eye(metric.shape[-1], dtype=metric.dtype, device=metric.device) / problem.h
        inverse = torch.cholesky_inverse(state.factor)
        c = state.theta[design.split[1] :]
        return _Local(metric, inverse, torch.cholesky_inverse(state.quadratic_factor), c, barrier, problem.beta)


def _pulled(design: _Design, force: Points, strain: Float[Tensor, "n d d"], on_quadratic: Matrix) -> Tensor:
    """Derivative by the parameters of E[force . y + tr(strain H)] + tr(on_quadratic Q)."""
    n = force.shape[0]
    directions = design.ridges.directions
    moment = design.x.mT @ force / n + strain.mean(0) + on_quadratic
    pairs = ((design.pairs @ moment) * design.pairs).sum(-1)
    if directions.shape[0] == 0:
        return torch.cat((force.mean(0), pairs))
    along = ((directions @ strain) * directions).sum(-1)
    ridge = (directions @ force.mT).unsqueeze(1) @ design.slopes + along.mT.unsqueeze(1) @ design.curvatures
    ridge = ridge.squeeze(1) / n
    return torch.cat((force.mean(0), pairs, ridge.reshape(-1)))


def _gradient(problem: StepProblem, design: _Design, state: _State, local: _Local) -> Tensor:
    force = (state.y - problem.centre) / problem.h + problem.sde.potential.gradient(state.y)
    force = force + problem.score / problem.beta
    if problem.inverse_jacobian is None:
        reference = torch.eye(force.shape[-1], dtype=force.dtype, device=force.device)
    else:
        reference = problem.inverse_jacobian
    strain = (reference - local.inverse) / problem.beta
    gradient = _pulled(design, force, strain, -local.barrier * local.quadratic_inverse)
    gradient[design.split[1] :] += design.rough(local.c) - local.barrier / local.c
    return gradient


def _curvature_times(design: _Design, local: _Local, vector: Tensor) -> Tensor:
    """The exact Hessian of objective and barrier times a vector, without forming it."""
    moved, bent = design.map(vector)
    _, quadratic, _ = design.unpack(vector)
    force = (local.metric @ moved.unsqueeze(-1)).squeeze(-1)
    strain = local.inverse @ bent @ local.inverse / local.beta
    on_quadratic = local.barrier * local.quadratic_inverse @ quadratic @ local.quadratic_inverse
    product = _pulled(design, force, strain, on_quadratic)
    end = design.split[1]
    product[end:] += local.barrier * vector[end:] / local.c.square() + design.rough(vector[end:])
    return product


def _model(problem: StepProblem, design: _Design, local: _Local) -> Matrix:
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
    pair_metric, ridge_metric = (w.clamp(min=floor) for w in design.along(metric))
    pair_mean, ridge_mean = design.along(mean_metric.unsqueeze(0))
    own_weight = metric.diagonal(dim1=-2, dim2=-1).clamp(min=floor) / mean_metric.diagonal()
    pair_strain, ridge_strain = design.along(inverse)
    pair_unit, ridge_unit = design.along(mean_inverse.unsqueeze(0))
    own = own_weight.sqrt(), (design.x[:n] @ design.pairs.mT) * (pair_metric / pair_mean).sqrt()
    slopes = torch.cat((*own, _weighted(design.slopes[:, :n], (ridge_metric / ridge_mean).sqrt())), 1)
    pair_weight = (pair_strain / pair_unit).expand(n, -1)
    curvatures = torch.cat((pair_weight, _weighted(design.curvatures[:, :n], ridge_strain / ridge_unit)), 1)
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


def _floored(matrix: Matrix, floor: float) -> Matrix:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=floor)) @ vectors.mT


def _preconditioner(design: _Design, model: Matrix, local: _Local) -> tuple[Matrix, Tensor]:
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
    design: _Design, preconditioner: tuple[Matrix, Tensor], gradient: Tensor, local: _Local
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
    problem: StepProblem, design: _Design, state: _State, direction: Tensor, decrement: float, barrier: float
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
