"""The one-dimensional JKO filter against closed forms and quadrature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest
import torch
from oracles import (
    Array,
    Benes,
    Law,
    OrnsteinUhlenbeck,
    bayes_by_quadrature,
    gaussian_jko_step,
    law_of,
)
from scipy import stats
from torch.distributions import Cauchy, Distribution, Independent, Laplace, Normal, StudentT, Uniform, constraints

import jkofilter as jf

OU = OrnsteinUhlenbeck(rate=1.3, centre=0.4, beta=1.7, mean=-0.5, variance=0.64, noise=0.25)


def _f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _gen() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _normal(mean: float, sd: float) -> Independent:
    return Independent(Normal(_f64(mean), _f64(sd)), 1)


def _model(prior: Distribution, potential: jf.Potential, beta: float = 1.0, noise: float = 0.25) -> jf.StateSpaceModel:
    return jf.StateSpaceModel(prior, jf.LangevinSDE(potential, beta), jf.LinearGaussian([[1.0]], [[noise]]))


def _ou_model(ou: OrnsteinUhlenbeck) -> jf.StateSpaceModel:
    prior = _normal(ou.mean, math.sqrt(ou.variance))
    return _model(prior, jf.Quadratic([ou.centre], [[ou.rate]]), ou.beta, ou.noise)


def _predicted(filter: jf.JKOFilter, duration: float, start: jf.Belief | None = None) -> jf.Belief:
    return filter.predict(start or filter.init(_gen()), duration, _gen())[0]


def _density(belief: jf.Belief, x: Array) -> Array:
    return belief.log_prob(torch.from_numpy(x).unsqueeze(-1)).exp().numpy()


# Orders of convergence


def _slope(
    scheme: str, filter: dict, counts: Sequence[int], start: jf.Belief, exact: jf.Belief, duration: float
) -> float:
    """Minus the slope of log error against log number of steps; the error is rms in log density under ``exact``."""
    x = torch.linspace(-2.5, 2.5, 501, dtype=torch.float64).unsqueeze(-1)
    weights = torch.softmax(exact.log_prob(x), 0)
    errors = []
    for n in counts:
        run = jf.JKOFilter(scheme=scheme, step=duration / n, tolerance=None, **filter)
        belief, info = run.predict(start, duration, _gen())
        assert info.details["steps"] >= n
        errors.append(math.sqrt(float((belief.log_prob(x) - exact.log_prob(x)).square() @ weights)))
    return -float(np.polyfit(np.log(counts), np.log(errors), 1)[0])


@pytest.fixture(scope="module")
def smooth_double_well() -> tuple[dict, jf.Belief, jf.Belief]:
    """A law that has flowed for a while, so that no initial layer hides the order, and where fine steps take it."""
    common = {"model": _model(_normal(0.3, 0.8), jf.DoubleWell(1), beta=0.5), "nodes": 800}
    start = _predicted(jf.JKOFilter(scheme="sdirk4", step=0.005, tolerance=None, **common), 0.2)
    exact = _predicted(jf.JKOFilter(scheme="sdirk4", step=0.4 / 160, tolerance=None, **common), 0.4, start)
    return common, start, exact


@pytest.mark.parametrize(
    ("scheme", "order", "counts"),
    [("implicit-euler", 1, (8, 16, 32)), ("sdirk2", 2, (8, 16, 32)), ("bdf2", 2, (16, 32, 64))],
)
def test_order_on_a_double_well(scheme: str, order: int, counts: Sequence[int], smooth_double_well: tuple) -> None:
    common, start, exact = smooth_double_well
    assert _slope(scheme, common, counts, start, exact, 0.4) == pytest.approx(order, abs=0.2)


def test_fourth_order_scheme_on_a_double_well_keeps_more_than_third(smooth_double_well: tuple) -> None:
    """Stiff problems cost a method of stage order one up to an order (Hairer & Wanner, IV.15): 3 to 4 is right."""
    common, start, exact = smooth_double_well
    assert 3.2 < _slope("sdirk4", common, (4, 8, 16), start, exact, 0.4) < 4.2


def test_fourth_order_where_the_flow_is_not_stiff() -> None:
    """Gaussian laws move by affine maps: two numbers, exactly known."""
    filter, duration = {"model": _ou_model(OU)}, 1.6
    start = jf.JKOFilter(**filter).init(_gen())
    factor, added = OU.transition(duration)
    errors = []
    for n in (2, 4, 8):
        belief = _predicted(jf.JKOFilter(scheme="sdirk4", step=duration / n, tolerance=None, **filter), duration, start)
        errors.append(abs(belief.mean.item() - (OU.centre + factor * (OU.mean - OU.centre))))
    assert np.diff(-np.log2(errors)) == pytest.approx([4.0, 4.0], abs=0.2)


# Closed forms


@pytest.mark.parametrize("tau", [0.01, 0.1, 0.4])
def test_one_classical_step_of_a_gaussian(tau: float) -> None:
    filter = jf.JKOFilter(_ou_model(OU), step=tau, scheme="implicit-euler", tolerance=None)
    belief, info = filter.predict(filter.init(_gen()), tau, _gen())
    mean, deviation = gaussian_jko_step(OU.mean, math.sqrt(OU.variance), OU.rate, OU.centre, OU.beta, tau)
    assert info.details["steps"] == 1
    assert belief.mean.item() == pytest.approx(mean, abs=1e-8)
    assert math.sqrt(belief.covariance.item()) == pytest.approx(deviation, abs=1e-8)


def test_ornstein_uhlenbeck_with_updates() -> None:
    rng = np.random.default_rng(0)
    times, readings = np.cumsum(rng.uniform(0.05, 0.8, 15)), rng.normal(0.0, 1.0, 15)
    result = jf.JKOFilter(_ou_model(OU), step=0.1, scheme="sdirk4").run(jf.ObservationSeries(times, readings))
    means, variances, evidence = OU.kalman(times, readings)
    np.testing.assert_allclose(result.means[:, 0], means, rtol=0, atol=1e-5)
    np.testing.assert_allclose(result.covariances[:, 0, 0], variances, rtol=0, atol=1e-5)
    np.testing.assert_allclose(result.log_evidence, evidence, rtol=0, atol=1e-5)


def test_benes_with_updates() -> None:
    beta, noise, law = 1.5, 0.25, Benes(kappa=1.2, m=0.3, P=0.4)
    tracker = jf.JKOFilter(_model(law.prior(), jf.LogCosh(1.2, beta), beta, noise), step=0.1, scheme="sdirk4").track()
    x, now = np.linspace(-9, 9, 1801), 0.0
    np.testing.assert_allclose(_density(tracker.belief, x), np.exp(law.log_density(x)), rtol=0, atol=1e-6)
    for time, y in [(0.3, 1.0), (0.8, -0.4), (1.0, 0.6), (2.0, 2.0)]:
        belief, law = tracker.predict(time - now), law.predict(time - now, beta)
        np.testing.assert_allclose(_density(belief, x), np.exp(law.log_density(x)), rtol=0, atol=1e-4)
        belief, law, now = tracker.update(y), law.update(y, noise), time
        np.testing.assert_allclose(_density(belief, x), np.exp(law.log_density(x)), rtol=0, atol=1e-4)
        assert belief.log_evidence == pytest.approx(law.log_evidence, abs=1e-4)


@pytest.mark.parametrize(
    ("potential", "beta", "relaxed"),
    [(jf.DoubleWell(1), 1.0, 40.0), (jf.DoubleWell(1), 0.3, 20.0), (jf.SineQuadratic(1), 1.0, 60.0)],
    ids=["double-well", "hot-double-well", "sine"],
)
def test_stationary_law_is_reached_and_stays(potential: jf.Potential, beta: float, relaxed: float) -> None:
    filter = jf.JKOFilter(_model(_normal(0.2, 1.0), potential, beta))
    x = np.linspace(-10, 10, 40_001)
    energy = -beta * potential(torch.from_numpy(x).unsqueeze(-1)).numpy()
    exact = np.exp(energy) / np.trapezoid(np.exp(energy), x)
    log_exact = energy - math.log(np.trapezoid(np.exp(energy), x))
    reached = _predicted(filter, relaxed)
    stayed = _predicted(filter, 10.0, reached)
    for belief in (reached, stayed):
        log_density = belief.log_prob(torch.from_numpy(x).unsqueeze(-1)).numpy()
        assert np.trapezoid(exact * (log_exact - log_density), x) < 1e-6
    here = torch.from_numpy(x[exact > 1e-6]).unsqueeze(-1)
    assert (reached.log_prob(here) - stayed.log_prob(here)).abs().max() < 1e-4


# Extremes. Truncation per step is held to 5e-5 nats of log density (the default tolerance), ten to twenty steps a gap:
# 1e-3 in mean / sd and sd. Evidence -z^2/2 multiplies a relative error of the spread by z^2, hence "relative to the
# evidence"; sdirk4 is ten times nearer at least.

EXTREMES = {
    "reading-20-sd-out": (OU, [0.5, 1.0, 1.5], [0.3, 19.0, 0.1]),
    "reading-20-sd-out-sharp": (
        OrnsteinUhlenbeck(1.0, 0.0, 1.0, 0.0, 1.0, noise=0.01),
        [0.5, 1.0, 1.5],
        [0.3, 16.0, 0.1],
    ),
    "noise-sd-1e-3": (OrnsteinUhlenbeck(1.0, 0.0, 1.0, 0.0, 1.0, noise=1e-6), [0.5, 1.0, 1.5], [0.3, 0.7, -0.4]),
    "noise-sd-1e-3-and-9-sd-out": (OrnsteinUhlenbeck(1.0, 0.0, 1.0, 0.0, 1.0, noise=1e-6), [0.0, 0.1], [9.0, 8.0]),
    "gap-of-100-relaxation-times": (OrnsteinUhlenbeck(1.0, 0.0, 1.0, 0.0, 1.0), [0.5, 100.5, 101.0], [0.3, 0.7, -0.4]),
    "hot-beta-0.1": (OrnsteinUhlenbeck(1.0, 0.0, 0.1, 0.0, 1.0), [0.5, 1.0, 1.5], [0.3, 2.7, -1.4]),
    "cold-beta-20": (OrnsteinUhlenbeck(1.0, 0.0, 20.0, 0.0, 1.0, noise=0.25), [0.5, 1.0, 1.5], [0.3, 0.7, -0.4]),
    "steep-rate-100": (OrnsteinUhlenbeck(100.0, 0.0, 1.0, 0.0, 1.0, noise=0.25), [0.5, 1.0, 1.5], [0.3, 0.7, -0.4]),
    "shallow-rate-1e-3": (OrnsteinUhlenbeck(1e-3, 0.0, 1.0, 0.0, 1.0), [0.5, 1.0, 1.5], [0.3, 0.7, -0.4]),
    "far-from-home": (OrnsteinUhlenbeck(1.0, 1e4, 1.0, 1e4, 1.0), [0.5, 1.0, 1.5], [1e4 + 0.3, 1e4 + 0.7, 1e4 - 1.0]),
}


@pytest.mark.parametrize(("scheme", "error"), [("sdirk2", 1e-3), ("sdirk4", 1e-4)])
@pytest.mark.parametrize("name", EXTREMES)
def test_extremes_against_kalman(name: str, scheme: str, error: float) -> None:
    ou, times, readings = EXTREMES[name]
    result = jf.JKOFilter(_ou_model(ou), scheme=scheme).run(jf.ObservationSeries(times, readings), keep_beliefs=True)
    means, variances, evidence = ou.kalman(times, readings)
    sd = np.sqrt(variances)
    # How many of its own standard deviations a reading moves the mean multiplies an error of the spread.
    drag = 1.0 + np.sqrt(2 * np.abs(evidence))
    assert (np.abs(result.means[:, 0].numpy() - means) < error * drag * sd).all()
    assert (np.abs(result.covariances[:, 0, 0].sqrt().numpy() - sd) < error * sd).all()
    assert (np.abs(result.log_evidence.numpy() - evidence) < error * (1.0 + np.abs(evidence))).all()
    for belief, mean, deviation in zip(result.beliefs, means, sd, strict=True):
        law = law_of(belief.log_prob, mean - 11 * deviation, mean + 11 * deviation, 4_001)
        assert law.mass == pytest.approx(1.0, abs=1e-6)


@pytest.mark.slow
def test_thousand_readings() -> None:
    rng = np.random.default_rng(1)
    times = np.cumsum(rng.exponential(0.3, 1_000))
    readings = rng.normal(0.4, 0.9, 1_000)
    result = jf.JKOFilter(_ou_model(OU)).run(jf.ObservationSeries(times, readings))
    means, variances, evidence = OU.kalman(times, readings)
    assert (np.abs(result.means[:, 0].numpy() - means) < 2e-3 * np.sqrt(variances)).all()
    np.testing.assert_allclose(result.covariances[:, 0, 0], variances, rtol=2e-3)
    assert result.log_evidence[-1].item() == pytest.approx(evidence[-1], rel=1e-3)


def test_support_grows_and_shrinks_by_itself() -> None:
    """Nodes reach ten standard deviations on either side (mass beyond: 1e-23) and not a hundred, at all times."""
    ou = OrnsteinUhlenbeck(rate=0.5, centre=30.0, beta=0.02, mean=0.0, variance=1e-4, noise=1e-2)
    tracker = jf.JKOFilter(_ou_model(ou)).track()
    widths = []
    for step in (0.0, 0.01, 1.0, 20.0, None, 0.5):
        belief = tracker.update(40.0) if step is None else tracker.predict(step)
        mean, sd = belief.mean.item(), math.sqrt(belief.covariance.item())
        low, high = belief.nodes[0].item(), belief.nodes[-1].item()
        assert mean - 100 * sd < low < mean - 10 * sd
        assert mean + 10 * sd < high < mean + 100 * sd
        widths.append(high - low)
    assert widths[0] < widths[1] < widths[2] < widths[3]
    assert widths[4] < 0.1 * widths[3]


# The belief as a law


@pytest.fixture(scope="module")
def bimodal() -> tuple[jf.Belief, Law]:
    belief = _predicted(jf.JKOFilter(_model(_normal(0.2, 0.5), jf.DoubleWell(1), beta=3.0)), 0.7)
    return belief, law_of(belief.log_prob, -4.0, 4.0)


def test_log_prob_integrates_to_one_and_falls_off(bimodal: tuple[jf.Belief, Law]) -> None:
    belief, law = bimodal
    assert law.mass == pytest.approx(1.0, abs=1e-7)
    far = belief.log_prob(_f64(-1e6, -100.0, 100.0, 1e6).unsqueeze(-1))
    assert torch.isfinite(far).all()
    assert (far < -100).all()
    assert belief.mean.item() == pytest.approx(law.mean, abs=1e-6)
    assert belief.covariance.item() == pytest.approx(law.variance, rel=1e-6)


def test_quantiles_invert_the_distribution_function(bimodal: tuple[jf.Belief, Law]) -> None:
    belief, law = bimodal
    levels = np.array([1e-6, 1e-3, 0.05, 0.25, 0.5, 0.75, 0.95, 0.999, 1 - 1e-6])
    found = np.array([belief.quantile(float(q)) for q in levels])
    np.testing.assert_allclose(law.cdf(found), levels, rtol=0, atol=1e-6)
    assert (np.diff(found) > 0).all()


def test_samples_follow_the_density(bimodal: tuple[jf.Belief, Law]) -> None:
    belief, law = bimodal
    draws = belief.sample(50_000, torch.Generator().manual_seed(5)).numpy()[:, 0]
    assert stats.kstest(draws, law.cdf).pvalue > 1e-4


# Priors and sensors that are not smooth


def _ou_after(prior: Distribution, points: Array, duration: float, x: Array) -> tuple[jf.Belief, Array]:
    """The filter's law under OU from ``prior``, and the exact density by quadrature over ``points``."""
    model = _model(Independent(prior, 1), jf.Quadratic([OU.centre], [[OU.rate]]), OU.beta)
    belief = _predicted(jf.JKOFilter(model, scheme="sdirk4"), duration)
    exact = OU.density(lambda z: prior.log_prob(torch.from_numpy(z)).exp().numpy(), points, duration, x)
    return belief, exact


