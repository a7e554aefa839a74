"""A law carried by Brenier maps: evaluated by inversion, sampled by pushing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Generator
from torch.distributions import Distribution

from jkofilter._typing import Matrix, Points, Scalars, State
from jkofilter.beliefs.checks import checked_points, checked_quantile, checked_state, generator_or_default
from jkofilter.beliefs.particle import ParticleBelief
from jkofilter.beliefs.summaries import Summaries
from jkofilter.errors import InputError
from jkofilter.models.state_space import prior_log_prob, sample_prior
from jkofilter.numerics.arrays import as_array
from jkofilter.transport.laws.prior_pool import prior_pool
from jkofilter.transport.maps.convex import ConvexPotential, Pool, inverse, push_log_prob
from jkofilter.transport.maps.ridge import RidgeSpline

_CHUNK = 8192


@dataclass(frozen=True, eq=False)
class TransportBelief(Summaries):
    """(grad psi_k o ... o grad psi_1)# prior.

    Mean, covariance, quantiles and marginals are those of the pool of particles that the maps were fitted on; density
    and samples are those of the maps, exactly.

    Attributes:
        time: in the SDE's unit.
        prior: what the maps push, event_shape (d,).
        maps: the potentials psi_1, ..., psi_k, first applied first.
        pool: particles of this law with their log density and score.
        origin: the same particles before the maps, (n, d).
        log_evidence: log p of the readings so far.
    """

    time: float
    prior: Distribution
    maps: tuple[ConvexPotential, ...]
    pool: Pool
    origin: Points
    log_evidence: float = 0.0

    @property
    def dim(self) -> int:
        """State dimension d."""
        return self.pool.x.shape[1]

    @cached_property
    def mean(self) -> State:
        """E[X], (d,); the error is that of a sample of the pool's size."""
        return self.pool.x.mean(0)

    @cached_property
    def covariance(self) -> Matrix:
        """Cov[X], (d, d), from the pool."""
        return torch.atleast_2d(torch.cov(self.pool.x.mT, correction=0))

    @cached_property
    def width(self) -> float:
        """Root mean variance of a coordinate, from the pool."""
        return self.pool.x.var(0).mean().sqrt().item()

    def base_pool(self, z: Points | None = None) -> Pool:
        """Particles before the maps, by default this belief's own, with log density and score of ``prior``."""
        return prior_pool(self.prior, self.origin if z is None else z)

    def log_prob(self, x: Points) -> Scalars:
        """Normalised log density at any points, (n,): every map inverted by Newton on its conjugate problem.

        It carries no gradient; ``pool.score`` is that of the particles.

        Raises:
            InputError: another shape, or NaN.
            FilterError: a map cannot be inverted there.
        """
        points = checked_points(x, self.dim).detach().to(self.pool.x)
        if torch.isnan(points).any():
            raise InputError("x must not be NaN.")
        parts = [pushed_log_prob(self.prior, self.maps, part, self.width) for part in points.split(_CHUNK)]
        return torch.cat(parts) if parts else points.new_zeros(0)

    def sample(self, n: int, generator: Generator | None = None) -> Points:
        """``n`` independent draws, (n, d)."""
        x = self._draws(n, generator)
        for psi in self.maps:
            x = psi.gradient(x)
        return x

    def sample_with_log_prob(self, n: int, generator: Generator | None = None) -> tuple[Points, Scalars]:
        """``n`` draws and their log densities, (n, d) and (n,), without any inversion."""
        x = self._draws(n, generator)
        log_prob = self.prior.log_prob(x).detach()
        for psi in self.maps:
            x, log_prob = push_log_prob(psi, x, log_prob)
        return x, log_prob

    def _draws(self, n: int, generator: Generator | None) -> Points:
        if not isinstance(n, int) or n < 1:
            raise InputError(f"n must be a positive integer, got {n!r}.")
        return sample_prior(self.prior, n, generator_or_default(generator, self.pool.x.device))

    def quantile(self, q: float, coordinate: int = 0) -> float:
        """The q-quantile of one coordinate's marginal, from the pool."""
        checked_quantile(q, coordinate, self.dim)
        return self.pool.x[:, coordinate].quantile(q).item()

    def cdf(self, x: float, coordinate: int = 0) -> float:
        """P(X_i <= x) of one coordinate, from the pool; 0 and 1 beyond its outermost particles."""
        at, values = checked_state(x, coordinate, self.dim), as_array(self.pool.x[:, coordinate].sort().values)
        return float(np.interp(at, values, np.linspace(0.0, 1.0, values.size), left=0.0, right=1.0))

    def marginal(self, *coordinates: int) -> ParticleBelief:
        """The joint marginal of some coordinates: the pool's particles there, its density a Gaussian kernel estimate.

        Raises:
            InputError: no coordinates, or one that does not exist.
        """
        if not coordinates or not all(c in range(self.dim) for c in coordinates):
            raise InputError(f"coordinates must be some of 0 to {self.dim - 1}, got {coordinates!r}.")
        n = self.pool.x.shape[0]
        weights = torch.full((n,), -torch.tensor(float(n)).log().item()).to(self.pool.x)
        return ParticleBelief(self.time, self.pool.x[:, list(coordinates)], weights)


def pushed_log_prob(
    prior: Distribution, maps: tuple[ConvexPotential, ...], x: Points, unit: float, strict: bool = True
) -> Scalars:
    """Log density of a prior pushed through maps, (n,): minus infinity at infinity, NaN where no inverse is found.

    Args:
        prior: what is pushed.
        maps: the first one first.
        x: where, (n, d).
        unit: width of the law, which says how closely to invert.
        strict: whether a point without an inverse is an error.

    Raises:
        FilterError: a map cannot be inverted at some finite point, if ``strict``.
    """
    total = x.new_full((len(x),), -torch.inf)
    finite = torch.isfinite(x).all(-1)
    base = x[finite]
    if not len(base):
        return total
    lost = base.new_zeros(len(base))
    for psi in reversed(maps):
        base, log_det = inverse(psi, base, strict, unit)
        lost = lost + log_det
    found = torch.isfinite(base).all(-1)
    lost[found] = prior_log_prob(prior, base[found]) - lost[found]
    total[finite] = lost
    return total


def ridge_directions(belief: TransportBelief) -> Points:
    """Ridge directions of the last map that has some, (k, d): in them the law is likely to be bent still."""
    for psi in reversed(belief.maps):
        if isinstance(psi, RidgeSpline) and len(psi.ridges.directions):
            return psi.ridges.directions
    return belief.origin[:0]
