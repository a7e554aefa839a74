"""Nothing is silently wrong: one row a kind of trouble, with the right value by an oracle, or the words of the error.

Kinds are those of other people's bug reports: input changed without a word, gradients that are not V's, functions that
couple the points of a batch, checks whose cure does not cure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from oracles import OrnsteinUhlenbeck
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

import jkofilter as jf

NAN = math.nan
RATE, CENTRE, BETA, MEAN, VARIANCE, NOISE = 1.3, 0.4, 1.7, -0.5, 0.64, 0.25
EXACT = OrnsteinUhlenbeck(RATE, CENTRE, BETA, MEAN, VARIANCE, noise=NOISE)
DATES = pd.to_datetime(["2024-03-30 12:00", "2024-03-31 12:00", "2024-04-02 00:00"])


def gaussian(mean: list[float], variance: float) -> MultivariateNormal:
    return MultivariateNormal(torch.tensor(mean).double(), variance * torch.eye(len(mean)).double())


def scalar_model() -> jf.StateSpaceModel:
    """The Ornstein-Uhlenbeck process of the oracle, of numbers alone."""
    prior = Normal(torch.tensor(MEAN).double(), math.sqrt(VARIANCE))
    sde = jf.LangevinSDE(jf.Quadratic(CENTRE, RATE), BETA)
    return jf.StateSpaceModel(prior, sde, jf.LinearGaussian(1.0, NOISE))


def model_of(potential: jf.Potential, sensor: object = None) -> jf.StateSpaceModel:
    d = potential.dim
    eye = torch.eye(d).double()
    return jf.StateSpaceModel(
        gaussian([0.0] * d, 1.0), jf.LangevinSDE(potential), sensor or jf.LinearGaussian(eye, eye)
    )


def evidence(series: jf.ObservationSeries) -> float:
    return jf.KalmanFilter(scalar_model()).run(series).log_evidence[-1].item()


def exact_evidence(gaps: list[float], readings: list[float]) -> float:
    return float(EXACT.kalman(np.cumsum(gaps).tolist(), readings)[2][-1])


@dataclass(frozen=True)
class Right:
    """What must come out: ``value()`` is ``exact()`` to within ``error``."""

    kind: str
    value: Callable[[], float]
    exact: Callable[[], float]
    error: float = 1e-10


def _in_days(**settings: object) -> Callable[[], float]:
    return lambda: evidence(jf.ObservationSeries(DATES, [1.0, -0.3, 0.2], unit="day", **settings))


def _masked() -> float:
    return evidence(jf.ObservationSeries([0.5, 1.0, 1.5], np.ma.masked_values([1.0, -9999.0, 0.2], -9999.0)))


def _to_the_digit() -> float:
    model = scalar_model()
    exact = jf.StateSpaceModel(model.prior, model.sde, jf.LinearGaussian(1.0, 1e-3**2 / 12))
    return jf.KalmanFilter(exact).run(jf.ObservationSeries([0.5], [1.234])).means[-1, 0].item()


def _bearing(filter: type) -> Callable[[], float]:
    def value() -> float:
        prior = gaussian([-1.0, 0.0], 0.01)
        sde = jf.LangevinSDE(jf.Quadratic([-1.0, 0.0], torch.eye(2).double()))
        model = jf.StateSpaceModel(prior, sde, jf.RangeBearing([0.0, 0.0], 0.1, 0.1))
        # Half the prior's bearings are near pi, half near -pi.
        return filter(model).run(jf.ObservationSeries([0.0], [[1.0, 3.0]])).means[-1, 1].item()

    return value


def _bearing_by_quadrature() -> float:
    side = torch.linspace(-0.8, 0.8, 801).double()
    x, y = torch.meshgrid(side - 1.0, side, indexing="ij")
    turn = torch.remainder(torch.atan2(y, x) - 3.0 + math.pi, 2 * math.pi) - math.pi
    log_density = -0.5 * (((x + 1) ** 2 + y**2) / 0.01 + (torch.hypot(x, y) - 1) ** 2 / 0.01 + turn**2 / 0.01)
    weights = torch.softmax(log_density.reshape(-1), 0)
    return (weights @ y.reshape(-1)).item()


RIGHT = {
    "masked is missing": Right("input", _masked, lambda: exact_evidence([0.5, 0.5, 0.5], [1.0, NAN, 0.2])),
    "dates count from the first": Right("input", _in_days(), lambda: exact_evidence([0, 1, 1.5], [1.0, -0.3, 0.2])),
    "dates count from an origin": Right(
        "input", _in_days(origin="2024-03-30"), lambda: exact_evidence([0.5, 1, 1.5], [1.0, -0.3, 0.2])
    ),
    "a date starts the clock": Right(
        "input", _in_days(start="2024-03-29 12:00"), lambda: exact_evidence([1, 1, 1.5], [1.0, -0.3, 0.2])
    ),
    "a year starts the clock": Right(
        "input",
        lambda: evidence(jf.ObservationSeries([2025.25, 2025.5], [1.0, 0.2], start=2025)),
        lambda: exact_evidence([0.25, 0.25], [1.0, 0.2]),
    ),
    "numbers make a model of one dimension": Right(
        "checks",
        lambda: evidence(jf.ObservationSeries([0.5, 1.0], [1.0, 0.2])),
        lambda: exact_evidence([0.5, 0.5], [1.0, 0.2]),
    ),
    "a reading exact to the digit": Right("checks", _to_the_digit, lambda: 1.234, 1e-6),
    # Linearised over a prior of a tenth of a radian: the third order is left, (0.1 rad)^2 of 0.07.
    "unscented, across the cut": Right("checks", _bearing(jf.UnscentedKalmanFilter), _bearing_by_quadrature, 3e-3),
    # A thousand members, posterior sd 0.07.
    "ensemble, across the cut": Right(
        "checks", _bearing(jf.EnsembleKalmanFilter), _bearing_by_quadrature, 3e-3 + 5 * 0.1 / math.sqrt(1000)
    ),
}


@pytest.mark.parametrize("row", RIGHT.values(), ids=RIGHT.keys())
def test_right(row: Right) -> None:
    assert row.value() == pytest.approx(row.exact(), abs=row.error, rel=0)


class Written(jf.Potential):
    """|x|^2/2 with a gradient and a Hessian as written."""

    def __init__(self, dim: int, gradient: Callable[[Tensor], Tensor], hessian: float = 1.0) -> None:
        self.written, self.curvature = gradient, hessian
        super().__init__(lambda x: 0.5 * x.square().sum(-1), dim)

    def gradient(self, x: Tensor) -> Tensor:
        return self.written(x)

    def hessian(self, x: Tensor) -> Tensor:
        return self.curvature * torch.eye(self.dim, dtype=x.dtype).expand(*x.shape, self.dim)


class Sensor:
    """A sensor as a user writes it."""

    def __init__(self, log_likelihood: Callable[[Tensor, Tensor], Tensor], sample: object = None) -> None:
        self.of, self.drawn = log_likelihood, sample or (lambda x: x)

    def log_likelihood(self, y: Tensor, x: Tensor) -> Tensor:
        return self.of(y, x)

    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return self.drawn(x)


TURN = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).double()


def _squares(y: Tensor, x: Tensor) -> Tensor:
    return -0.5 * (y - x).square().sum(-1)


def _sensor(log_likelihood: Callable[[Tensor, Tensor], Tensor], sample: object = None) -> Callable[[], object]:
    return lambda: model_of(jf.DoubleWell(1), Sensor(log_likelihood, sample))


def _potential(function: Callable[[Tensor], Tensor], dim: int = 1) -> Callable[[], object]:
    return lambda: model_of(jf.Potential(function, dim))


def _far(filter: Callable[[jf.StateSpaceModel], jf.Filter]) -> Callable[[], object]:
    return lambda: filter(scalar_model()).run(jf.ObservationSeries([1.5e9], [1.0]))


def _long(filter: Callable[[jf.StateSpaceModel], jf.Filter]) -> Callable[[], object]:
    return lambda: filter(scalar_model()).track().predict(1.5e9)


LOUD: dict[str, tuple[Callable[[], object], str]] = {
    # Input changed without a word.
    "dates without a unit": (lambda: jf.ObservationSeries(DATES, [1, 2, 3]), r"^unit must be named"),
    "durations without a unit": (
        lambda: jf.ObservationSeries(pd.to_timedelta([0, 30], unit="s"), [1, 2]),
        r"^unit must be named",
    ),
    "dates that are none": (
        lambda: jf.ObservationSeries([DATES[0], pd.NaT], [1, 2], unit="day"),
        r"^times has no date in row 1; drop",
    ),
    "masked times": (
        lambda: jf.ObservationSeries(np.ma.array([1.0, 2.0], mask=[0, 1]), [1, 2]),
        r"^times must be finite",
    ),
    "dates as text": (lambda: jf.ObservationSeries(["2024-01-01"], [1], unit="day"), r"pandas.to_datetime"),
    "readings as text": (lambda: jf.ObservationSeries([0, 1], ["1", "2"]), r"^values must be numeric, but holds text"),
    "readings as durations": (
        lambda: jf.ObservationSeries([0], pd.to_timedelta([1], unit="s")),
        r"divide them by the unit",
    ),
    "seconds since 1970": (
        lambda: jf.ObservationSeries([1.5e9, 1.5e9 + 60], [1, 2]),
        r"^times start at .* give start=",
    ),
    "years": (
        lambda: jf.ObservationSeries([2025.1, 2025.2, 2025.3], [1, 2, 3]),
        r"^times start at 2025.1.* give start=",
    ),
    "a long series of short gaps, long after": (
        lambda: jf.ObservationSeries(400 + 0.1 * np.arange(1001), np.zeros(1001)),
        r"^times start at 400, 4000 typical gaps after",
    ),
    "decades": (lambda: jf.ObservationSeries([1950, 1960, 1970], [1, 2, 3]), r"^times start at 1950.* give start="),
    "one reading after 1.5e9": (_far(jf.KalmanFilter), r"^series has its first .* start= near"),
    "a duration of 1.5e9, particles": (_long(jf.ParticleFilter), r"^duration is .* relaxation times"),
    "a duration of 1.5e9, ensemble": (_long(jf.EnsembleKalmanFilter), r"^duration is .* relaxation times"),
    "a duration of 1.5e9, unscented": (_long(jf.UnscentedKalmanFilter), r"^duration is .* relaxation times"),
    "a duration of 1.5e9, grid": (_long(jf.GridFilter), r"^duration is .* longer step"),
    "a duration of 1.5e9, JKO": (_long(jf.JKOFilter), r"^duration is .* longer step"),
    "a duration that is one": (
        lambda: jf.KalmanFilter(scalar_model()).track().predict(np.timedelta64(3, "s")),
        r"^duration must be one number",
    ),
    # A gradient that is not V's.
    "rotation in the gradient": (
        lambda: model_of(Written(2, lambda x: x + x @ TURN)),
        r"with curl.*only drifts that are",
    ),
    "rotation, solving a flow": (
        lambda: jf.solve_jko(gaussian([0.0, 0.0], 1.0), jf.LangevinSDE(Written(2, lambda x: x + x @ TURN)), 0.1),
        r"with curl.*only drifts that are",
    ),
    "gradient with a factor": (lambda: model_of(Written(2, lambda x: 1.01 * x)), r"not that of its values"),
    "gradient with a sign": (lambda: model_of(Written(1, lambda x: -x)), r"not that of its values"),
    "gradient of another in a corner": (
        lambda: model_of(Written(1, lambda x: torch.where(x > 1.5, 2 * x, x))),
        r"not that of its values",
    ),
    "Hessian with a factor": (
        lambda: model_of(Written(2, lambda x: x, 2.0)),
        r"hessian\(\) that is not the derivative",
    ),
    "part of V detached": (_potential(lambda x: (x * x.detach()).sum(-1)), r"rounded, detached or drawn at random"),
    # The shape check was blind.
    "points for coordinates": (_potential(lambda x: x[0] ** 2 + x[1] ** 2 + x[2] ** 2, 3), r"x\[..., i\]"),
    "V couples points": (_potential(lambda x: (x - x.mean(0)).square().sum(-1), 2), r"each point by itself"),
    "V couples points by a norm": (_potential(lambda x: x.square().sum(-1) / (1 + x.norm())), r"each point by itself"),
    "likelihood couples points": (
        _sensor(lambda y, x: _squares(y, x) - _squares(y, x).logsumexp(0)),
        r"^observation.log_likelihood must act on each",
    ),
    "likelihood in one number": (
        _sensor(lambda y, x: _squares(y, x).sum()),
        r"^observation.log_likelihood must return",
    ),
    "samples without an axis": (
        _sensor(_squares, lambda x: x[:, 0]),
        r"^observation.sample must return shape \(n, p\)",
    ),
    "as many components as points": (_sensor(_squares, lambda x: x @ x.T), r"with one p"),
    # Messages and checks.
    "torch.where with a NaN branch": (
        _potential(lambda x: torch.where(x > 0, x * torch.log(x), 0 * x).sum(-1)),
        r"torch.where differentiates the branch it does not take",
    ),
    "numpy in V": (_potential(lambda x: np.cos(x.numpy()).sum(-1)), r"torch.as_tensor"),
    "numpy in the likelihood": (_sensor(lambda y, x: _squares(y, x).numpy()), r"torch.as_tensor"),
    "numpy in a sensor": (
        lambda: model_of(jf.DoubleWell(1), jf.NonlinearGaussian(lambda x: np.tanh(x.numpy()), 0.1)),
        r"^function must return a tensor.*torch.as_tensor",
    ),
    "beta in a list": (lambda: jf.LangevinSDE(jf.DoubleWell(1), [1.0]), r"^beta must be one number"),
    "beta as text": (lambda: jf.LangevinSDE(jf.DoubleWell(1), "1"), r"^beta must be one number"),
    "precision of a rotating drift": (lambda: jf.Quadratic([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]]), r"another model"),
    "no noise": (lambda: jf.LinearGaussian(1.0, 0.0), r"variance of its last digit"),
    "no noise on one of two": (
        lambda: jf.LinearGaussian(np.eye(2), np.diag([1.0, 0.0])),
        r"variance of its last digit",
    ),
}


@pytest.mark.parametrize(("call", "words"), LOUD.values(), ids=LOUD.keys())
def test_loud(call: Callable[[], object], words: str) -> None:
    with pytest.raises(jf.InputError, match=words):
        call()


@pytest.mark.parametrize("filter", [jf.UnscentedKalmanFilter, jf.EnsembleKalmanFilter])
def test_angles_that_cannot_be_averaged_are_noted(filter: type) -> None:
    prior, sde = gaussian([0.0, 0.0], 1.0), jf.LangevinSDE(jf.Quadratic([0.0, 0.0], torch.eye(2).double()))
    result = filter(jf.StateSpaceModel(prior, sde, jf.RangeBearing([0.0, 0.0], 0.1, 0.1))).run(
        jf.ObservationSeries([0.0], [[1.0, 3.0]])
    )
    assert "straddle the cut" in result.to_frame()["note"][0]


def test_what_is_far_but_meant_is_not_questioned() -> None:
    jf.ObservationSeries([5.0, 5.1, 5.2], [1, 2, 3])
    jf.ObservationSeries([50.0, 50.1, 50.2], [1, 2, 3])
    jf.ObservationSeries([1.5e9, 1.5e9 + 60], [1, 2], start=0)
    jf.ObservationSeries(1e6 + np.array([0.0, 1e5, 2e5]), [1, 2, 3])
    series = jf.ObservationSeries([1.5e9], [1.0], start=0.0)
    # By then the law is the stationary one, N(0.4, 1 / (1.7 * 1.3)).
    share = 1 / (BETA * RATE) / (1 / (BETA * RATE) + NOISE)
    mean = jf.KalmanFilter(scalar_model()).run(series).means[0, 0].item()
    assert mean == pytest.approx(CENTRE + share * (1.0 - CENTRE), abs=1e-12)


FAR_BRANCH = "torch.where differentiates the branch it does not take"


@pytest.mark.parametrize(
    "filter",
    [lambda m: jf.ParticleFilter(m, 500, substep=0.01), jf.EnsembleKalmanFilter, jf.UnscentedKalmanFilter],
    ids=["particle", "ensemble", "unscented"],
)
def test_a_branch_that_is_nan_further_on_is_not_taken_for_a_long_substep(filter: type) -> None:
    # Finite at every draw of the prior; where the drift leads, x < -1, the branch not taken has a NaN gradient.
    potential = jf.Potential(lambda x: (3 * x + torch.where(x > -1, torch.sqrt(x + 1), 0.0)).sum(-1), 1)
    prior, sensor = gaussian([0.0], 0.04), jf.LinearGaussian(1.0, 1.0)
    model = jf.StateSpaceModel(prior, jf.LangevinSDE(potential, 100.0), sensor)
    with pytest.raises(jf.FilterError, match=FAR_BRANCH):
        filter(model).track().predict(2.0)
    with pytest.raises(jf.InputError, match=FAR_BRANCH):
        jf.simulate(model, [2.0])


def test_simulation_starts_where_it_is_told(ou_model: jf.StateSpaceModel) -> None:
    path, series = jf.simulate(ou_model, [2025.125, 2025.5], seed=3, start=2025.0)
    expected, _ = jf.simulate(ou_model, [0.125, 0.5], seed=3)
    assert torch.equal(path, expected)
    assert series.start == 2025.0
    with pytest.raises(jf.InputError, match="start="):
        jf.simulate(ou_model, [2025.1, 2025.2, 2025.3])
