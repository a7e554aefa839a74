"""The standard normal space behind a belief, in which readings are taken in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from jkofilter._typing import Points, Scalars
from jkofilter.assimilation.likelihood import LogLikelihood, value_and_force
from jkofilter.models.state_space import prior_log_prob
from jkofilter.transport.laws.belief import TransportBelief, pushed_log_prob
from jkofilter.transport.laws.fitted_law import FittedLaw, refit
from jkofilter.transport.maps.convex import Pool, inverse, pushed_through
from jkofilter.transport.steps.ridge_engine import RidgeEngine

CLOSE = 0.995
"""Effective share at which a law fitted to a prior of the user's is close enough; the rest is weighed in."""


@dataclass(frozen=True, eq=False)
class BaseParticles:
    """Particles in every space: u, z and x, (n, d) each, with log likelihood and ``BaseSpace.correction``, (n,)."""

    u: Points
    z: Points
    x: Points
    log_likelihood: Scalars
    correction: Scalars

    def chosen(self, index: Tensor) -> BaseParticles:
        """Some of them, in that order."""
        return BaseParticles(
            self.u[index], self.z[index], self.x[index], self.log_likelihood[index], self.correction[index]
        )

    def log_target(self, temperature: float) -> Scalars:
        """Log density of the tempered posterior over N(u; 0, I), up to a constant, (n,)."""
        return temperature * self.log_likelihood + self.correction


@dataclass(frozen=True, eq=False)
class BaseSpace:
    """The standard normal u behind a belief: z(u) has the belief's base law, x(u) the belief's.

    Attributes:
        belief: the law before the reading.
        law: carries u to the base points z of the belief.
        exact: whether ``law`` is the belief's own base law; if not, its density ratio is part of every target.
    """

    belief: TransportBelief
    law: FittedLaw
    exact: bool

    def particles_of_belief(self, log_likelihood: LogLikelihood) -> BaseParticles:
        """The belief's own particles."""
        z, x = self.belief.origin, self.belief.pool.x
        return BaseParticles(self.law.normalise(z), z, x, log_likelihood(x), self.correction(z))

    def particles_at(self, u: Points, log_likelihood: LogLikelihood) -> BaseParticles:
        """Particles at u. Where z(u) is not found the log likelihood is -inf, so that no kernel goes there."""
        z = self.law.restore(u, strict=False)
        found = torch.isfinite(z).all(-1)
        z[~found] = self.law.centre
        x = z
        for psi in self.belief.maps:
            x = psi.gradient(x)
        value = torch.where(found, log_likelihood(x), -math.inf)
        return BaseParticles(u, z, x, value, self.correction(z))

    def correction(self, z: Points) -> Scalars:
        """log of the belief's base density over that of ``law``, (n,)."""
        if self.exact:
            return z.new_zeros(len(z))
        return prior_log_prob(self.belief.prior, z) - self.law.log_prob(z)

    def pool_of(self, z: Points) -> Pool:
        """States of base points with log density and score of the belief."""
        return pushed_through(self.belief.maps, self.law.pool(z) if self.exact else self.belief.base_pool(z))

    def pool_at(self, x: Points) -> Pool:
        """States with log density and score of the belief, by way of their base points.

        Raises:
            FilterError: a map cannot be inverted at one of them.
        """
        z = x
        for psi in reversed(self.belief.maps):
            z, _ = inverse(psi, z, unit=self.belief.width)
        return self.pool_of(z)

    def log_prob(self, x: Points) -> Scalars:
        """Log density of the belief at points (n, d), (n,); -inf where no inverse is found."""
        value = pushed_log_prob(self.belief.prior, self.belief.maps, x, self.belief.width, strict=False)
        return value.nan_to_num(nan=-math.inf, neginf=-math.inf)


def base_space(belief: TransportBelief, engine: RidgeEngine, layers: int, generator: Generator) -> BaseSpace:
    """The base space of a belief; where its base law is a prior of the user's, a law is fitted to it first."""
    if isinstance(belief.prior, FittedLaw):
        return BaseSpace(belief, belief.prior, exact=True)
    pool = belief.base_pool()
    return BaseSpace(belief, refit(pool, pool.x[:0], engine, CLOSE, layers, generator), exact=False)


def exact_product(pool: Pool, log_likelihood: LogLikelihood, log_evidence: float) -> Pool:
    """The pool of a belief with log density and score of its product with a likelihood."""
    value, force = value_and_force(log_likelihood, pool.x)
    return Pool(pool.x, pool.log_prob + value - log_evidence, pool.score + force)
