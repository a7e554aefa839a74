"""Convex potentials: every family passes one suite, against automatic differentiation."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from jkofilter.errors import FilterError
from jkofilter.transport.convex import ConvexPotential, Pool, inverse, push
from jkofilter.transport.icnn import ICNN
from jkofilter.transport.icnn_engine import network_of
from jkofilter.transport.interpolated import Interpolated
from jkofilter.transport.ridge import Ridges, RidgeSpline

D = 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def spd(d: int, seed: int = 0) -> Tensor:
    root = normals(d, d, seed=seed)
    return root @ root.mT / d + 0.3 * torch.eye(d, dtype=torch.float64)


def dictionary(k: int = 5, cells: int = 7, seed: int = 1) -> Ridges:
    directions = normals(k, D, seed=seed)
    directions = directions / directions.norm(dim=1, keepdim=True)
    return Ridges.spanning(normals(200, D, seed=seed), directions, cells)


def ridge(seed: int = 2) -> RidgeSpline:
    coefficients = torch.rand(5, 6, generator=generator(seed), dtype=torch.float64)
    return RidgeSpline(spd(D), normals(D, seed=seed), dictionary(), coefficients)


def network(seed: int = 3) -> ICNN:
    return ICNN.random(normals(300, D, seed=seed), (12, 9), 2, 0.6, generator(seed))


FAMILIES: dict[str, Callable[[], ConvexPotential]] = {
    "ridge": ridge,
    "affine": lambda: RidgeSpline.affine(spd(D), normals(D, seed=4)),
    "icnn": network,
    "part of a ridge step": lambda: Interpolated(ridge(), 0.3),
    "part of an icnn step": lambda: Interpolated(network(), 0.7),
}
# The second lies far outside the knots and the particles the networks were scaled to.
POINTS = {"near": normals(40, D, seed=5), "far": 6 * normals(40, D, seed=6)}


@pytest.fixture(params=list(FAMILIES))
def psi(request: pytest.FixtureRequest) -> ConvexPotential:
    return FAMILIES[request.param]()


@pytest.fixture(params=list(POINTS))
def x(request: pytest.FixtureRequest) -> Tensor:
    return POINTS[request.param].clone()


def differentiated(psi: ConvexPotential, x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(psi(leaf).sum(), leaf, create_graph=True)
    rows = [torch.autograd.grad(gradient[:, i].sum(), leaf, retain_graph=True)[0] for i in range(D)]
    return gradient.detach(), torch.stack(rows, 1)


def test_gradient_hessian_and_log_det_are_those_of_the_value(psi: ConvexPotential, x: Tensor) -> None:
    gradient, hessian = differentiated(psi, x)
    torch.testing.assert_close(psi.gradient(x), gradient, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(psi.hessian(x), hessian, rtol=1e-10, atol=1e-10)
    _, log_det = inverse(psi, gradient)
    torch.testing.assert_close(log_det, torch.logdet(hessian), rtol=0, atol=1e-8)


def test_gradient_of_the_log_determinant(psi: ConvexPotential, x: Tensor) -> None:
    leaf = x.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(torch.logdet(psi.hessian(leaf)).sum() + 0 * leaf.sum(), leaf)
    found = psi.log_det_gradient(x, torch.linalg.inv(psi.hessian(x)))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


def test_the_inverse_undoes_the_map(psi: ConvexPotential, x: Tensor) -> None:
    back, _ = inverse(psi, psi.gradient(x))
    torch.testing.assert_close(back, x, rtol=1e-7, atol=1e-7)


def test_points_that_are_not_finite_cannot_be_inverted(psi: ConvexPotential) -> None:
    with pytest.raises(FilterError, match="NaN or infinite"):
        inverse(psi, torch.full((1, D), math.nan, dtype=torch.float64))


@pytest.mark.parametrize("make", [ridge, network], ids=["ridge", "icnn"])
def test_parameters_determine_the_potential(make: Callable[[], RidgeSpline | ICNN]) -> None:
    psi = make()
    again = type(psi).from_parameters(psi.parameters())
    assert torch.equal(again.gradient(POINTS["far"]), psi.gradient(POINTS["far"]))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 30.0), reach=st.floats(0.1, 50.0))
def test_any_parameters_give_a_positive_definite_hessian_everywhere(seed: int, scale: float, reach: float) -> None:
    at = reach * normals(20, D, seed=seed)
    coefficients = scale * torch.rand(5, 6, generator=generator(seed), dtype=torch.float64)
    spline = RidgeSpline(scale * spd(D, seed), normals(D), dictionary(seed=seed), coefficients)
    random = {name: scale * value for name, value in network(seed).parameters().items()}
    for psi in (spline, ICNN.from_parameters(random)):
        assert (torch.linalg.eigvalsh(psi.hessian(at)) > 0).all()


def test_the_ridge_basis_sums_to_one_and_rebuilds_the_spline() -> None:
    psi, at = ridge(), POINTS["far"]
    slopes, curvatures = psi.ridges.basis(at)
    torch.testing.assert_close(curvatures.sum(-1), torch.ones_like(curvatures[..., 0]))
    slope = torch.einsum("nkj,kj->nk", slopes, psi.coefficients)
    torch.testing.assert_close(at @ psi.quadratic + psi.shift + slope @ psi.ridges.directions, psi.gradient(at))


def test_the_identity_of_a_dictionary_is_the_identity() -> None:
    psi, at = RidgeSpline.identity(dictionary()), POINTS["far"]
    torch.testing.assert_close(psi.gradient(at), at)
    assert (torch.linalg.eigvalsh(psi.quadratic) > 0).all()


def test_a_fresh_network_is_the_identity_on_average_and_rescales_towards_it() -> None:
    at = normals(300, D, seed=3)
    psi = network()
    torch.testing.assert_close(psi.hessian(at).mean(0), torch.eye(D, dtype=torch.float64))
    torch.testing.assert_close(psi.gradient(at).mean(0), at.mean(0))
    part = psi.rescaled(0.4)
    assert part is not None
    torch.testing.assert_close(part.gradient(at), 0.6 * at + 0.4 * psi.gradient(at))
    assert psi.rescaled(50.0) is None


def test_a_network_can_start_from_a_ridge_spline() -> None:
    psi, at = ridge(), normals(200, D, seed=1)
    start = network_of(psi, at, (0, 8), 1, generator())
    gap = (start.gradient(at) - psi.gradient(at)).square().mean().sqrt()
    assert gap < 0.1 * (psi.gradient(at) - at).square().mean().sqrt()


def test_pushed_densities_and_scores_are_those_of_the_pushed_law(psi: ConvexPotential) -> None:
    law = torch.distributions.MultivariateNormal(torch.zeros(D, dtype=torch.float64), spd(D, 7))
    start = POINTS["near"]
    score = -start @ torch.linalg.inv(law.covariance_matrix)
    pool = push(psi, Pool(start, law.log_prob(start), score)).pool

    def log_prob(y: Tensor) -> Tensor:
        back, log_det = inverse(psi, y)
        return law.log_prob(back) - log_det

    torch.testing.assert_close(pool.log_prob, log_prob(pool.x), rtol=0, atol=1e-7)
    h = 1e-4
    for i in range(D):
        step = h * torch.eye(D, dtype=torch.float64)[i]
        difference = (log_prob(pool.x + step) - log_prob(pool.x - step)) / (2 * h)
        # The third derivative of a cubic spline's curvature jumps at knots: first order there.
        torch.testing.assert_close(pool.score[:, i], difference, rtol=2e-3, atol=2e-3)
