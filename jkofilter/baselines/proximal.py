"""The JKO flow by proximal recursion on weighted samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from jkofilter._typing import Points, Scalars
from jkofilter.baselines.entropic import entropy_temperature, require_regularisation
from jkofilter.baselines.stepped import (
    ParticleStep,
    ParticleStepper,
    WeightedParticleFlow,
    check_flow,
    flow_by_equal_steps,
)
from jkofilter.baselines.weighted_particles import (
    FEWEST_POINTS,
    Mixture,
    WeightedParticles,
    prior_particles,
    reweighted,
    transition,
)
from jkofilter.errors import FilterError, InputError
from jkofilter.models.checks import require_count
from jkofilter.models.sde import LangevinSDE, refuse_walls
from jkofilter.numerics.draws import stream
from jkofilter.numerics.weights import normalise_log_weights

Weighting = Literal["transition", "counting"]

_ITERATIONS, _LOG_ITERATIONS = 5000, 1
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class ProximalSettings:
    """How a proximal step is solved.

    Attributes:
        points: how many particles.
        regularisation: gamma = epsilon / step, the weight of the coupling's entropy, in units of 1/beta. The coupling
            blurs by the standard deviation sqrt(gamma step), which has to span neighbouring points: in more than one
            dimension take it close to 2, where, corrected, all of the noise comes from the blur.
        corrected: whether the temperature that the regularisation adds is taken off the entropy of the law; False is
            the scheme as published.
        weighting: what a sum over points stands for. "transition" weighs every point by the volume it stands for, one
            over the density it was drawn from; "counting" weighs all alike, as published, so that the points' own
            density enters the law.

    Raises:
        InputError: a setting out of range.
    """

    points: int = 400
    regularisation: float = 1.0
    corrected: bool = True
    weighting: Weighting = "transition"

    def __post_init__(self) -> None:
        require_count("points", self.points, FEWEST_POINTS)
        require_regularisation(self.regularisation, self.corrected)
        if self.weighting not in get_args(Weighting):
            raise InputError(f"weighting must be 'transition' or 'counting', got {self.weighting!r}.")


@dataclass(frozen=True, eq=False)
class ProximalDensity:
    """The law after a step, rho = xi^a phi^(1 - a) with a = T/(T + gamma), anywhere.

    phi(x) = sum_i y_i exp(-|x - x_i|^2 / (2 gamma tau)) over the old points, xi = exp(-V/T - 1). At the new points this
    is the last line of the published recursion, z times Gamma' y with z = (xi / Gamma' y)^a.

    Attributes:
        sde: gives V.
        temperature: T, the weight of the entropy in the free energy.
        gamma: the regularisation, energy.
        blur: the old points, log y_i, and sqrt(gamma tau).
    """

    sde: LangevinSDE
    temperature: float
    gamma: float
    blur: Mixture

    def log_density(self, x: Points) -> Scalars:
        """Log density after the step, up to a small constant, (n,)."""
        log_xi = -self.sde.potential(x) / self.temperature - 1.0
        share = self.temperature / (self.temperature + self.gamma)
        return share * log_xi + (1.0 - share) * self.blur.log_prob(x)


def proximal_step(
    sde: LangevinSDE, source: WeightedParticles, tau: float, settings: ProximalSettings, generator: Generator
) -> ParticleStep:
    """One entropic JKO step on points (Caluya & Halder 2019, whose y, z, xi and Gamma these are; epsilon = gamma tau).

    The points move by Euler-Maruyama; the density at them is z * (Gamma' y) with the y and z that solve

        y * (Gamma z) = rho_old,    z * (Gamma' y) = xi * z^(-gamma/T),

    with Gamma_ij = exp(-|x_i - x_j'|^2 / (2 gamma tau)), found by alternating the two, which contracts the Thompson
    metric of the positive cone by 1/(1 + gamma/T) an iteration, as they show.

    Raises:
        FilterError: the step is too long, or the fixed point is not reached.
    """
    temperature = entropy_temperature(sde, settings.regularisation, settings.corrected)
    gamma = settings.regularisation / float(sde.beta)
    transported = settings.weighting == "transition"
    if transported:
        source = source.refreshed(generator)
    mixture = transition(sde, source, tau)
    x = mixture.one_each(generator)
    log_guess = mixture.log_prob(x)
    log_volumes = source.log_masses - log_guess if transported else torch.zeros_like(log_guess)
    log_xi = -sde.potential(x) / temperature - 1.0
    width = math.sqrt(gamma * tau)
    log_gamma = _log_kernel(source.points, x, width)
    start = (log_xi - log_guess) * (temperature / gamma)
    log_y, iterations = _fixed_point(
        log_gamma + log_volumes, source.log_masses, log_xi + log_volumes, start, gamma / temperature, tau
    )
    blur = Mixture(source.points, log_y, width)
    density = ProximalDensity(sde, temperature, gamma, blur)
    log_masses = log_volumes + density.log_density(x)
    if not transported:
        # Densities at the points are what the published scheme carries on, however unequal they are.
        return ParticleStep(WeightedParticles(x, normalise_log_weights(log_masses)[0]), density, mixture, iterations)
    return ParticleStep(reweighted(x, log_masses, tau), density, mixture, iterations)


def _log_kernel(y: Points, x: Points, width: float) -> Tensor:
    """Log of the normalised Gaussian between every old and new point, (n, n)."""
    scale = math.log(width) + 0.5 * math.log(2.0 * math.pi)
    return -0.5 * torch.cdist(y, x).square() / width**2 - y.shape[1] * scale


def _fixed_point(
    log_kernel: Tensor, log_masses: Scalars, log_xi: Scalars, log_z: Scalars, ratio: float, tau: float
) -> tuple[Scalars, int]:
    """log y, and how many iterations it took.

    Args:
        log_kernel: log Gamma_ij + log volume of the new point j, (n, n).
        log_masses: of the old points, (n,).
        log_xi: log xi + log volume at the new points, (n,), so that the volume cancels in xi / (Gamma' y).
        log_z: where to start, (n,).
        ratio: gamma/T.
        tau: for the message.
    """
    power = 1.0 / (1.0 + ratio)
    log_y = log_masses
    for _ in range(_LOG_ITERATIONS):
        log_y = log_masses - torch.logsumexp(log_kernel + log_z, 1)
        log_z = power * (log_xi - torch.logsumexp(log_kernel + log_y.unsqueeze(1), 0))
    # From here on the iterates change by factors near one: the coupling is formed once, safely, and only rescaled.
    log_y = log_masses - torch.logsumexp(log_kernel + log_z, 1)
    coupling = torch.exp(log_kernel + log_z + log_y.unsqueeze(1))
    masses, target = log_masses.exp(), log_xi - log_z / power
    factor_z = torch.ones_like(log_z)
    for iteration in range(_ITERATIONS):
        factor_y = masses / (coupling @ factor_z)
        log_factor = power * (target + log_z - torch.log(factor_y @ coupling))
        change = (log_factor - factor_z.log()).abs().max().item()
        factor_z = log_factor.exp()
        if not math.isfinite(change):
            break
        if change < _TOLERANCE:
            return log_y + torch.log(masses / (coupling @ factor_z)), iteration + _LOG_ITERATIONS + 1
    raise FilterError(f"the fixed point of a proximal step of length {tau:g} is not reached; try a longer step.")


def solve_proximal(
    prior: Distribution,
    sde: LangevinSDE,
    duration: float,
    step: float = 0.05,
    settings: ProximalSettings = ProximalSettings(),  # noqa: B008
    seed: int = 0,
) -> WeightedParticleFlow:
    """Carry a prior through a Langevin diffusion by proximal recursion on weighted samples (Caluya & Halder 2019).

    Of first order in the step, as the JKO scheme is.

    Args:
        prior: event_shape (d,), with sample and log_prob.
        sde: the diffusion.
        duration: in the SDE's unit of time.
        step: longest time step; the steps are equal.
        settings: how a step is solved.
        seed: draws the points.

    Returns:
        The flow; ``flow.at(time)`` is a density.

    Raises:
        InputError: an argument cannot be used.
        FilterError: a step cannot be solved.
    """
    prior = check_flow(prior, sde, duration, step)
    refuse_walls(sde, "solve_proximal")
    generator = stream(seed, "baseline")
    start = prior_particles(prior, settings.points, generator)
    if settings.weighting == "counting":
        start = WeightedParticles(start.points, normalise_log_weights(prior.log_prob(start.points))[0])
    return flow_by_equal_steps(stepper(sde, settings), prior, start, duration, step, generator, seed)


def stepper(sde: LangevinSDE, settings: ProximalSettings) -> ParticleStepper:
    """``proximal_step`` of one diffusion with these settings."""
    return lambda particles, tau, generator: proximal_step(sde, particles, tau, settings, generator)
