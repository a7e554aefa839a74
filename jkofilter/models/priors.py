"""Priors of the state: what shapes are understood."""

from __future__ import annotations

import math

import torch
from torch import Size
from torch.distributions import Distribution, Independent

from jkofilter._typing import Points
from jkofilter.errors import InputError
from jkofilter.numerics.domain import Domain
from jkofilter.numerics.linalg import gaussian_prior_moments

OUTSIDE = 1e-6
"""Mass beyond a wall that a prior may have."""


def as_vector_prior(prior: Distribution, dim: int, names: str = "a torch.distributions.Distribution") -> Distribution:
    """``prior`` with event_shape (dim,) and no batch: independent coordinates are joined, a scalar is one coordinate.

    Args:
        prior: a law of the state, or of each of its coordinates.
        dim: state dimension d.
        names: what else would do, for the message.

    Raises:
        InputError: no distribution, or one of another shape.
    """
    if not isinstance(prior, Distribution):
        raise InputError(f"prior must be {names} with event_shape ({dim},), got {type(prior).__name__}.")
    event, batch = tuple(prior.event_shape), tuple(prior.batch_shape)
    if event == () and batch == (dim,):
        return Independent(prior, 1)
    if event == () and batch == () and dim == 1:
        try:
            return Independent(prior.expand(Size([1])), 1)
        except NotImplementedError as error:
            raise InputError(
                f"prior must have event_shape (1,), got (), and {type(prior).__name__} cannot be expanded; give it "
                "parameters of shape (1,) in an Independent(..., 1)."
            ) from error
    if event != (dim,) or batch != ():
        raise InputError(
            f"prior must have event_shape ({dim},) and no batch to match the potential, got event_shape {event} and "
            f"batch_shape {batch}; use MultivariateNormal or Independent(..., 1)."
        )
    return prior


def require_inside(prior: Distribution, draws: Points, domain: Domain) -> None:
    """Raise InputError if a prior has mass outside a domain: exactly for a Gaussian, else by its draws (n, d)."""
    moments = gaussian_prior_moments(prior)
    if moments is None:
        outside = (~domain.contains(draws)).double().mean().item()
    else:
        low, high = domain.corners(draws)
        mean, deviation = moments[0].to(draws), torch.diagonal(moments[1]).to(draws).sqrt()
        reach = torch.cat([mean - low, high - mean]) / torch.cat([deviation, deviation])
        # Exact in one dimension; in more, what lies beyond several walls is counted for each.
        outside = min(0.5 * torch.erfc(reach / math.sqrt(2)).sum().item(), 1.0)
    if outside > OUTSIDE:
        raise InputError(
            f"prior has {outside:.2g} of its mass outside the domain {domain} of the potential; give one that stays "
            "inside, such as Uniform(low, high) on an interval, or LogNormal or Gamma on a half-line."
        )
