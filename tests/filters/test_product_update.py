"""The product of two Kalman filters, seen turned, is the Kalman filter of the plane."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

import jkofilter as jf

RATES, NOISES = (2.0, 0.5), (0.3, 0.8)
MEANS, VARIANCES = (1.0, -0.5), (0.5, 2.0)
C, S = math.cos(0.7), math.sin(0.7)
ROTATION = torch.tensor([[C, S], [-S, C]], dtype=torch.float64)


def t(value: object) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def on_the_line(k: int) -> jf.KalmanFilter:
    prior = MultivariateNormal(t([MEANS[k]]), t([[VARIANCES[k]]]))
    sde = jf.LangevinSDE(jf.Quadratic(t([0.3]), t([[RATES[k]]])), 1.7)
    return jf.KalmanFilter(jf.StateSpaceModel(prior, sde, jf.LinearGaussian(t([[1.0]]), t([[NOISES[k]]]))))


def on_the_plane() -> jf.StateSpaceModel:
    """x = R'u, so that the reading of u is R x plus noise."""
    turned = ROTATION.mT
    prior = MultivariateNormal(turned @ t(MEANS), turned @ torch.diag(t(VARIANCES)) @ ROTATION)
    potential = jf.Quadratic(turned @ t([0.3, 0.3]), turned @ torch.diag(t(RATES)) @ ROTATION)
    sensor = jf.LinearGaussian(ROTATION, torch.diag(t(NOISES)))
    return jf.StateSpaceModel(prior, jf.LangevinSDE(potential, 1.7), sensor)


def test_moments_and_evidence_are_those_of_the_whole() -> None:
    model = on_the_plane()
    series = jf.ObservationSeries([0.2, 0.5, 0.9], [[0.4, -1.0], [math.nan, 0.7], [1.5, math.nan]])
    product = jf.ProductFilter(model, ROTATION, (on_the_line(0), on_the_line(1))).run(series, until=1.1)
    whole = jf.KalmanFilter(model).run(series, until=1.1)
    np.testing.assert_allclose(product.means, whole.means, rtol=0, atol=1e-10)
    np.testing.assert_allclose(product.covariances, whole.covariances, rtol=0, atol=1e-10)
    np.testing.assert_allclose(product.log_evidence, whole.log_evidence, rtol=0, atol=1e-10)
    increments = [info.log_evidence for info in product.infos]
    assert increments == pytest.approx([info.log_evidence for info in whole.infos], abs=1e-10)
    assert min(abs(increment) for increment in increments) > 0.1
    x = t(np.random.default_rng(0).normal(size=(9, 2)))
    np.testing.assert_allclose(product.final.log_prob(x), whole.final.log_prob(x), rtol=1e-9)
