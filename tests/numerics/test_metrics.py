"""Metrics against closed forms for Gaussians, and mixtures against the direct sum."""

import math

import pytest
import torch

from jkofilter.beliefs.gaussian import GaussianBelief
from jkofilter.beliefs.particle import ParticleBelief
from jkofilter.errors import InputError, NumericalError
from jkofilter.numerics import metrics
from jkofilter.numerics.linalg import safe_cholesky
from jkofilter.numerics.mixtures import mixture_log_prob

F64 = torch.float64


def gaussian(mean: list[float], covariance: list[list[float]]) -> GaussianBelief:
    return GaussianBelief(0.0, torch.tensor(mean, dtype=F64), torch.tensor(covariance, dtype=F64))


def gaussian_kl(p: GaussianBelief, q: GaussianBelief) -> float:
    gap, inverse = q.mean - p.mean, torch.linalg.inv(q.covariance)
    log_ratio = torch.logdet(q.covariance) - torch.logdet(p.covariance)
    return (0.5 * (torch.trace(inverse @ p.covariance) + gap @ inverse @ gap - p.dim + log_ratio)).item()


@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (0.3, 2.0), (3.0, 0.01), (-50.0, 1e-4), (1e-6, 1.0)])
def test_kl_of_gaussians_to_1e_10(mean: float, variance: float) -> None:
    p, q = gaussian([0.0], [[1.0]]), gaussian([mean], [[variance]])
    assert metrics.kl(p, q) == pytest.approx(gaussian_kl(p, q), rel=1e-10, abs=1e-10)
    assert metrics.kl(q, p) == pytest.approx(gaussian_kl(q, p), rel=1e-10, abs=1e-10)


def test_kl_in_two_dimensions_within_monte_carlo_error() -> None:
    p, q = gaussian([0.0, 1.0], [[1.0, 0.3], [0.3, 2.0]]), gaussian([0.5, 0.0], [[2.0, 0.0], [0.0, 1.0]])
    x = p.sample(20_000)
    error = (p.log_prob(x) - q.log_prob(x)).std().item() / 20_000**0.5
    assert metrics.kl(p, q) == pytest.approx(gaussian_kl(p, q), abs=5 * error)
    assert metrics.kl(p, q, seed=4) == metrics.kl(p, q, seed=4)


def test_kl_is_infinite_only_without_support() -> None:
    class Uniform:
        dim = 1

        def log_prob(self, x: torch.Tensor) -> torch.Tensor:
            return torch.where(x[:, 0].abs() <= 1, -math.log(2), -math.inf)

        def quantile(self, q: float, coordinate: int = 0) -> float:
            return 2 * q - 1

        def sample(self, n: int, generator: torch.Generator | None = None) -> torch.Tensor:
            return 2 * torch.rand(n, 1, generator=generator, dtype=F64) - 1

    assert metrics.kl(gaussian([0.0], [[1.0]]), Uniform()) == math.inf
    expected = -math.log(2) + 0.5 * math.log(2 * math.pi) + 1 / 6
    # A jump inside a panel costs first order in the panel width.
    assert metrics.kl(Uniform(), gaussian([0.0], [[1.0]])) == pytest.approx(expected, abs=5e-3)


def test_wasserstein2() -> None:
    p, q = gaussian([0.0], [[1.0]]), gaussian([0.3], [[4.0]])
    assert metrics.wasserstein2(p, q) == pytest.approx(math.sqrt(0.09 + 1.0), rel=1e-8)
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    assert metrics.wasserstein2(x, x.flip(0) + torch.tensor([3.0, 4.0])) == pytest.approx(5.0)
    assert metrics.wasserstein2(x[:, 0], x[:, 0].flip(0) - 2) == pytest.approx(2.0)
    with pytest.raises(InputError, match="dim 1"):
        metrics.wasserstein2(gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]]), gaussian([0, 0], [[1, 0], [0, 1]]))