def test_heavy_tailed_prior() -> None:
    side = np.geomspace(1e-3, 400, 4_000)
    points, x = np.concatenate([-side[::-1], [0.0], side]) + 0.3, np.linspace(-5, 5, 501)
    belief, exact = _ou_after(StudentT(_f64(3.0), _f64(0.3), _f64(0.7)), points, 0.3, x)
    np.testing.assert_allclose(_density(belief, x), exact, rtol=0, atol=1e-4)
    factor, added = OU.transition(0.3)
    assert belief.mean.item() == pytest.approx(OU.centre + factor * (0.3 - OU.centre), abs=1e-4)


@pytest.mark.parametrize(
    "prior",
    [
        StudentT(_f64(1.5), _f64(0.3), _f64(0.7)),
        StudentT(_f64(2.0), _f64(0.3), _f64(0.7)),
        Cauchy(_f64(0.0), _f64(1.0)),
    ],
    ids=["student-without-variance", "student-of-two", "cauchy"],
)
def test_prior_that_knows_it_has_no_moments_is_refused_by_name(prior: Distribution) -> None:
    """Nodes cannot carry such tails: with two degrees of freedom the density would be off by a quarter of itself."""
    with pytest.raises(jf.InputError, match="^prior must have a finite mean and variance .*; cut off its tails.$"):
        jf.JKOFilter(_model(Independent(prior, 1), jf.Quadratic([0.0], [[1.0]]))).init(_gen())


