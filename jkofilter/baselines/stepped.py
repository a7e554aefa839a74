"""Flows of laws carried by steps on a weighted cloud."""

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
from jkofilter.baselines.cloud import Cloud, Mixture
from jkofilter.beliefs.checks import checked_points, generator_or_default
from jkofilter.errors import FilterError, InputError
from jkofilter.models.sde import LangevinSDE
from jkofilter.models.state_space import sample_prior
from jkofilter.numerics.draws import stream
from jkofilter.numerics.resampling import resample
from jkofilter.numerics.weights import log_mean_exp

_LINE_POINTS, _LINE_REACH = 8001, 12.0
_DRAWS, _DRAWS_EACH = 20_000, 10
_DEEP = 20.0
"""Nats by which a density on the line must have fallen at both ends."""


class CloudDensity(Protocol):
    """A density known anywhere, up to a small constant."""

    def log_density(self, x: Points) -> Scalars:
        """At points (n, d), (n,)."""
        ...


@dataclass(frozen=True, eq=False)
class CloudStep:
    """What a step gives.

    Attributes:
        cloud: the points after it, with their masses.
        density: the law after it.
        proposal: a mixture that covers it.
        iterations: of the solver.
    """

    cloud: Cloud
    density: CloudDensity
    proposal: Mixture
    iterations: int


Stepper: TypeAlias = Callable[[Cloud, float, Generator], CloudStep]
"""Takes a cloud a length of time ahead."""


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
class CloudFlow:
    """The law at every time from zero to the end of a flow.

    Attributes:
        prior: the law at time zero.
        stepper: the method.
        times: of every step, starting with zero, in the SDE's unit.
        start: the cloud at time zero.
        steps: what every step gave, one fewer than times.
        seed: of a step to a time between steps.
    """

    prior: Distribution
    stepper: Stepper
    times: tuple[float, ...]
    start: Cloud
    steps: tuple[CloudStep, ...]
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
            cloud = self.steps[done - 1].cloud if done else self.start
            step = self.stepper(cloud, since, stream(self.seed, "between steps", cloud.points.device))
        elif done:
            step = self.steps[done - 1]
        else:
            return PriorLaw(self.prior)
        return WeightedDensity(float(time), step.density.log_density, step.proposal)


def carry(
    stepper: Stepper, prior: Distribution, start: Cloud, duration: float, step: float, generator: Generator, seed: int
) -> CloudFlow:
    """The flow of a cloud by equal steps of at most ``step``.

    Raises:
        FilterError: a step cannot be solved; names the time.
    """
    count, tau = equal_steps(duration, step)
    steps: list[CloudStep] = []
    cloud = start
    for k in range(count):
        try:
            steps.append(stepper(cloud, tau, generator))
        except FilterError as error:
            raise FilterError(f"at time {k * tau:g}: {error}") from error
        cloud = steps[-1].cloud
    times = (*(tau * k for k in range(count)), float(duration))
    return CloudFlow(prior, stepper, times, start, tuple(steps), seed)


def step_of(times: tuple[float, ...], time: float) -> tuple[int, float]:
    """The last step begun at or before ``time``, and the time since.

    Raises:
        InputError: ``time`` is outside the flow.
    """
    end = times[-1]
    slack = 1e-9 * max(end, 1e-300)
    if not -slack <= time <= end + slack:
        raise InputError(f"time must be between 0 and {end:g}, got {time!r}.")
    done = sum(1 for t in times[1:] if t <= time + slack)
    since = time - times[done]
    return done, since if since > slack else 0.0


def equal_steps(duration: float, step: float) -> tuple[int, float]:
    """How many equal steps of at most ``step`` cover ``duration``, and their length; none cover zero."""
    count = math.ceil(duration / step * (1 - 1e-12))
    return count, duration / count if count else step


def check_flow(prior: Distribution, sde: LangevinSDE, duration: float, step: float) -> None:
    """Raise InputError unless the arguments that every flow method shares can be used."""
    if not isinstance(sde, LangevinSDE):
        raise InputError("sde must be a LangevinSDE(potential, beta).")
    if not isinstance(prior, Distribution) or tuple(prior.event_shape) != (sde.dim,) or tuple(prior.batch_shape) != ():
        raise InputError(f"prior must be a torch Distribution with event_shape ({sde.dim},) and no batch_shape.")
    if not (math.isfinite(duration) and duration >= 0):
        raise InputError(f"duration must be zero or more and finite, got {duration!r}.")
    if not 0 < step < math.inf:
        raise InputError(f"step must be positive and finite, got {step!r}.")
