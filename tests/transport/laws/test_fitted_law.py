"""Laws carried to the normal by convex layers, and fitted to particles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from oracles import mixture_log_density
from scipy import stats
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from jkofilter.errors import FilterError
from jkofilter.files import Table
from jkofilter.models.state_space import sample_prior
from jkofilter.transport.laws.fitted_law import FittedLaw, agreement, fitted_laws, gaussian_law, refit
from jkofilter.transport.laws.storage import decoded_prior, encoded_prior
from jkofilter.transport.maps.convex import Pool, inverse
from jkofilter.transport.maps.ridge import Ridges, RidgeSpline
from jkofilter.transport.steps.ridge_engine import RidgeEngine

ENGINE = RidgeEngine(cells=16)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=gen(seed), dtype=torch.float64)


def rotation(d: int, seed: int = 1) -> Tensor:
    return torch.linalg.qr(normals(d, d, seed=seed))[0]


def root_of(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.sqrt()) @ vectors.mT


def bent(d: int, seed: int) -> RidgeSpline:
    """A convex spline, random but never flat."""
    ridges = Ridges.spanning(2.5 * normals(200, d, seed=seed), rotation(d, seed), 9)
    curvature = 2 * torch.rand(d, 8, generator=gen(seed + 50), dtype=torch.float64)
    square = normals(d, d, seed=seed + 60)
    return RidgeSpline(
        0.4 * torch.eye(d).double() + 0.05 * square @ square.mT, 0.2 * normals(d, seed=seed + 70), ridges, curvature
    )


def law_of_depth(depth: int, d: int = 2) -> FittedLaw:
    square = normals(d, d, seed=3)
    root = root_of(0.2 * torch.eye(d).double() + 0.4 * square @ square.mT)
    return FittedLaw(torch.linspace(-0.7, 0.9, d).double(), root, tuple(bent(d, 10 + k) for k in range(depth)))


@pytest.fixture(params=[0, 1, 2, 3])
def law(request: pytest.FixtureRequest) -> FittedLaw:
    return law_of_depth(request.param)


# --- the law ---------------------------------------------------------------------------------------------------------


def test_the_density_integrates_to_one(law: FittedLaw) -> None:
    """Trapezoid sums over a square that leaves out less than 1e-9 of the mass; the splines are twice differentiable."""
    far = law.restore(
        torch.tensor([[r * math.cos(t), r * math.sin(t)] for t in np.linspace(0, 6.2, 40) for r in (6.5,)]).double()
    )
    reach = far.abs().max().item()
    axis = np.linspace(-reach, reach, 401)
    points = torch.from_numpy(np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2))
    total = law.log_prob(points).exp().sum().item() * (axis[1] - axis[0]) ** 2
    assert total == pytest.approx(1.0, abs=1e-5)


def test_the_density_is_that_of_the_change_of_variables_by_autograd(law: FittedLaw) -> None:
    x = normals(40, 2)
    jacobians = torch.stack([torch.autograd.functional.jacobian(lambda p: law.normalise(p[None])[0], p) for p in x])
    expected = Normal(0.0, 1.0).log_prob(law.normalise(x)).sum(-1) + torch.linalg.slogdet(jacobians).logabsdet
    torch.testing.assert_close(law.log_prob(x), expected, rtol=1e-10, atol=1e-10)


def test_the_pool_holds_the_density_and_its_gradient(law: FittedLaw) -> None:
    x = 1.5 * normals(300, 2)
    pool = law.pool(x)
    leaf = x.clone().requires_grad_(True)
    log_prob = law.log_prob(leaf)
    (score,) = torch.autograd.grad(log_prob.sum(), leaf)
    assert pool.x is x
    torch.testing.assert_close(pool.log_prob, log_prob.detach(), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(pool.score, score, rtol=1e-9, atol=1e-9)
    # Autograd itself against differences of the density, away from what it shares with the code under test.
    h = 1e-6
    for i, step in enumerate(h * torch.eye(2).double()):
        slope = (law.log_prob(x + step) - law.log_prob(x - step)) / (2 * h)
        torch.testing.assert_close(pool.score[:, i], slope, rtol=1e-5, atol=1e-5)


def test_normalise_and_restore_undo_each_other(law: FittedLaw) -> None:
    u = 2 * normals(500, 2)
    torch.testing.assert_close(law.normalise(law.restore(u)), u, rtol=0, atol=1e-8)
    x = 2 * normals(500, 2, seed=1)
    torch.testing.assert_close(law.restore(law.normalise(x)), x, rtol=0, atol=1e-8)


def test_draws_follow_the_density(law: FittedLaw) -> None:
    """Moments by quadrature of the density, five standard errors of the draws."""
    n = 40_000
    x = sample_prior(law, n, gen(5))
    assert x.shape == (n, 2)
    axis = np.linspace(-12, 12, 501)
    points = torch.from_numpy(np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2))
    weights = law.log_prob(points).exp() * (axis[1] - axis[0]) ** 2
    for moment in (lambda p: p, lambda p: p.square(), lambda p: p.prod(-1, keepdim=True), lambda p: (p > 0.3).double()):
        values, exact = moment(x), weights @ moment(points)
        # Sums over a half-space err by half a cell of the grid.
        slack = 0.02 if values.unique().numel() == 2 else 1e-5
        assert ((values.mean(0) - exact).abs() < 5 * values.std(0) / math.sqrt(n) + slack).all()


def test_draws_take_shapes_and_the_global_generator_like_any_distribution() -> None:
    law = law_of_depth(1)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        one = law.sample(torch.Size([4, 3]))
        torch.manual_seed(3)
        two = law.sample([4, 3])
        assert law.sample().shape == (2,)
    assert one.shape == (4, 3, 2)
    assert torch.equal(one, two)
    assert law.event_shape == (2,)
    assert law.batch_shape == ()


@pytest.mark.parametrize("kind", ["fitted law", "pulled back"])
def test_a_stored_law_comes_back_also_by_the_name_that_old_files_have(kind: str) -> None:
    law, x = law_of_depth(2), normals(30, 2)
    entry = encoded_prior(law)
    assert entry is not None
    assert entry["kind"] == "fitted law"
    back = decoded_prior(Table(entry | {"kind": kind}))
    assert isinstance(back, FittedLaw)
    assert torch.equal(back.log_prob(x), law.log_prob(x))


# --- fitting ---------------------------------------------------------------------------------------------------------


def test_gaussian_law_has_exactly_the_moments_of_its_particles() -> None:
    x = normals(50, 3) @ normals(3, 3, seed=2) + 5
    law = gaussian_law(x)
    expected = MultivariateNormal(x.mean(0), torch.cov(x.mT, correction=0))
    points = 4 * normals(30, 3, seed=4)
    torch.testing.assert_close(law.log_prob(points), expected.log_prob(points), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(law.root, law.root.mT)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_gaussian_particles_give_a_gaussian_law_within_sampling_error(d: int) -> None:
    n, square = 4_000, normals(d, d, seed=7)
    exact = MultivariateNormal(normals(d, seed=8), square @ square.mT + 0.1 * torch.eye(d).double())
    x = exact.mean + normals(n, d, seed=9) @ exact.scale_tril.mT
    score = -(x - exact.mean) @ exact.precision_matrix
    pool = Pool(x, exact.log_prob(x), score)
    found = refit(pool, x[:0], ENGINE, 0.99, 3, gen())
    assert all(len(phi.ridges.directions) == 0 for phi in found.layers)
    assert agreement(found, pool) > 1 - 5 * d * (d + 3) / n
    # KL between a Gaussian and the one fitted to n draws of it: half a chi-square of d (d + 3) / 2 over n.
    spread = MultivariateNormal(found.centre, found.root @ found.root.mT)
    kl = torch.distributions.kl_divergence(exact, spread).item()
    assert kl < stats.chi2.isf(1e-6, d * (d + 3) / 2) / (2 * n) * 1.1


WEIGHTS, CENTRES, WIDTHS = np.array([0.35, 0.65]), np.array([-1.1, 0.9]), np.array([0.5, 0.6])


def exact_pool(d: int, n: int, seed: int = 0) -> tuple[Pool, Tensor]:
    """Particles of a product of mixtures, rotated, with density and score from NumPy formulas."""
    rng, turn = np.random.default_rng(seed), rotation(d, 21)
    which = (rng.random((n, d)) > WEIGHTS[0]).astype(int)
    u = CENTRES[which] + WIDTHS[which] * rng.normal(size=(n, d))
    log_prob = sum(mixture_log_density(u[:, i], WEIGHTS, CENTRES, WIDTHS) for i in range(d))
    joint = np.log(WEIGHTS) + stats.norm.logpdf(u[..., None], CENTRES, WIDTHS)
    share = np.exp(joint - joint.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    score = (share * (CENTRES - u[..., None]) / WIDTHS**2).sum(-1)
    as_tensor = torch.from_numpy
    return Pool(as_tensor(u) @ turn, as_tensor(np.asarray(log_prob)), as_tensor(score) @ turn), turn


@pytest.mark.slow
@pytest.mark.parametrize(("d", "n"), [(1, 1_000), (2, 2_000), (4, 4_000)])
def test_a_rotated_product_of_mixtures_is_fitted(d: int, n: int) -> None:
    """Judged on fresh particles, with the exact density: effective share, and rms error of the log density."""
    pool, turn = exact_pool(d, n)
    found = refit(pool, turn, ENGINE, 0.99, 3, gen())
    assert len(found.layers) >= 1
    assert agreement(found, pool) > 0.97
    fresh, _ = exact_pool(d, 20_000, seed=1)
    difference = found.log_prob(fresh.x) - fresh.log_prob
    weights = (difference - difference.logsumexp(0)).exp()
    assert 1 / weights.square().sum() > 0.95 * len(fresh.x)
    assert abs(difference.mean().item()) < 0.05
    assert agreement(found, pool) == pytest.approx(_share(found, pool), rel=1e-9)
    # What a Gaussian alone would reach is far from it.
    assert _share(gaussian_law(pool.x), pool) < 0.9


def _share(law: FittedLaw, pool: Pool) -> float:
    w = (law.log_prob(pool.x) - pool.log_prob).numpy()
    w = np.exp(w - w.max())
    return float(w.sum() ** 2 / (w**2).sum() / len(w))


def test_directions_are_found_where_none_are_given() -> None:
    pool, _ = exact_pool(2, 2_000)
    found = refit(pool, pool.x[:0], ENGINE, 0.97, 3, gen())
    assert agreement(found, pool) > 0.97


def test_a_constant_error_of_the_log_density_changes_nothing() -> None:
    pool, turn = exact_pool(2, 1_000)
    shifted = Pool(pool.x, pool.log_prob + 123.0, pool.score)
    one, two = (refit(p, turn, ENGINE, 0.97, 2, gen()) for p in (pool, shifted))
    assert agreement(two, shifted) == pytest.approx(agreement(one, pool), rel=1e-9)
    x = normals(50, 2)
    torch.testing.assert_close(two.log_prob(x), one.log_prob(x), rtol=1e-7, atol=1e-7)


def test_no_layers_are_added_beyond_the_most_or_once_it_is_enough() -> None:
    pool, turn = exact_pool(2, 1_000)
    gaussian = refit(pool, turn, ENGINE, 0.99, 0, gen())
    assert gaussian.layers == ()
    # One is always fitted: it has no sampling noise, which the moments of particles have.
    assert len(refit(pool, turn, ENGINE, agreement(gaussian, pool), 3, gen()).layers) == 1
    assert len(refit(pool, turn, ENGINE, 1.0, 2, gen()).layers) <= 2


def test_a_layer_that_cannot_be_fitted_leaves_the_law_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise FilterError("no convergence")

    monkeypatch.setattr(RidgeEngine, "solve", fails)
    pool, turn = exact_pool(2, 500)
    found = refit(pool, turn, ENGINE, 0.99, 3, gen())
    assert all(len(phi.ridges.directions) == 0 for phi in found.layers)
    assert agreement(found, pool) == pytest.approx(_share(gaussian_law(pool.x), pool), rel=1e-9)


def test_equal_generators_fit_alike() -> None:
    pool, turn = exact_pool(2, 500)
    one, two = (refit(pool, turn, ENGINE, 0.99, 2, gen(4)) for _ in range(2))
    x = normals(20, 2)
    assert torch.equal(one.log_prob(x), two.log_prob(x))


def test_without_scores_the_weights_of_far_modes_are_found_all_the_same() -> None:
    """Scores know nothing of what each mode weighs: .35 and .65 within five standard errors of so many particles."""
    n, rng = 4_000, np.random.default_rng(5)
    side = np.where(rng.random(n) < 0.35, -1.0, 1.0)
    x = torch.from_numpy(3 * side + 0.4 * rng.normal(size=n)).unsqueeze(-1)
    weights, centres = np.array([0.35, 0.65]), np.array([-3.0, 3.0])
    log_prob = torch.from_numpy(np.asarray(mixture_log_density(x[:, 0].numpy(), weights, centres, np.full(2, 0.4))))
    score = (3 * torch.from_numpy(side).unsqueeze(-1) - x) / 0.16
    laws = fitted_laws(Pool(x, log_prob, score), torch.ones(1, 1).double(), ENGINE, 1, gen(), controlled=False)
    draws = sample_prior(next(laws), 20_000, gen(1))
    assert (draws < 0).double().mean().item() == pytest.approx(0.35, abs=5 * math.sqrt(0.35 * 0.65 / n))


def test_points_that_no_map_reaches_are_nan_where_that_is_asked_for() -> None:
    """The gradient of sqrt(1 + x^2) stays between -1 and 1."""

    class Bounded:
        def __call__(self, x: Tensor) -> Tensor:
            return (1 + x.square()).sqrt().sum(-1)

        def gradient_and_hessian(self, x: Tensor) -> tuple[Tensor, Tensor]:
            root = (1 + x.square()).sqrt()
            return x / root, torch.diag_embed(root**-3)

    y = torch.tensor([[0.6], [1.5], [math.inf]]).double()
    with pytest.raises(FilterError, match="infinite"):
        inverse(Bounded(), y)  # type: ignore[arg-type]
    x, log_det = inverse(Bounded(), y, strict=False)  # type: ignore[arg-type]
    assert x[0].item() == pytest.approx(0.75)
    assert log_det[0].item() == pytest.approx(-1.5 * math.log(1 + 0.75**2))
    assert torch.isnan(x[1:]).all()
    assert torch.isnan(log_det[1:]).all()
