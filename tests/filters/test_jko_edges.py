"""The one-dimensional JKO filter where densities end, blow up, or are too sharp or too wild to follow."""

from __future__ import annotations

import math
import time as clock
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import (
    Beta,
    Distribution,
    Exponential,
    Gamma,
    HalfNormal,
    Independent,
    LogNormal,
    Normal,
    Pareto,
    Uniform,
    constraints,
)

import jkofilter as jf
from jkofilter.numerics.mesh import without_edges


def _f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _gen() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _model(
    prior: Distribution, observation: jf.ObservationModel | None = None, potential: jf.Potential | None = None
) -> jf.StateSpaceModel:
    return jf.StateSpaceModel(
        prior,
        jf.LangevinSDE(potential or jf.Quadratic([0.0], [[1.0]])),
        observation or jf.LinearGaussian([[1.0]], [[1.0]]),
    )


NORMAL = Independent(Normal(_f64(0.0), _f64(1.0)), 1)


# Priors

EDGED = {
    "exponential": (Exponential(_f64(1.0)), 1.0, 1.0),
    "gamma 3": (Gamma(_f64(3.0), _f64(1.0)), 3.0, math.sqrt(3.0)),
    "gamma 2": (Gamma(_f64(2.0), _f64(1.0)), 2.0, math.sqrt(2.0)),
    "gamma 1/2": (Gamma(_f64(0.5), _f64(1.0)), 0.5, math.sqrt(0.5)),
    "gamma 0.3": (Gamma(_f64(0.3), _f64(1.0)), 0.3, math.sqrt(0.3)),
    "half normal": (HalfNormal(_f64(1.0)), math.sqrt(2 / math.pi), math.sqrt(1 - 2 / math.pi)),
    "log normal": (LogNormal(_f64(0.0), _f64(1.0)), math.exp(0.5), math.sqrt(math.exp(2.0) - math.exp(1.0))),
    "arcsine": (Beta(_f64(0.5), _f64(0.5)), 0.5, math.sqrt(1 / 8)),
    "pareto": (Pareto(_f64(1.0), _f64(5.0)), 1.25, math.sqrt(5.0 / 48.0)),
}


@pytest.mark.parametrize("name", EDGED)
def test_prior_with_an_edge(name: str) -> None:
    """Whether the density jumps, vanishes or is infinite there: right to 1e-3, or refused once it has to be moved."""
    prior, mean, sd = EDGED[name]
    filter = jf.JKOFilter(_model(Independent(prior, 1)))
    belief = filter.init(_gen())
    assert belief.mean.item() == pytest.approx(mean, abs=1e-3)
    assert math.sqrt(belief.covariance.item()) == pytest.approx(sd, abs=1e-3)
    try:
        later, _ = filter.predict(belief, 0.3, _gen())
    except jf.FilterError as error:
        assert "GridFilter" in str(error)  # noqa: PT017
        return
    assert later.mean.item() == pytest.approx(mean * math.exp(-0.3), abs=1.5e-3)
    assert later.covariance.item() == pytest.approx(sd**2 * math.exp(-0.6) + 1 - math.exp(-0.6), abs=1e-3)


def test_exponential_prior_all_the_way() -> None:
    """A prediction and an update, against the exact law at the reading and quadrature over it."""
    filter = jf.JKOFilter(_model(Independent(Exponential(_f64(1.0)), 1)))
    belief, _ = filter.predict(filter.init(_gen()), 0.3, _gen())
    x = np.linspace(-8.0, 25.0, 60_001)
    factor, sd = math.exp(-0.3), math.sqrt(1 - math.exp(-0.6))
    # Ornstein-Uhlenbeck: factor times an exponential, plus a normal.
    law = stats.exponnorm.pdf(x, K=factor / sd, loc=0.0, scale=sd)
    np.testing.assert_allclose(belief.log_prob(torch.from_numpy(x)[:, None]).exp().numpy(), law, rtol=0, atol=2e-3)
    belief, info = filter.update(belief, _f64(0.7), _gen())
    joint = law * stats.norm.pdf(0.7, x, 1.0)
    assert info.log_evidence == pytest.approx(math.log(np.trapezoid(joint, x)), abs=1e-3)
    assert belief.mean.item() == pytest.approx(np.trapezoid(joint * x, x) / np.trapezoid(joint, x), abs=1e-3)


