"""The bootstrap filter against the Kalman filter and closed forms."""

import math

import numpy as np
import pytest
import torch

import jkofilter as jf
from jkofilter.numerics.weights import log_mean_exp

F64 = torch.float64
TIMES = [0.25, 0.5, 1.0, 1.1]
VALUES = [[0.8], [-0.5], [math.nan], [1.5]]


def t(value: object) -> torch.Tensor:
    return torch.tensor(value, dtype=F64)


def model(observation: object = None) -> jf.StateSpaceModel:
    prior = torch.distributions.MultivariateNormal(t([0.0]), t([[1.0]]))
    sensor = jf.LinearGaussian(t([[1.0]]), t([[0.25]])) if observation is None else observation
    return jf.StateSpaceModel(prior, jf.LangevinSDE(jf.Quadratic(t([0.5]), t([[1.0]]))), sensor)


def series() -> jf.ObservationSeries:
    return jf.ObservationSeries(TIMES, VALUES)


@pytest.mark.parametrize("scheme", ["systematic", "stratified", "multinomial", "residual"])
def test_moments_and_evidence_against_kalman(scheme: str) -> None:
    exact = jf.KalmanFilter(model()).run(series(), until=1.4)
    n = 40_000
    found = jf.ParticleFilter(model(), particles=n, substep=5e-3, resampling=scheme).run(series(), until=1.4, seed=1)
    # ESS stays above n / 5; five standard errors of a standard deviation below one, and Euler-Maruyama's own 2e-3.
    tolerance = 5 / math.sqrt(n / 5) + 2e-3
    assert np.allclose(found.means.numpy(), exact.means.numpy(), atol=tolerance)
    assert np.allclose(found.covariances.numpy(), exact.covariances.numpy(), atol=2 * tolerance)
    assert found.final.log_evidence == pytest.approx(exact.final.log_evidence, abs=2 * tolerance)
    assert found.infos[2].status == "skipped"
    assert jf.metrics.kl(found.final, exact.final) < 2e-3


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_evidence_is_unbiased_however_often_it_resamples(threshold: float) -> None:
    exact = jf.KalmanFilter(model()).run(series()).final.log_evidence
    filter = jf.ParticleFilter(model(), particles=300, substep=0.025, ess_threshold=threshold)
    runs = torch.tensor([filter.run(series(), seed=s).final.log_evidence for s in range(150)], dtype=F64)
    ratios = torch.exp(runs - exact)
    # The mean of the evidence itself is exact; 0.02 allows for Euler-Maruyama at 0.025.
    assert log_mean_exp(runs) == pytest.approx(exact, abs=5 * ratios.std().item() / math.sqrt(150) + 0.02)


def test_weights_are_carried_between_updates() -> None:
    filter = jf.ParticleFilter(model(), particles=500, ess_threshold=0.0)
    tracker = filter.track(seed=2)
    x = tracker.belief.particles
    for y in (0.3, -0.2):
        tracker.update(y)
    log_likelihood = sum(model().observation.log_likelihood(t([y]), x) for y in (0.3, -0.2))
    assert tracker.belief.log_evidence == pytest.approx(log_mean_exp(log_likelihood), abs=1e-10)
    assert torch.allclose(tracker.belief.log_weights, log_likelihood.log_softmax(0), atol=1e-10)


def test_transition_density_is_the_mixture_of_the_last_step() -> None:
    filter = jf.ParticleFilter(model(), particles=2000, density="transition", smoothing=0.02)
    tracker = filter.track(seed=4)
    belief = tracker.predict(0.5)
    assert belief.density == "transition"
    assert belief.kernel_variance == pytest.approx(2 * 0.02)
    x = t([[-1.0], [0.4], [2.0]])
    direct = torch.distributions.Normal(belief.kernel_means.T, math.sqrt(0.04)).log_prob(x)
    assert torch.allclose(belief.log_prob(x), torch.logsumexp(direct, 1) - math.log(2000), atol=1e-9)
    assert tracker.update(0.1).density == "kde"
    # A last step as long as the whole prediction ends in half of its noise.
    assert tracker.predict(0.01).kernel_variance == pytest.approx(0.01)


