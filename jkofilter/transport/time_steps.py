"""The choice of time steps: how long, halved where one fails, against half steps where a tolerance is asked for."""

from __future__ import annotations

import math
import time as clock
from dataclasses import dataclass

import torch
from torch import Generator

from jkofilter.beliefs.info import StepInfo
from jkofilter.errors import FilterError
from jkofilter.models.reach import require_gradual
from jkofilter.models.sde import LangevinSDE
from jkofilter.numerics.weights import effective_sample_size
from jkofilter.transport.maps.convex import ConvexPotential, Pool
from jkofilter.transport.steps.engine import SelectiveEngine
from jkofilter.transport.steps.stepping import FlowState, JKOStepper, Step

HALVINGS = 8
"""A step this many times halved, and still failing, is an error."""
STALLED, STALL, AHEAD = 8, 0.02, 2000
"""A flow whose last STALLED steps together cover less than STALL of the step asked for, such that more than AHEAD of
them would be left to go, is given up."""
MAX_STEPS = 20_000
"""So is one of more steps than that."""
FIRST = 2.4
"""First step times the largest curvature of the potential: up to here SDIRK2's shifted centre stays increasing."""
WIDEST = 1e3
"""How many times its least width a law may diffuse in the first step: a Newton step at most doubles a map."""
WORTH_A_NOTE = 0.05
"""Nats of KL that the fit of a step may add before a note says so."""
_SAFETY, _SHRINK, _GROW, _CAUTIOUS = 0.9, 0.25, 2.0, 1.25


@dataclass(frozen=True, eq=False)
class CarriedPool:
    """A pool taken through JKO steps.

    Attributes:
        times: of every step since the pool set out, starting with zero.
        maps: the potential of every step, one fewer than times.
        infos: what every step did.
        pool: the particles at the end.
    """

    times: tuple[float, ...]
    maps: tuple[ConvexPotential, ...]
    infos: tuple[StepInfo, ...]
    pool: Pool


def carry(
    stepper: JKOStepper,
    pool: Pool,
    duration: float,
    step: float,
    tolerance: float | None,
    generator: Generator,
    start: float,
) -> CarriedPool:
    """Take a pool of the law at time ``start`` ``duration`` ahead; the other arguments as in ``solve_jko``.

    Raises:
        FilterError: a step fails however short (names the time), or the law comes to where the potential jumps or
            turns infinite at once, of which its gradient says nothing.
    """
    return _Driver(stepper, duration, step, tolerance, generator, start).run(pool)