def test_prior_that_the_nodes_cannot_carry_is_refused() -> None:
    filter = jf.JKOFilter(_model(Independent(Gamma(_f64(0.1), _f64(1.0)), 1)))
    with pytest.raises(jf.InputError, match=r"^prior comes out with log mass .*nodes.*\.$"):
        filter.init(_gen())


@pytest.mark.parametrize(
    ("prior", "why"),
    [
        (Independent(Normal(_f64(1e12), _f64(1.0)), 1), "too narrow for nodes in double precision"),
        (Independent(Uniform(_f64(0.0), _f64(1.0)), 1), "zero at every node"),
    ],
)
def test_prior_that_no_nodes_can_carry_says_why(prior: Distribution, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if why.startswith("zero"):
        monkeypatch.setattr("jkofilter.filters.jko_line.location", lambda model: [(1e6, 1.0)])
    with pytest.raises(jf.InputError, match=rf"^prior cannot be carried .* {why}\.$"):
        jf.JKOFilter(_model(prior)).init(_gen())


def test_edges_are_softened_without_moving_mass_far() -> None:
    """Two pieces of unlike width, one with a slope: each keeps its mass, and its density away from the edges."""

    def log_density(x: np.ndarray) -> np.ndarray:
        left, right = (x > -2.0) & (x < -1.9), (x > 1.0) & (x < 3.0)
        return np.where(left, math.log(5.0), np.where(right, np.log(np.where(right, x, 1.0) / 8.0), -np.inf))

    soft = without_edges(log_density, np.linspace(-4.0, 4.0, 401))
    for low, high, mass in ((-3.0, -0.5, 0.5), (-0.5, 5.0, 0.5)):
        x = np.linspace(low, high, 400_001)
        assert np.trapezoid(np.exp(soft(x)), x) == pytest.approx(mass, rel=1e-9)
    inside = np.array([-1.95, 1.5, 2.5])
    np.testing.assert_allclose(soft(inside), log_density(inside), atol=1e-12)


def test_a_single_point_has_no_mass() -> None:
    soft = without_edges(lambda x: np.where(x == 0.0, 0.0, -np.inf), np.linspace(-1.0, 1.0, 101))
    assert not np.isfinite(soft(np.array([-0.5, 0.0, 0.5]))).any()


def test_edge_of_a_density_too_steep_for_its_own_core() -> None:
    """Five nats are nothing to a log density of 1e18."""
    soft = without_edges(lambda x: np.where(x > 0.0, -1e18 * (x - 30.0) ** 2, -np.inf), np.linspace(-1.0, 1.0, 101))
    assert np.isfinite(soft(np.array([0.5, 1.0]))).all()


class Bare(Distribution):
    """A Student-t law with three degrees of freedom that knows a density, draws and a support, and nothing else."""

    arg_constraints = {}
    support = constraints.real_vector

    def __init__(self) -> None:
        super().__init__(event_shape=torch.Size([1]), validate_args=False)
        self._inner = Independent(torch.distributions.StudentT(_f64(3.0), _f64(0.3), _f64(0.7)), 1)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        return self._inner.log_prob(value)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> torch.Tensor:  # noqa: B008
        return self._inner.sample(sample_shape)


class Real(Bare):
    support = constraints.real
    mean, variance = _f64(0.3), _f64(3 * 0.49)


class Unsupported(Bare):
    support = property(Distribution.support.fget)


def test_prior_whose_support_is_given_number_by_number() -> None:
    belief = jf.JKOFilter(_model(Real())).init(_gen())
    assert belief.mean.item() == pytest.approx(0.3, abs=1e-4)


def test_prior_that_knows_no_moments() -> None:
    model = _model(Bare())
    assert (model.dtype, model.device) == (torch.float64, torch.device("cpu"))
    filter = jf.JKOFilter(model)
    belief, _ = filter.predict(filter.init(_gen()), 0.3, _gen())
    assert belief.mean.item() == pytest.approx(0.3 * math.exp(-0.3), abs=1e-4)


def test_prior_without_a_support_is_refused() -> None:
    with pytest.raises(jf.InputError, match=r"^prior must have a support"):
        jf.JKOFilter(_model(Unsupported())).init(_gen())


# Readings


class Box:
    """y = x + noise, evenly spread over [-half, half]."""

    def __init__(self, half: float) -> None:
        self.half = half

    def log_likelihood(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        inside = (y - x[:, 0]).abs() <= self.half
        return torch.where(inside, -math.log(2 * self.half), -math.inf).to(x)

    def sample(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return x + self.half * (2 * torch.rand(x.shape, generator=generator, dtype=x.dtype) - 1)


def _box(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x - 0.4) <= 0.5, 1.0, 0.0)


def _count(x: np.ndarray) -> np.ndarray:
    return stats.poisson.pmf(2, np.maximum(x, 0.0))


@pytest.mark.parametrize(
    ("observation", "y", "likelihood"),
    [(Box(0.5), 0.4, _box), (jf.Poisson(lambda x: x.clamp(min=0)), 2.0, _count)],
    ids=["box", "count"],
)
def test_likelihood_with_an_edge(
    observation: jf.ObservationModel, y: float, likelihood: Callable[[np.ndarray], np.ndarray]
) -> None:
    filter = jf.JKOFilter(_model(NORMAL, observation))
    belief, info = filter.update(filter.init(_gen()), _f64(y), _gen())
    x = np.linspace(-8.0, 12.0, 400_001)
    joint = stats.norm.pdf(x) * likelihood(x)
    mass = np.trapezoid(joint, x)
    mean = np.trapezoid(joint * x, x) / mass
    assert info.log_evidence == pytest.approx(math.log(mass), abs=2e-4)
    assert belief.mean.item() == pytest.approx(mean, abs=1e-3)
    assert belief.covariance.item() == pytest.approx(np.trapezoid(joint * (x - mean) ** 2, x) / mass, rel=2e-3)


@pytest.mark.parametrize("sd", [1e-7, 1e-8, 1e-10])
def test_very_sharp_reading(sd: float) -> None:
    """Ten digits are no trouble, neither for the law given the reading nor for its first steps after it."""
    filter = jf.JKOFilter(_model(NORMAL, jf.LinearGaussian([[1.0]], [[sd * sd]])))
    belief, info = filter.update(filter.init(_gen()), _f64(1.0), _gen())
    assert info.log_evidence == pytest.approx(stats.norm.logpdf(1.0), abs=1e-6)
    assert belief.mean.item() == pytest.approx(1.0, abs=1e-3 * sd)
    assert math.sqrt(belief.covariance.item()) == pytest.approx(sd, rel=1e-5)
    later, _ = filter.predict(belief, 0.1, _gen())
    assert later.mean.item() == pytest.approx(math.exp(-0.1), abs=1e-5)
    assert later.covariance.item() == pytest.approx(1 - math.exp(-0.2), rel=1e-3)


@pytest.mark.parametrize(("sd", "y"), [(1e-8, 30.0), (1e-8, 300.0), (1e-11, 1.0), (1e-14, 0.0)])
def test_reading_sharper_than_double_precision_says_so(sd: float, y: float) -> None:
    model = _model(NORMAL, jf.LinearGaussian([[1.0]], [[sd * sd]]))
    filter = jf.JKOFilter(model)
    with pytest.raises(jf.FilterError, match=r"narrower than nodes in double precision can resolve at time 0 for read"):
        filter.update(filter.init(_gen()), _f64(y), _gen())
    belief, info = jf.JKOFilter(model, on_failure="report").update(filter.init(_gen()), _f64(y), _gen())
    assert "double precision" in info.status
    assert belief.log_evidence == 0.0


# Steps


@pytest.mark.parametrize("duration", [1e-12, 1e-18])
def test_duration_that_is_nothing_against_the_step(duration: float) -> None:
    filter = jf.JKOFilter(_model(NORMAL))
    start = filter.init(_gen())
    belief, info = filter.predict(start, duration, _gen())
    assert info.status == "ok"
    assert belief.mean.item() == pytest.approx(start.mean.item(), abs=1e-10)
    assert belief.covariance.item() == pytest.approx(1.0, abs=1e-6)


def test_law_that_runs_away_fails_soon_and_names_the_potential() -> None:
    filter = jf.JKOFilter(_model(NORMAL, potential=jf.Potential(lambda x: -x.pow(4).sum(-1), 1)))
    belief = filter.init(_gen())
    start = clock.process_time()
    with pytest.raises(jf.FilterError, match="potential"):
        filter.predict(belief, 1.0, _gen())
    assert clock.process_time() - start < 20
