"""What was wrong on the line with status ok: right values by independent oracles, or an error or a note that says so.

Issue 14, kinds 5 and 6, and the normalisation of issue 13.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from line_problems import chain_law, gen, model_of, normal, predicted, quantile_of
from scipy import integrate, stats
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import jkofilter as jf
from jkofilter.filters import jko_line

# --- the density that is evaluated is the one that is normalised -----------------------------------------------------


def _sine_after_readings() -> jf.Belief:
    model = jf.StateSpaceModel(
        normal(0.0, 1.0), jf.LangevinSDE(jf.SineQuadratic(1)), jf.LinearGaussian([[1.0]], [[1.0]])
    )
    return jf.JKOFilter(model).run(jf.ObservationSeries([0.5, 1.0], [1.0, -0.4]), until=1.3).final


LAWS: dict[str, Callable[[], jf.Belief]] = {
    "sine": _sine_after_readings,
    "double well": lambda: predicted(jf.JKOFilter(model_of(lambda x: (x * x - 1) ** 2 / 4, 3.0, 0.2, 0.25)), 0.7),
    "sharp reading": lambda: jf.JKOFilter(model_of(lambda x: x * x / 2, 1.0, 0.0, 1.0, 1e-6)).track().update(0.7),
    "kinked": lambda: predicted(jf.JKOFilter(model_of(lambda x: 2 * x.abs(), 1.5, 0.5, 0.2)), 0.3),
}


@pytest.mark.parametrize("name", LAWS)
def test_log_prob_itself_has_mass_one_and_the_moments_and_quantiles_told(name: str) -> None:
    """By adaptive quadrature between the nodes and far beyond them."""
    belief = LAWS[name]()
    mean, sd = belief.mean.item(), math.sqrt(belief.covariance.item())

    def moment(power: int, low: float, high: float) -> float:
        def integrand(x: float) -> float:
            density = math.exp(belief.log_prob(torch.tensor([[x]], dtype=torch.float64)).item())
            return ((x - mean) / sd) ** power * density

        joints = np.unique(np.clip(mean + sd * np.linspace(-16, 16, 65), low, high))
        return sum(
            integrate.quad(integrand, a, b, epsabs=1e-12, epsrel=1e-11, limit=400)[0]
            for a, b in zip(joints, joints[1:], strict=False)
        )

    low, high = mean - 16 * sd, mean + 16 * sd
    assert moment(0, low, high) == pytest.approx(1.0, abs=1e-9)
    assert moment(1, low, high) == pytest.approx(0.0, abs=1e-8)
    assert moment(2, low, high) == pytest.approx(1.0, abs=1e-8)
    for level in (0.01, 0.5, 0.999):
        assert moment(0, low, belief.quantile(level)) == pytest.approx(level, abs=1e-9)


# --- invented tails --------------------------------------------------------------------------------------------------


def _waves(x: Tensor) -> Tensor:
    return torch.cos(2 * math.pi * x)


@pytest.mark.parametrize(("durations", "nodes"), [((2.0,), 400), ((2.0,), 200), ((1.0,) * 6, 400)])
def test_a_rough_potential_grows_no_tails(durations: tuple[float, ...], nodes: int) -> None:
    """Two units from N(0, 4) at beta 2: sd 2.117, .001 quantile -6.55, by the chain."""
    x, masses = chain_law(_waves, 2.0, 0.0, 4.0, sum(durations), (-18.0, 18.0), 1800)
    sd = math.sqrt(masses @ x**2)
    belief = predicted(jf.JKOFilter(model_of(_waves, 2.0, 0.0, 4.0), nodes=nodes), *durations)
    assert math.sqrt(belief.covariance.item()) == pytest.approx(sd, rel=1e-3)
    for level in (1e-5, 1e-3, 0.3, 0.999):
        assert belief.quantile(level) == pytest.approx(quantile_of(x, masses, level), abs=0.02)
    if len(durations) == 1:
        assert sd == pytest.approx(2.117, abs=1e-3)


def test_a_second_solution_that_is_another_is_an_error_or_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps made half as long in secret: the law comes out too young, and its examination says so."""
    honest = jf.JKOFilter(model_of(lambda x: x * x / 2, 1.0, 2.0, 0.01))
    belief, info = honest.predict(honest.init(gen()), 0.5, gen())
    assert info.note == ""
    assert info.details["second_solution"] < 1e-2
    flow = jko_line.flow
    monkeypatch.setattr(jko_line, "flow", lambda density, duration, *rest: flow(density, 0.5 * duration, *rest))
    with pytest.raises(jf.FilterError, match=r"second solution, on cells, 1\.21\d and .*GridFilter"):
        honest.predict(honest.init(gen()), 0.5, gen())