def test_density_setting_leaves_the_filter_alone() -> None:
    """The smoothing kernel must not change moments or evidence beyond Monte Carlo error."""
    finals = [
        jf.ParticleFilter(model(), particles=20_000, substep=5e-3, density=d, smoothing=0.3).run(series()).final
        for d in ("transition", "kde")
    ]
    assert finals[0].log_evidence == pytest.approx(finals[1].log_evidence, abs=0.05)
    assert finals[0].mean.item() == pytest.approx(finals[1].mean.item(), abs=0.04)


@pytest.mark.parametrize("density", ["transition", "kde"])
def test_samples_follow_the_density(density: str) -> None:
    belief = jf.ParticleFilter(model(), particles=4000, density=density).track(seed=1).predict(0.3)
    draws = belief.sample(20_000, torch.Generator().manual_seed(0))
    x = torch.linspace(-8, 8, 4001, dtype=F64)
    p = belief.log_prob(x[:, None]).exp()
    mean = torch.trapezoid(p * x, x).item()
    second = torch.trapezoid(p * x * x, x).item()
    assert draws.mean().item() == pytest.approx(mean, abs=0.04)
    assert draws.square().mean().item() == pytest.approx(second, abs=0.08)
    assert belief.quantile(0.5) == pytest.approx(mean, abs=0.1)


def test_several_dimensions() -> None:
    prior = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(3, dtype=F64), 1.0), 1)
    eye = torch.eye(3, dtype=F64)
    wide = jf.StateSpaceModel(prior, jf.LangevinSDE(jf.Quadratic(torch.zeros(3), eye)), jf.LinearGaussian(eye, eye))
    readings = jf.ObservationSeries([0.2, 0.4], [[1.0, math.nan, -1.0], [0.5, 0.5, 0.5]])
    exact = jf.KalmanFilter(wide).run(readings).final
    found = jf.ParticleFilter(wide, particles=20_000, substep=0.01).run(readings, seed=6).final
    assert torch.allclose(found.mean, exact.mean, atol=0.06)
    assert torch.allclose(found.covariance, exact.covariance, atol=0.08)
    assert found.log_evidence == pytest.approx(exact.log_evidence, abs=0.06)
    assert found.log_prob(exact.mean[None]).item() == pytest.approx(exact.log_prob(exact.mean[None]).item(), abs=0.3)


def test_determinism_online_and_batch_and_global_generators() -> None:
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    filter = jf.ParticleFilter(model(), particles=200, substep=0.05)
    first, again, other = (filter.run(series(), seed=s).final for s in (1, 1, 2))
    assert torch.equal(first.particles, again.particles)
    assert not torch.equal(first.particles, other.particles)
    tracker = filter.track(seed=1)
    for time, y in zip(TIMES, VALUES, strict=True):
        tracker.predict(time - tracker.belief.time)
        tracker.update(y)
    assert torch.equal(tracker.belief.particles, first.particles)
    assert tracker.belief.log_evidence == first.log_evidence
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_zero_likelihood_names_time_and_reading_and_keeps_the_belief() -> None:
    class Impossible:
        def log_likelihood(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return torch.full((x.shape[0],), -math.inf if y[0] > 5 else 0.0, dtype=x.dtype)

        def sample(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
            return x

    tracker = jf.ParticleFilter(model(Impossible()), particles=100).track()
    before = tracker.predict(0.5)
    with pytest.raises(jf.FilterError, match=r"time 0\.5 .*9"):
        tracker.update(9.0)
    assert tracker.belief is before
    assert tracker.update(1.0).log_evidence == pytest.approx(0.0, abs=1e-12)


def test_a_reading_twenty_deviations_out_stays_finite() -> None:
    belief = jf.ParticleFilter(model(), particles=1000).track().update(20.0)
    assert math.isfinite(belief.log_evidence)
    assert torch.isfinite(belief.mean).all()
    assert torch.isfinite(belief.log_prob(t([[0.0], [20.0]]))).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("particles", 1),
        ("particles", 10.0),
        ("resampling", "roulette"),
        ("ess_threshold", 1.5),
        ("substep", 0.0),
        ("density", "histogram"),
        ("smoothing", -1.0),
    ],
)
def test_bad_settings(name: str, value: object) -> None:
    with pytest.raises(jf.InputError, match=name):
        jf.ParticleFilter(model(), **{name: value})
