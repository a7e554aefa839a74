"""A pool of particles of the prior: where every flow and filter by maps begins."""

from __future__ import annotations

import torch
from torch import Generator
from torch.distributions import Distribution

from jkofilter._typing import Points
from jkofilter.errors import InputError
from jkofilter.models.state_space import finite_draws
from jkofilter.numerics.draws import quasi_normal
from jkofilter.numerics.linalg import gaussian_prior_moments, with_moments
from jkofilter.transport.maps.convex import Pool

MIN_POOL, PER_DIMENSION = 64, 10
"""Fewest particles, in all and for each dimension."""


def check_pool(pool: int, dim: int) -> None:
    """Raise InputError unless so many particles can carry a law in so many dimensions."""
    least = max(MIN_POOL, PER_DIMENSION * dim)
    if not isinstance(pool, int) or pool < least:
        raise InputError(f"pool must be an integer of at least {least} in {dim} dimensions, got {pool!r}.")


def prior_draws(prior: Distribution, n: int, generator: Generator) -> Points:
    """Draws, (n, d); those of a Gaussian are quasi-random and have its exact mean and covariance, for quieter fits.

    Raises:
        InputError: the prior cannot be sampled, or not to finite numbers.
    """
    moments = gaussian_prior_moments(prior)
    if moments is None or n <= 2 * moments[0].numel() or not all(torch.isfinite(part).all() for part in moments):
        return finite_draws(prior, n, generator)
    return with_moments(quasi_normal(moments[0].expand(n, -1), generator), *moments)


def prior_pool(prior: Distribution, x: Points) -> Pool:
    """Particles of the prior with log density and score.

    Raises:
        InputError: the prior's log density cannot be evaluated, or is not finite or differentiable at its own draws.
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        try:
            log_prob = prior.log_prob(leaf)
        except NotImplementedError as error:
            raise InputError("prior cannot be evaluated: it has no log_prob.") from error
        if log_prob.shape != x.shape[:1]:
            raise InputError(f"prior.log_prob must return shape ({len(x)},), got {tuple(log_prob.shape)}.")
        if not log_prob.requires_grad:
            raise InputError("prior.log_prob must be differentiable by torch: its gradient drives the flow.")
        (score,) = torch.autograd.grad(log_prob.sum(), leaf)
    if not (torch.isfinite(log_prob).all() and torch.isfinite(score).all()):
        raise InputError("prior.log_prob or its gradient is not finite at the prior's own draws.")
    return Pool(x.detach(), log_prob.detach(), score.detach())
