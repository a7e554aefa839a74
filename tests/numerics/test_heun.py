"""Steps of the exponential Heun scheme: exact where they should be, of second weak order, exact at a wall."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline
from scipy.linalg import expm
from scipy.stats import expon, kstest, norm

from jkofilter.numerics.domain import Domain
from jkofilter.numerics.heun import HeunScheme, Linear, phi1, phi2

F64 = torch.float64


def t(value: object) -> torch.Tensor:
    return torch.tensor(value, dtype=F64)


def stepper(slope, energy, rates=(0.0,), beta=1.0, domain=None, basis=None) -> HeunScheme:
    return HeunScheme(lambda x: -slope(x), lambda x: beta * energy(x), beta, Linear(t(rates), basis), domain)


def test_phi_functions_against_their_integrals() -> None:
    """phi1(z) = int_0^1 exp(-z s) ds and phi2(z) = int_0^1 (1 - s) exp(-z s) ds, by Gauss-Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    s, w = 0.5 * (nodes + 1), 0.5 * weights
    for z in (0.0, 1e-8, 5e-4, 2e-3, 9e-3, 2e-2, 0.3, 4.0, 30.0):
        assert phi1(t(z)).item() == pytest.approx(w @ np.exp(-z * s), rel=1e-10)
        assert phi2(t(z)).item() == pytest.approx(w @ ((1 - s) * np.exp(-z * s)), rel=1e-10)


def test_a_linear_drift_is_exact_at_any_step() -> None:
    """Mean exp(-hA) x and covariance (1 - exp(-2hA)) (beta A)^-1 of a coupled Ornstein-Uhlenbeck process, h = 1.5."""
    matrix, beta, h = np.array([[30.0, 2.0], [2.0, 1.0]]), 1.7, 1.5
    rates, basis = np.linalg.eigh(matrix)
    a = t(matrix)
    move = stepper(
        lambda x: x @ a, lambda x: 0.5 * ((x @ a) * x).sum(-1), tuple(rates), beta, basis=torch.from_numpy(basis)
    )
    n, start = 200_000, np.array([3.0, -1.0])
    generator = torch.Generator().manual_seed(0)
    x = t(start).expand(n, 2)
    after, unresolved = move.step(x, h, move.noise(x, h, generator), generator)
    covariance = np.linalg.inv(beta * matrix) @ (np.eye(2) - expm(-2 * h * matrix))
    deviations = np.sqrt(np.diag(covariance))
    assert np.allclose(after.mean(0).numpy(), expm(-h * matrix) @ start, atol=5 * deviations.max() / math.sqrt(n))
    assert np.allclose(np.cov(after.numpy().T), covariance, atol=5 * math.sqrt(2 / n) * deviations.max() ** 2)
    assert unresolved.max() < 1e-9


def test_halves_of_a_step_make_the_whole() -> None:
    """Two half steps with the halves of its noise end where one step does; each half has its own law, and no other."""
    k, beta, h, n = 3.0, 1.0, 0.7, 200_000
    move = stepper(lambda x: k * x, lambda x: 0.5 * k * x.square().sum(-1), (k,), beta)
    generator = torch.Generator().manual_seed(1)
    x = torch.full((n, 1), 2.0, dtype=F64)
    noise = move.noise(x, h, generator)
    first, second = move.halves(noise, h, generator)
    whole = move.step(x, h, noise, generator)[0]
    middle = move.step(x, h / 2, first, generator)[0]
    assert torch.allclose(move.step(middle, h / 2, second, generator)[0], whole, atol=1e-12)
    variance = (1 - math.exp(-k * h)) / (beta * k)
    for half in (first, second):
        assert half.var().item() == pytest.approx(variance, rel=5 * math.sqrt(2 / n))
    assert abs((first * second).mean().item()) < 5 * variance / math.sqrt(n)


@pytest.mark.parametrize("rate", [0.0, 5.0])
def test_weak_order_is_two(rate: float) -> None:
    """E[X^2] in a double well, by quadrature over the noise of every step, against the matrix exponential of a grid."""
    end, beta = 0.8, 1.0
    wanted = _second_moment_on_cells(end, beta)
    errors = np.array([_second_moment_by_steps(end, count, rate, beta) - wanted for count in (40, 80, 160)])
    orders = np.log2(errors[:-1] / errors[1:])
    assert (np.abs(orders - 2.0) < 0.2).all(), (errors, orders)
    assert abs(errors[-1]) < 3e-4


