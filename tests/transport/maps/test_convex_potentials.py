"""Convex potentials: every family passes one suite, against automatic differentiation."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import MultivariateNormal

from jkofilter.errors import FilterError
from jkofilter.transport.laws.belief import TransportBelief, prior_pool
from jkofilter.transport.maps.convex import ConvexPotential, Pool, factorised, inverse, log_det, push, push_log_prob
from jkofilter.transport.maps.displacement import DisplacementInterpolation
from jkofilter.transport.maps.icnn import ICNN
from jkofilter.transport.maps.ridge import Ridges, RidgeSpline
from jkofilter.transport.maps.soft_maximum import SoftMaximum
from jkofilter.transport.steps.icnn_engine import network_of

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


def soft_maximum(seed: int = 4) -> SoftMaximum:
    one, deviations = torch.tensor(1.5, dtype=torch.float64), 0.1 * normals(4, D, D, seed=seed)
    centres, slopes, offsets = normals(4, D, seed=seed + 1), normals(4, D, seed=seed + 2), normals(4, seed=seed + 3)
    root, radii = torch.linalg.cholesky(spd(D)), torch.tensor([0.7, 2.0], dtype=torch.float64)
    bends = 0.5 * normals(4, 2, seed=seed + 4), 0.5 * normals(4, 3, D, seed=seed + 5), normals(4, 3, seed=seed + 6)
    ridge = 0.3 * normals(4, 3, seed=seed + 7)
    return SoftMaximum(centres, one, root, deviations, slopes, offsets, -one, radii, *bends, ridge)


FAMILIES: dict[str, Callable[[], ConvexPotential]] = {
    "ridge": ridge,
    "affine": lambda: RidgeSpline.affine(spd(D), normals(D, seed=4)),
    "icnn": network,
    "soft maximum": soft_maximum,
    "part of a ridge step": lambda: DisplacementInterpolation(ridge(), 0.3),
    "part of an icnn step": lambda: DisplacementInterpolation(network(), 0.7),
    "part of a soft maximum step": lambda: DisplacementInterpolation(soft_maximum(), 0.4),
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


@pytest.mark.parametrize("make", [ridge, network, soft_maximum], ids=["ridge", "icnn", "soft maximum"])
def test_parameters_determine_the_potential(make: Callable[[], RidgeSpline | ICNN | SoftMaximum]) -> None:
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


def test_an_affine_map_stays_the_same_on_any_ridges() -> None:
    matrix, shift, at = spd(D), normals(D), POINTS["far"]
    psi = RidgeSpline.affine(matrix, shift).on(dictionary())
    assert (psi.coefficients > 0.01).all()
    assert (torch.linalg.eigvalsh(psi.quadratic) > 0).all()
    torch.testing.assert_close(psi.gradient(at), at @ matrix + shift)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_a_network_can_be_put_about_any_affine_map(scale: float) -> None:
    matrix, shift, at = scale * spd(D, seed=5), normals(D, seed=6), normals(300, D, seed=3)
    psi = network().about(at, matrix, shift)
    torch.testing.assert_close(psi.hessian(at).mean(0), matrix)
    torch.testing.assert_close(psi.gradient(at).mean(0), at.mean(0) @ matrix + shift)


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


# --- more of the same, in one to four dimensions ---------------------------------------------------------------------


def spline_in(d: int, seed: int, scale: float = 1.0) -> RidgeSpline:
    directions = normals(d + 2, d, seed=seed)
    ridges = Ridges.spanning(normals(200, d, seed=seed + 1), directions / directions.norm(dim=1, keepdim=True), 9)
    coefficients = scale * torch.rand(d + 2, 8, generator=generator(seed), dtype=torch.float64)
    return RidgeSpline(spd(d, seed), normals(d, seed=seed), ridges, coefficients)


def network_in(d: int, seed: int) -> ICNN:
    return ICNN.random(normals(200, d, seed=seed), (10, 8), 2, 0.7, generator(seed))


def test_the_log_determinant_is_that_of_the_differentiated_hessian(psi: ConvexPotential, x: Tensor) -> None:
    _, hessian = differentiated(psi, x)
    expected = torch.linalg.slogdet(hessian)[1]
    torch.testing.assert_close(log_det(factorised(psi.hessian(x))), expected, rtol=1e-10, atol=1e-10)
    y, pushed = push_log_prob(psi, x, torch.zeros(len(x), dtype=torch.float64))
    torch.testing.assert_close(pushed, -expected, rtol=1e-10, atol=1e-10)
    _, inverted = inverse(psi, y)
    torch.testing.assert_close(inverted, expected, rtol=0, atol=1e-8)


def test_the_pushed_score_is_the_differentiated_log_density(psi: ConvexPotential, x: Tensor) -> None:
    law = MultivariateNormal(torch.ones(D, dtype=torch.float64), spd(D, 8))
    pushed = push(psi, prior_pool(law, x))
    leaf = x.clone().requires_grad_(True)
    along = law.log_prob(leaf) - torch.linalg.slogdet(psi.hessian(leaf))[1]
    (by_x,) = torch.autograd.grad(along.sum(), leaf)
    # log rho'(T(x)) = along(x): the chain rule gives DT' score = grad along.
    expected = torch.linalg.solve(psi.hessian(x).mT, by_x.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(pushed.pool.score, expected, rtol=1e-8, atol=1e-9)
    identity = pushed.inverse_hessian @ psi.hessian(x)
    torch.testing.assert_close(identity, torch.eye(D, dtype=torch.float64).expand_as(identity), rtol=0, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    d=st.integers(1, 4),
    seed=st.integers(0, 10_000),
    scale=st.floats(0.0, 30.0),
    reach=st.floats(0.1, 50.0),
    share=st.floats(0.0, 1.0),
)
def test_maps_in_any_dimension_can_be_inverted_far_from_their_knots(
    d: int, seed: int, scale: float, reach: float, share: float
) -> None:
    x = reach * normals(10, d, seed=seed)
    for psi in (
        spline_in(d, seed, scale),
        network_in(d, seed),
        DisplacementInterpolation(spline_in(d, seed, scale), share),
    ):
        assert (torch.linalg.eigvalsh(psi.hessian(x)) > 0).all()
        back, found = inverse(psi, psi.gradient(x))
        # The stopping rule is relative to the target: beyond that the least curvature decides.
        torch.testing.assert_close(back, x, rtol=0, atol=1e-8 * (1 + reach) * (1 + scale))
        torch.testing.assert_close(found, torch.linalg.slogdet(psi.hessian(back))[1], rtol=0, atol=1e-8)


def test_a_map_that_is_not_increasing_is_refused() -> None:
    x, y = POINTS["near"], torch.eye(D, dtype=torch.float64)
    folding = RidgeSpline.affine(torch.diag(torch.tensor([1.0, -1.0, 1.0]).double()), torch.zeros(D).double())
    broken = RidgeSpline.affine(y * math.nan, torch.zeros(D).double())
    pool = Pool(x, x[:, 0], x)
    for psi in (folding, broken):
        with pytest.raises(FilterError, match="positive definite"):
            push(psi, pool)
        with pytest.raises(FilterError, match="positive definite"):
            push_log_prob(psi, x, x[:, 0])
    with pytest.raises(FilterError, match="positive definite"):
        inverse(folding, 2 * x)


def test_affine_and_interpolated_potentials_come_back_from_their_parameters() -> None:
    x = POINTS["far"]
    psi = FAMILIES["affine"]()
    again = RidgeSpline.from_parameters(dict(psi.parameters()))
    for part in ("__call__", "gradient", "hessian"):
        assert torch.equal(getattr(again, part)(x), getattr(psi, part)(x))
    partial = DisplacementInterpolation(network(), 0.7)
    parameters = dict(partial.parameters())
    share = parameters.pop("share").item()
    assert torch.equal(
        DisplacementInterpolation(ICNN.from_parameters(parameters), share).gradient(x), partial.gradient(x)
    )


def test_an_affine_spline_is_the_affine_map() -> None:
    x, matrix, shift = POINTS["far"], spd(D), normals(D, seed=4)
    psi = RidgeSpline.affine(matrix, shift)
    torch.testing.assert_close(psi.gradient(x), (matrix @ x.mT).mT + shift)
    torch.testing.assert_close(psi.hessian(x), matrix.expand(len(x), D, D))
    assert psi.log_det_gradient(x, psi.hessian(x)).abs().max() == 0
    belief = TransportBelief(
        0.0, MultivariateNormal(shift, spd(D, 1)), (psi, RidgeSpline.affine(spd(D, 2), -shift)), Pool(x, x[:, 0], x), x
    )
    both = spd(D, 2) @ matrix
    mean = spd(D, 2) @ (matrix @ shift + shift) - shift
    covariance = both @ spd(D, 1) @ both.mT
    law = MultivariateNormal(mean, 0.5 * (covariance + covariance.mT))
    torch.testing.assert_close(belief.log_prob(x), law.log_prob(x), rtol=1e-9, atol=1e-9)


def test_a_ridge_bends_by_its_end_coefficients_beyond_the_knots() -> None:
    direction = torch.tensor([[0.6, 0.0, 0.8]], dtype=torch.float64)
    ridges = Ridges(direction, torch.tensor([-2.0]).double(), torch.tensor([0.5]).double(), 8)
    psi = RidgeSpline(spd(D), normals(D), ridges, torch.arange(1.0, 8.0, dtype=torch.float64).unsqueeze(0))
    for at, coefficient in ((-2.0, 1.0), (-30.0, 1.0), (2.0, 7.0), (30.0, 7.0)):
        expected = spd(D) + coefficient * direction.mT @ direction
        torch.testing.assert_close(psi.hessian(at * direction)[0], expected)
    # A uniform cubic B-spline with coefficients linear in their knot is linear: at the fourth knot c is four.
    torch.testing.assert_close(psi.along(0.0 * direction)[1], torch.tensor([[4.0]]).double())


def test_shares_of_a_step_lead_from_the_identity_to_the_step(x: Tensor) -> None:
    for psi in (ridge(), network()):
        torch.testing.assert_close(DisplacementInterpolation(psi, 0.0).gradient(x), x)
        torch.testing.assert_close(DisplacementInterpolation(psi, 1.0).gradient(x), psi.gradient(x))
        torch.testing.assert_close(DisplacementInterpolation(psi, 0.25).gradient(x), 0.75 * x + 0.25 * psi.gradient(x))
    whole, part = network().rescaled(1.0), network().rescaled(0.5)
    assert whole is not None
    assert part is not None
    torch.testing.assert_close(whole.gradient(x), network().gradient(x), rtol=1e-9, atol=1e-9)
    eye = torch.eye(D, dtype=torch.float64)
    torch.testing.assert_close(part.hessian(x), 0.5 * eye + 0.5 * network().hessian(x), rtol=1e-9, atol=1e-9)


def test_a_chain_on_the_line_keeps_the_mass_between_points() -> None:
    normal = MultivariateNormal(torch.zeros(1).double(), torch.eye(1).double())
    maps = (spline_in(1, 3), network_in(1, 4), DisplacementInterpolation(spline_in(1, 5), 0.6))
    belief = TransportBelief(0.0, normal, maps, prior_pool(normal, normals(10, 1)), normals(10, 1))
    ends = torch.tensor([[-8.0], [-0.7], [0.9], [8.0]], dtype=torch.float64)
    for psi in maps:
        ends = psi.gradient(ends)
    for low, high, mass in zip(ends[:-1], ends[1:], (0.2419637, 0.5739764, 0.1840601), strict=True):
        # Simpson's rule over 2000 panels: the density has the splines' jumps in its second derivative.
        x = torch.linspace(low.item(), high.item(), 4001, dtype=torch.float64)
        weights = torch.full((4001,), 2.0).double()
        weights[1::2], weights[0], weights[-1] = 4.0, 1.0, 1.0
        integral = (belief.log_prob(x.unsqueeze(-1)).exp() * weights).sum() * (x[1] - x[0]) / 3
        assert integral.item() == pytest.approx(mass, abs=1e-6)
