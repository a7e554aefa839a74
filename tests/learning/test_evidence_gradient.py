"""The gradient of the evidence against differences, and the evidence against filters that know nothing of it."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch import Tensor

import jkofilter as jf
from jkofilter.learning.line_evidence import LineEvidence
from jkofilter.numerics.reversible_chain import solve_chain

TRUE = {"height": 1.3, "tilt": 0.3, "D": 0.7, "noise": 0.3, "mean": 0.1}
TIMES = [0.0, *(0.25 * k for k in range(1, 30)), 9.5]


def double_well(p: dict[str, Tensor]) -> jf.StateSpaceModel:
    potential = jf.Potential(lambda x: p["height"] * (x[..., 0].square() - 1).square() + p["tilt"] * x[..., 0], 1)
    return jf.StateSpaceModel(
        torch.distributions.Normal(p["mean"].reshape(1), 1.0),
        jf.LangevinSDE(potential, 1 / p["D"]),
        jf.LinearGaussian(1.0, p["noise"].square()),
    )


def cox_ingersoll_ross(p: dict[str, Tensor]) -> jf.StateSpaceModel:
    return jf.StateSpaceModel(
        torch.distributions.Gamma(torch.tensor([4.0]).double(), torch.tensor([4.0]).double()),
        jf.LineDiffusion(lambda x: p["rate"] * (1.0 - x), lambda x: p["vol"] * x.sqrt(), (0.0, math.inf)),
        jf.LinearGaussian(1.0, p["noise"].square()),
    )


def tensors(values: dict[str, float]) -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def readings(build: object, true: dict[str, float]) -> jf.ObservationSeries:
    model = build(tensors(true))  # type: ignore[operator]
    _, series = jf.simulate(model, times=TIMES, seed=4)
    values = series.values.clone()
    values[7] = math.nan
    return jf.ObservationSeries(TIMES, values)


@pytest.mark.parametrize(
    ("build", "true"),
    [(double_well, TRUE), (cox_ingersoll_ross, {"rate": 1.5, "vol": 0.6, "noise": 0.2})],
    ids=["double well", "CIR"],
)
def test_gradient_is_that_of_the_evidence(build: object, true: dict[str, float]) -> None:
    series = readings(build, true)
    value, gradient = jf.log_evidence_and_gradient(build, true, series)
    evidence = LineEvidence()
    assert value == pytest.approx(evidence(build(tensors(true)), series).log_evidence, abs=1e-10)
    for name in true:

        def at(step: float, name: str = name) -> float:
            return evidence(build(tensors(true | {name: true[name] + step})), series).log_evidence

        # Fourth order leaves h^4 / 30 times the fifth derivative; rounding of the evidence leaves some 1e-9 / h.
        h = 4e-3 * max(abs(true[name]), 0.5)
        slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
        assert gradient[name].item() == pytest.approx(slope, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize(
    ("build", "true"),
    [(double_well, TRUE), (cox_ingersoll_ross, {"rate": 1.5, "vol": 0.6, "noise": 0.2})],
    ids=["double well", "CIR"],
)
def test_evidence_is_that_of_the_spectral_filter(build: object, true: dict[str, float]) -> None:
    series = readings(build, true)
    exact = jf.SpectralFilter(build(tensors(true))).run(series).log_evidence[-1].item()
    # Wide priors are folded into the end cells, and the cells are extrapolated.
    assert jf.log_evidence_and_gradient(build, true, series)[0] == pytest.approx(exact, abs=2e-3)


def test_chain_gradient_by_a_dense_exponential() -> None:
    n, gaps = 40, np.array([0.0, 0.3, 0.3, 1.2])
    x = np.linspace(-2.5, 2.5, n)
    z = np.diff((x**2 - 1) ** 2)
    right, left = np.exp(-z / 2) / 0.016, np.exp(z / 2) / 0.016
    start, table = 0.7 * np.exp(-(x**2)), -((np.array([0.3, -0.7, 1.0, 0.2])[:, None] - x) ** 2)

    def dense(right: np.ndarray, left: np.ndarray) -> float:
        L = np.diag(left, 1) + np.diag(right, -1)
        L -= np.diag(L.sum(0))
        law = start
        for gap, row in zip(gaps, table, strict=True):
            law = expm(L * gap) @ law * np.exp(row)
        return float(np.log(law.sum()))

    found = solve_chain(right, left, start, gaps, table)
    assert found.log_evidence == pytest.approx(dense(right, left), abs=1e-11)
    for i in (3, 19, 30):
        step = np.zeros(n - 1)
        step[i] = 1e-4 * right[i]
        by_right = (dense(right + step, left) - dense(right - step, left)) / (2 * step[i])
        by_left = (dense(right, left + step) - dense(right, left - step)) / (2 * step[i])
        assert found.by_rightward[i] == pytest.approx(by_right, rel=1e-6, abs=1e-11)
        assert found.by_leftward[i] == pytest.approx(by_left, rel=1e-6, abs=1e-11)


def linear(p: dict[str, Tensor]) -> jf.StateSpaceModel:
    return jf.StateSpaceModel(
        torch.distributions.Normal(p["mean"].reshape(1), 1.0),
        jf.LangevinSDE(jf.Quadratic(p["centre"], p["rate"]), 1 / p["D"]),
        jf.LinearGaussian(1.0, p["noise"].square()),
    )


def test_kalman_and_the_chain_agree_on_a_linear_model() -> None:
    true = {"centre": 0.2, "rate": 1.1, "D": 0.7, "noise": 0.4, "mean": 0.1}
    series = readings(linear, true)
    value, gradient = jf.log_evidence_and_gradient(linear, true, series)
    assert value == pytest.approx(jf.KalmanFilter(linear(tensors(true))).run(series).log_evidence[-1].item(), abs=1e-10)
    leaves = {name: one.requires_grad_(True) for name, one in tensors(true).items()}
    chain = LineEvidence()(linear(leaves), series)
    found = torch.autograd.grad(chain.surrogate, list(leaves.values()))
    assert chain.log_evidence == pytest.approx(value, abs=1e-4)
    for name, slope in zip(leaves, found, strict=True):
        assert slope.item() == pytest.approx(gradient[name].item(), rel=1e-4, abs=1e-4)
