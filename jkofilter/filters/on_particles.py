"""What particle filters share: survivors, prediction by the exact dynamics, weights by the likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, TypeVar

import torch
from torch import Generator, Tensor

from jkofilter._typing import Points, Scalars
from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.info import StepInfo
from jkofilter.beliefs.particle import ParticleBelief
from jkofilter.beliefs.path import Origin, PathBelief
from jkofilter.errors import FilterError, InputError
from jkofilter.filters.checks import checked_log_likelihood, occasion, require_short, updating
from jkofilter.models.checks import require_positive
from jkofilter.models.line_diffusion import LineDiffusion
from jkofilter.models.line_motion import LineMover
from jkofilter.models.motion import Moved, coarse_note, last_step, move, reflected, resolved_step
from jkofilter.models.reach import require_all_reachable
from jkofilter.models.sde import LangevinSDE
from jkofilter.models.state_space import StateSpaceModel, sample_prior
from jkofilter.models.turned import turned
from jkofilter.numerics.draws import standard_normal
from jkofilter.numerics.resampling import resample
from jkofilter.numerics.weights import normalise_log_weights

B = TypeVar("B", bound=ParticleBelief)

_REMEMBERED = 200
"""Steps since the last reading that moves of paths go back."""
_FEW = 30
"""Effective particles below which moments, let alone densities, are rough: their error is .2 sd and more."""


@dataclass(frozen=True, eq=False)
class Arrived:
    """Particles after a prediction.

    Attributes:
        points: (n, d).
        means: of the last step's Gaussian noise, (n, d); None where it was not set apart.
        variance: of that noise, per coordinate.
        moved: what moving took.
    """

    points: Points
    means: Points | None
    variance: float
    moved: Moved


def require_density(density: str, smoothing: float) -> None:
    """Raise InputError unless these say how a particle filter's density is to be had."""
    if density not in ("transition", "kde"):
        raise InputError(f"density must be 'transition' or 'kde', got {density!r}.")
    require_positive("smoothing", smoothing)


def first_particles(model: StateSpaceModel, n: int, generator: Generator) -> ParticleBelief:
    """Equally weighted draws of the prior; their density is the kernel estimate."""
    x = reflected(model.sde, sample_prior(model.prior, n, generator))
    return ParticleBelief(0.0, x, equal_log_weights(x), walls=model.sde.domain)


def equal_log_weights(x: Points) -> Scalars:
    """Of points (n, d)."""
    return torch.full((len(x),), -math.log(len(x)), dtype=x.dtype, device=x.device)


class Survivors(NamedTuple):
    """Particles at the start of a prediction.

    Attributes:
        points: (n, d).
        log_weights: normalised, (n,).
        resampled: whether they were.
        ancestors: their places among the particles before, (n,).
    """

    points: Points
    log_weights: Scalars
    resampled: bool
    ancestors: Tensor


def survivors(belief: ParticleBelief, n: int, threshold: float, scheme: str, generator: Generator) -> Survivors:
    """``n`` particles with log weights.

    Args:
        belief: weighted particles.
        n: how many are wanted.
        threshold: share of them; they are resampled when the effective sample size is at most that.
        scheme: of resampling.
        generator: draws.
    """
    if len(belief.particles) == n and (threshold == 0 or belief.ess > threshold * n * (1 + 1e-12)):
        return Survivors(belief.particles, belief.log_weights, False, torch.arange(n, device=belief.particles.device))
    chosen = resample(belief.log_weights, scheme, generator, n)
    x = belief.particles[chosen]
    return Survivors(x, equal_log_weights(x), True, chosen)


def arrive(
    sde: LangevinSDE | LineDiffusion,
    x: Points,
    duration: float,
    generator: Generator,
    substep: float | None,
    density: str,
    smoothing: float,
) -> Arrived:
    """Particles (n, d) moved ``duration`` ahead; with density "transition" the last noise is set apart.

    Raises:
        FilterError: particles reach where the potential is infinite or jumps, or a substep makes them blow up.
    """
    if isinstance(sde, LineDiffusion):
        moved = LineMover(sde, generator).move(x, duration, substep)
        return Arrived(moved.points, None, 0.0, moved)
    turn, own = turned(sde)
    x = x if turn is None else x @ turn.to(x).mT
    if density == "kde":
        moved, means, variance = move(own, x, duration, generator, substep), None, 0.0
        after = moved.points
    else:
        step = resolved_step(own, x, min(2 * smoothing, duration), generator)
        moved = move(own, x, duration - step, generator, substep)
        means = last_step(own, moved.points, step, generator)
        variance = step / float(sde.beta)
        after = reflected(own, means + math.sqrt(variance) * standard_normal(x, generator))
        require_all_reachable(own, moved.points, after)
    if turn is not None:
        after, means = after @ turn.to(x), None if means is None else means @ turn.to(x)
    return Arrived(after, means, variance, moved)


