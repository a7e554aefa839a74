"""The guided particle filter against Kalman filters, a dense chain of a double well, and the plain likelihood."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import Chain
from scipy.stats import norm
from torch.distributions import MultivariateNormal, Normal

import jkofilter as jf
from jkofilter.assimilation.guided_paths import guide
from jkofilter.assimilation.paths import path_map
from jkofilter.models.motion import PlannedStep
from jkofilter.numerics.heun import Linear

F64 = torch.float64


def linear(d: int, noise: float) -> jf.StateSpaceModel:
    """A full matrix of stiffness, half of the coordinates read, mixed."""
    eye = torch.eye(d, dtype=F64)
    mixed = torch.randn(d, d, generator=torch.Generator().manual_seed(d), dtype=F64)
    precision = eye + mixed @ mixed.mT / d
    sensor = jf.LinearGaussian(mixed[: (d + 1) // 2], noise**2 * torch.eye((d + 1) // 2, dtype=F64))
    prior = MultivariateNormal(torch.zeros(d, dtype=F64), eye)
    return jf.StateSpaceModel(prior, jf.LangevinSDE(jf.Quadratic(torch.ones(d, dtype=F64), precision)), sensor)


def well(noise: float, sensor: jf.models.NonlinearGaussian | None = None) -> jf.StateSpaceModel:
    observed = sensor or jf.LinearGaussian(1.0, noise**2)
    return jf.StateSpaceModel(Normal(torch.zeros(1, dtype=F64), 1.0), jf.LangevinSDE(jf.DoubleWell(1)), observed)


def chain_answers(noise: float, series: jf.ObservationSeries) -> tuple[torch.Tensor, torch.Tensor]:
    """Means (m, 1) and log evidence (m,) of ``well``, by cells of a hundredth."""
    edges = np.linspace(-4.0, 4.0, 801)
    chain = Chain(edges, (0.5 * (edges[1:] + edges[:-1])) ** 2, 1.0)
    chain = replace(chain, energy=(chain.x**2 - 1) ** 2)
    masses, now, total, rows = norm.pdf(chain.x) * chain.widths, 0.0, 0.0, []
    for time, y in zip(series.times, series.values[:, 0].tolist(), strict=True):
        masses = chain.later(masses, float(time) - now) * norm.pdf(y, chain.x, noise)
        now, total = float(time), total + math.log(masses.sum())
        masses = masses / masses.sum()
        rows.append((float(masses @ chain.x), total))
    means, evidence = torch.tensor(rows, dtype=F64).unbind(-1)
    return means.unsqueeze(-1), evidence


@pytest.mark.parametrize("d", [1, 4])
def test_sharp_readings_of_an_ornstein_uhlenbeck_process_against_kalman(d: int) -> None:
    model, n = linear(d, 0.02), 2_000
    _, series = jf.simulate(model, [0.3, 0.5, 1.0], seed=2)
    exact = jf.KalmanFilter(model).run(series)
    found = jf.GuidedParticleFilter(model, n).run(series, seed=1)
    deviations = torch.diagonal(exact.covariances, dim1=-2, dim2=-1).sqrt()
    # Five standard errors at an effective quarter of the particles.
    assert ((found.means - exact.means) / deviations).abs().max() < 5 / math.sqrt(n / 4)
    assert found.log_evidence.sub(exact.log_evidence).abs().max() < 5 * math.sqrt(len(series) * 3 / n)
    assert "least_share" in found.infos[-1].details


def test_guided_weights_leave_more_particles_than_plain_ones() -> None:
    model = linear(4, 0.02)
    _, series = jf.simulate(model, [0.3, 0.5, 1.0], seed=2)
    guided = jf.GuidedParticleFilter(model, 1_000).run(series, seed=1)
    plain = jf.ParticleFilter(model, 1_000).run(series, seed=1)
    assert min(info.ess for info in guided.infos) > 20 * min(info.ess for info in plain.infos)


def test_weights_of_a_linear_process_do_not_change_along_the_way() -> None:
    basis = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(0), dtype=F64))[0]
    rates, slope, noise = torch.tensor([1.0, 9.0], dtype=F64), torch.tensor([[1.0, 2.0]], dtype=F64), 0.01
    sde = jf.LangevinSDE(jf.Quadratic(torch.ones(2, dtype=F64), (basis * rates) @ basis.mT))
    steps = tuple(PlannedStep(h, Linear(rates, basis)) for h in (0.1, 0.05, 0.2))
    start, y = torch.randn(50, 2, generator=torch.Generator().manual_seed(1), dtype=F64), torch.tensor([0.7], dtype=F64)

    def log_likelihood(x: torch.Tensor) -> torch.Tensor:
        return MultivariateNormal(x @ slope.mT, torch.tensor([[noise]], dtype=F64)).log_prob(
            torch.tensor([y], dtype=F64)
        )

    reading = lambda x: (y - x @ slope.mT, slope), torch.tensor([[noise]], dtype=F64), log_likelihood
    equal = torch.full((50,), -math.log(50), dtype=F64)
    done = guide(path_map(sde, steps), start, equal, reading, 0.0, torch.Generator().manual_seed(2))
    assert done.ess == pytest.approx([done.ess[0]] * 4, rel=1e-9)
    assert done.ess[0] < 0.9


def test_a_double_well_against_a_dense_chain() -> None:
    noise, n = 0.1, 4_000
    series = jf.ObservationSeries([0.4, 0.8, 1.6], [[0.9], [0.2], [-1.1]])
    means, evidence = chain_answers(noise, series)
    found = jf.GuidedParticleFilter(well(noise), n).run(series, seed=1)
    sd = torch.diagonal(found.covariances, dim1=-2, dim2=-1).sqrt()
    assert ((found.means - means) / sd).abs().max() < 5 / math.sqrt(n / 8)
    # Weights of a share of an eighth have a relative variance of seven.
    assert found.log_evidence.sub(evidence).abs().max() < 5 * math.sqrt(3 * 7 / n)


@pytest.mark.slow
def test_evidence_is_unbiased() -> None:
    noise = 0.1
    series = jf.ObservationSeries([0.4, 0.8], [[0.9], [0.2]])
    exact = chain_answers(noise, series)[1][-1]
    runs = [jf.GuidedParticleFilter(well(noise), 200).run(series, seed=k).final.log_evidence for k in range(32)]
    ratios = torch.tensor(runs, dtype=F64).sub(exact).exp()
    assert abs(ratios.mean().item() - 1) < 4 * ratios.std().item() / math.sqrt(len(runs)) + 0.01
    assert ratios.std().item() < 1


def test_a_curved_sensor_sees_what_a_line_of_the_same_values_does() -> None:
    # sinh^-1 of sinh x is x: the same readings through a sensor that has to be linearised, and one that has not.
    bent = jf.NonlinearGaussian(lambda x: torch.asinh(torch.sinh(x)), 0.01)
    series = jf.ObservationSeries([0.4, 0.8], [[0.9], [0.2]])
    straight = jf.GuidedParticleFilter(well(0.1), 500).run(series, seed=1)
    curved = jf.GuidedParticleFilter(well(0.1, bent), 500).run(series, seed=1)
    assert torch.allclose(straight.means, curved.means, atol=1e-9)
    assert torch.allclose(straight.log_evidence, curved.log_evidence, atol=1e-9)


def test_weak_readings_are_weighed_as_by_the_bootstrap_filter() -> None:
    model = linear(2, 5.0)
    series = jf.ObservationSeries([0.5, 1.0], [[0.5], [1.0]])
    found = jf.GuidedParticleFilter(model, 500).run(series, seed=4)
    bootstrap = jf.ParticleFilter(model, 500).run(series, seed=4)
    assert torch.equal(found.means, bootstrap.means)
    assert torch.equal(found.log_evidence, bootstrap.log_evidence)


def test_settings_that_cannot_be_used_are_named() -> None:
    walls = jf.StateSpaceModel(
        torch.distributions.Uniform(torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64)),
        jf.LangevinSDE(jf.Potential(lambda x: 0 * x.sum(-1), 1, domain=(0.0, 1.0))),
        jf.LinearGaussian(1.0, 0.1),
    )
    counts = jf.StateSpaceModel(
        Normal(torch.zeros(1, dtype=F64), 1.0), jf.LangevinSDE(jf.DoubleWell(1)), jf.Poisson(lambda x: x.exp())
    )
    for build, name in (
        (lambda: jf.GuidedParticleFilter(linear(2, 0.1), ess=0.0), "ess"),
        (lambda: jf.GuidedParticleFilter(linear(2, 0.1), particles=1), "particles"),
        (lambda: jf.GuidedParticleFilter(walls), "domain"),
        (lambda: jf.GuidedParticleFilter(counts), "observation"),
    ):
        with pytest.raises(jf.InputError, match=name):
            build()
