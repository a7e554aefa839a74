"""One time step of the Wasserstein gradient flow: which JKO problems a scheme solves, and what they tell.

A step is one Brenier map x -> grad psi(x) of the particles x of the law before it. Its stages are proximal problems
whose centre z depends on x: the JKO problem read as implicit Euler for maps in a Hilbert space, so that the methods of
ordinary differential equations apply (Legendre & Turinici 2017; Gallouet, Natale & Todeschi 2022). The last stage is
minimised over gradients of convex functions of x itself, not of z. What this leaves out, the rotational part of the
composed map, is of third order in the step and moves the law less still.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from jkofilter._typing import Matrix, Points
from jkofilter.errors import FilterError
from jkofilter.models.sde import LangevinSDE
from jkofilter.numerics.threads import threads_for
from jkofilter.transport.maps.convex import ConvexPotential, Pool
from jkofilter.transport.schemes import SDIRK2, PoolScheme
from jkofilter.transport.steps.engine import Engine, Solved
from jkofilter.transport.steps.problem import StepProblem

GAMMA = SDIRK2.diagonal
EXEMPT = 0.01
"""Share of the particles that may sit where a step is too long, such as on the ridge between two far modes: the problem
as a whole is still convex, and nothing is composed through the shifted centre."""
TRUSTED = 0.25
"""Extrapolation needs the residual's share of a stage's mean square displacement to be below this."""


@dataclass(frozen=True, eq=False)
class FlowState:
    """The flow at one time.

    Attributes:
        time: in the SDE's unit.
        pool: particles with their density.
        psi: potential of the step that led here; None at the start.
        before: positions of the same particles one step earlier, (n, d); None at the start.
        step: length of that step.
    """

    time: float
    pool: Pool
    psi: ConvexPotential | None = None
    before: Points | None = None
    step: float = 0.0


@dataclass(frozen=True, eq=False)
class Step:
    """A step taken.

    Attributes:
        state: the flow after it.
        solved: its last stage.
        extrapolated: whether the second-order scheme was used; False where the fit error did not allow it.
        iterations: of all its stages.
    """

    state: FlowState
    solved: Solved[ConvexPotential]
    extrapolated: bool
    iterations: int

    @property
    def mean_square_residual(self) -> float:
        """E |(T(x) - z)/h + grad V + score/beta|^2, velocity squared."""
        return self.solved.residual.square().sum(-1).mean().item()


@dataclass(frozen=True)
class JKOStepper:
    """A scheme on an engine.

    Attributes:
        sde: the diffusion.
        engine: solves the stages.
        scheme: "sdirk2", "bdf2" or "implicit-euler".
    """

    sde: LangevinSDE
    engine: Engine
    scheme: PoolScheme

    @property
    def order(self) -> int:
        """Order of convergence in the step."""
        return 1 if self.scheme == "implicit-euler" else 2

    def step(self, state: FlowState, tau: float, generator: Generator) -> Step:
        """The flow ``tau`` later.

        Raises:
            FilterError: the step is too long (for the potential's semiconvexity, for the shifted centre to stay
                increasing), or a stage does not converge.
        """
        n, d = state.pool.x.shape
        with threads_for(n * d * d):
            start = self.engine.begin(self.sde, state.pool, state.psi)
            if self.scheme == "bdf2" and state.before is not None:
                return self._bdf2(state, tau, start, generator)
            if self.scheme == "implicit-euler":
                return self._implicit_euler(state, tau, start, generator)
            return self._sdirk2(state, tau, start, generator)

    def _stage(self, pool: Pool, centre: Points, h: float, start: ConvexPotential, generator: Generator) -> Solved:
        solved = self.engine.solve(StepProblem.start(self.sde, pool, centre, h), start, generator)
        hessian = self.sde.potential.hessian(solved.pushed.pool.x)
        if not torch.isfinite(hessian).all():
            raise FilterError("a JKO step ends where the Hessian of the potential is not finite.")
        if not _mostly_positive(hessian + _identity(pool) / h):
            raise FilterError(f"a JKO step of length {h:.3g} is too long for the semiconvexity of the potential.")
        return solved

    def _implicit_euler(self, state: FlowState, tau: float, start: ConvexPotential, generator: Generator) -> Step:
        solved = self._stage(state.pool, state.pool.x, tau, start, generator)
        return _taken(state, tau, solved, solved.iterations, extrapolated=False)

    def _sdirk2(self, state: FlowState, tau: float, start: ConvexPotential, generator: Generator) -> Step:
        """Alexander's two stages: Y = prox(X), X' = prox(X + (1 - g)/g (Y - X)), both of length g tau."""
        x, h, reach = state.pool.x, GAMMA * tau, (1 - GAMMA) / GAMMA
        first = self._stage(state.pool, x, h, start, generator)
        moved = first.pushed.pool.x - x
        # The extrapolation multiplies the first stage's fit error by more than two.
        if not _trusted(h * first.residual, moved, x):
            return self._implicit_euler(state, tau, first.psi, generator)
        eye = _identity(state.pool)
        _require_increasing(eye + reach * (first.psi.hessian(x) - eye), tau)
        second = self._stage(state.pool, x + reach * moved, h, first.psi, generator)
        return _taken(state, tau, second, first.iterations + second.iterations, extrapolated=True)

    def _bdf2(self, state: FlowState, tau: float, start: ConvexPotential, generator: Generator) -> Step:
        """Variable-step BDF2 with ratio w: X' = prox_{tau (1+w)/(1+2w)}(X + w^2/(1+2w) (X - X_before))."""
        assert state.before is not None
        assert state.psi is not None
        x, ratio = state.pool.x, tau / state.step
        h, reach = tau * (1 + ratio) / (1 + 2 * ratio), ratio**2 / (1 + 2 * ratio)
        # In terms of the positions before the last step: its Jacobian H takes the centre's to (1 + reach) H - reach I.
        last = state.psi.hessian(state.before)
        _require_increasing((1 + reach) * last - reach * _identity(state.pool), tau)
        solved = self._stage(state.pool, x + reach * (x - state.before), h, start, generator)
        if not _trusted(h * solved.residual, solved.pushed.pool.x - x, x):
            return self._implicit_euler(state, tau, start, generator)
        return _taken(state, tau, solved, solved.iterations, extrapolated=True)


