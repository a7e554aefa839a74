"""Soft maxima of quadratics: the potential against automatic differentiation, the engine against exact steps."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import jkofilter as jf
from jkofilter.errors import FilterError, InputError
from jkofilter.transport.laws.prior_pool import prior_pool
from jkofilter.transport.maps.convex import Pool, inverse
from jkofilter.transport.maps.soft_maximum import FLOOR, SoftMaximum
from jkofilter.transport.steps.problem import StepProblem
from jkofilter.transport.steps.soft_maximum_engine import bent, clusters, fitted, regions

EYE = torch.eye(2, dtype=torch.float64)
ENGINE = jf.SoftMaximumEngine(pieces=2)
MODES = torch.tensor([[-2.5, 0.0], [2.5, 1.0]], dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_potential(d: int, pieces: int, seed: int, scale: float = 1.0, log_sharpness: float = 0.5) -> SoftMaximum:
    shapes = {
        "centres": (pieces, d),
        "root": (d, d),
        "deviations": (pieces, d, d),
        "slopes": (pieces, d),
        "offsets": (pieces,),
        "radial": (pieces, 2),
        "linear": (pieces, 3, d),
        "bias": (pieces, 3),
        "ridge": (pieces, 3),
    }
    draw = generator(seed)
    tensors = {name: scale * torch.randn(shape, generator=draw).double() for name, shape in shapes.items()}
    unit, sharpness = torch.tensor(1.7).double(), torch.tensor(log_sharpness).double()
    radii = torch.tensor([0.8, 2.0]).double()
    return SoftMaximum(unit=unit, log_sharpness=sharpness, radii=radii, **tensors)


def mixture(means: Tensor) -> tuple[jf.LangevinSDE, MixtureSameFamily]:
    """A diffusion that is stationary under an even mixture of unit Gaussians."""
    n, d = means.shape
    weights, eye = torch.full((n,), 1 / n).double(), torch.eye(d, dtype=torch.float64).expand(n, -1, -1)
    law = MixtureSameFamily(Categorical(weights), MultivariateNormal(means, eye))
    return jf.LangevinSDE(jf.GaussianMixture(means, eye, weights)), law


def normal(scale: float, d: int = 2) -> MultivariateNormal:
    return MultivariateNormal(torch.zeros(d).double(), scale**2 * torch.eye(d, dtype=torch.float64))


def step_problem(n: int = 256, h: float = 0.1, pool: Pool | None = None) -> StepProblem:
    law = normal(2.0)
    pool = pool or prior_pool(law, 2.0 * torch.randn(n, 2, generator=generator()).double())
    return StepProblem.start(mixture(MODES)[0], pool, pool.x, h)


# --- the potential; maps/test_convex_potentials.py holds it to the suite of all families -------------------------


@settings(max_examples=40, deadline=None)
@given(
    d=st.integers(1, 4),
    pieces=st.integers(1, 6),
    seed=st.integers(0, 10_000),
    scale=st.floats(0.0, 10.0),
    log_sharpness=st.floats(-6.0, 6.0),
    reach=st.floats(0.1, 30.0),
)
def test_any_parameters_give_a_positive_definite_jacobian(
    d: int, pieces: int, seed: int, scale: float, log_sharpness: float, reach: float
) -> None:
    psi = random_potential(d, pieces, seed, scale, log_sharpness)
    x = reach * torch.randn(20, d, generator=generator(seed)).double()
    hessian = psi.hessian(x)
    # Rounding is relative to the largest eigenvalue, which the gates make large.
    largest = torch.linalg.eigvalsh(hessian)[:, -1:]
    assert (torch.linalg.eigvalsh(hessian) > -1e-14 * largest).all()
    assert torch.isfinite(psi(x)).all()


@settings(max_examples=20, deadline=None)
@given(d=st.integers(1, 4), pieces=st.integers(1, 5), seed=st.integers(0, 10_000), log_sharpness=st.floats(-3.0, 2.0))
def test_the_inverse_undoes_the_map(d: int, pieces: int, seed: int, log_sharpness: float) -> None:
    psi = random_potential(d, pieces, seed, 1.0, log_sharpness)
    x = 3 * torch.randn(20, d, generator=generator(seed)).double()
    back, log_det = inverse(psi, psi.gradient(x))
    # Along a direction of curvature near FLOOR the tolerance on the image is worth a thousand times less.
    torch.testing.assert_close(back, x, rtol=0, atol=1e-5)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(psi.hessian(x))[1], rtol=0, atol=1e-4)


def test_the_inverse_finds_its_way_past_sharp_gates() -> None:
    # Where the norm of the gap alone guides the line search, two of these points are not reached.
    psi = random_potential(2, 5, 341, 1.0, 2.0)
    x = 3 * torch.randn(20, 2, generator=generator(341)).double()
    torch.testing.assert_close(inverse(psi, psi.gradient(x))[0], x, rtol=0, atol=1e-5)


def test_the_explicit_step_of_a_mixture_is_a_soft_maximum() -> None:
    h, beta = 0.2, 1.7
    sde = jf.LangevinSDE(jf.GaussianMixture(MODES, (EYE / beta).expand(2, 2, 2), torch.full((2,), 0.5).double()), beta)
    x = 3 * torch.randn(50, 2, generator=generator()).double()
    # V = -log sum_i exp(-beta |x - mu_i|^2 / 2): the curvature of a piece is 1 - h beta, and g is 1/h.
    root = math.sqrt(1 - h * beta - 1e-3) * EYE
    unit = torch.tensor(1.0).double()
    tensors = {"centres": torch.zeros(2, 2).double(), "unit": unit, "root": root, "slopes": h * beta * MODES}
    tensors |= {"deviations": torch.zeros(2, 2, 2).double(), "log_sharpness": -torch.tensor(h).double().log()}
    psi = SoftMaximum.from_parameters(tensors | {"offsets": -0.5 * h * beta * MODES.square().sum(-1)})
    torch.testing.assert_close(psi.gradient(x), x - h * sde.potential.gradient(x))


def test_flows_stored_before_pieces_could_bend_load_as_quadratics() -> None:
    psi = random_potential(3, 4, 5)
    bends = ("radii", "radial", "linear", "bias", "ridge")
    old = SoftMaximum.from_parameters({n: value for n, value in psi.parameters().items() if n not in bends})
    x = torch.randn(20, 3, generator=generator()).double()
    z = (x.unsqueeze(1) - psi.centres) / psi.unit
    values = psi.unit.square() * (
        0.5 * torch.einsum("nmd,mde,nme->nm", z, psi.curvatures, z) + (psi.slopes * z).sum(-1)
    )
    expected = (psi.sharpness * (values + psi.unit.square() * psi.offsets)).logsumexp(-1) / psi.sharpness
    torch.testing.assert_close(old(x), expected)


@pytest.mark.slow
def test_the_change_of_variables_keeps_the_mass() -> None:
    psi, law = random_potential(2, 4, 1), normal(1.0)
    step = 0.02
    ticks = torch.arange(-6, 6, step).double()
    base = torch.cartesian_prod(ticks, ticks)
    y = psi.gradient(base)
    low, high = y.amin(0), y.amax(0)
    grid = [torch.linspace(a, b, 220).double() for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    points = torch.cartesian_prod(*grid)
    back, log_det = inverse(psi, points)
    mass = (law.log_prob(back) - log_det).exp().sum() * (grid[0][1] - grid[0][0]) * (grid[1][1] - grid[1][0])
    assert mass.item() == pytest.approx(1.0, abs=2e-3)


# --- the engine ------------------------------------------------------------------------------------------------------


def test_clusters_are_found_and_do_not_depend_on_the_global_generator() -> None:
    centres = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]]).double()
    points = centres[torch.arange(300) % 3] + 0.5 * torch.randn(300, 2, generator=generator()).double()
    state = torch.get_rng_state()
    found = clusters(points, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.cdist(centres, found).amin(1).max() < 0.2
    # More clusters than there are different points.
    assert torch.isfinite(clusters(centres[:1].expand(20, 2), 4)).all()


def test_the_start_is_a_map_along_the_velocity() -> None:
    problem = step_problem()
    start = ENGINE.begin(problem.sde, problem.pool, None)
    assert len(start.slopes) == 2
    moved = start.gradient(problem.pool.x) - problem.pool.x
    velocity = -problem.sde.potential.gradient(problem.pool.x) - problem.pool.score
    assert torch.nn.functional.cosine_similarity(moved, velocity, dim=1).median() > 0.9


def test_bends_leave_map_and_jacobian_as_they_are_on_average_over_each_region() -> None:
    problem = step_problem(1024)
    x = problem.pool.x
    plain = ENGINE.begin(problem.sde, problem.pool, None)
    labels = plain.pieces(x).values_and_gradients()[0].argmax(1)
    rounded = bent(plain, x, labels, 1)
    assert rounded.radial.shape == (2, 1)
    for i in range(2):
        own = labels == i
        belongs = torch.nn.functional.one_hot(labels, 2).double()
        for psi in (plain, rounded):
            assert torch.linalg.eigvalsh(psi.curvatures).min() > 0
        (_, a), (_, b) = (psi.pieces(x).values_and_gradients() for psi in (plain, rounded))
        torch.testing.assert_close(
            b[own, i].mean(0), a[own, i].mean(0), rtol=0, atol=FLOOR * problem.pool.x.abs().max()
        )
        one, other = (psi.pieces(x[own]).mean_hessian(belongs[own]).mean(0) for psi in (plain, rounded))
        torch.testing.assert_close(other, one, rtol=0, atol=1e-9)


@pytest.mark.parametrize("stationary", [False, True])
def test_the_regions_are_the_basins_of_the_modes_also_near_the_stationary_law(stationary: bool) -> None:
    means = torch.tensor([[0.0, 6.0], [5.0, -3.0], [-5.0, -3.0]]).double()
    sde, law = mixture(means)
    g = generator()
    draws = means[torch.arange(900) % 3] + torch.randn(900, 2, generator=g).double()
    x = draws if stationary else 4 * torch.randn(900, 2, generator=g).double()
    found = regions(x, -sde.potential.gradient(x), 3, 1e-3).argmin(1)
    basin = torch.cdist(x, means).argmin(1)
    counts = torch.zeros(3, 3).index_put_((found, basin), torch.ones(900), accumulate=True)
    assert counts.amax(1).sum() > 0.97 * 900
    assert (counts.amax(0) > 0).all()


@pytest.mark.parametrize("pieces", [1, 2, 12])
def test_a_fit_lowers_the_residual_whatever_the_number_of_pieces(pieces: int) -> None:
    problem = step_problem(1024)
    engine = jf.SoftMaximumEngine(pieces=pieces)
    solved = engine.solve(problem, engine.begin(problem.sde, problem.pool, None), generator())
    velocity = -problem.sde.potential.gradient(problem.pool.x) - problem.pool.score
    share = solved.residual.square().sum(-1).median() / velocity.square().sum(-1).median()
    assert share < (0.5 if pieces == 1 else 0.02)
    assert solved.iterations > 1
    assert math.isfinite(solved.loss)


def test_a_wall_in_the_way_of_the_search_does_not_end_it() -> None:
    """A potential that is infinite where the first trial steps lead."""
    sde, _ = mixture(MODES)
    walled = jf.Potential(lambda x: sde.potential(x) + torch.where(x.abs().amax(-1) > 9, torch.inf, 0.0), 2)
    free = step_problem()
    problem = StepProblem.start(jf.LangevinSDE(walled), free.pool, free.pool.x, free.h)
    start = ENGINE.begin(free.sde, free.pool, None)
    far = SoftMaximum.from_parameters(start.parameters() | {"slopes": 1.5 * start.slopes})
    assert problem.pool.x.abs().max() < 9
    search = fitted(problem, far, 80, 1e-3)
    assert math.isfinite(search.loss)
    assert search.loss == pytest.approx(fitted(free, start, 80, 1e-3).loss, abs=0.02)


def test_a_potential_that_is_not_finite_is_an_error() -> None:
    free = step_problem()
    broken = jf.Potential(lambda x: torch.where(x.abs().sum(-1) > 1, torch.nan, 0.0) + x.square().sum(-1), 2)
    problem = StepProblem.start(jf.LangevinSDE(broken), free.pool, free.pool.x, 0.1)
    with pytest.raises(FilterError, match="not finite"):
        fitted(problem, ENGINE.begin(free.sde, free.pool, None), 20, 1e-3)
    pool = Pool(0 * free.pool.x, free.pool.log_prob, free.pool.score)
    with pytest.raises(FilterError, match="collapsed"):
        ENGINE.begin(free.sde, pool, None)


@pytest.mark.parametrize(
    "settings",
    [
        {"pieces": 0},
        {"pieces": 2.5},
        {"iterations": 0},
        {"refinements": -1},
        {"bends": -1},
        {"sharpness": 0.0},
        {"sharpness": math.nan},
        {"fit_tolerance": -1.0},
        {"penalty": -1.0},
        {"penalty": math.inf},
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        jf.SoftMaximumEngine(**settings)  # type: ignore[arg-type]


# --- flows -----------------------------------------------------------------------------------------------------------


def two_modes(engine: object, **settings: object) -> jf.JKOFlow:
    arguments: dict[str, object] = {"duration": 0.5, "step": 0.05, "pool": 1024} | settings
    return jf.solve_jko(normal(2.0), mixture(MODES)[0], scheme="implicit-euler", transport=engine, **arguments)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_flow_to_two_modes_is_closer_than_an_affine_one_and_close_to_the_grid() -> None:
    sde, _ = mixture(MODES)
    model = jf.StateSpaceModel(normal(2.0), sde, jf.LinearGaussian(EYE, EYE))
    grid = jf.GridFilter(model, bounds=(-10.0, 10.0), cells=128, step=2e-2)
    exact = grid.predict(grid.init(generator()), 0.5, generator())[0]
    found, affine = (two_modes(engine).final for engine in (ENGINE, jf.SoftMaximumEngine(pieces=1)))
    near, far = (jf.metrics.kl(law, exact, 1000) for law in (found, affine))
    assert near < 0.02
    assert near < 0.3 * far
    x = found.sample(200, generator(1))
    assert (found.log_prob(x) - exact.log_prob(x)).abs().median() < 0.1


@pytest.mark.slow
def test_second_order_steps_and_too_many_pieces_reach_the_stationary_law() -> None:
    _, law = mixture(MODES)
    engine = jf.SoftMaximumEngine(pieces=7, iterations=20)
    flow = jf.solve_jko(normal(2.0), mixture(MODES)[0], 1.5, 0.3, "sdirk2", engine, pool=256)
    x, log_prob = flow.final.sample_with_log_prob(2000, generator())
    assert (log_prob - law.log_prob(x)).mean() < 0.05


@pytest.mark.slow
def test_a_flow_repeats_and_comes_back_from_its_file(tmp_path: Path) -> None:
    flow, again = (two_modes("soft-maximum", duration=0.2, pool=256) for _ in range(2))
    assert torch.equal(flow.final.pool.log_prob, again.final.pool.log_prob)
    flow.save(tmp_path / "flow.pt")
    loaded = jf.JKOFlow.load(tmp_path / "flow.pt")
    assert all(isinstance(psi, SoftMaximum) for psi in loaded.maps)
    x = torch.randn(30, 2, generator=generator()).double()
    assert torch.equal(loaded.final.log_prob(x), flow.final.log_prob(x))
