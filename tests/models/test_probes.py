"""Models are tried out at draws of the prior: what passes though it is odd, what it costs, and which cures work."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Laplace, LogNormal, MultivariateNormal, Normal

import jkofilter as jf
from jkofilter.models.potential_checks import trouble_around


def prior_of(mean: float, deviation: float, dim: int, dtype: torch.dtype = torch.float64) -> MultivariateNormal:
    return MultivariateNormal(torch.full((dim,), mean, dtype=dtype), deviation**2 * torch.eye(dim, dtype=dtype))


def model_of(potential: jf.Potential, prior: Any) -> jf.StateSpaceModel:
    eye = torch.eye(potential.dim).double()
    return jf.StateSpaceModel(prior, jf.LangevinSDE(potential), jf.LinearGaussian(eye, eye))


class Cosine(jf.Potential):
    """V from numpy, with a gradient of its own."""

    def __init__(self) -> None:
        super().__init__(lambda x: torch.as_tensor(np.cos(x.detach().numpy())).sum(-1), 2)

    def gradient(self, x: Tensor) -> Tensor:
        return -torch.sin(x)


class Scaled(jf.Potential):
    """Curvatures of 1e-12 and 1e12, all written out."""

    RATES = torch.tensor([1e-12, 1e12]).double()

    def __init__(self) -> None:
        super().__init__(lambda x: 0.5 * (self.RATES * x.square()).sum(-1), 2)

    def gradient(self, x: Tensor) -> Tensor:
        return self.RATES * x

    def hessian(self, x: Tensor) -> Tensor:
        return torch.diag(self.RATES).expand(*x.shape, 2)


def _lennard_jones(x: Tensor) -> Tensor:
    r = x.square().sum(-1)
    return 4 * (r**-6 - r**-3)


def _jump(x: Tensor) -> Tensor:
    return 0.5 * x.square().sum(-1) + torch.where(x[..., 0] > 0, 20.0, 0.0)


NETWORK = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
ODD = {
    "Lennard-Jones, NaN at the origin": (lambda: jf.Potential(_lennard_jones, 3), prior_of(1.0, 0.1, 3)),
    "a logarithm": (lambda: jf.Potential(lambda x: (x - x.log()).sum(-1), 1), prior_of(3.0, 0.1, 1)),
    "kinks": (lambda: jf.Potential(lambda x: 2 * x.abs().sum(-1), 2), prior_of(0.0, 1.0, 2)),
    "a jump": (lambda: jf.Potential(_jump, 2), prior_of(0.0, 1.0, 2)),
    "fine structure": (
        lambda: jf.Potential(lambda x: (torch.sin(1e4 * x) / 1e4 + x.square()).sum(-1), 1),
        prior_of(0.0, 1.0, 1),
    ),
    "a large constant": (lambda: jf.Potential(lambda x: 1e9 + x.square().sum(-1), 2), prior_of(0.0, 1.0, 2)),
    "small units": (lambda: jf.Potential(lambda x: 1e24 * x.square().sum(-1), 2), prior_of(0.0, 1e-12, 2)),
    "units apart": (Scaled, MultivariateNormal(torch.zeros(2).double(), torch.diag(1 / Scaled.RATES))),
    "numpy with a gradient": (Cosine, prior_of(0.0, 1.0, 2)),
    "a network of float32": (
        lambda: jf.Potential(lambda x: NETWORK(x)[..., 0], 2),
        prior_of(0.0, 1.0, 2, torch.float32),
    ),
    "steep": (lambda: jf.Potential(lambda x: 1e3 * (x**12).sum(-1), 2), prior_of(0.0, 1.0, 2)),
    "many dimensions": (lambda: jf.DoubleWell(3000), Independent(Normal(torch.zeros(3000).double(), 1.0), 1)),
    "nine dimensions": (lambda: jf.DoubleWell(9), prior_of(0.0, 1.0, 9)),
}


@pytest.mark.parametrize(("build", "prior"), ODD.values(), ids=ODD.keys())
def test_odd_but_right_potentials_pass(build: Any, prior: Any) -> None:
    model_of(build(), prior)


def test_the_cure_for_torch_where_works() -> None:
    def safe(x: Tensor) -> Tensor:
        return (x.square() + torch.where(x > 0, x * torch.log(torch.where(x > 0, x, 1.0)), 0.0)).sum(-1)

    model_of(jf.Potential(safe, 1), prior_of(0.0, 1.0, 1))


def test_trying_out_is_cheap() -> None:
    calls: list[int] = []

    def energy(x: Tensor) -> Tensor:
        calls.append(x.numel())
        return x.square().sum(-1)

    model_of(jf.Potential(energy, 2), prior_of(0.0, 1.0, 2))
    assert len(calls) <= 15
    assert sum(calls) <= 2 * 800


@pytest.mark.parametrize(
    ("prior", "kind"),
    [
        (Normal(torch.tensor(1.0).double(), 2.0), Normal),
        (Normal(torch.tensor([1.0]).double(), torch.tensor([2.0]).double()), Normal),
        (Laplace(torch.tensor(1.0).double(), 2.0), Laplace),
        (LogNormal(torch.tensor(0.0).double(), 0.5), LogNormal),
    ],
)
def test_priors_of_one_number_are_priors_of_one_coordinate(prior: Any, kind: type) -> None:
    model = model_of(jf.Quadratic(0.0, 1.0), prior)
    assert tuple(model.prior.event_shape) == (1,)
    assert isinstance(model.prior.base_dist, kind)
    x = torch.tensor([[0.5], [1.5]]).double()
    torch.testing.assert_close(model.prior.log_prob(x), prior.log_prob(x).reshape(2))


def test_independent_coordinates_are_joined() -> None:
    model = model_of(jf.DoubleWell(3), Normal(torch.zeros(3).double(), 1.0))
    assert tuple(model.prior.event_shape) == (3,)
    with pytest.raises(jf.InputError, match=r"^prior must have event_shape \(3,\)"):
        model_of(jf.DoubleWell(3), Normal(torch.tensor(0.0).double(), 1.0))


def test_one_dimension_takes_numbers() -> None:
    x = torch.tensor([[0.3], [2.0]]).double()
    torch.testing.assert_close(jf.Quadratic(1.0, 3.0)(x), jf.Quadratic([1.0], [[3.0]])(x))
    mixture = jf.GaussianMixture([-1.0, 2.0], [0.3, 0.8], [1.0, 2.0])
    torch.testing.assert_close(mixture(x), jf.GaussianMixture([[-1.0], [2.0]], [[[0.3]], [[0.8]]], [1.0, 2.0])(x))
    y = torch.tensor([1.0]).double()
    expected = Normal(2 * x[:, 0], math.sqrt(0.5)).log_prob(y)
    torch.testing.assert_close(jf.LinearGaussian(2.0, 0.5).log_likelihood(y, x), expected)
    torch.testing.assert_close(jf.NonlinearGaussian(lambda x: 2 * x, 0.5).log_likelihood(y, x), expected)


@pytest.mark.parametrize("dim", [2, 10, 100])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_matrices_of_torchs_own_making_are_taken(dim: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(dim)
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=generator)).Q
    points = math.sqrt(scale) * torch.randn(3 * dim, dim, generator=generator)
    covariance, precision = torch.cov(points.T), torch.linalg.inv(torch.cov(points.T))
    for kind in (torch.float32, torch.float64):
        jf.DoubleWell(dim, rotation.to(kind))
        jf.LinearGaussian(torch.eye(dim), covariance.to(kind))
        found = jf.Quadratic(torch.zeros(dim), precision.to(kind)).precision
        assert torch.equal(found, found.mT)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_asymmetry_that_is_no_rounding_is_refused_at_any_scale(scale: float) -> None:
    skew = scale * torch.tensor([[1.0, 1e-3], [0.0, 1.0]]).double()
    with pytest.raises(jf.InputError, match="^covariance must be symmetric"):
        jf.LinearGaussian(torch.eye(2), skew)
    with pytest.raises(jf.InputError, match="^precision must be symmetric"):
        jf.Quadratic(torch.zeros(2), skew)


def test_a_sheared_rotation_is_refused_and_its_cure_works() -> None:
    sheared = torch.tensor([[1.0, 0.1], [0.0, 1.0]])
    with pytest.raises(jf.InputError, match=r"^rotation must be orthogonal.*torch.linalg.qr\(R\).Q"):
        jf.DoubleWell(2, sheared)
    jf.DoubleWell(2, torch.linalg.qr(sheared).Q)


def test_a_sensor_that_cannot_be_sampled_can_be_filtered_with() -> None:
    class Seen:
        def log_likelihood(self, y: Tensor, x: Tensor) -> Tensor:
            return -0.5 * (y - x).square().sum(-1)

        def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
            raise NotImplementedError

    sde = jf.LangevinSDE(jf.DoubleWell(1))
    model = jf.StateSpaceModel(prior_of(0.0, 1.0, 1), sde, Seen())
    assert jf.GridFilter(model).run(jf.ObservationSeries([0.1], [0.3])).status == "ok"


def test_a_likelihood_estimated_by_chance_is_not_compared() -> None:
    class Noisy:
        def log_likelihood(self, y: Tensor, x: Tensor) -> Tensor:
            return -0.5 * (y - x).square().sum(-1) + 0.1 * torch.rand(len(x)).double()

        def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
            return x

    jf.StateSpaceModel(prior_of(0.0, 1.0, 1), jf.LangevinSDE(jf.DoubleWell(1)), Noisy())


def test_trouble_is_looked_for_where_the_law_may_go_and_nowhere_else() -> None:
    def broken(x: Tensor) -> Tensor:
        return (3 * x + torch.where(x > -1, torch.sqrt(x + 1), 0.0)).sum(-1)

    points = 0.3 * torch.randn(50, 1, generator=torch.Generator().manual_seed(0)).double()
    assert "torch.where" in trouble_around(jf.Potential(broken, 1), points)
    assert trouble_around(jf.Potential(broken, 1), points + 10) == ""
    assert trouble_around(jf.DoubleWell(1), points) == ""
    assert trouble_around(jf.DoubleWell(1), points * math.nan) == ""
    assert "NaN around the law" in trouble_around(jf.Potential(lambda x: torch.log(x + 1).sum(-1), 1), points)