def test_energy_distance_of_shifted_normals() -> None:
    # Normals of sd 1 a distance s apart: E|N(s, 2)| in closed form.
    s, n = 1.0, 3000
    folded = 2 / math.sqrt(math.pi) * math.exp(-(s**2) / 4) + s * math.erf(s / 2)
    expected = 2 * folded - 4 / math.sqrt(math.pi)
    found = metrics.energy_distance(gaussian([0.0], [[1.0]]), gaussian([s], [[1.0]]), samples=n)
    assert found == pytest.approx(expected, abs=6 / math.sqrt(n))


def test_crps_and_pit_of_a_gaussian() -> None:
    belief, truth = gaussian([1.0, -2.0], [[4.0, 0.5], [0.5, 0.25]]), [1.7, -4.0]
    scores, levels = metrics.crps(belief, torch.tensor(truth)), metrics.pit(belief, torch.tensor(truth))
    for i, deviation in enumerate([2.0, 0.5]):
        z = (truth[i] - belief.mean[i].item()) / deviation
        cdf, pdf = 0.5 * math.erfc(-z / math.sqrt(2)), math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        assert scores[i].item() == pytest.approx(
            deviation * (z * (2 * cdf - 1) + 2 * pdf - 1 / math.sqrt(math.pi)), rel=1e-7
        )
        assert levels[i].item() == pytest.approx(cdf, rel=1e-7)
    draws = belief.sample(20_000)
    assert torch.allclose(metrics.crps(draws, torch.tensor(truth)), scores, atol=0.05)


def test_rmse_and_shape_errors() -> None:
    assert metrics.rmse(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])) == pytest.approx(math.sqrt(12.5))
    with pytest.raises(InputError, match="share a shape"):
        metrics.rmse(torch.zeros(2), torch.zeros(3))


@pytest.mark.parametrize("dim", [1, 3])
def test_mixture_equals_the_direct_sum_near_and_far(dim: int) -> None:
    g = torch.Generator().manual_seed(1)
    means = torch.randn(500, dim, generator=g, dtype=F64)
    log_weights = (4 * torch.randn(500, generator=g, dtype=F64)).log_softmax(0)
    log_weights[7] = -math.inf
    x = torch.cat([torch.randn(50, dim, generator=g, dtype=F64), 30 * torch.randn(50, dim, generator=g, dtype=F64)])
    direct = torch.logsumexp(log_weights - 0.5 * (torch.cdist(x, means) / 0.2).square(), 1)
    direct -= dim * (math.log(0.2) + 0.5 * math.log(2 * math.pi))
    assert torch.allclose(mixture_log_prob(x, means, log_weights, 0.2), direct, rtol=1e-9, atol=1e-9)
    assert torch.isfinite(mixture_log_prob(1e6 * torch.ones(1, dim, dtype=F64), means, log_weights, 0.2)).all()


def test_particle_density_integrates_to_one() -> None:
    g = torch.Generator().manual_seed(2)
    particles = torch.randn(300, 1, generator=g, dtype=F64)
    weights = torch.randn(300, generator=g, dtype=F64).log_softmax(0)
    x = torch.linspace(-9, 9, 6001, dtype=F64)
    for belief in (
        ParticleBelief(0.0, particles, weights),
        ParticleBelief(0.0, particles, weights, 0.0, particles, 0.04),
    ):
        assert torch.trapezoid(belief.log_prob(x[:, None]).exp(), x).item() == pytest.approx(1.0, abs=1e-9)


def test_safe_cholesky_reports_its_jitter() -> None:
    spd = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=F64)
    factor, jitter = safe_cholesky(spd)
    assert jitter == 0.0
    assert torch.allclose(factor @ factor.mT, spd)
    singular = torch.ones(2, 2, dtype=F64)
    factor, jitter = safe_cholesky(singular)
    assert 0 < jitter < 1e-8
    assert torch.allclose(factor @ factor.mT, singular, atol=1e-8)
    with pytest.raises(NumericalError, match="positive definite"):
        safe_cholesky(-spd)
    with pytest.raises(NumericalError, match="NaN"):
        safe_cholesky(spd * float("nan"))