def _second_moment_by_steps(end: float, count: int, rate: float, beta: float) -> float:
    """E[X_end^2 | X_0 = 0.3] backwards in time: expectations by Gauss-Hermite, between nodes by cubic splines."""
    move = stepper(lambda x: 4 * x * (x * x - 1), lambda x: (x * x - 1).square().sum(-1), (rate,), beta)
    h, x = end / count, np.linspace(-3.2, 3.2, 1281)
    nodes, weights = np.polynomial.hermite_e.hermegauss(24)
    deviation = math.sqrt(2 / beta * h * phi1(t(2 * h * rate)).item())
    grid = np.repeat(x, len(nodes))[:, None]
    noise = np.tile(deviation * nodes, len(x))[:, None]
    after = move.step(torch.from_numpy(grid), h, torch.from_numpy(noise), torch.Generator())[0].numpy()[:, 0]
    after = np.clip(after, -3.2, 3.2)
    value = x * x
    for _ in range(count):
        value = CubicSpline(x, value)(after).reshape(len(x), -1) @ (weights / weights.sum())
    return float(CubicSpline(x, value)(0.3))


def _second_moment_on_cells(end: float, beta: float) -> float:
    """By the matrix exponential of a chain on cells with rates of a midpoint rule, Richardson extrapolated."""

    def coarse(cells: int) -> float:
        edges = np.linspace(-3.0, 3.0, cells + 1)
        x, width = 0.5 * (edges[1:] + edges[:-1]), edges[1] - edges[0]
        v = (x * x - 1) ** 2
        up = np.exp(-0.5 * beta * np.diff(v)) / (beta * width**2)
        down = np.exp(0.5 * beta * np.diff(v)) / (beta * width**2)
        generator = np.diag(up, 1) + np.diag(down, -1)
        generator -= np.diag(generator.sum(1))
        return float(CubicSpline(x, expm(end * generator) @ (x * x))(0.3))

    return (4 * coarse(600) - coarse(300)) / 3


@pytest.mark.parametrize("h", [0.05, 1.0])
def test_reflection_at_a_wall_is_exact_for_a_constant_drift(h: float) -> None:
    """Drift -2 towards a wall at 0, beta 1: the exponential law of rate 2 stays as it is, however long the step."""
    n = 20_000
    move = stepper(lambda x: 2 + 0 * x, lambda x: 2 * x.sum(-1), domain=Domain(((0.0, math.inf),)))
    generator = torch.Generator().manual_seed(3)
    x = torch.from_numpy(expon(scale=0.5).ppf((np.arange(n) + 0.5) / n))[:, None]
    after = move.step(x, h, move.noise(x, h, generator), generator)[0]
    assert after.min() >= 0
    assert kstest(after[:, 0].numpy(), expon(scale=0.5).cdf).pvalue > 1e-3
    # From one point: reflected Brownian motion with drift, whose law is known (Harrison 1985, section 1.8).
    start = torch.full((n, 1), 0.3, dtype=F64)
    found = move.step(start, h, move.noise(start, h, generator), generator)[0][:, 0].numpy()
    assert kstest(found, lambda y: _reflected_cdf(y, 0.3, -2.0, 2.0, h)).pvalue > 1e-3


def _reflected_cdf(y: np.ndarray, x: float, drift: float, variance: float, time: float) -> np.ndarray:
    deviation = math.sqrt(variance * time)
    below = norm.cdf((y - x - drift * time) / deviation)
    return below - np.exp(2 * drift * y / variance) * norm.cdf((-y - x - drift * time) / deviation)


def test_a_jump_that_gradients_do_not_show_is_left_unresolved() -> None:
    def energy(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[..., 0] > 1, 7.0, 0.0)

    move = stepper(lambda x: 0 * x, energy)
    x, noise = t([[0.9], [0.2]]), t([[0.2], [0.2]])
    assert move.step(x, 0.1, noise, torch.Generator())[1].tolist() == pytest.approx([7.0, 0.0])
    assert move.step(x, 0.1, noise, torch.Generator(), watch=False)[1].tolist() == [0.0, 0.0]