def test_fixed_steps_that_are_too_long_are_noted() -> None:
    """One implicit Euler step of .8 instead of e^{-.8}: mean 2/1.8 for .899."""
    model = model_of(lambda x: x * x / 2, 1.0, 2.0, 0.01)
    filter = jf.JKOFilter(model, step=0.8, scheme="implicit-euler", tolerance=None)
    belief, info = filter.predict(filter.init(gen()), 0.8, gen())
    assert belief.mean.item() == pytest.approx(2 / 1.8, abs=1e-6)
    assert info.status == "ok"
    # 2 e^{-.8} = .89866
    assert re.search(r"second solution, on cells, 0\.898\d", info.note)


# --- readings beyond what is resolved --------------------------------------------------------------------------------

WELL = jf.StateSpaceModel(normal(1.0, 0.1), jf.LangevinSDE(jf.DoubleWell(1), 3.0), jf.LinearGaussian([[1.0]], [[0.01]]))
MODES = jf.StateSpaceModel(
    MixtureSameFamily(
        Categorical(torch.ones(2).double()),
        MultivariateNormal(torch.tensor([[-20.0], [20.0]]).double(), 0.05 * torch.eye(1).double().expand(2, 1, 1)),
    ),
    jf.LangevinSDE(jf.Quadratic([0.0], [[1.0]])),
    jf.LinearGaussian([[1.0]], [[0.25]]),
)


@pytest.mark.parametrize("filter", [jf.JKOFilter, jf.GridFilter])
@pytest.mark.parametrize(("y", "nats"), [(8.0, 300.0), (1e4, 1000.0)])
def test_a_reading_far_beyond_the_belief_is_noted_and_the_tracker_goes_on(
    filter: type[jf.Filter], y: float, nats: float
) -> None:
    tracker = filter(WELL).track()
    tracker.predict(0.5)
    tracker.update(1.0)
    assert tracker.info.note == ""
    assert 0.5 < tracker.info.surprise < 1.0
    tracker.predict(0.5)
    tracker.update(y)
    assert tracker.info.note.startswith("the reading lies beyond what the belief resolves: the posterior sits ")
    assert float(tracker.info.note.split("sits ")[1].split(" nats")[0]) > nats
    assert tracker.info.surprise < 1e-100
    fresh = filter(WELL).track()
    fresh.predict(0.5)
    tracker.predict(0.5)
    # Half a unit relaxes the well of curvature 2 from wherever the glitch has put the law.
    assert tracker.belief.mean.item() == pytest.approx(fresh.belief.mean.item(), abs=0.1)
    assert tracker.update(1.0).mean.item() == pytest.approx(1.0, abs=0.01)
    assert tracker.info.note == ""


@pytest.mark.parametrize("filter", [jf.JKOFilter, jf.GridFilter])
def test_a_reading_in_the_trough_between_far_modes_is_noted(filter: type[jf.Filter]) -> None:
    """Ornstein-Uhlenbeck takes +-20 to +-12.13, variance .65: the log evidence of .5 is -76.67, and both are off it."""
    tracker = filter(MODES).track()
    tracker.predict(0.5)
    tracker.update(0.5)
    factor = math.exp(-0.5)
    variance = 0.05 * factor**2 + 1 - factor**2
    parts = stats.norm.logpdf(0.5, factor * np.array([-20.0, 20.0]), math.sqrt(variance + 0.25)) - math.log(2)
    assert abs(tracker.info.log_evidence - np.logaddexp(*parts)) > 1
    assert "beyond what the belief resolves" in tracker.info.note


