"""Convex potentials and the Brenier maps they generate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from jkofilter._typing import Points, Scalars
from jkofilter.errors import FilterError
from jkofilter.numerics.threads import blocks, in_threads

_INVERSE_TOLERANCE = 1e-10
_INVERSE_STEPS = 100
_SUFFICIENT_DECREASE = 1e-4
_PATIENCE = 50


@runtime_checkable
class ConvexPotential(Protocol):
    """A strictly convex psi on R^d, twice differentiable; its gradient is a Brenier map. Immutable."""

    @property
    def dim(self) -> int:
        """State dimension d."""
        ...

    def __call__(self, x: Points) -> Scalars:
        """psi(x), (n,)."""
        ...

    def gradient(self, x: Points) -> Points:
        """The Brenier map grad psi(x), (n, d)."""
        ...

    def hessian(self, x: Points) -> Float[Tensor, "n d d"]:
        """Jacobian of the map, symmetric positive definite, (n, d, d)."""
        ...

    def gradient_and_hessian(self, x: Points) -> tuple[Points, Float[Tensor, "n d d"]]:
        """Both at the price of one evaluation."""
        ...

    def log_det_gradient(self, x: Points, inverse_hessian: Float[Tensor, "n d d"]) -> Points:
        """Gradient of log det Hess psi at ``x``, given the inverse Hessian there, (n, d)."""
        ...

    def parameters(self) -> Mapping[str, Tensor]:
        """Everything that determines the potential, by name."""
        ...


@dataclass(frozen=True, eq=False)
class Pool:
    """Particles that carry their own density: what a map is fitted on, and pushed through it once.

    Attributes:
        x: positions, (n, d).
        log_prob: log density of the law at each particle, (n,).
        score: gradient of that log density, (n, d).
    """

    x: Points
    log_prob: Scalars
    score: Points


@dataclass(frozen=True, eq=False)
class Pushed:
    """A pool after a map.

    Attributes:
        pool: the pool of the pushed law.
        inverse_hessian: inverse Jacobians of the map at the old positions, (n, d, d).
    """

    pool: Pool
    inverse_hessian: Float[Tensor, "n d d"]


def log_det(factor: Float[Tensor, "n d d"]) -> Scalars:
    """log det of a matrix from its Cholesky factor."""
    return 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


class _LogDet(torch.autograd.Function):
    """d log det H = tr(H^-1 dH): half the passes of differentiating a Cholesky factor."""

    @staticmethod
    def forward(ctx: Any, hessian: Tensor) -> Tensor:  # noqa: D102
        found = in_threads(lambda block: torch.linalg.cholesky_ex(hessian[block]), blocks(hessian))
        ctx.factors = [factor for factor, _ in found]
        return torch.cat([torch.where(info == 0, log_det(factor), -math.inf) for factor, info in found])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_log_det: Tensor) -> Tensor:  # noqa: D102
        parts = list(zip(to_log_det.split([len(factor) for factor in ctx.factors]), ctx.factors, strict=True))
        return torch.cat(in_threads(lambda part: part[0][:, None, None] * torch.cholesky_inverse(part[1]), parts))


def trainable_log_det(hessian: Float[Tensor, "n d d"]) -> Scalars:
    """log det of positive definite matrices, differentiable once; minus infinity for others."""
    value: Tensor = _LogDet.apply(hessian)
    return value


def factorised(hessian: Float[Tensor, "n d d"]) -> Float[Tensor, "n d d"]:
    """Cholesky factors of the Jacobians of a map.

    Raises:
        FilterError: one is not positive definite, or not finite.
    """
    factor, info = torch.linalg.cholesky_ex(hessian)
    if info.any() or not torch.isfinite(factor).all():
        raise FilterError("the Jacobian of a transport map is not finite and positive definite.")
    return factor


def push(psi: ConvexPotential, pool: Pool) -> Pushed:
    """The pool of (grad psi)# rho: with y = grad psi(x) and H = Hess psi(x),

        log rho'(y) = log rho(x) - log det H,    grad log rho'(y) = H^-1 (grad log rho(x) - grad log det H(x)).

    Both follow from the change of variables; the second is what makes the optimality residual of a JKO step exact.
    """
    y, hessian = psi.gradient_and_hessian(pool.x)
    factor = factorised(hessian)
    inverse = torch.cholesky_inverse(factor)
    score = pool.score - psi.log_det_gradient(pool.x, inverse)
    pushed = Pool(y, pool.log_prob - log_det(factor), (inverse @ score.unsqueeze(-1)).squeeze(-1))
    return Pushed(pushed, inverse)


def pushed_through(maps: Iterable[ConvexPotential], pool: Pool) -> Pool:
    """The pool after all maps, the first one first."""
    for psi in maps:
        pool = push(psi, pool).pool
    return pool


def push_log_prob(psi: ConvexPotential, x: Points, log_prob: Scalars) -> tuple[Points, Scalars]:
    """Positions and log densities after the map, without scores."""
    y, hessian = psi.gradient_and_hessian(x)
    return y, log_prob - log_det(factorised(hessian))


def inverse(psi: ConvexPotential, y: Points, strict: bool = True, unit: float = 1.0) -> tuple[Points, Scalars]:
    """The conjugate map grad psi*(y) = argmax_x <x, y> - psi(x), by damped Newton with the exact Hessian.

    The line search asks the norm of grad psi(x) - y to fall, which along the Newton direction it does for short enough
    steps: beside a sharp kink of psi for the very shortest only. Points that it holds up descend on psi(x) - <x, y>,
    which is convex, for some steps (Armijo), and go on.

    Args:
        psi: strictly convex.
        y: targets, (n, d).
        strict: whether a target that is not reached is an error; else its x is NaN.
        unit: width of the law; a target is reached to 1e-10 of it (more in single precision), and of its own size.

    Returns:
        x with grad psi(x) = y, (n, d), and log det Hess psi(x), (n,).

    Raises:
        FilterError: no convergence for some target (not finite, or outside the range of the map), if ``strict``.
    """
    finite = torch.isfinite(y).all(-1)
    if not finite.all():
        if strict:
            raise FilterError("cannot invert the transport at points that are NaN or infinite.")
        x, curvature = torch.full_like(y, torch.nan), y.new_full(y.shape[:1], torch.nan)
        x[finite], curvature[finite] = inverse(psi, y[finite], strict, unit)
        return x, curvature
    x = y.clone()
    image, hessian = psi.gradient_and_hessian(x)
    scale = unit + y.norm(dim=-1)
    tolerance = max(_INVERSE_TOLERANCE, 30 * torch.finfo(y.dtype).eps)
    for count in range(1, _INVERSE_STEPS + 1):
        residual = image - y
        gap = residual.norm(dim=-1)
        active = torch.nonzero(gap > tolerance * scale).squeeze(-1)
        if active.numel() == 0:
            return x, log_det(factorised(hessian))
        step = torch.cholesky_solve(residual[active].unsqueeze(-1), factorised(hessian[active])).squeeze(-1)
        _line_search(psi, y, (x, image, hessian), active, step, descend=count % _PATIENCE > _PATIENCE // 2)
    if strict:
        raise FilterError(f"the transport could not be inverted at {active.numel()} of {len(y)} points.")
    curvature = log_det(factorised(hessian))
    x[active], curvature[active] = torch.nan, torch.nan
    return x, curvature


def _line_search(
    psi: ConvexPotential,
    y: Points,
    state: tuple[Tensor, Tensor, Tensor],
    active: Tensor,
    step: Points,
    descend: bool,
) -> None:
    """Move the active points of ``state`` in place along their Newton steps, halved until gap or height falls."""
    x, image, hessian = state
    length = 1.0
    slope = ((image[active] - y[active]) * step).sum(-1)
    height = psi(x[active]) - (x[active] * y[active]).sum(-1) if descend else slope
    for _ in range(40):
        trial = x[active] - length * step
        trial_image, trial_hessian = psi.gradient_and_hessian(trial)
        if descend:
            fallen = height - psi(trial) + (trial * y[active]).sum(-1)
            good = fallen >= _SUFFICIENT_DECREASE * length * slope
        else:
            gap, new_gap = (image[active] - y[active]).norm(dim=-1), (trial_image - y[active]).norm(dim=-1)
            good = new_gap <= (1 - _SUFFICIENT_DECREASE * length) * gap
        done = active[good]
        x[done], image[done], hessian[done] = trial[good], trial_image[good], trial_hessian[good]
        active, step, slope, height = (kept[~good] for kept in (active, step, slope, height))
        length = 0.5 * length
        if active.numel() == 0:
            return
