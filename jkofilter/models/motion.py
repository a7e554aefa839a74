"""How points move by a Langevin diffusion: second weak order, steps that follow the curvature where the points are.

A block of equal steps is planned from up to 64 of the points: their mean Hessian is the linear part A that the scheme
treats exactly, and trial steps with noise of their own tell at what rate the rest of the drift changes along a step.
The choice depends on the past alone, so it biases nothing. The few points for which a step turns out too long take it
again in halves, along the same Brownian path.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from jkofilter._typing import Points, Scalars
from jkofilter.errors import FilterError
from jkofilter.models.potential_checks import nan_branch_around
from jkofilter.models.reach import require_all_reachable, require_finite, require_reachable
from jkofilter.models.sde import LangevinSDE
from jkofilter.numerics.draws import standard_normal
from jkofilter.numerics.heun import HeunScheme, Linear
from jkofilter.numerics.time_grid import equal_steps

ACCURATE = 0.1
"""Mean of what a planned step leaves unresolved (see ``HeunScheme.step``): variances are then off by .25%."""
NEAR_WALLS = 0.05
"""The same with walls, near which the scheme is of first order with a small factor."""
STABLE = 0.5
"""What nineteen of twenty points may leave unresolved in a planned step."""
SPLIT = 1.0
"""A point that leaves more takes the step in halves."""
COARSE = 0.3
"""Mean from which a step of the user's own is called too long: variances are off by 2%."""
_PLANNERS, _COPIES = 64, 16
_BLOCK, _GROWTH, _SURPRISE, _CROWD = 16, 4.0, 3.0, 0.05
_WALL_WIDTHS = 6.0
_DENSE = 64
"""Dimension up to which A is looked for: beyond, Hessians cost more than the steps they save."""
_DEEPEST, _SHALLOW, _SLIDING, _SUSPICIOUS = 40, 20, 6, 12
_TOGETHER, _LOOKED_AT = 32_768, 4096
"""Coordinates of points that are halved together, and points that are looked at for jumps."""
_PRESSED = 0.1
_MOST_STEPS, _PATIENCE = 1_000_000, 2_000


@dataclass(frozen=True, eq=False)
class Moved:
    """Points after a move.

    Attributes:
        points: (n, d).
        steps: how many.
        split: moves of single points that were taken in halves.
        coarseness: mean of what the steps left unresolved (see ``HeunScheme.step``); small is accurate.
    """

    points: Points
    steps: int
    split: int
    coarseness: float


def coarse_note(coarseness: float, substep: float | None) -> str:
    """What to say of a substep of the user's own that is too long for the potential; empty where it is not.

    Args:
        coarseness: as of ``Moved``.
        substep: None where it was chosen.
    """
    if substep is None or coarseness <= COARSE:
        return ""
    return (
        f"substep {substep:g} is too long for this potential: a step times the curvature is {coarseness:.2g} on "
        f"average, above {COARSE:g}; leave it None, and it is chosen"
    )


@dataclass(frozen=True, eq=False)
class PlannedStep:
    """A step of exponential Heun.

    Attributes:
        length: time.
        linear: the part of minus the drift that it treats exactly.
    """

    length: float
    linear: Linear


@dataclass(frozen=True)
class _Plan:
    """Steps of one length; ``watch`` if all of them have to compare energies, not only the first."""

    stepper: HeunScheme
    step: float
    watch: bool


def move(sde: LangevinSDE, x: Points, duration: float, generator: Generator, substep: float | None = None) -> Moved:
    """``x`` moved ``duration`` ahead, reflected at the walls of the potential's domain.

    Args:
        sde: the diffusion.
        x: (n, d).
        duration: in the SDE's unit of time.
        generator: draws the noise.
        substep: equal Heun steps of at most this length; None chooses steps, and the linear part, from the curvature.

    Raises:
        FilterError: points reach where the potential is infinite or jumps, or the steps that it needs are too short.
    """
    return Mover(sde, generator).move(x, duration, substep)


def planned_steps(
    sde: LangevinSDE,
    x: Points,
    duration: float,
    generator: Generator,
    substep: float | None = None,
    coarseness: float = 1.0,
) -> tuple[PlannedStep, ...]:
    """The steps in which ``move`` takes points (n, d) that far, or so many times coarser ones.

    Other arguments and errors are those of ``move``.
    """
    mover = Mover(sde, generator, coarseness)
    mover.move(x, duration, substep)
    return tuple(mover.taken)


