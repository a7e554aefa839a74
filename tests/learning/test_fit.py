"""Maximum likelihood against the Kalman likelihood, and what a user may get wrong."""

import math
import warnings

import pytest
import torch
from torch import Tensor
from torch.distributions import Gamma, Normal, constraints

import jkofilter as jf

POSITIVE = {"rate": constraints.positive, "D": constraints.positive, "noise": constraints.positive}
OUTSIDE = {"rate": -1.0, "D": 1.0, "noise": 1.0}
TIMES = [0.2 * k for k in range(1, 161)]


def linear(p: dict[str, Tensor]) -> jf.StateSpaceModel:
    return jf.StateSpaceModel(
        Normal(torch.zeros(1).double(), 1.0),
        jf.LangevinSDE(jf.Quadratic(0.0, p["rate"]), 1 / p["D"]),
        jf.LinearGaussian(1.0, p["noise"].square()),
    )


def same_by_a_chain(p: dict[str, Tensor]) -> jf.StateSpaceModel:
    potential = jf.Potential(lambda x: 0.5 * p["rate"] * x[..., 0].square(), 1)
    return jf.StateSpaceModel(
        Normal(torch.zeros(1).double(), 1.0),
        jf.LangevinSDE(potential, 1 / p["D"]),
        jf.LinearGaussian(1.0, p["noise"].square()),
    )


def series() -> jf.ObservationSeries:
    true = {name: torch.tensor(value).double() for name, value in {"rate": 1.0, "D": 0.8, "noise": 0.5}.items()}
    return jf.simulate(linear(true), times=TIMES, seed=2)[1]


def test_estimates_and_errors_are_those_of_the_kalman_likelihood() -> None:
    start = {"rate": 0.3, "D": 2.0, "noise": 1.0}
    exact = jf.fit(linear, series(), start, POSITIVE)
    found = jf.fit(same_by_a_chain, series(), start, POSITIVE)
    for name in start:
        error = exact.standard_errors[name]
        assert abs(found.estimates[name] - exact.estimates[name]) < 0.02 * error
        assert found.standard_errors[name] == pytest.approx(error, rel=0.05)
    assert found.log_evidence == pytest.approx(exact.log_evidence, abs=1e-3)
    assert exact.log_evidence > jf.KalmanFilter(linear(_nearby(exact))).run(series()).log_evidence[-1].item()
    assert exact.note == ""
    assert exact.aic == pytest.approx(6 - 2 * exact.log_evidence)


def _nearby(result: jf.FitResult) -> dict[str, Tensor]:
    return {name: 1.1 * value for name, value in result.parameters.items()}


def test_a_double_well_is_found_from_a_bad_start() -> None:
    def build(p: dict[str, Tensor]) -> jf.StateSpaceModel:
        well = jf.Potential(lambda x: p["height"] * (x[..., 0].square() - 1).square() + p["tilt"] * x[..., 0], 1)
        return jf.StateSpaceModel(
            Normal(torch.zeros(1).double(), 1.0), jf.LangevinSDE(well, 1 / p["D"]), jf.LinearGaussian(1.0, 0.09)
        )

    true = {"height": 1.3, "tilt": 0.3, "D": 0.7}
    model = build({name: torch.tensor(value).double() for name, value in true.items()})
    _, readings = jf.simulate(model, times=[0.25 * k for k in range(1, 201)], seed=1)
    bounds = {"height": constraints.positive, "D": constraints.positive}
    result = jf.fit(build, readings, {"height": 0.4, "tilt": 0.0, "D": 2.5}, bounds)
    assert result.note == ""
    assert max(abs(z) for z in result.z_values(true).values()) < 3.5
    assert result.log_evidence > jf.SpectralFilter(model).run(readings).log_evidence[-1].item() - 1e-3


