"""GridFilter against closed forms: Kalman recursions, Benes, Boltzmann laws."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal, Uniform

import jkofilter as jf

EYE = torch.eye(1, dtype=torch.float64)


def normal(mean: float = 0.0, deviation: float = 1.0) -> MultivariateNormal:
    return MultivariateNormal(torch.tensor([mean], dtype=torch.float64), EYE * deviation**2)


def model(potential=None, beta=1.0, prior=None, noise=1.0, observation=None):
    potential = potential or jf.Quadratic(torch.zeros(1, dtype=torch.float64), EYE)
    observation = observation or jf.LinearGaussian(EYE, EYE * noise**2)
    return jf.StateSpaceModel(prior or normal(), jf.LangevinSDE(potential, beta), observation)


def ou(a, b, beta, mean, deviation, noise):
    potential = jf.Quadratic(torch.tensor([b], dtype=torch.float64), EYE * a)
    return model(potential, beta, normal(mean, deviation), noise)


def kalman(a, b, beta, mean, deviation, noise, times, readings):
    variance, evidence, now = deviation**2, 0.0, 0.0
    for time, y in zip(times, readings, strict=True):
        decay = math.exp(-a * (time - now))
        mean, variance, now = b + decay * (mean - b), decay**2 * variance + (1 - decay**2) / (a * beta), time
        if math.isnan(y):
            continue
        total = variance + noise**2
        evidence -= 0.5 * ((y - mean) ** 2 / total + math.log(2 * math.pi * total))
        gain = variance / total
        mean, variance = mean + gain * (y - mean), variance * (1 - gain)
    return mean, variance, evidence


def check_against_kalman(setting, times, readings, rtol=1e-4, evidence=1e-4, **options):
    result = jf.GridFilter(ou(*setting), **options).run(jf.ObservationSeries(times, readings))
    mean, variance, log_evidence = kalman(*setting, times, readings)
    assert result.final.mean.item() == pytest.approx(mean, abs=rtol * math.sqrt(variance))
    assert result.final.covariance.item() == pytest.approx(variance, rel=rtol)
    assert result.log_evidence[-1].item() == pytest.approx(log_evidence, abs=evidence)
    return result


TIMES = [0.5, 0.9, 1.5, 2.0, 2.3]
READINGS = [0.3, -1.0, math.nan, 1.2, 0.1]


@pytest.mark.parametrize("bounds", [None, (-9.0, 9.0)])
def test_ou_matches_kalman(bounds):
    check_against_kalman((1.3, 0.2, 1.0, 0.5, 0.7, 1.0), TIMES, READINGS, rtol=5e-5, evidence=5e-5, bounds=bounds)


def test_finer_settings_reach_one_part_in_a_million():
    setting = (1.3, 0.2, 1.0, 0.5, 0.7, 1.0)
    check_against_kalman(setting, TIMES[:2], READINGS[:2], rtol=5e-6, evidence=3e-6, cells=8000, step=2e-3)


@pytest.mark.parametrize("beta", [0.1, 20.0])
def test_hot_and_cold(beta):
    check_against_kalman((1.0, 0.0, beta, 0.0, 1.0, 1.0), TIMES, READINGS, rtol=3e-4, evidence=5e-4)


def test_tiny_noise_again_and_again():
    check_against_kalman((1.0, 0.0, 1.0, 0.0, 1.0, 1e-3), TIMES, READINGS, rtol=1e-5, evidence=1e-4)


def test_narrow_prior_spreads_and_wide_prior_contracts():
    check_against_kalman((1.0, 0.0, 1.0, 0.0, 1e-4, 1.0), TIMES, READINGS, evidence=2e-4)
    check_against_kalman((1.0, 0.0, 1.0, 0.0, 100.0, 1.0), TIMES, READINGS, evidence=1e-3)


def test_gap_of_a_hundred_relaxation_times():
    result = check_against_kalman((1.0, 0.0, 1.0, 0.0, 0.7, 1.0), [0.5, 100.5], [0.4, 1.0])
    # 20,000 steps of 0.005 would be right as well; the law is stationary long before.
    assert result.predict_infos[-1].details["steps"] < 4000


def test_reading_twenty_deviations_out():
    total = math.sqrt(2.0)
    check_against_kalman((1.0, 0.0, 1.0, 0.0, 1.0, 1.0), [0.5], [20 * total], rtol=1e-9, evidence=1e-9)
    # Far tails of a law on the move ask more of the scheme: they converge, at second order.
    check_against_kalman(
        (1.0, 0.0, 1.0, 0.0, 0.5, 1.0), [0.5], [26.0], rtol=1e-2, evidence=2e-2, cells=8000, step=1.25e-3
    )


def log_cosh(u):
    return np.logaddexp(u, -u) - math.log(2)


@pytest.mark.parametrize(("kappa", "beta", "noise"), [(1.0, 1.0, 1.0), (0.8, 4.0, 0.5)])
def test_benes_closed_form(kappa, beta, noise):
    # X's density is cosh(kx) N(x; m, P) / (e^{k^2 P/2} cosh(km)): h-transform of Brownian motion by cosh(kx), with
    # generator (s^2/2) f'' + s^2 k tanh(kx) f'. As a mixture: N(m +- kP, P) with weights proportional to e^{+-km}.
    m, p, evidence, now = 0.3, 0.5, 0.0, 0.0
    weights = torch.tensor([math.exp(kappa * m), math.exp(-kappa * m)], dtype=torch.float64)
    means = torch.tensor([[m + kappa * p], [m - kappa * p]], dtype=torch.float64)
    deviation = torch.tensor(math.sqrt(p), dtype=torch.float64)
    prior = MixtureSameFamily(Categorical(weights), Independent(Normal(means, deviation), 1))
    filter_ = jf.GridFilter(model(jf.LogCosh(kappa, beta), beta, prior, noise), cells=4000, step=2.5e-3)
    times, readings = [0.0, 0.5, 1.0, 1.2], [0.5, 1.0, -1.0, -2.0]
    result = filter_.run(jf.ObservationSeries(times, readings), until=2.0)
    for time, y in zip(times, readings, strict=True):
        p, now = p + 2 / beta * (time - now), time
        total = p + noise**2
        after_m, after_p = m + p / total * (y - m), p * (1 - p / total)
        evidence -= 0.5 * ((y - m) ** 2 / total + math.log(2 * math.pi * total))
        evidence += kappa**2 * (after_p - p) / 2 + log_cosh(kappa * after_m) - log_cosh(kappa * m)
        m, p = after_m, after_p
    p += 2 / beta * (2.0 - now)
    x = np.linspace(-8, 8, 401)
    exact = log_cosh(kappa * x) - 0.5 * (x - m) ** 2 / p - 0.5 * math.log(2 * math.pi * p)
    exact -= kappa**2 * p / 2 + log_cosh(kappa * m)
    density = result.final.log_prob(torch.as_tensor(x).unsqueeze(-1)).exp().numpy()
    np.testing.assert_allclose(density, np.exp(exact), atol=2e-5)
    assert result.log_evidence[-1].item() == pytest.approx(evidence, abs=1e-4)


def test_mass_moving_outwards_for_a_hundred_time_units():
    filter_ = jf.GridFilter(model(jf.LogCosh(1.0, 1.0)), cells=1000, step=0.05)
    belief, _ = filter_.predict(filter_.init(torch.Generator()), 100.0, torch.Generator())
    # |X| runs at speed 2: the modes sit near +-200 with variance near 200.
    assert belief.quantile(0.25) == pytest.approx(-200, abs=2.0)
    assert belief.covariance.item() == pytest.approx(200**2 + 200, rel=0.02)


def test_double_well_relaxes_to_its_boltzmann_law():
    filter_ = jf.GridFilter(model(jf.DoubleWell(1), 2.0))
    belief, _ = filter_.predict(filter_.init(torch.Generator()), 200.0, torch.Generator())
    x = torch.linspace(-2.5, 2.5, 5001, dtype=torch.float64)
    exact = -2.0 * (x * x - 1).square()
    exact = exact - torch.log(torch.trapezoid(exact.exp(), x))
    torch.testing.assert_close(belief.log_prob(x.unsqueeze(-1)), exact, atol=1e-6, rtol=1e-6)


def test_automatic_bounds_cover_and_resolve_both_modes_of_a_sharp_reading():
    square = jf.NonlinearGaussian(lambda x: x * x, EYE * 1e-6)
    filter_ = jf.GridFilter(model(jf.DoubleWell(1), observation=square))
    generator = torch.Generator()
    belief, _ = filter_.predict(filter_.init(generator), 0.5, generator)
    belief, _ = filter_.update(belief, torch.tensor([1.0]), generator)
    assert belief.covariance.item() == pytest.approx(1.0, abs=1e-3)
    x = torch.linspace(0.99, 1.01, 20001, dtype=torch.float64)
    half = torch.trapezoid(belief.log_prob(x.unsqueeze(-1)).exp(), x).item()
    assert half == pytest.approx(0.5, abs=1e-6)


def test_priors_that_are_not_normal():
    prior = Independent(Uniform(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)), 1)
    filter_ = jf.GridFilter(model(prior=prior))
    belief, info = filter_.predict(filter_.init(torch.Generator()), 0.5, torch.Generator())
    decay = math.exp(-1.0)
    assert belief.mean.item() == pytest.approx(0.5 * math.sqrt(decay), abs=1e-4)
    assert belief.covariance.item() == pytest.approx(decay / 12 + 1 - decay, rel=1e-3)
    assert info.status == "ok"


class Silent(MultivariateNormal):
    """A normal law that does not tell its support."""

    @property
    def support(self):
        raise NotImplementedError


def test_prior_that_does_not_tell_its_support():
    law = Silent(torch.tensor([0.4]).double(), torch.tensor([[0.09]]).double(), validate_args=False)
    belief = jf.GridFilter(model(prior=law)).init(torch.Generator())
    x = torch.linspace(-0.5, 1.3, 7, dtype=torch.float64).unsqueeze(-1)
    torch.testing.assert_close(belief.log_prob(x), law.log_prob(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("bounds", [None, (-4.0, 4.0)])
def test_belief_is_a_law(bounds):
    filter_ = jf.GridFilter(model(jf.SineQuadratic(1)), bounds=bounds)
    generator = torch.Generator().manual_seed(1)
    belief, _ = filter_.update(filter_.init(generator), torch.tensor([0.5]), generator)
    belief, _ = filter_.predict(belief, 0.5, generator)
    reach = 4.0 if bounds else 10.0
    x = torch.linspace(-reach, reach, 40001, dtype=torch.float64)
    assert torch.trapezoid(belief.log_prob(x.unsqueeze(-1)).exp(), x).item() == pytest.approx(1.0, abs=1e-6)
    draws = belief.sample(100_000, generator)
    assert draws.mean().item() == pytest.approx(belief.mean.item(), abs=0.01)
    assert draws.var().item() == pytest.approx(belief.covariance.item(), rel=0.02)
    below = x <= belief.quantile(0.3)
    mass = torch.trapezoid(belief.log_prob(x[below].unsqueeze(-1)).exp(), x[below]).item()
    assert mass == pytest.approx(0.3, abs=3e-4)
    far = belief.log_prob(torch.tensor([[50.0]], dtype=torch.float64)).item()
    assert far == -math.inf if bounds else -1e5 < far < -100


def test_fixed_bounds_keep_their_cells_and_mass():
    filter_ = jf.GridFilter(model(jf.DoubleWell(1), noise=1e-2), bounds=(-2.0, 2.0), cells=321)
    series = jf.ObservationSeries([0.5, 1.0, 1.5], [1.0, 0.9, -1.1])
    for belief in filter_.run(series, keep_beliefs=True).beliefs:
        assert (belief.low, belief.high, belief.log_density.shape) == (-2.0, 2.0, (321,))
        assert abs(belief.log_density.exp().sum().item() * belief.width - 1.0) < 1e-12


def test_missing_reading_and_zero_duration_change_nothing():
    filter_ = jf.GridFilter(model())
    generator = torch.Generator()
    belief = filter_.init(generator)
    for after, info in (
        filter_.update(belief, torch.tensor([math.nan]), generator),
        filter_.predict(belief, 0.0, generator),
    ):
        assert after is belief
        assert info.status == "skipped"


def test_deterministic_and_inputs_untouched():
    filter_ = jf.GridFilter(model(jf.SineQuadratic(1)))
    series = jf.ObservationSeries(TIMES, READINGS)
    first, second = filter_.run(series, seed=0), filter_.run(series, seed=1)
    assert torch.equal(first.final.log_density, second.final.log_density)
    belief = filter_.init(torch.Generator())
    before = belief.log_density.clone()
    filter_.update(filter_.predict(belief, 0.3, torch.Generator())[0], torch.tensor([1.0]), torch.Generator())
    assert torch.equal(belief.log_density, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bounds": (1.0, -1.0)}, "bounds must be finite with low < high"),
        ({"bounds": (0.0, math.inf)}, "bounds must be finite"),
        ({"bounds": 3.0}, "bounds must be two numbers"),
        ({"cells": 3}, "cells must be an integer of at least"),
        ({"cells": 100.5}, "cells must be an integer"),
        ({"step": 0.0}, "step must be positive"),
        ({"step": math.nan}, "step must be positive"),
        ({"model": None}, "model must be a StateSpaceModel"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(jf.InputError, match=message):
        jf.GridFilter(**{"model": model(), **options})


def test_bad_potentials_priors_and_readings():
    broken = jf.Potential(lambda x: torch.where(x[..., 0].abs() < 1, 0.0 * x[..., 0], torch.nan), 1)
    narrow = normal(0.0, 0.1)
    with pytest.raises(jf.InputError, match="potential is not finite at x"):
        jf.GridFilter(model(broken, prior=narrow), bounds=(-2.0, 2.0))
    filter_ = jf.GridFilter(model(broken, prior=narrow))
    with pytest.raises(jf.InputError, match="potential is not finite at x"):
        filter_.predict(filter_.init(torch.Generator()), 1.0, torch.Generator())
    shapeless = jf.Potential(lambda x: x.sum(-1) if x.shape[0] < 1000 else x, 1)
    with pytest.raises(jf.InputError, match="potential must map points"):
        jf.GridFilter(model(shapeless), bounds=(-2.0, 2.0))
    prior = Independent(Uniform(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)), 1)
    with pytest.raises(jf.InputError, match="bounds hold no mass of the prior"):
        jf.GridFilter(model(prior=prior), bounds=(2.0, 3.0)).init(torch.Generator())

    class Window:
        def log_likelihood(self, y, x):
            return torch.where((x[:, 0] - y).abs() < 1e-3, 0.0, -torch.inf)

        def sample(self, x, generator):
            return x

    filter_ = jf.GridFilter(model(observation=Window()), bounds=(-2.0, 2.0))
    with pytest.raises(jf.FilterError, match="zero"):
        filter_.update(filter_.init(torch.Generator()), torch.tensor([5.0]), torch.Generator())
    other = jf.GridFilter(model(), bounds=(-1.0, 1.0)).init(torch.Generator())
    with pytest.raises(jf.InputError, match="belief must lie on this filter's own bounds"):
        filter_.predict(other, 1.0, torch.Generator())
