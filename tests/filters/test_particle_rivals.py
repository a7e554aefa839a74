"""Tempered and block particle filters against Kalman filters and exact products, where the bootstrap filter is lost."""

import math
from collections.abc import Callable

import pytest
import torch
from torch.distributions import MultivariateNormal

import jkofilter as jf

F64 = torch.float64
Build = Callable[[jf.StateSpaceModel], jf.Filter]


def rotation(d: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(d), dtype=F64))[0]


def linear(d: int, noise: float) -> jf.StateSpaceModel:
    """Stiffness from 1 to 4 in turned coordinates, all of them read."""
    eye = torch.eye(d, dtype=F64)
    turn = rotation(d) if d > 1 else eye
    precision = (turn.mT * torch.linspace(1, 4, d, dtype=F64)) @ turn
    potential = jf.Quadratic(torch.ones(d, dtype=F64), 0.5 * (precision + precision.mT))
    return jf.StateSpaceModel(
        MultivariateNormal(torch.zeros(d, dtype=F64), eye),
        jf.LangevinSDE(potential),
        jf.LinearGaussian(eye, noise**2 * eye),
    )


def wells(d: int) -> jf.StateSpaceModel:
    eye = torch.eye(d, dtype=F64)
    turn = rotation(d)
    normal = MultivariateNormal(torch.zeros(d, dtype=F64), eye)
    return jf.StateSpaceModel(
        normal, jf.LangevinSDE(jf.DoubleWell(d, rotation=turn)), jf.LinearGaussian(turn, 0.25 * eye)
    )


def exact_wells(whole: jf.StateSpaceModel) -> jf.ProductFilter:
    d = whole.dim
    line = jf.StateSpaceModel(
        torch.distributions.Normal(torch.zeros(1, dtype=F64), 1.0),
        jf.LangevinSDE(jf.DoubleWell(1)),
        jf.LinearGaussian(1.0, 0.25),
    )
    return jf.ProductFilter(whole, rotation(d), (jf.GridFilter(line, cells=400, step=0.01),) * d)


def error(found: jf.FilterResult, exact: jf.FilterResult) -> float:
    """Root mean square error of the means after all readings, in posterior deviations."""
    deviations = torch.diagonal(exact.covariances, dim1=-2, dim2=-1).sqrt()
    return ((found.means - exact.means) / deviations).square().mean().sqrt().item()


@pytest.mark.parametrize(("d", "noise"), [(1, 0.01), (4, 0.05)])
@pytest.mark.parametrize("moves", ["auto", "pcn"])
def test_sharp_readings_against_kalman(d: int, noise: float, moves: str) -> None:
    model, n = linear(d, noise), 2_000
    _, series = jf.simulate(model, [0.3, 0.5, 1.0], seed=2)
    exact = jf.KalmanFilter(model).run(series)
    found = jf.TemperedParticleFilter(model, n, moves=moves).run(series, seed=1)
    # Five standard errors at an effective quarter of the particles.
    assert error(found, exact) < 5 / math.sqrt(n / 4)


@pytest.mark.parametrize("d", [4, 8])
def test_rotated_wells_against_the_exact_product(d: int) -> None:
    model, n = wells(d), 1_000
    _, series = jf.simulate(model, [0.5, 1.0], seed=3)
    exact = exact_wells(model).run(series)
    tempered = jf.TemperedParticleFilter(model, n).run(series, seed=1)
    block = jf.BlockParticleFilter(model, 4_000, rotation=rotation(d)).run(series, seed=1)
    for found, size in ((tempered, n), (block, 4_000)):
        assert error(found, exact) < 3 / math.sqrt(size / 4)
        assert abs(found.final.log_evidence - exact.final.log_evidence) < 5 * math.sqrt(2 * d / size)


@pytest.mark.slow
def test_evidence_is_unbiased() -> None:
    model = linear(2, 0.1)
    _, series = jf.simulate(model, [0.4, 0.8], seed=1)
    exact = jf.KalmanFilter(model).run(series).final.log_evidence
    runs = [jf.TemperedParticleFilter(model, 100).run(series, seed=seed).final.log_evidence for seed in range(16)]
    ratios = torch.tensor(runs, dtype=F64).sub(exact).exp()
    assert abs(ratios.mean().item() - 1) < 4 * ratios.std().item() / math.sqrt(len(runs))
    assert ratios.std().item() < 1


def test_weak_readings_are_weighed_as_by_the_bootstrap_filter() -> None:
    model = linear(2, 3.0)
    series = jf.ObservationSeries([0.5, 1.0], [[0.5, 0.2], [1.0, 0.0]])
    found = jf.TemperedParticleFilter(model, 500).run(series, seed=4)
    bootstrap = jf.ParticleFilter(model, 500).run(series, seed=4)
    assert torch.equal(found.means, bootstrap.means)
    assert torch.equal(found.log_evidence, bootstrap.log_evidence)