def resolved_step(sde: LangevinSDE, x: Points, longest: float, generator: Generator) -> float:
    """A step of at most ``longest`` units of time along which the potential hardly bends, for points (n, d)."""
    return Mover(sde, generator).resolved(x, longest)


def last_step(sde: LangevinSDE, x: Points, step: float, generator: Generator) -> Points:
    """A step that ends in Gaussian noise: half the noise, the flow along -grad V, half the noise (Strang splitting).

    Returns:
        The points, (n, d), before the noise that ends it, which has variance step / beta in every coordinate and is
        reflected at walls.

    Raises:
        FilterError: a point is carried out of the finite numbers.
    """
    x = reflected(sde, x + math.sqrt(step / float(sde.beta)) * standard_normal(x, generator))
    return _flow(Mover(sde, generator).stepper(_heun(x), math.inf), x, step, generator)


def reflected(sde: LangevinSDE, x: Points) -> Points:
    """Points (n, d) mirrored into the potential's domain."""
    return x if sde.domain is None else sde.domain.reflect(x)


def _flow(
    stepper: HeunScheme, x: Points, h: float, generator: Generator, depth: int = 0, before: Scalars | None = None
) -> Points:
    """Without noise, halved where it is too long; ``before`` is what the step twice as long left unresolved."""
    after, unresolved = stepper.step(x, h, torch.zeros_like(x), generator, watch=False)
    fine = unresolved <= STABLE
    if before is not None and depth >= _SLIDING:
        # At a kink, along which the flow slides, halving does not help, and need not.
        fine |= torch.isfinite(after).all(-1) & (unresolved > 0.7 * before)
    if not fine.all():
        if depth == _DEEPEST:
            raise FilterError("the potential pushes the law out of the finite numbers; give it a domain, or smooth it.")
        long = ~fine
        halfway = _flow(stepper, x[long], 0.5 * h, generator, depth + 1, unresolved[long])
        after[long] = _flow(stepper, halfway, 0.5 * h, generator, depth + 1, unresolved[long])
    return after