def test_prior_pulls_the_mode_by_hand() -> None:
    # One parameter, Gaussian likelihood: y ~ N(m, 2) once, m ~ N(1, 1/2): mode (y/2 + 2 * 1) / (1/2 + 2).
    def build(p: dict[str, Tensor]) -> jf.StateSpaceModel:
        return jf.StateSpaceModel(
            Normal(p["m"].reshape(1), 1.0), jf.LangevinSDE(jf.Quadratic(0.0, 1.0)), jf.LinearGaussian(1.0, 1.0)
        )

    result = jf.fit(build, jf.ObservationSeries([0.0], [3.0]), {"m": 0.0}, priors={"m": Normal(1.0, math.sqrt(0.5))})
    assert result.estimates["m"] == pytest.approx(3.5 / 2.5, abs=1e-6)
    assert result.standard_errors["m"] == pytest.approx(1 / math.sqrt(2.5), abs=1e-5)


def test_what_readings_do_not_tell_is_named() -> None:
    def build(p: dict[str, Tensor]) -> jf.StateSpaceModel:
        return linear({"rate": p["a"] * p["b"], "D": torch.tensor(0.8).double(), "noise": torch.tensor(0.3).double()})

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = jf.fit(build, series(), {"a": 1.0, "b": 1.0}, {"a": constraints.positive, "b": constraints.positive})
    assert "do not tell a and b apart" in result.note
    assert result.standard_errors["a"] == math.inf


def test_parameter_without_effect_is_named() -> None:
    def build(p: dict[str, Tensor]) -> jf.StateSpaceModel:
        return linear({"rate": p["rate"], "D": torch.tensor(0.8).double(), "noise": torch.tensor(0.3).double()})

    result = jf.fit(build, series(), {"rate": 1.0, "idle": 3.0}, {"rate": constraints.positive})
    assert "idle made no difference" in result.note


def test_vector_parameters_have_names_for_each_number() -> None:
    def build(p: dict[str, Tensor]) -> jf.StateSpaceModel:
        return linear({"rate": p["v"][0], "D": p["v"][1], "noise": torch.tensor(0.3).double()})

    result = jf.fit(build, series(), {"v": [1.0, 1.0]}, {"v": constraints.positive})
    assert result.names == ("v[0]", "v[1]")
    assert result.to_frame().index.tolist() == ["v[0]", "v[1]"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"start": {"rate": -1.0, "D": 1.0, "noise": 1.0}, "constraints": POSITIVE},
            r"start\['rate'\] is -1.0, outside its constraint",
        ),
        ({"start": {}}, "start must be a dict"),
        ({"constraints": {"speed": constraints.positive}}, "constraints has 'speed'"),
        ({"constraints": {"rate": "positive"}}, "must be one of torch.distributions.constraints"),
        ({"build": lambda p: 3}, "build must return a StateSpaceModel"),
        ({"series": [1, 2]}, "series must be an ObservationSeries"),
        ({"build": lambda p: linear({k: v.detach() for k, v in p.items()})}, "compute the model from them by torch"),
        ({"starts": 0}, "starts must be an integer"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change: dict, message: str) -> None:
    arguments = {"build": linear, "series": series(), "start": {"rate": 1.0, "D": 1.0, "noise": 1.0}}
    with pytest.raises(jf.InputError, match=message):
        jf.fit(**(arguments | change))


def test_a_start_on_the_edge_is_refused_and_a_prior_says_where_a_parameter_lives() -> None:
    with pytest.raises(jf.InputError, match="on the edge of its constraint"):
        jf.fit(linear, series(), {"rate": 1.0, "D": 1.0, "noise": 1.0}, {"noise": constraints.interval(0.0, 1.0)})
    with pytest.raises(jf.InputError, match="outside its constraint"):
        jf.fit(linear, series(), {"rate": -1.0, "D": 1.0, "noise": 1.0}, priors={"rate": Gamma(2.0, 1.0)})


def test_a_parameter_that_start_has_not_is_named() -> None:
    with pytest.raises(jf.InputError, match="'noise', which start has not"):
        jf.fit(linear, series(), {"rate": 1.0, "D": 1.0})


def test_one_reading_at_the_start_has_an_evidence() -> None:
    value, gradient = jf.log_evidence_and_gradient(
        same_by_a_chain, {"rate": 1.0, "D": 0.8, "noise": 0.5}, jf.ObservationSeries([0.0], [0.3])
    )
    assert value == pytest.approx(Normal(0.0, math.sqrt(1.25)).log_prob(torch.tensor(0.3)).item(), abs=1e-5)
    assert gradient["rate"].item() == pytest.approx(0.0, abs=1e-8)
