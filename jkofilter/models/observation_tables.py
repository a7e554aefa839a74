"""Log likelihoods and tails of many readings at once, on the same points: a few large operations instead of many."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from jkofilter._typing import Points
from jkofilter.models.observation_checks import checked_log_likelihood_shape
from jkofilter.models.observations import (
    NonlinearGaussian,
    ObservationModel,
    Poisson,
    StochasticVolatility,
    StudentT,
    TailedObservation,
)
from jkofilter.numerics.linalg import gaussian_log_density

_ROWS = (StudentT.log_likelihood, Poisson.log_likelihood, StochasticVolatility.log_likelihood)
"""Likelihoods that take readings (m, 1, p) as well."""
_ROWS_OF_TAILS = (NonlinearGaussian.tails, StudentT.tails, Poisson.tails, StochasticVolatility.tails)


def log_likelihoods(observation: ObservationModel, y: Float[Tensor, "m p"], x: Points) -> Float[Tensor, "m n"]:
    """log p(y_k | x_i) of m readings, none of them without any component, at n points.

    Sensors of one's own are asked for one reading after the other, as are readings with a component missing.

    Raises:
        InputError: a reading does not fit the sensor.
    """
    return log_likelihood_graph(observation, y, x).detach()


def log_likelihood_graph(observation: ObservationModel, y: Float[Tensor, "m p"], x: Points) -> Float[Tensor, "m n"]:
    """``log_likelihoods``, differentiable by whatever the sensor depends on.

    Raises:
        InputError: a reading does not fit the sensor.
    """
    kind = type(observation).log_likelihood
    if kind in _ROWS:
        return observation.log_likelihood(y.unsqueeze(1), x)
    if isinstance(observation, NonlinearGaussian) and kind is NonlinearGaussian.log_likelihood:
        whole = ~torch.isnan(y).any(-1)
        if y.shape[1] == observation.dim and whole.all():
            mean = observation.predict(x)
            return gaussian_log_density(y.unsqueeze(1).to(mean) - mean, observation.covariance.to(mean))
    if not len(y):
        return x.new_zeros(0, len(x))
    return torch.stack([checked_log_likelihood_shape(observation.log_likelihood(row, x), x) for row in y])


def tail_tables(
    observation: ObservationModel, y: Float[Tensor, "m p"], x: Points
) -> tuple[Float[Tensor, "m n"], Float[Tensor, "m n"]] | None:
    """P(Y <= y_k | x_i) and P(Y >= y_k | x_i) for readings of one component; None for sensors that do not know them."""
    if y.shape[1] != 1 or not isinstance(observation, TailedObservation):
        return None
    if type(observation).tails in _ROWS_OF_TAILS:
        lower, upper = observation.tails(y.unsqueeze(1), x)
    else:
        rows = [observation.tails(row, x) for row in y]
        lower, upper = (torch.stack([row[k] for row in rows]) for k in (0, 1))
    return lower[..., 0].detach(), upper[..., 0].detach()