def test_a_reading_far_out_on_the_plane_is_noted() -> None:
    eye = torch.eye(2).double()
    model = jf.StateSpaceModel(
        MultivariateNormal(torch.zeros(2).double(), 0.1 * eye),
        jf.LangevinSDE(jf.DoubleWell(2), 3.0),
        jf.LinearGaussian(eye, 0.01 * eye),
    )
    tracker = jf.GridFilter(model, cells=60).track()
    tracker.update([0.1, -0.1])
    assert tracker.info.note == ""
    tracker.update([6.0, 0.0])
    assert "beyond what the belief resolves" in tracker.info.note


# --- surprise --------------------------------------------------------------------------------------------------------

SENSORS: dict[str, tuple[jf.ObservationModel, float, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]]] = {
    "gaussian": (
        jf.LinearGaussian([[2.0]], [[0.25]]),
        3.0,
        lambda x: (stats.norm.cdf(3.0, 2 * x, 0.5), stats.norm.sf(3.0, 2 * x, 0.5)),
    ),
    "student": (
        jf.StudentT(lambda x: x, 0.5, 4.0),
        -4.0,
        lambda x: (stats.t.cdf(-4.0, 4, x, 0.5), stats.t.sf(-4.0, 4, x, 0.5)),
    ),
    "count": (
        jf.Poisson(torch.exp),
        12.0,
        lambda x: (stats.poisson.cdf(12, np.exp(x)), stats.poisson.sf(11, np.exp(x))),
    ),
    "no count": (
        jf.Poisson(torch.exp),
        0.0,
        lambda x: (stats.poisson.cdf(0, np.exp(x)), np.ones_like(x)),
    ),
    "volatility": (
        jf.StochasticVolatility(),
        3.5,
        lambda x: (stats.norm.cdf(3.5, 0, np.exp(x / 2)), stats.norm.sf(3.5, 0, np.exp(x / 2))),
    ),
}


@pytest.mark.parametrize("filter", [jf.JKOFilter, jf.GridFilter])
@pytest.mark.parametrize("name", SENSORS)
def test_surprise_is_the_two_sided_predictive_tail(name: str, filter: type[jf.Filter]) -> None:
    sensor, y, tails = SENSORS[name]
    model = jf.StateSpaceModel(normal(0.3, 0.5), jf.LangevinSDE(jf.Quadratic([0.0], [[1.0]])), sensor)
    tracker = filter(model).track()
    tracker.update(y)
    x = np.linspace(-7, 7, 20_001)
    weights = stats.norm.pdf(x, 0.3, math.sqrt(0.5)) * (x[1] - x[0])
    expected = min(1.0, 2 * min(weights @ tail for tail in tails(x)))
    assert tracker.info.surprise == pytest.approx(expected, rel=1e-3)


def test_surprise_is_not_known_of_sensors_without_tails_and_of_several_components() -> None:
    model = jf.StateSpaceModel(
        normal(0.0, 1.0),
        jf.LangevinSDE(jf.Quadratic([0.0], [[1.0]])),
        jf.LinearGaussian([[1.0], [2.0]], np.eye(2)),
    )
    filter = jf.JKOFilter(model)
    start = filter.init(gen())
    assert filter.update(start, torch.tensor([0.3, 0.1]).double(), gen())[1].surprise is None
    # One component is missing: that of y_2 = 2 x + N(0, 1), variance 5.
    alone = filter.update(start, torch.tensor([math.nan, 3.0]).double(), gen())[1].surprise
    assert alone == pytest.approx(2 * stats.norm.sf(3 / math.sqrt(5)), rel=1e-4)