class Mover:
    """Moves points again and again: a plan serves until it is used up."""

    def __init__(self, sde: LangevinSDE, generator: Generator, coarseness: float = 1.0) -> None:
        self.sde, self.generator, self.coarseness = sde, generator, coarseness
        self.plan: _Plan | None = None
        self.left, self.split, self.split_before = 0, 0, 0
        self.taken: list[PlannedStep] = []

    def move(self, x: Points, duration: float, substep: float | None = None) -> Moved:
        """As the function ``move``."""
        if duration <= 0:
            return Moved(x, 0, 0, 0.0)
        self.split = self.split_before = 0
        self.taken = []
        try:
            moved = self._fixed(x, duration, substep) if substep else self._free(x, duration)
            require_finite(self.sde, moved.points)
        except FilterError as error:
            trouble = nan_branch_around(self.sde.potential, x)
            if trouble:
                raise FilterError(trouble) from error
            raise
        return moved

    def _fixed(self, x: Points, duration: float, substep: float) -> Moved:
        """Equal Heun steps of at most ``substep``."""
        count, h = equal_steps(duration, substep)
        stepper, unresolved = self.stepper(_heun(x)), 0.0
        self.taken = [PlannedStep(h, stepper.linear)] * count
        for k in range(count):
            before = x
            watch = k % _BLOCK == 0 or len(x) < _PLANNERS
            x, missed = stepper.step(x, h, stepper.noise(x, h, self.generator), self.generator, watch)
            if not torch.isfinite(x).all():
                raise FilterError(
                    f"substep {substep:g} is too long for this potential: a point blew up; leave it None, and it is "
                    "chosen."
                )
            if watch:
                require_all_reachable(self.sde, before[:_LOOKED_AT], x[:_LOOKED_AT])
            unresolved += missed.clamp(max=SPLIT).mean().item()
        return Moved(x, count, 0, unresolved / count)

    def _free(self, x: Points, duration: float) -> Moved:
        """Planned steps."""
        remaining, steps, unresolved = duration, 0, 0.0
        while remaining > 0:
            plan, fresh = self._current_plan(x, remaining)
            ahead = math.ceil(remaining / plan.step * (1 - 1e-9))
            # The first steps may be short because the law comes in from far.
            if ahead > _MOST_STEPS and steps > _PATIENCE:
                raise FilterError(
                    f"the potential bends so sharply where the law is that {remaining:g} units of time take {ahead} "
                    "steps; shorten the gap or smooth the potential."
                )
            h, before = remaining / ahead, x
            self.taken.append(PlannedStep(h, plan.stepper.linear))
            x, missed = self._step(plan.stepper, x, h, plan.watch or fresh or len(x) < _PLANNERS)
            if fresh:
                require_all_reachable(self.sde, before[:_LOOKED_AT], x[:_LOOKED_AT])
            self.left = self.left - 1 if missed <= _SURPRISE * ACCURATE else 0
            steps, unresolved = steps + 1, unresolved + missed
            remaining = remaining - h if ahead > 1 else 0.0
        return Moved(x, steps, self.split, unresolved / steps)

    def _current_plan(self, x: Points, remaining: float) -> tuple[_Plan, bool]:
        """The plan for the next step, and whether it was made for it: the last one serves for a block of steps."""
        last, fresh = self.plan, self.plan is None or self.left == 0
        if last is None or fresh:
            crowded = self.split - self.split_before > _CROWD * _BLOCK * len(x)
            growth = 0.5 if crowded else _GROWTH
            self.plan = last = self._plan(x, remaining if last is None else min(remaining, growth * last.step))
            self.left, self.split_before = _BLOCK, self.split
        return last, fresh

    def stepper(self, linear: Linear, beta: float | None = None) -> HeunScheme:
        """With the noise of another temperature, if one is given."""
        own = float(self.sde.beta)
        return HeunScheme(self.sde.drift, lambda x: own * self.sde.potential(x), beta or own, linear, self.sde.domain)

    def resolved(self, x: Points, longest: float) -> float:
        """A step of at most ``longest`` that plain Heun resolves at the points, and Strang splitting at the walls.

        Against a wall the law of a drift f is a layer as thin as 1 / (beta f), which noise and flow by turns resolve
        to a relative error of (beta f^2 step)^2 / 2.
        """
        chosen, beta = _chosen(x), float(self.sde.beta)
        step = self._planned(self.stepper(_heun(x)), chosen, longest).step
        if self.sde.domain is None:
            return step
        low, high = self.sde.domain.corners(x)
        force, reach = self.sde.drift(chosen), 4 * math.sqrt(2 * step / beta)
        pressed = ((chosen - low < reach - step * force) & (force < 0)) | (
            (high - chosen < reach + step * force) & (force > 0)
        )
        rates = beta * force[pressed].square()
        return step if not len(rates) else min(step, _PRESSED / torch.quantile(rates, 0.95).item())

    def _plan(self, x: Points, longest: float) -> _Plan:
        chosen = _chosen(x)
        return self._planned(self.stepper(_linear_part(self.sde, chosen)), chosen, longest)

    def _planned(self, stepper: HeunScheme, chosen: Points, longest: float) -> _Plan:
        points = chosen.repeat(max(1, _COPIES // len(chosen)), 1)
        accurate, h = ACCURATE, longest
        if self.sde.domain is not None:
            accurate = NEAR_WALLS
            narrowest = min(high - low for low, high in self.sde.domain.sides)
            h = min(h, (narrowest / _WALL_WIDTHS) ** 2 / self.sde.variance_rate())
        looked = False
        while True:
            after, unresolved = stepper.step(points, h, stepper.noise(points, h, self.generator), self.generator)
            unresolved = torch.nan_to_num(unresolved, nan=SPLIT).clamp(max=SPLIT)
            excess = max(unresolved.mean().item() / accurate, torch.quantile(unresolved, 0.95).item() / STABLE)
            excess /= self.coarseness
            if excess <= 1.1 or h < longest * 2.0**-_DEEPEST:
                return _Plan(stepper, h, bool((unresolved == SPLIT).any()))
            if not looked and h < longest * 2.0**-_SUSPICIOUS:
                # Halving does not resolve a jump.
                require_all_reachable(self.sde, points, after)
                looked = True
            h /= max(excess, 1.1)

    def _step(self, stepper: HeunScheme, x: Points, h: float, watch: bool) -> tuple[Points, float]:
        noise = stepper.noise(x, h, self.generator)
        after, unresolved = stepper.step(x, h, noise, self.generator, watch)
        bad = ~(unresolved <= SPLIT)
        if bad.any():
            after[bad] = self._in_halves(stepper, x[bad], h, noise[bad])
            unresolved = torch.where(bad, SPLIT, unresolved)
        return after, unresolved.mean().item()

    def _in_halves(self, stepper: HeunScheme, x: Points, h: float, noise: Points) -> Points:
        """Steps that turned out too long for some points, each of them in as many pieces as it takes."""
        n, d = x.shape
        most = max(1, _TOGETHER // d)
        if n > most:
            parts = zip(x.split(most), noise.split(most), strict=True)
            return torch.cat([self._in_halves(stepper, some, h, theirs) for some, theirs in parts])
        # What every point has yet to take, the next piece on top: its noise, and how often it was halved.
        ahead = x.new_empty(n, _DEEPEST + 2, d)
        halved = torch.zeros(n, _DEEPEST + 2, dtype=torch.long, device=x.device)
        ahead[:, 0] = noise
        top = torch.zeros(n, dtype=torch.long, device=x.device)
        x, known_long, going = x.clone(), True, torch.arange(n, device=x.device)
        while len(going):
            here = top[going]
            level, part = halved[going, here], ahead[going, here]
            length = (h * torch.pow(x.new_tensor(0.5), level)).unsqueeze(-1)
            if known_long:
                fine, known_long = torch.zeros(len(going), dtype=torch.bool, device=x.device), False
            else:
                after, unresolved = stepper.step(x[going], length, part, self.generator)
                fine = unresolved <= SPLIT
                if self._given_up(stepper, x[going], after, fine, level):
                    fine = fine | (level >= _SHALLOW)
                x[going[fine]] = after[fine]
            top[going[fine]] -= 1
            long, depth = going[~fine], here[~fine]
            if len(long):
                self.split += len(long)
                first, second = stepper.halves(part[~fine], length[~fine], self.generator)
                ahead[long, depth], ahead[long, depth + 1] = second, first
                halved[long, depth] = halved[long, depth + 1] = level[~fine] + 1
                top[long] += 1
            going = going[top[going] >= 0]
        return x

    def _given_up(self, stepper: HeunScheme, x: Points, after: Points, fine: Tensor, level: Tensor) -> bool:
        """Whether pieces halved very often may be taken as they are: at a wall, where that moves hardly any mass.

        Raises:
            FilterError: they lead to where the potential is infinite, over a jump, or are not to be resolved.
        """
        if stepper.domain is not None:
            stuck = ~fine & (level >= _SHALLOW)
            if stuck.any():
                require_finite(self.sde, after[stuck])
            return True
        stuck = ~fine & (level >= _DEEPEST)
        if stuck.any():
            require_reachable(self.sde, x[stuck][0], after[stuck][0])
            raise FilterError(
                "the potential is too steep where the law is, and no step short enough; smooth its kinks and poles "
                f"near {x[stuck][0].tolist()}."
            )
        return False


def _chosen(x: Points) -> Points:
    """The points by which steps are planned."""
    return x if len(x) <= _PLANNERS else x[:: len(x) // _PLANNERS][:_PLANNERS]


def _heun(x: Points) -> Linear:
    return Linear(torch.zeros(x.shape[1], dtype=x.dtype, device=x.device))


def _linear_part(sde: LangevinSDE, x: Points) -> Linear:
    """The mean Hessian's convex part; zero in many dimensions, with walls, and where it is not finite."""
    if sde.domain is not None or sde.dim > _DENSE:
        return _heun(x)
    mean = sde.potential.hessian(x).mean(0)
    if not torch.isfinite(mean).all():
        return _heun(x)
    if sde.dim == 1:
        return Linear(mean[0].clamp(min=0))
    if torch.equal(mean, torch.diag(mean.diagonal())):
        return Linear(mean.diagonal().clamp(min=0))
    rates, basis = torch.linalg.eigh(0.5 * (mean + mean.mT))
    return Linear(rates.clamp(min=0), basis)
