"""Weighted particles, and how they move."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator
from torch.distributions import Distribution

from jkofilter._typing import Points, Scalars, State
from jkofilter.errors import FilterError
from jkofilter.models.sde import LangevinSDE
from jkofilter.models.state_space import finite_draws
from jkofilter.numerics.draws import standard_normal
from jkofilter.numerics.linalg import gaussian_prior_moments, with_moments
from jkofilter.numerics.mixtures import mixture_log_prob
from jkofilter.numerics.resampling import resample
from jkofilter.numerics.weights import effective_sample_size, normalise_log_weights

FEWEST_POINTS = 20
_WIDER = 1.5
_SPREAD = 1.1
"""Points are spread this much wider than one Euler-Maruyama step does, so that no tail of the law is missed."""
_KEPT, _LOST = 0.5, 0.02
"""Shares of the points that the masses may be worth before they are resampled, and before the step is an error."""


@dataclass(frozen=True, eq=False)
class WeightedParticles:
    """Points that stand for a law.

    Attributes:
        points: (n, d).
        log_masses: log of the probability each stands for, normalised, (n,).
    """

    points: Points
    log_masses: Scalars

    @property
    def ess(self) -> float:
        """Effective sample size of the masses."""
        return effective_sample_size(self.log_masses)

    def refreshed(self, generator: Generator) -> WeightedParticles:
        """The same law in points of equal mass, once the masses have become too unequal."""
        n = len(self.points)
        if self.ess > _KEPT * n:
            return self
        return equally_weighted(self.points[resample(self.log_masses, "systematic", generator)])


def equally_weighted(points: Points) -> WeightedParticles:
    """Points of equal mass."""
    n = len(points)
    return WeightedParticles(points, torch.full((n,), -math.log(n), dtype=points.dtype, device=points.device))


def prior_particles(prior: Distribution, n: int, generator: Generator) -> WeightedParticles:
    """Draws of a prior; for a Gaussian evenly spread ones with its exact mean and covariance, which removes noise."""
    moments = gaussian_prior_moments(prior)
    if moments is not None and n > 2 * len(moments[0]):
        return equally_weighted(with_moments(_even_normal(n, moments[0], generator), *moments))
    return equally_weighted(finite_draws(prior, n, generator))


@dataclass(frozen=True, eq=False)
class Mixture:
    """Equal round Gaussians: the law of weighted particles after one noisy step.

    Attributes:
        means: (n, d).
        log_masses: normalised, (n,).
        deviation: in units of the state.
    """

    means: Points
    log_masses: Scalars
    deviation: float

    def log_prob(self, x: Points) -> Scalars:
        """Normalised log density, (n,)."""
        return mixture_log_prob(x, self.means, self.log_masses, self.deviation)

    def one_each(self, generator: Generator) -> Points:
        """One draw of every component, (n, d).

        In the order of their first coordinate the components take consecutive points of a Kronecker sequence with a
        random shift: every draw has its own law exactly, and together they fill the mixture more evenly than
        independent ones (array-RQMC, L'Ecuyer, Lecot & Tuffin 2008).
        """
        noise = _even_normal(len(self.means), self.means[0], generator)
        return self.means + self.deviation * torch.empty_like(noise).index_copy_(0, self.means[:, 0].argsort(), noise)

    def sample(self, n: int, generator: Generator) -> Points:
        """``n`` draws, (n, d)."""
        means = self.means[resample(self.log_masses, "systematic", generator, n)]
        return means + self.deviation * standard_normal(means, generator)

    def wider(self) -> Mixture:
        """The same with wider components, to draw proposals from."""
        return Mixture(self.means, self.log_masses, _WIDER * self.deviation)


def transition(sde: LangevinSDE, particles: WeightedParticles, tau: float) -> Mixture:
    """The law of weighted particles after one Euler-Maruyama step of length ``tau``, with slightly more noise.

    Raises:
        FilterError: a point leaves the finite numbers.
    """
    means = particles.points + tau * sde.drift(particles.points)
    if not torch.isfinite(means).all():
        raise FilterError(f"step {tau:g} is too long for this potential: a point left the finite numbers.")
    return Mixture(means, particles.log_masses, _SPREAD * math.sqrt(sde.variance_rate() * tau))


def reweighted(points: Points, log_masses: Scalars, tau: float) -> WeightedParticles:
    """Particles with these log masses, normalised.

    Raises:
        FilterError: hardly any point has mass: the step is too long.
    """
    if torch.isnan(log_masses).any() or not torch.isfinite(log_masses).any():
        raise FilterError(f"step {tau:g} is too long for this potential: no point keeps any mass; try half of it.")
    particles = WeightedParticles(points, normalise_log_weights(log_masses)[0])
    if particles.ess < _LOST * len(points):
        raise FilterError(
            f"step {tau:g} is too long for this potential, or points too few: the mass gathers on "
            f"{particles.ess:.1f} of {len(points)} points."
        )
    return particles


def _even_normal(n: int, like: State, generator: Generator) -> Points:
    """``n`` consecutive points of a Kronecker sequence with a random shift, made standard normal, (n, d)."""
    d = len(like)
    root = 2.0
    for _ in range(60):
        # The real root of x^(d + 1) = x + 1: the golden ratio for d = 1. Its powers are badly approximable.
        root = (1.0 + root) ** (1.0 / (d + 1))
    strides = root ** -torch.arange(1, d + 1).to(like)
    shift = torch.rand(d, generator=generator, dtype=like.dtype, device=like.device)
    u = (shift + torch.arange(n).to(like).unsqueeze(1) * strides) % 1.0
    return torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12))