def _trusted(error: Points, moved: Points, x: Points) -> bool:
    """Whether a stage's residual is small beside its displacement, by medians: tails do not decide.

    Or beside the law's width, times rounding: near stationarity next to nothing moves.
    """
    scale = moved.square().sum(-1).median()
    floor = torch.finfo(x.dtype).eps * (x - x.mean(0)).square().sum(-1).mean()
    return bool(error.square().sum(-1).median() <= TRUSTED * scale + floor)


def _identity(pool: Pool) -> Matrix:
    return torch.eye(pool.x.shape[1], dtype=pool.x.dtype, device=pool.x.device)


def _require_increasing(centre: Float[Tensor, "n d d"], tau: float) -> None:
    """Raise FilterError unless the shifted centre, whose Jacobians these are, is an increasing map."""
    if not _mostly_positive(centre):
        raise FilterError(f"a step of length {tau:.3g} extrapolates to a centre that is not an increasing map.")


def _mostly_positive(matrices: Float[Tensor, "n d d"]) -> bool:
    return bool((torch.linalg.cholesky_ex(matrices).info != 0).double().mean() <= EXEMPT)


def _taken(state: FlowState, tau: float, solved: Solved, iterations: int, extrapolated: bool) -> Step:
    after = FlowState(state.time + tau, solved.pushed.pool, solved.psi, state.pool.x, tau)
    return Step(after, solved, extrapolated, iterations)