def test_starts_of_a_prior_with_two_peaks_find_the_reading() -> None:
    # One reading, so sharp and so soon that it is one of the start: the posterior is the Gaussian product.
    peaks = torch.distributions.Normal(torch.tensor([[-2.0, 2.0]], dtype=F64), 0.5)
    prior = torch.distributions.Independent(
        torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(torch.tensor([[0.5, 0.5]], dtype=F64)), peaks
        ),
        1,
    )
    model = jf.StateSpaceModel(prior, jf.LangevinSDE(jf.Quadratic(0.0, 1.0)), jf.LinearGaussian(1.0, 1e-4))
    found = jf.TemperedParticleFilter(model, 2_000).run(jf.ObservationSeries([0.0], [[2.5]]), seed=1)
    variance = 1 / (1 / 0.25 + 1e4)
    mean = variance * (2.0 / 0.25 + 2.5e4)
    assert found.means.item() == pytest.approx(mean, abs=5 * math.sqrt(variance / 500))
    evidence = math.log(0.5) - 0.5 * 0.25 / 0.2501 - 0.5 * math.log(2 * math.pi * 0.2501)
    assert found.final.log_evidence == pytest.approx(evidence, abs=5 * math.sqrt(10 / 2_000))


def test_between_walls_paths_are_reflected() -> None:
    # Brownian motion on the unit interval is at rest in the uniform law: the posterior is the likelihood, cut off.
    flat = jf.Potential(lambda x: 0 * x.sum(-1), 1, domain=(0.0, 1.0))
    prior = torch.distributions.Uniform(torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64))
    model = jf.StateSpaceModel(prior, jf.LangevinSDE(flat), jf.LinearGaussian(1.0, 0.02**2))
    n = 2_000
    found = jf.TemperedParticleFilter(model, n).run(jf.ObservationSeries([0.3], [[0.01]]), seed=1)
    x = torch.linspace(0, 1, 100_001, dtype=F64)
    density = torch.exp(-0.5 * ((0.01 - x) / 0.02).square()) / (0.02 * math.sqrt(2 * math.pi))
    mass = torch.trapezoid(density, x)
    mean = torch.trapezoid(x * density, x) / mass
    sd = (torch.trapezoid(x.square() * density, x) / mass - mean**2).sqrt().item()
    assert found.infos[0].details["acceptance_pcn"] > 0.1
    assert found.means.item() == pytest.approx(mean.item(), abs=5 * sd / math.sqrt(n / 4) + 0.05 * sd)
    assert found.final.log_evidence == pytest.approx(mass.log().item(), abs=5 * math.sqrt(10 / n))


def test_a_sensor_that_torch_cannot_differentiate_is_met_by_crank_nicolson_moves() -> None:
    model, n = linear(2, 0.1), 2_000
    gaussian = model.observation

    class Detached:
        def log_likelihood(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return gaussian.log_likelihood(y, x.detach())

        def sample(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
            return gaussian.sample(x, generator)

    _, series = jf.simulate(model, [0.4], seed=1)
    found = jf.TemperedParticleFilter(jf.StateSpaceModel(model.prior, model.sde, Detached()), n).run(series, seed=1)
    assert "acceptance_pcn" in found.infos[0].details
    assert "acceptance_hmc" not in found.infos[0].details
    assert error(found, jf.KalmanFilter(model).run(series)) < 5 / math.sqrt(n / 4)


def test_moves_reach_back_over_readings_that_are_missing() -> None:
    model, n = linear(2, 0.02), 2_000
    series = jf.ObservationSeries([0.5, 0.52, 0.54], [[0.3, 0.1], [math.nan, math.nan], [1.2, -0.5]])
    found = jf.TemperedParticleFilter(model, n).run(series, seed=1)
    assert error(found, jf.KalmanFilter(model).run(series)) < 5 / math.sqrt(n / 4)


def test_settings_that_cannot_be_used_are_named() -> None:
    model = linear(2, 0.1)
    walls = jf.StateSpaceModel(
        torch.distributions.Uniform(torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64)),
        jf.LangevinSDE(jf.Potential(lambda x: 0 * x.sum(-1), 1, domain=(0.0, 1.0))),
        jf.LinearGaussian(1.0, 0.1),
    )
    for build, name in (
        (lambda: jf.TemperedParticleFilter(model, ess=1.0), "ess"),
        (lambda: jf.TemperedParticleFilter(model, moves="nuts"), "moves"),
        (lambda: jf.TemperedParticleFilter(walls, moves="hmc"), "moves"),
        (lambda: jf.BlockParticleFilter(model, blocks=[[0]]), "blocks"),
        (lambda: jf.BlockParticleFilter(walls), "domain"),
    ):
        with pytest.raises(jf.InputError, match=name):
            build()
