"""Weighted particles: moments, quantiles and Silverman's bandwidth by hand, with unequal weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from jkofilter.beliefs.particle import ParticleBelief

WEIGHTS = np.array([0.4, 0.3, 0.2, 0.1])
ESS = 1 / 0.3
"""(sum w)^2 / sum w^2 with .16 + .09 + .04 + .01 below."""

PLANE = np.array([[0.0, 0.0], [2.0, 0.5], [0.5, 2.0], [3.0, 3.0]])


def belief(points: object, weights: np.ndarray = WEIGHTS) -> ParticleBelief:
    particles = torch.tensor(np.asarray(points, dtype=float)).reshape(len(weights), -1)
    return ParticleBelief(0.0, particles, torch.tensor(np.log(weights)))


def kernel_log_density(x: np.ndarray, points: np.ndarray, weights: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    parts = [w * stats.multivariate_normal(m, covariance).pdf(x) for w, m in zip(weights, points, strict=True)]
    return np.log(sum(parts))


def check_bandwidth(points: object, weights: np.ndarray, covariance: object) -> None:
    """The density is that of a mixture of these kernels: two of other width differ by a factor in the tails."""
    law = belief(points, weights)
    at = np.vstack([law.particles.numpy() + 0.3, law.particles.numpy() - 1.7])
    expected = kernel_log_density(at, law.particles.numpy(), weights, np.asarray(covariance))
    np.testing.assert_allclose(law.log_prob(torch.tensor(at)).numpy(), expected, rtol=0, atol=1e-9)


def test_moments_ess_and_quantiles_by_hand() -> None:
    """Mean -.8 + .2 + .4; variance 3.36 / (1 - sum w^2); mid-cumulative weights .2, .55, .8, .95 at -2, 0, 1, 4."""
    law = belief([1.0, -2.0, 4.0, 0.0], np.array([0.2, 0.4, 0.1, 0.3]))
    assert law.mean.item() == pytest.approx(-0.2, abs=1e-12)
    assert law.covariance.item() == pytest.approx(4.8, abs=1e-12)
    assert law.ess == pytest.approx(ESS, rel=1e-12)
    for level, expected in (
        (0.1, -2.0),
        (0.2, -2.0),
        (0.25, -12 / 7),
        (0.55, 0.0),
        (0.75, 0.8),
        (0.875, 2.5),
        (0.99, 4),
    ):
        assert law.quantile(level) == pytest.approx(expected, abs=1e-12)


def test_quantiles_in_the_plane_are_those_of_the_coordinate_asked_for() -> None:
    assert belief(PLANE).quantile(0.55, 1) == pytest.approx(0.5, abs=1e-12)
    # Sorted 0, .5, 2, 3 with the weights .4, .2, .3, .1: mid-cumulative .2, .5, .75, .95.
    assert belief(PLANE).quantile(0.75, 0) == pytest.approx(2.0, abs=1e-12)


def test_bandwidth_on_the_line_is_silvermans_by_the_quartiles_and_the_effective_size() -> None:
    """0.9 min(sd, IQR / 1.349) ESS^(-1/5): the quartiles -12/7 and .8 lie closer than the sd of 2.19 tells."""
    width = 0.9 * ((0.8 + 12 / 7) / 1.349) * ESS**-0.2
    check_bandwidth([-2.0, 0.0, 1.0, 4.0], WEIGHTS, [[width**2]])


def test_bandwidth_on_the_line_takes_the_deviation_where_quartiles_lie_wide_or_coincide() -> None:
    # Two clumps: variance .3 * 4 - .36 = .84 over 1 - .3; the quartiles are 2 apart.
    width = 0.9 * math.sqrt((0.4 * 0.6 * 4) / 0.7) * ESS**-0.2
    check_bandwidth([-1.0, 1.0, 1.0, 1.0], WEIGHTS, [[width**2]])
    # Six of seven in one place, where both quartiles lie: variance 9 (6/7) (1/7) over 1 - 1/7 is 9/7.
    check_bandwidth([0.0] * 6 + [3.0], np.full(7, 1 / 7), [[(0.9 * math.sqrt(9 / 7) * 7**-0.2) ** 2]])


def test_bandwidth_in_the_plane_is_silvermans_on_the_effective_size() -> None:
    """Covariance times (ESS (d + 2) / 4)^(-2/(d + 4)) = ESS^(-1/3) at d = 2."""
    covariance = np.cov(PLANE.T, aweights=WEIGHTS)
    check_bandwidth(PLANE, WEIGHTS, ESS ** (-1 / 3) * covariance)


def test_bandwidth_in_three_dimensions_is_silvermans_on_the_effective_size() -> None:
    """(5 ESS / 4)^(-2/7) at d = 3."""
    points = np.random.default_rng(0).normal(size=(6, 3))
    weights = np.array([0.3, 0.3, 0.2, 0.1, 0.05, 0.05])
    size = 1 / (weights**2).sum()
    check_bandwidth(points, weights, (5 * size / 4) ** (-2 / 7) * np.cov(points.T, aweights=weights))


@pytest.mark.parametrize("points", [[-2.0, 0.0, 1.0, 4.0], PLANE], ids=["line", "plane"])
def test_draws_have_the_moments_of_the_kernel_estimate(points: object) -> None:
    """Covariance of the weighted points, without Bessel's factor, plus that of the kernel."""
    law, n = belief(points), 40_000
    x = law.particles.numpy()
    spread = np.cov(x.T, aweights=WEIGHTS, ddof=0)
    unbiased = np.atleast_2d(spread / (1 - 0.3))
    kernel = ESS ** (-1 / 3) * unbiased if x.shape[1] == 2 else (0.9 * (0.8 + 12 / 7) / 1.349 * ESS**-0.2) ** 2
    draws = law.sample(n, torch.Generator().manual_seed(0)).numpy()
    centred = draws - WEIGHTS @ x
    assert (np.abs(centred.mean(0)) < 5 * draws.std(0) / math.sqrt(n)).all()
    products = centred[:, :, None] * centred[:, None, :]
    assert (np.abs(products.mean(0) - (spread + kernel)) < 5 * products.std(0) / math.sqrt(n)).all()


def test_draws_of_the_last_transition_scatter_about_its_means() -> None:
    """Mixture of N(m_i, .04): the draws' own law, not one about the particles."""
    particles, means = torch.zeros(4, 1).double(), torch.tensor([[-2.0], [0.0], [1.0], [4.0]]).double()
    law = ParticleBelief(0.0, particles, torch.tensor(np.log(WEIGHTS)), 0.0, means, 0.04)
    draws = law.sample(20_000, torch.Generator().manual_seed(1)).numpy()[:, 0]

    def cdf(x: np.ndarray) -> np.ndarray:
        return stats.norm.cdf(x[:, None], means.numpy()[:, 0], 0.2) @ WEIGHTS

    assert stats.kstest(draws, cdf).pvalue > 1e-5


def test_a_single_particle_is_a_law_all_the_same() -> None:
    law = belief([3.0], np.array([1.0]))
    assert law.covariance.item() == 0.0
    assert law.quantile(0.3) == 3.0
    assert math.isfinite(law.log_prob(torch.tensor([[3.0]]).double()).item())