def predicted(
    model: StateSpaceModel,
    now: ParticleBelief,
    start: Survivors,
    duration: float,
    generator: Generator,
    settings: tuple[float | None, str, float],
) -> tuple[ParticleBelief, StepInfo]:
    """The belief ``duration`` later.

    Args:
        model: whose diffusion it is.
        now: the belief.
        start: its ``survivors``.
        duration: time.
        generator: draws.
        settings: substep, density and smoothing.

    Raises:
        InputError: so long a duration that nobody would wait for it.
        FilterError: as ``arrive``.
    """
    substep = settings[0]
    require_short(duration, model, substep)
    arrived = arrive(model.sde, start.points, duration, generator, *settings)
    after = ParticleBelief(
        now.time + duration,
        arrived.points,
        start.log_weights,
        now.log_evidence,
        arrived.means,
        arrived.variance,
        model.sde.domain,
        start.ancestors,
    )
    moved = arrived.moved
    details = {"resampled": float(start.resampled), "steps": float(moved.steps), "split": float(moved.split)}
    return after, StepInfo(details=details, note=coarse_note(moved.coarseness, substep))


def first_with_origin(model: StateSpaceModel, n: int, generator: Generator) -> PathBelief:
    """As ``first_particles``, and where paths set out from."""
    first = first_particles(model, n, generator)
    return _with_origin(first, Origin(first.particles, first.log_weights, 0.0, 0, True))


def predicted_with_origin(
    model: StateSpaceModel,
    now: PathBelief,
    n: int,
    threshold: float,
    duration: float,
    generator: Generator,
    settings: tuple[float | None, str, float],
) -> tuple[PathBelief, StepInfo]:
    """As ``predicted`` from ``survivors``, and where paths set out from; too far back, they set out anew."""
    start = survivors(now, n, threshold, "systematic", generator)
    after, info = predicted(model, now, start, duration, generator, settings)
    origin, steps = now.origin, int(info.details["steps"]) + 1
    if origin is None or origin.steps + steps > _REMEMBERED:
        origin = Origin(start[0], start[1], now.time, 0, False)
    return _with_origin(after, replace(origin, steps=origin.steps + steps)), info


def without_origin(belief: ParticleBelief) -> PathBelief:
    """After a reading paths have no past."""
    return _with_origin(belief, None)


def _with_origin(belief: ParticleBelief, origin: Origin | None) -> PathBelief:
    return PathBelief(**{one.name: getattr(belief, one.name) for one in fields(ParticleBelief)} | {"origin": origin})


def likelihood_of(model: StateSpaceModel, now: ParticleBelief, reading: Tensor) -> Scalars:
    """log p(reading | x) at the particles, (n,).

    Raises:
        FilterError: it is zero at every particle that has weight, or NaN or infinite at one.
    """
    value = checked_log_likelihood(model, reading, now.particles, now.time)
    if (now.log_weights + value == -math.inf).all():
        raise FilterError(f"the likelihood is zero at every particle {occasion(reading, now.time)}.")
    return value


def weighed(now: ParticleBelief, log_likelihood: Scalars) -> tuple[ParticleBelief, StepInfo]:
    """Weights times likelihood; the evidence increment is the log of their sum."""
    log_weights, increment = normalise_log_weights(now.log_weights + log_likelihood)
    after = replace(
        now,
        log_weights=log_weights,
        log_evidence=now.log_evidence + increment,
        kernel_means=None,
        kernel_variance=0.0,
        ancestors=None,
    )
    return after, StepInfo(log_evidence=increment, ess=after.ess, note=collapsed(after.ess, len(log_weights)))


def updated(
    belief: Belief, kind: type[B], y: Tensor, model: StateSpaceModel, step: Callable[[B, Tensor], tuple[B, StepInfo]]
) -> tuple[B, StepInfo]:
    """As ``checks.updating``; a reading that is skipped, too, tells how many particles are effective."""
    after, info = updating(belief, kind, y, model, step)
    return after, info if info.ess is not None else replace(info, ess=after.ess)


def collapsed(ess: float, particles: int) -> str:
    """What to note of weights that leave few particles; empty where they leave enough."""
    if ess >= _FEW:
        return ""
    return (
        f"the reading leaves {ess:.1f} effective particles of {particles}: moments and evidence are rough, and wrong "
        "where it lies beyond all of them; use more particles, or GridFilter or JKOFilter"
    )
