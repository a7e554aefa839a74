"""Closed-form gradients and Hessians against automatic differentiation of the value alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

import jkofilter as jf


def _rotation(dim: int) -> torch.Tensor:
    noise = torch.randn(dim, dim, generator=torch.Generator().manual_seed(dim), dtype=torch.float64)
    return torch.linalg.qr(noise).Q


def _spd(dim: int, seed: int) -> torch.Tensor:
    noise = torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise @ noise.mT + 0.5 * torch.eye(dim, dtype=torch.float64)


MIXTURE = jf.GaussianMixture(
    [[0.0, 1.0], [2.0, -1.0], [-1.5, 0.3]], torch.stack([_spd(2, 1), _spd(2, 2), _spd(2, 3)]), [1.0, 2.0, 3.0]
)

POTENTIALS = {
    "quadratic-1": jf.Quadratic([0.7], [[1.9]]),
    "quadratic-3": jf.Quadratic([0.7, -1.0, 2.0], _spd(3, 5)),
    "double-well-1": jf.DoubleWell(1),
    "double-well-3": jf.DoubleWell(3),
    "double-well-rotated": jf.DoubleWell(3, _rotation(3)),
    "sine-1": jf.SineQuadratic(1),
    "sine-2": jf.SineQuadratic(2),
    "sine-rotated": jf.SineQuadratic(2, _rotation(2)),
    "log-cosh-1": jf.LogCosh(1.3, beta=0.7),
    "log-cosh-3": jf.LogCosh([0.5, 1.0, 2.0]),
    "mixture-1": jf.GaussianMixture([[-1.0], [2.0]], [[[0.3]], [[0.8]]], [0.4, 0.6]),
    "mixture-2": MIXTURE,
    "rotated": jf.Rotated(jf.SineQuadratic(1), _rotation(3)),
    "rotated-mixture": jf.Rotated(jf.GaussianMixture([[-1.0], [2.0]], [[[0.3]], [[0.8]]], [0.4, 0.6]), _rotation(2)),
    "wrapped-1": jf.Potential(lambda x: (x.pow(4) / 4 - x).sum(-1), 1),
    "wrapped-2": jf.Potential(lambda x: x[..., 0].square() * x[..., 1].exp() + torch.cos(x[..., 1]), 2),
    "wrapped-linear": jf.Potential(lambda x: 3.0 * x.sum(-1), 2),
}

every_potential = pytest.mark.parametrize("potential", POTENTIALS.values(), ids=POTENTIALS.keys())


def _points(dim: int, *shape: int) -> torch.Tensor:
    return 1.5 * torch.randn(*shape, dim, generator=torch.Generator().manual_seed(17), dtype=torch.float64)


@every_potential
def test_gradient_is_the_derivative_of_the_value(potential: jf.Potential) -> None:
    x = _points(potential.dim, 20)
    expected = torch.stack([torch.autograd.functional.jacobian(potential, point) for point in x])
    torch.testing.assert_close(potential.gradient(x), expected, rtol=1e-9, atol=1e-10)


@every_potential
def test_hessian_is_the_second_derivative_of_the_value(potential: jf.Potential) -> None:
    x = _points(potential.dim, 10)
    expected = torch.stack([torch.autograd.functional.hessian(potential, point) for point in x])
    torch.testing.assert_close(potential.hessian(x), expected, rtol=1e-8, atol=1e-9)


@every_potential
@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_batches_are_pointwise(potential: jf.Potential, shape: tuple[int, ...]) -> None:
    x, d = _points(potential.dim, *shape), potential.dim
    flat = x.reshape(-1, d)
    for method, tail in ((potential, ()), (potential.gradient, (d,)), (potential.hessian, (d, d))):
        value = method(x)
        assert value.shape == (*shape, *tail)
        assert value.dtype == torch.float64
        pointwise = torch.stack([method(point) for point in flat]).reshape((*shape, *tail))
        torch.testing.assert_close(value, pointwise, rtol=1e-12, atol=1e-12)


@every_potential
def test_single_precision_stays_single(potential: jf.Potential) -> None:
    x = _points(potential.dim, 3).float()
    assert potential(x).dtype == potential.gradient(x).dtype == potential.hessian(x).dtype == torch.float32


@every_potential
def test_evaluation_leaves_no_graph_and_no_trace_on_its_input(potential: jf.Potential) -> None:
    x = _points(potential.dim, 5)
    before = x.clone()
    assert not potential.gradient(x).requires_grad
    assert not potential.hessian(x).requires_grad
    assert not x.requires_grad
    assert torch.equal(x, before)


def test_values_by_hand() -> None:
    x = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    torch.testing.assert_close(jf.DoubleWell(1)(x), torch.tensor([0.5625, 9.0]).double())
    torch.testing.assert_close(jf.SineQuadratic(1)(x), torch.tensor([0.0625, 1.0]).double(), atol=1e-15, rtol=0)
    torch.testing.assert_close(jf.Quadratic([1.0], [[3.0]])(x), torch.tensor([0.375, 1.5]).double())
    expected = -4.0 * torch.log(torch.cosh(1.5 * x[:, 0]))
    torch.testing.assert_close(jf.LogCosh(1.5, beta=0.5)(x), expected)


def test_log_cosh_far_out_does_not_overflow() -> None:
    potential, x = jf.LogCosh(2.0, beta=2.0), torch.tensor([[-1e4], [1e4]], dtype=torch.float64)
    torch.testing.assert_close(potential(x), torch.full((2,), -(2e4 - np.log(2))).double())
    torch.testing.assert_close(potential.gradient(x), torch.tensor([[2.0], [-2.0]]).double())
    assert potential.hessian(x).abs().max() < 1e-300


def test_mixture_energy_is_minus_the_log_of_the_mixture() -> None:
    """exp(-V) is the mixture itself, normalised: so it is stationary at beta = 1."""
    x = _points(2, 30)
    weights = torch.tensor([1.0, 2.0, 3.0]).double() / 6
    covariances = torch.stack([_spd(2, 1), _spd(2, 2), _spd(2, 3)])
    parts = [
        w * MultivariateNormal(m, c).log_prob(x).exp()
        for w, m, c in zip(weights, MIXTURE.means, covariances, strict=True)
    ]
    torch.testing.assert_close(MIXTURE(x), -sum(parts).log(), rtol=1e-11, atol=1e-11)


def test_balanced_mixture_by_hand() -> None:
    """Halves of N(-m, s^2) and N(m, s^2): a parabola less log cosh(m x / s^2), bent by (1 - (m/s)^2) / s^2 at zero."""
    m, s = 1.5, 0.5
    pair = jf.GaussianMixture([[-m], [m]], [[[s * s]], [[s * s]]], [3.0, 3.0])
    x = torch.tensor([[0.0], [0.7]], dtype=torch.float64)
    expected = (x[:, 0].square() + m * m) / (2 * s * s) - torch.log(torch.cosh(m * x[:, 0] / s**2))
    expected += 0.5 * np.log(2 * np.pi * s * s)
    torch.testing.assert_close(pair(x), expected, rtol=1e-12, atol=1e-12)
    slope = (0.7 - m * np.tanh(m * 0.7 / s**2)) / s**2
    torch.testing.assert_close(
        pair.gradient(x), torch.tensor([[0.0], [slope]], dtype=torch.float64), rtol=1e-12, atol=1e-12
    )
    assert pair.hessian(x[:1]).item() == pytest.approx((1 - (m / s) ** 2) / s**2, rel=1e-12)


def test_rotated_scalar_is_the_rotated_separable_potential() -> None:
    rotation, x = _rotation(3), _points(3, 12)
    torch.testing.assert_close(jf.Rotated(jf.DoubleWell(1), rotation)(x), jf.DoubleWell(3, rotation)(x))
    torch.testing.assert_close(jf.DoubleWell(3, rotation)(x), jf.DoubleWell(3)(x @ rotation.mT))


def test_drift_is_minus_the_gradient_and_noise_comes_from_beta() -> None:
    sde, x = jf.LangevinSDE(jf.DoubleWell(2), beta=4.0), _points(2, 5)
    torch.testing.assert_close(sde.drift(x), -4 * x * (x.square() - 1))
    assert sde.variance_rate() == 0.5
