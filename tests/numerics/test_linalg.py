"""Moments and Gaussian densities by hand and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Independent, Laplace, MultivariateNormal, Normal

from jkofilter.numerics.linalg import (
    gaussian_log_density,
    gaussian_prior_moments,
    safe_cholesky,
    weighted_moments,
    with_moments,
)


def t(value: object) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def test_weighted_moments_by_hand() -> None:
    """Weights 1/2, 1/4, 1/4: mean (1, 1); spread about it over 1 - (1/4 + 1/16 + 1/16) = 5/8."""
    points, log_weights = t([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]]), torch.log(t([0.5, 0.25, 0.25]))
    mean, covariance = weighted_moments(points, log_weights)
    torch.testing.assert_close(mean, t([1.0, 1.0]))
    torch.testing.assert_close(covariance, t([[3.0, -1.0], [-1.0, 3.0]]) / 0.625)


def test_equal_weights_give_the_unbiased_covariance() -> None:
    x = np.random.default_rng(0).normal(size=(7, 3))
    covariance = weighted_moments(t(x), t([-math.log(7)] * 7))[1]
    np.testing.assert_allclose(covariance, np.cov(x.T), rtol=1e-12)


def test_all_weight_on_one_point_has_no_spread_and_no_nan() -> None:
    mean, covariance = weighted_moments(t([[1.0, 2.0], [5.0, 5.0]]), t([0.0, -math.inf]))
    torch.testing.assert_close(mean, t([1.0, 2.0]))
    assert (covariance == 0).all()


def test_draws_get_exactly_the_moments_asked_for() -> None:
    """The covariance is that of the draws as a law of their own: divided by n."""
    draws = t(np.random.default_rng(1).normal(size=(9, 2)))
    mean, covariance = t([3.0, -1.0]), t([[2.0, -0.7], [-0.7, 0.5]])
    moved = with_moments(draws, mean, covariance).numpy()
    np.testing.assert_allclose(moved.mean(0), mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.cov(moved.T, ddof=0), covariance, rtol=0, atol=1e-12)


@pytest.mark.parametrize("p", [1, 3])
def test_gaussian_log_density_of_a_batch(p: int) -> None:
    rng = np.random.default_rng(2)
    root, residuals = rng.normal(size=(p, p)), rng.normal(size=(2, 5, p))
    covariance = root @ root.T + 0.3 * np.eye(p)
    expected = stats.multivariate_normal(np.zeros(p), covariance).logpdf(residuals)
    np.testing.assert_allclose(gaussian_log_density(t(residuals), t(covariance)), expected, rtol=1e-12)


def test_prior_moments_are_variances_whatever_the_form() -> None:
    wide = Independent(Normal(t([1.0, -2.0]), t([0.5, 3.0])), 1)
    full = MultivariateNormal(t([1.0, -2.0]), t([[0.25, 0.1], [0.1, 9.0]]))
    for prior, expected in ((wide, [[0.25, 0.0], [0.0, 9.0]]), (full, [[0.25, 0.1], [0.1, 9.0]])):
        mean, covariance = gaussian_prior_moments(prior)
        torch.testing.assert_close(mean, t([1.0, -2.0]))
        torch.testing.assert_close(covariance, t(expected))
    assert gaussian_prior_moments(Independent(Laplace(t([0.0]), t([1.0])), 1)) is None


def test_jitter_is_the_least_power_of_ten_that_does() -> None:
    """Smallest eigenvalue -2e-9 of a matrix with mean diagonal 1: 1e-9 of it is too little, 1e-8 enough."""
    matrix = t([[1.0, 1.0 + 2e-9], [1.0 + 2e-9, 1.0]])
    assert safe_cholesky(matrix)[1] == pytest.approx(1e-8, rel=1e-9)
    assert safe_cholesky(100.0 * matrix)[1] == pytest.approx(1e-6, rel=1e-9)
    assert safe_cholesky(torch.zeros(2, 2).double())[1] > 0