@dataclass(frozen=True, eq=False)
class _Driver:
    """Chooses the steps.

    It counts time from zero, which keeps short steps apart after a long past; errors add ``start``.
    """

    stepper: JKOStepper
    duration: float
    step: float
    tolerance: float | None
    generator: Generator
    start: float

    def run(self, base: Pool) -> CarriedPool:
        state, times, maps, infos, reason = FlowState(0.0, base), [0.0], [], [], ""
        tau = min(self.step, self._first(base))
        if isinstance(self.stepper.engine, SelectiveEngine) and self.duration > 0:
            self.stepper.engine.require_captured(self.stepper.sde, base, self.duration)
        while self.duration - state.time > 1e-9 * self.step:
            left = self.duration - state.time
            # Equal steps to the end rather than a sliver at the end.
            tau = left / math.ceil(left / tau - 1e-9)
            require_gradual(self.stepper.sde, state.pool.x, tau)
            start = clock.perf_counter()
            found = self._attempt(state, tau)
            seconds = (clock.perf_counter() - start) / len(found.steps)
            for step in found.steps:
                times.append(step.state.time)
                assert step.state.psi is not None
                maps.append(step.state.psi)
                infos.append(_info(self.stepper.sde, step, seconds, found.halvings))
            state = found.steps[-1].state
            tau = min(found.next, self.step)
            reason = found.reason or reason
            self._require_progress(times, reason)
        if maps:
            times[-1] = float(self.duration)
        return CarriedPool(tuple(times), tuple(maps), tuple(infos), state.pool)

    def _require_progress(self, times: list[float], reason: str) -> None:
        """Raise FilterError where steps have become so short, or so many, that the end is not in sight."""
        now = self.start + times[-1]
        if len(times) - 1 > MAX_STEPS:
            raise FilterError(f"the flow takes more than {MAX_STEPS} steps by time {now:g}; give a longer step.")
        if len(times) <= STALLED:
            return
        covered = times[-1] - times[-1 - STALLED]
        growing = times[-1] - times[-2] > times[-STALLED] - times[-1 - STALLED]
        short = covered < STALL * min(self.step, self.duration)
        if short and not growing and (self.duration - times[-1]) * STALLED > AHEAD * covered:
            raise FilterError(
                f"the flow stalls at time {now:g}: its last {STALLED} steps together cover {covered:.1e} "
                f"({reason}); {self._cure}."
            )

    @property
    def _cure(self) -> str:
        cure = "check that the potential is finite, confining, and smooth where the law has mass"
        return cure if self.tolerance is None else f"give a larger tolerance, or {cure}"

    def _first(self, base: Pool) -> float:
        """A first step short enough for the steepest particle, and for a law that starts all but concentrated.

        The tails of a prior can start far from equilibrium.

        Raises:
            FilterError: the Hessian of the potential is not finite at some particle.
        """
        hessian = self.stepper.sde.potential.hessian(base.x)
        if not torch.isfinite(hessian).all():
            raise FilterError(
                f"the Hessian of the potential is NaN or infinite at time {self.start:g} where the law has mass; give "
                "a potential that is twice differentiable there."
            )
        curvature = torch.linalg.eigvalsh(hessian).max().item()
        steepest = FIRST / curvature if curvature > 0 else math.inf
        narrow = torch.linalg.eigvalsh(torch.atleast_2d(torch.cov(base.x.mT))).min().item()
        # A variance of zero is rounding's, and no step is short enough.
        return min(steepest, 0.5 * float(self.stepper.sde.beta) * WIDEST**2 * narrow) if narrow > 0 else steepest

    def _attempt(self, state: FlowState, tau: float) -> _Attempt:
        reason = ""
        for halvings in range(HALVINGS + 1):
            tried = tau
            try:
                whole = self.stepper.step(state, tau, self.generator)
                if self.tolerance is None:
                    return _Attempt([whole], tau * (_GROW if halvings == 0 else _CAUTIOUS), halvings, reason)
                half = self.stepper.step(state, tau / 2, self.generator)
                end = self.stepper.step(half.state, tau / 2, self.generator)
            except FilterError as caught:
                reason, tau = str(caught).removesuffix("."), tau / 2
                continue
            error, fit = _difference(whole.state.pool, end.state.pool), _fit_error(whole)
            factor = _SAFETY * (self.tolerance / max(error, 1e-300)) ** (1 / (1 + self.stepper.order))
            if error <= max(self.tolerance, fit):
                return _Attempt([half, end], tau * min(max(factor, 1.0), _GROW), halvings, reason)
            reason = f"a step and its two halves differ by {error:.1e}"
            tau = tau * max(min(factor, 0.7), _SHRINK)
        raise FilterError(
            f"no JKO step succeeds at time {self.start + state.time:g}, even {tried:.1e} long ({reason}); {self._cure}."
        )


@dataclass(frozen=True, eq=False)
class _Attempt:
    """Steps taken.

    Attributes:
        steps: one, or two halves.
        next: length to try next.
        halvings: how often the step was made shorter first.
        reason: why, the last time.
    """

    steps: list[Step]
    next: float
    halvings: int
    reason: str


def _fit_error(step: Step) -> float:
    """What the residual of a step's fit moves particles by, root mean square, in standard deviations of the law.

    No shorter step takes it out: over a unit of time it adds up to as much.
    """
    spread = step.state.pool.x.var(0, correction=0).sum()
    return step.state.step * (step.solved.residual.square().sum(-1).mean() / spread).sqrt().item()


def _difference(a: Pool, b: Pool) -> float:
    """Root mean square distance of the same particles in two pools, in standard deviations of the law."""
    spread = b.x.var(0, correction=0).sum()
    return ((a.x - b.x).square().sum(-1).mean() / spread).sqrt().item()


def _info(sde: LangevinSDE, step: Step, seconds: float, halvings: int) -> StepInfo:
    pool, beta = step.state.pool, float(sde.beta)
    log_weights = -beta * sde.potential(pool.x) - pool.log_prob
    residual = step.mean_square_residual
    kl_rate = 0.25 * beta * residual
    nats = kl_rate * step.state.step
    details = {
        "loss": step.solved.loss,
        "residual": residual,
        "kl_rate": kl_rate,
        "kl": nats,
        "iterations": float(step.iterations),
        "halvings": float(halvings),
        "extrapolated": float(step.extrapolated),
        "step": step.state.step,
    }
    ess = effective_sample_size(log_weights - log_weights.logsumexp(0))
    cure = "a larger pool, more directions or another transport may fit better"
    note = f"the fit of a step may add up to {nats:.2g} nats of KL; {cure}" if nats > WORTH_A_NOTE else ""
    return StepInfo(seconds=seconds, ess=ess, details=details, note=note)