class Logistic(Distribution):
    """F(x) = 1 / (1 + exp(-(x - 40) / 2)), which tells neither mean nor variance, and stands far from zero."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(self) -> None:
        super().__init__(event_shape=torch.Size([1]))

    def sample(self, sample_shape: torch.Size = torch.Size()) -> torch.Tensor:  # noqa: B008
        return 40 + 2 * torch.logit(torch.rand(*sample_shape, 1, dtype=torch.float64))

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        z = (value[..., 0] - 40) / 2
        return -z - 2 * torch.nn.functional.softplus(-z) - math.log(2)


@pytest.mark.parametrize("build", [jf.JKOFilter, jf.GridFilter])
def test_prior_that_does_not_tell_its_moments_is_found_by_its_draws(build: type[jf.JKOFilter]) -> None:
    """A logistic law of scale 2 has mean 40 and variance (2 pi)^2 / 3."""
    belief = build(_model(Logistic(), jf.Quadratic([0.0], [[1.0]]))).init(_gen())
    assert belief.mean.item() == pytest.approx(40, abs=1e-3)
    assert belief.covariance.item() == pytest.approx((2 * math.pi) ** 2 / 3, rel=1e-3)


def test_prior_with_a_kink() -> None:
    points = np.concatenate([np.linspace(-25, 0.3, 4_001), np.linspace(0.3, 25, 4_001)[1:]])
    x = np.linspace(-5, 5, 501)
    belief, exact = _ou_after(Laplace(_f64(0.3), _f64(0.7)), points, 0.3, x)
    np.testing.assert_allclose(_density(belief, x), exact, rtol=0, atol=5e-4)
    factor, added = OU.transition(0.3)
    assert belief.mean.item() == pytest.approx(OU.centre + factor * (0.3 - OU.centre), abs=1e-4)
    assert belief.covariance.item() == pytest.approx(factor**2 * 0.98 + added, rel=1e-3)


def test_hard_edged_prior() -> None:
    """The edge is smoothed over a two-hundredth of the support; done evenly, that moves no moment by more than 1e-3."""
    belief, exact = _ou_after(Uniform(_f64(-1.0), _f64(1.5)), np.linspace(-1, 1.5, 4_001), 0.3, np.linspace(-4, 4, 401))
    np.testing.assert_allclose(_density(belief, np.linspace(-4, 4, 401)), exact, rtol=0, atol=1e-3)
    factor, added = OU.transition(0.3)
    assert belief.mean.item() == pytest.approx(OU.centre + factor * (0.25 - OU.centre), abs=1e-3)
    assert belief.covariance.item() == pytest.approx(factor**2 * 2.5**2 / 12 + added, rel=1e-3)


def test_sharp_reading_of_the_square() -> None:
    """y = x^2 + N(0, 1e-2^2): two needles at -1 and 1, with a trough of thousands of nats between them."""
    model = jf.StateSpaceModel(
        _normal(0.3, 1.0), jf.LangevinSDE(jf.DoubleWell(1)), jf.NonlinearGaussian(torch.square, [[1e-4]])
    )
    filter = jf.JKOFilter(model, scheme="sdirk4")
    belief, info = filter.update(filter.init(_gen()), _f64(1.0), _gen())
    # Six standard deviations of 0.005 on either side of each needle, and hardly a point between.
    points = np.concatenate([np.linspace(-1.08, -0.92, 8_001), [0.0], np.linspace(0.92, 1.08, 8_001)])
    evidence, law = bayes_by_quadrature(
        lambda x: stats.norm.logpdf(x, 0.3, 1.0) + stats.norm.logpdf(1.0, x * x, 1e-2), points
    )
    assert info.log_evidence == pytest.approx(evidence, abs=1e-5)
    np.testing.assert_allclose(_density(belief, points), law.density, rtol=0, atol=1e-4 * law.density.max())
    assert belief.mean.item() == pytest.approx(law.mean, abs=1e-5)
    assert belief.covariance.item() == pytest.approx(law.variance, rel=1e-5)
    # Both wells are kept while the needles spread.
    later = law_of(_predicted(filter, 0.01, belief).log_prob, -4.0, 4.0)
    assert later.mass == pytest.approx(1.0, abs=1e-6)
    left = law.cdf(np.array([0.0]))[0]
    assert 0.1 < left < 0.9
    assert later.cdf(np.array([0.0]))[0] == pytest.approx(left, abs=1e-5)
