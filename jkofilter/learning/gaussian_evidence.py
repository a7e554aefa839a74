"""The evidence of linear models, differentiable: Kalman's innovations in torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jkofilter.errors import FilterError, InputError
from jkofilter.learning.contract import Evidence
from jkofilter.models.observations import LinearGaussian
from jkofilter.models.potentials import Quadratic
from jkofilter.models.series import ObservationSeries
from jkofilter.models.state_space import StateSpaceModel
from jkofilter.numerics.linalg import gaussian_moments, symmetrised


def is_linear(model: StateSpaceModel) -> bool:
    """Whether ``gaussian_evidence`` is exact for a model."""
    return (
        isinstance(model.sde.potential if hasattr(model.sde, "potential") else None, Quadratic)
        and isinstance(model.observation, LinearGaussian)
        and gaussian_moments(model.prior) is not None
        and model.sde.domain is None
    )


def gaussian_evidence(model: StateSpaceModel, series: ObservationSeries) -> Evidence:
    """The log evidence of a linear model, exactly; it is its own surrogate.

    Raises:
        InputError: readings have another width than the sensor.
        FilterError: a covariance breaks down.
    """
    potential, observation = model.sde.potential, model.observation
    assert isinstance(potential, Quadratic), "asked of linear models"
    assert isinstance(observation, LinearGaussian), "asked of linear models"
    moments = gaussian_moments(model.prior)
    assert moments is not None, "asked of linear models"
    if series.values.shape[1] != observation.dim:
        raise InputError(
            f"series must hold {observation.dim} components for this sensor, got {series.values.shape[1]}."
        )
    with torch.enable_grad():
        mean, covariance = moments
        centre, precision = potential.mean.to(mean), potential.precision.to(mean)
        beta = torch.as_tensor(model.sde.beta, dtype=mean.dtype, device=mean.device)
        stationary = torch.linalg.inv(precision) / beta
        total, now = mean.new_zeros(()), series.start
        for time, y in zip(series.times.tolist(), series.values, strict=True):
            flow = torch.matrix_exp(-precision * (time - now))
            mean = centre + flow @ (mean - centre)
            # Exact for any gap: what is left of the old spread, and of the stationary one what is new.
            covariance = symmetrised(flow @ (covariance - stationary) @ flow.mT) + stationary
            now, present = time, ~torch.isnan(y)
            if present.any():
                H = observation.matrix.to(mean)[present]
                noise = observation.covariance.to(mean)[present][:, present]
                mean, covariance, increment = _conditioned(mean, covariance, H, noise, y[present].to(mean))
                total = total + increment
    if not torch.isfinite(total):
        raise FilterError("the evidence of the linear model is not finite; check its parameters.")
    return Evidence(total.item(), total)


def _conditioned(
    mean: Tensor, covariance: Tensor, matrix: Tensor, noise: Tensor, y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, covariance and log evidence given a reading of ``matrix`` x + noise."""
    spread = symmetrised(matrix @ covariance @ matrix.mT) + noise
    factor, info = torch.linalg.cholesky_ex(spread)
    if info.item() != 0:
        raise FilterError("the covariance of a reading is not positive definite; check the model's parameters.")
    innovation = y - matrix @ mean
    white = torch.linalg.solve_triangular(factor, innovation.unsqueeze(-1), upper=False)[:, 0]
    gain = torch.cholesky_solve(matrix @ covariance, factor).mT
    constant = len(y) * math.log(2 * math.pi)
    increment = -0.5 * (white.square().sum() + constant) - factor.diagonal().log().sum()
    return mean + gain @ innovation, symmetrised(covariance - gain @ matrix @ covariance), increment
