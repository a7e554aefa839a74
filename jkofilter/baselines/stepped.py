"""Flows of laws carried by steps on weighted particles."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeAlias

import torch
from torch import Generator
from torch.distributions import Distribution

from jkofilter._typing import Points, Scalars
from jkofilter.baselines.weighted_particles import Mixture, WeightedParticles
from jkofilter.beliefs.checks import checked_points, generator_or_default
from jkofilter.errors import FilterError
from jkofilter.models.checks import require_non_negative, require_positive
from jkofilter.models.potential_checks import check_potential
from jkofilter.models.sde import LangevinSDE
from jkofilter.models.state_space import probed_prior, require_prior_and_sde, sample_prior
from jkofilter.numerics.draws import stream
from jkofilter.numerics.resampling import resample
from jkofilter.numerics.threads import one_thread
from jkofilter.numerics.time_grid import equal_steps, step_of
from jkofilter.numerics.weights import log_mean_exp

_LINE_POINTS, _LINE_REACH = 8001, 12.0
_DRAWS, _DRAWS_EACH = 20_000, 10
_DEEP = 20.0
"""Nats by which a density on the line must have fallen at both ends."""


class UnnormalisedDensity(Protocol):
    """A density known anywhere, up to a small constant."""

    def log_density(self, x: Points) -> Scalars:
        """At points (n, d), (n,)."""
        ...


@dataclass(frozen=True, eq=False)
class ParticleStep:
    """What a step gives.

    Attributes:
        particles: after it.
        density: the law after it.
        proposal: a mixture that covers it.
        iterations: of the solver.
    """

    particles: WeightedParticles
    density: UnnormalisedDensity
    proposal: Mixture
    iterations: int


ParticleStepper: TypeAlias = Callable[[WeightedParticles, float, Generator], ParticleStep]
"""Takes weighted particles a length of time ahead."""


@dataclass(frozen=True, eq=False)
class WeightedDensity:
    """A law known by its unnormalised log density, and a mixture that covers it.

    In one dimension it is normalised by the trapezoidal rule, in more by importance sampling with 20,000 draws of the
    mixture, whose relative error is the spread of the weights over 141. Draws are resampled from ten proposals each.

    Attributes:
        time: in the SDE's unit.
        log_density: maps points (n, d) to (n,), any additive constant.
        proposal: covers the law.
    """

    time: float
    log_density: Callable[[Points], Scalars]
    proposal: Mixture

    @property
    def dim(self) -> int:
        """State dimension d."""
        return self.proposal.means.shape[1]

    def log_prob(self, x: Points) -> Scalars:
        """Normalised log density, (n,)."""
        return self.log_density(checked_points(x, self.dim).to(self.proposal.means)) - self.log_normaliser

    def sample(self, n: int, generator: Generator | None = None) -> Points:
        """``n`` draws, (n, d)."""
        source = generator_or_default(generator, self.proposal.means.device)
        points, log_weights = self._proposals(max(_DRAWS, _DRAWS_EACH * n), source)
        return points[resample(log_weights, "multinomial", source, n)]

    @cached_property
    def log_normaliser(self) -> float:
        """Log of the integral of exp(log_density)."""
        if self.dim == 1:
            means, reach = self.proposal.means, _LINE_REACH * self.proposal.deviation
            low, high = means.min().item() - reach, means.max().item() + reach
            x = torch.linspace(low, high, _LINE_POINTS).to(means).unsqueeze(-1)
            values = self.log_density(x)
            if max(values[0].item(), values[-1].item()) > values.max().item() - _DEEP:
                raise FilterError(f"the density at time {self.time:g} does not fall off; give more points.")
            return torch.logsumexp(values, 0).item() + math.log((high - low) / (_LINE_POINTS - 1))
        return log_mean_exp(self._proposals(_DRAWS, generator_or_default(None, self.proposal.means.device))[1])

    def _proposals(self, n: int, generator: Generator) -> tuple[Points, Scalars]:
        proposal = self.proposal.wider()
        points = proposal.sample(n, generator)
        return points, self.log_density(points) - proposal.log_prob(points)


@dataclass(frozen=True, eq=False)
class PriorLaw:
    """The law at time zero.

    Attributes:
        prior: event_shape (d,).
        time: zero.
    """

    prior: Distribution
    time: float = 0.0

    @property
    def dim(self) -> int:
        """State dimension d."""
        return int(self.prior.event_shape[0])

    def log_prob(self, x: Points) -> Scalars:
        """Normalised log density, (n,)."""
        return self.prior.log_prob(checked_points(x, self.dim))

    def sample(self, n: int, generator: Generator | None = None) -> Points:
        """``n`` draws, (n, d)."""
        return sample_prior(self.prior, n, generator_or_default(generator, torch.device("cpu")))


@dataclass(frozen=True, eq=False)
class WeightedParticleFlow:
    """The law at every time from zero to the end of a flow.

    Attributes:
        prior: the law at time zero.
        stepper: the method.
        times: of every step, starting with zero, in the SDE's unit.
        start: the particles at time zero.
        steps: what every step gave, one fewer than times.
        seed: of a step to a time between steps.
    """

    prior: Distribution
    stepper: ParticleStepper
    times: tuple[float, ...]
    start: WeightedParticles
    steps: tuple[ParticleStep, ...]
    seed: int = 0

    @property
    def dim(self) -> int:
        """State dimension d."""
        return self.start.points.shape[1]

    @property
    def final(self) -> WeightedDensity | PriorLaw:
        """The law at the end."""
        return self.at(self.times[-1])

    def at(self, time: float) -> WeightedDensity | PriorLaw:
        """The law at ``time``; between steps by a shorter step.

        Raises:
            InputError: ``time`` is outside the flow.
        """
        done, since = step_of(self.times, time)
        if since:
            particles = self.steps[done - 1].particles if done else self.start
            step = self.stepper(particles, since, stream(self.seed, "between steps", particles.points.device))
        elif done:
            step = self.steps[done - 1]
        else:
            return PriorLaw(self.prior)
        return WeightedDensity(float(time), step.density.log_density, step.proposal)


@one_thread()
def flow_by_equal_steps(
    stepper: ParticleStepper,
    prior: Distribution,
    start: WeightedParticles,
    duration: float,
    step: float,
    generator: Generator,
    seed: int,
) -> WeightedParticleFlow:
    """The flow of weighted particles by equal steps of at most ``step``.

    Raises:
        FilterError: a step cannot be solved; names the time.
    """
    count, tau = equal_steps(duration, step)
    steps: list[ParticleStep] = []
    particles = start
    for k in range(count):
        try:
            steps.append(stepper(particles, tau, generator))
        except FilterError as error:
            raise FilterError(f"at time {k * tau:g}: {error}") from error
        particles = steps[-1].particles
    times = (*(tau * k for k in range(count)), float(duration))
    return WeightedParticleFlow(prior, stepper, times, start, tuple(steps), seed)


def check_flow(prior: Distribution, sde: LangevinSDE, duration: float, step: float) -> Distribution:
    """The prior with event_shape (d,), once the arguments that every flow method shares can be used.

    Raises:
        InputError: one of them cannot.
    """
    vector = require_prior_and_sde(prior, sde)
    check_potential(sde.potential, probed_prior(vector))
    require_non_negative("duration", duration)
    require_positive("step", step)
    return vector
