"""Gaussian, Benes and rotated product laws against scipy and quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from oracles import law_of
from scipy import stats

import jkofilter as jf
from jkofilter.beliefs.benes import BenesBelief
from jkofilter.beliefs.gaussian import GaussianBelief
from jkofilter.beliefs.product import ProductBelief

N = 20_000
COVARIANCE = np.array([[4.0, -0.9], [-0.9, 0.25]])


def t(value: object) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def gen() -> torch.Generator:
    return torch.Generator().manual_seed(2)


def check_moments(draws: torch.Tensor, mean: np.ndarray, covariance: np.ndarray) -> None:
    """Within five standard errors, those of the products from the draws themselves."""
    centred = draws.numpy() - mean
    assert (np.abs(centred.mean(0)) < 5 * np.sqrt(np.diag(covariance) / len(draws))).all()
    products = centred[:, :, None] * centred[:, None, :]
    assert (np.abs(products.mean(0) - covariance) < 5 * products.std(0) / math.sqrt(len(draws))).all()


def test_gaussian_density_quantiles_and_draws() -> None:
    law = GaussianBelief(0.0, t([1.0, -2.0]), t(COVARIANCE))
    x = np.random.default_rng(0).normal(size=(9, 2))
    np.testing.assert_allclose(law.log_prob(t(x)), stats.multivariate_normal([1.0, -2.0], COVARIANCE).logpdf(x))
    for q in (1e-3, 0.3, 0.975):
        assert law.quantile(q, 0) == pytest.approx(stats.norm.ppf(q, 1.0, 2.0), rel=1e-9)
        assert law.quantile(q, 1) == pytest.approx(stats.norm.ppf(q, -2.0, 0.5), rel=1e-9)
    check_moments(law.sample(N, gen()), np.array([1.0, -2.0]), COVARIANCE)


@pytest.mark.parametrize(("kappa", "centre", "variance"), [(1.2, 0.3, 0.8), (-1.2, 0.3, 0.8), (0.5, -2.0, 1.5)])
def test_benes_law_agrees_with_itself(kappa: float, centre: float, variance: float) -> None:
    """Moments, quantiles and draws are those of the density, which integrates to one."""
    law = BenesBelief(0.0, t([centre]), t([[variance]]), kappa)
    table = law_of(law.log_prob, centre - 14.0, centre + 14.0)
    assert table.mass == pytest.approx(1.0, abs=1e-9)
    assert law.mean.item() == pytest.approx(table.mean, abs=1e-9)
    assert law.covariance.item() == pytest.approx(table.variance, abs=1e-9)
    levels = np.array([1e-4, 0.2, 0.5, 0.9])
    np.testing.assert_allclose(table.cdf(np.array([law.quantile(q) for q in levels])), levels, rtol=0, atol=1e-6)
    assert stats.kstest(law.sample(N, gen()).numpy()[:, 0], table.cdf).pvalue > 1e-5


def rotated_product() -> tuple[ProductBelief, np.ndarray]:
    """u = (N(1, 4), N(-1, .25)) seen turned by .7: no symmetric rotation, so that R and R' differ."""
    c, s = math.cos(0.7), math.sin(0.7)
    rotation = np.array([[c, s], [-s, c]])
    parts = (
        GaussianBelief(0.5, t([1.0]), t([[4.0]]), log_evidence=-1.5),
        GaussianBelief(0.5, t([-1.0]), t([[0.25]]), log_evidence=-0.25),
    )
    return ProductBelief(parts, t(rotation)), rotation


def test_a_product_of_gaussians_is_the_gaussian_of_x_equal_to_r_transposed_u() -> None:
    law, rotation = rotated_product()
    mean = rotation.T @ np.array([1.0, -1.0])
    covariance = rotation.T @ np.diag([4.0, 0.25]) @ rotation
    np.testing.assert_allclose(law.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(law.covariance, covariance, rtol=1e-12)
    x = np.random.default_rng(0).normal(size=(9, 2))
    np.testing.assert_allclose(law.log_prob(t(x)), stats.multivariate_normal(mean, covariance).logpdf(x), rtol=1e-10)
    assert (law.time, law.log_evidence, law.dim) == (0.5, -1.75, 2)
    check_moments(law.sample(N, gen()), mean, covariance)
    for k in range(2):
        # From 100,000 draws; the standard error of a median is 1.25 sd / sqrt(n).
        sd = math.sqrt(covariance[k, k])
        assert law.quantile(0.5, k) == pytest.approx(mean[k], abs=5 * 1.25 * sd / math.sqrt(100_000))
        upper = stats.norm.ppf(0.9, mean[k], sd)
        assert law.quantile(0.9, k) == pytest.approx(upper, abs=5 * 1.71 * sd / math.sqrt(100_000))


def test_every_law_refuses_points_and_levels_that_do_not_fit() -> None:
    law, _ = rotated_product()
    for belief in (law, GaussianBelief(0.0, t([0.0, 0.0]), t(COVARIANCE))):
        with pytest.raises(jf.InputError, match=r"^x must be a tensor of shape \(n, 2\)"):
            belief.log_prob(torch.zeros(3, 1).double())
        for q, coordinate, named in ((0.0, 0, "q"), (1.0, 0, "q"), (0.5, 2, "coordinate"), (0.5, -1, "coordinate")):
            with pytest.raises(jf.InputError, match=rf"^{named} must"):
                belief.quantile(q, coordinate)
