"""One JKO step: the closed-form Gaussian step, the convex program, the control variate."""

import math

import pytest
import torch
from filter_problems import normals, spd
from torch import Tensor
from torch.distributions import MultivariateNormal

import jkofilter as jf
from jkofilter.errors import FilterError
from jkofilter.transport.laws.prior_pool import prior_pool
from jkofilter.transport.maps.convex import Pushed, log_det, push
from jkofilter.transport.maps.ridge import Ridges, RidgeSpline
from jkofilter.transport.steps.affine import fit_affine
from jkofilter.transport.steps.dictionary import fit_velocity, proposed_directions, tempered_weights
from jkofilter.transport.steps.engine import Engine
from jkofilter.transport.steps.icnn_engine import ICNNEngine
from jkofilter.transport.steps.problem import StepProblem
from jkofilter.transport.steps.ridge_engine import RidgeEngine
from jkofilter.transport.steps.ridge_fit import fit_ridge
from jkofilter.transport.steps.soft_maximum_engine import SoftMaximumEngine

EYE = torch.eye(2, dtype=torch.float64)
NETWORK = ICNNEngine(ridge=None, widths=(24, 24), iterations=400, batch=256)
TAU = 0.3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.sqrt()) @ vectors.mT


def gaussian_step(m: Tensor, s: Tensor, a: Tensor, b: Tensor, tau: float, beta: float) -> tuple[Tensor, Tensor]:
    """Matrix of the map and new mean: section 5 of the design, from T = M^-1 (I + (tau/beta) S'^-1), S' = T S T."""
    eye = torch.eye(len(m), dtype=torch.float64)
    shifted, r = eye + tau * a, root(s)
    unroot = torch.linalg.inv(r)
    n = unroot @ shifted @ unroot
    matrix = torch.linalg.inv(shifted) @ r @ (0.5 * eye + root(0.25 * eye + (tau / beta) * n)) @ unroot
    return matrix, torch.linalg.solve(shifted, m + tau * a @ b)


PROBLEMS = {
    "commuting": (torch.diag(torch.tensor([2.0, 0.5])), torch.diag(torch.tensor([0.7, 1.5]))),
    "not commuting": (torch.tensor([[2.0, 0.6], [0.6, 0.5]]), torch.tensor([[0.7, -0.4], [-0.4, 1.5]])),
}


@pytest.mark.parametrize("beta", [1.0, 3.0])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize(
    ("engine", "tolerance"),
    [
        (RidgeEngine(), 1e-5),
        pytest.param(NETWORK, 0.05, marks=pytest.mark.slow),
        (SoftMaximumEngine(pieces=1), 1e-4),
    ],
    ids=["ridge", "icnn", "soft maximum"],
)
def test_a_step_between_gaussians_is_the_closed_form(
    engine: Engine, tolerance: float, problem: str, beta: float
) -> None:
    precision, covariance = (matrix.double() for matrix in PROBLEMS[problem])
    mean, centre = torch.tensor([1.0, -0.5]).double(), torch.tensor([0.3, 0.2]).double()
    matrix, moved = gaussian_step(mean, covariance, precision, centre, TAU, beta)
    after = matrix @ covariance @ matrix.mT
    check = EYE + TAU * precision - TAU / beta * torch.linalg.inv(after)
    torch.testing.assert_close(torch.linalg.inv(matrix), check)
    sde = jf.LangevinSDE(jf.Quadratic(centre, precision), beta)
    flow = jf.solve_jko(MultivariateNormal(mean, covariance), sde, TAU, TAU, "implicit-euler", engine, pool=1024)
    (psi,) = flow.maps
    x = flow.base.x
    expected = moved + (x - mean) @ matrix.mT
    scale = (expected - x).square().sum(-1).mean().sqrt()
    assert (psi.gradient(x) - expected).square().sum(-1).mean().sqrt() < tolerance * scale


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_the_shared_start_is_the_step_itself_between_gaussians(problem: str) -> None:
    precision, covariance = (matrix.double() for matrix in PROBLEMS[problem])
    mean, centre = torch.tensor([1.0, -0.5]).double(), torch.tensor([0.3, 0.2]).double()
    matrix, moved = gaussian_step(mean, covariance, precision, centre, TAU, 1.0)
    prior = MultivariateNormal(mean, covariance)
    x = mean + torch.randn(500, 2, generator=generator(), dtype=torch.float64) @ prior.scale_tril.mT
    step = StepProblem.start(jf.LangevinSDE(jf.Quadratic(centre, precision)), prior_pool(prior, x), x, TAU)
    for _ in range(3):
        psi = fit_affine(step).psi
        step = step.around(step.solved_by(psi)[0])
    # Newton stops at a decrement of 5e-6 a dimension, up to 3e-3 away; from a start this near it ends closer.
    torch.testing.assert_close(psi.quadratic, matrix, atol=1e-4, rtol=0)
    torch.testing.assert_close(psi.gradient(mean[None])[0], moved, atol=1e-4, rtol=0)


def test_the_shared_start_is_the_identity_where_the_step_has_no_solution() -> None:
    hill = jf.Potential(lambda x: -5 * x.square().sum(-1), 2)
    problem = problem_on(hill, 1.0)
    fit = fit_affine(problem)
    torch.testing.assert_close(fit.psi.gradient(problem.pool.x), problem.pool.x)
    assert fit.loss == pytest.approx(objective(problem, fit.psi))


def test_a_ridge_step_without_ridges_tries_a_hopeless_affine_program_once() -> None:
    asked: list[int] = []

    def hill(x: Tensor) -> Tensor:
        asked.append(len(x))
        return -5 * x.square().sum(-1)

    problem = problem_on(jf.Potential(hill, 2), 1.0)
    start = RidgeSpline.affine(EYE, torch.zeros(2).double())
    asked.clear()
    with pytest.raises(FilterError, match="did not converge"):
        fit_ridge(problem, start)
    once = len(asked)
    with pytest.raises(FilterError, match="did not converge"):
        RidgeEngine().solve(problem, start, generator())
    assert len(asked) == 2 * once


def problem_on(potential: jf.Potential, h: float, n: int = 512, beta: float = 1.0) -> StepProblem:
    law = MultivariateNormal(torch.zeros(2, dtype=torch.float64), EYE)
    x = torch.randn(n, 2, generator=generator(), dtype=torch.float64)
    pool = prior_pool(law, x)
    return StepProblem.start(jf.LangevinSDE(potential, beta), pool, pool.x, h)


def objective(problem: StepProblem, psi: RidgeSpline) -> float:
    y, hessian = psi.gradient_and_hessian(problem.pool.x)
    return problem.energies(y, hessian, log_det(torch.linalg.cholesky(hessian))).mean().item()


def test_the_solution_of_the_convex_program_has_no_better_neighbour() -> None:
    problem = problem_on(jf.DoubleWell(2), 0.05)
    start = RidgeSpline.identity(Ridges.spanning(problem.pool.x, EYE, 12))
    fit = fit_ridge(problem, start)
    best = objective(problem, fit.psi)
    assert best < objective(problem, start)
    for seed in range(20):
        noise = torch.rand(2, 11, generator=generator(seed), dtype=torch.float64)
        share = 10.0 ** -(1 + seed % 3)
        other = RidgeSpline(
            (1 - share) * fit.psi.quadratic + share * EYE,
            fit.psi.shift,
            fit.psi.ridges,
            (1 - share) * fit.psi.coefficients + share * noise,
        )
        # What the barrier and the smoothing term cost the optimum.
        assert objective(problem, other) > best - 2e-4


def test_the_control_variate_removes_the_sampling_noise_of_a_gaussian_step() -> None:
    potential = jf.Quadratic(torch.zeros(2, dtype=torch.float64), 2 * EYE)
    problem = problem_on(potential, 0.2, n=100)
    solved = RidgeEngine(refinements=3).solve(problem, RidgeSpline.affine(EYE, torch.zeros(2).double()), generator())
    assert solved.residual.square().sum(-1).mean() < 1e-6
    # On a hundred particles the bare objective is off by the noise of their moments.
    bare = StepProblem(
        problem.sde, problem.pool, problem.centre, problem.h, 0 * EYE.expand(100, 2, 2), 0 * problem.score
    )
    psi = fit_ridge(bare, RidgeSpline.affine(EYE, torch.zeros(2).double())).psi
    _, residual = problem.solved_by(psi)
    assert residual.square().sum(-1).mean() > 1e-3


def test_the_optimality_residual_falls_with_the_number_of_knots() -> None:
    problem = problem_on(jf.DoubleWell(2), 0.02, n=1024)
    sizes = []
    for cells in (5, 10, 20):
        start = RidgeSpline.identity(Ridges.spanning(problem.pool.x, EYE, cells))
        solved = RidgeEngine().solve(problem, start, generator())
        sizes.append(solved.residual.square().sum(-1).median().item())
    assert sizes[1] < 0.5 * sizes[0]
    assert sizes[2] < 0.5 * sizes[1]


def test_a_potential_that_is_nan_at_the_start_is_an_error_and_not_a_nan() -> None:
    potential = jf.Potential(lambda x: torch.where(x.abs().sum(-1) > 1, torch.nan, 0.0) + x.square().sum(-1), 2)
    problem = problem_on(potential, 0.1)
    with pytest.raises(FilterError, match="not finite"):
        fit_ridge(problem, RidgeSpline.identity(Ridges.spanning(problem.pool.x, EYE, 8)))


# --- Gaussian steps in one to four dimensions ------------------------------------------------------------------------


def gaussian_map(s: Tensor, a: Tensor, tau: float, beta: float) -> Tensor:
    """The step's matrix by another way than the formula: the positive root of S M T = ... along the geodesic.

    T^-1 = M - (tau/beta) S'^-1 and S' = T S T give T M T - T - (tau/beta) S^-1 = 0, solved here by Newton on symmetric
    matrices through the Kronecker form of its derivative.
    """
    eye = torch.eye(len(s), dtype=torch.float64)
    m, right = eye + tau * a, tau / beta * torch.linalg.inv(s)
    t = 2 * eye
    for _ in range(60):
        value = t @ m @ t - t - right
        slope = (
            torch.kron(eye, t @ m)
            + torch.kron((m @ t).mT.contiguous(), eye)
            - torch.eye(len(s) ** 2, dtype=torch.float64)
        )
        t = t - torch.linalg.solve(slope, value.mT.reshape(-1)).reshape(len(s), -1).mT
    return t


@pytest.mark.parametrize("d", [1, 2, 3, 4])
@pytest.mark.parametrize("beta", [1.0, 3.0])
@pytest.mark.parametrize("commuting", [True, False])
def test_the_map_of_a_gaussian_step_solves_its_quadratic_equation(d: int, beta: float, commuting: bool) -> None:
    precision = spd(d, d)
    covariance = torch.linalg.matrix_exp(-precision) + precision if commuting else spd(d, d + 10)
    prior = MultivariateNormal(torch.ones(d, dtype=torch.float64), covariance)
    sde = jf.LangevinSDE(jf.Quadratic(torch.zeros(d, dtype=torch.float64), precision), beta)
    flow = jf.solve_jko(prior, sde, TAU, TAU, "implicit-euler", pool=512)
    (psi,) = flow.maps
    matrix = gaussian_map(covariance, precision, TAU, beta)
    assert torch.linalg.eigvalsh(0.5 * (matrix + matrix.mT)).min() > 0
    torch.testing.assert_close(psi.hessian(flow.base.x), matrix.expand(512, d, d), rtol=0, atol=1e-7)
    after = matrix @ covariance @ matrix.mT
    torch.testing.assert_close(flow.final.covariance, after, rtol=0, atol=1e-6)
    mean = torch.linalg.solve(torch.eye(d, dtype=torch.float64) + TAU * precision, prior.mean)
    torch.testing.assert_close(flow.final.mean, mean, rtol=0, atol=1e-7)
    expected = MultivariateNormal(mean, 0.5 * (after + after.mT)).log_prob(flow.base.x)
    torch.testing.assert_close(flow.final.log_prob(flow.base.x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("d", [1, 3, 5])
@pytest.mark.parametrize(("beta", "tau"), [(0.5, 0.1), (4.0, 1.0)])
def test_the_exact_step_of_the_design_is_what_two_engines_take(d: int, beta: float, tau: float) -> None:
    """Off centre, not commuting, in several dimensions: mean, covariance and density after one step."""
    precision, covariance, mean, centre = spd(d, d), spd(d, d + 10), normals(d, seed=1), 2 * normals(d, seed=2)
    matrix, moved = gaussian_step(mean, covariance, precision, centre, tau, beta)
    torch.testing.assert_close(matrix, gaussian_map(covariance, precision, tau, beta), rtol=1e-8, atol=1e-8)
    after = matrix @ covariance @ matrix.mT
    prior, sde = MultivariateNormal(mean, covariance), jf.LangevinSDE(jf.Quadratic(centre, precision), beta)
    exact = MultivariateNormal(moved, 0.5 * (after + after.mT))
    x = moved + normals(200, d, seed=3) @ exact.scale_tril.mT
    for engine, close in ((RidgeEngine(), 1e-6), (SoftMaximumEngine(pieces=1), 1e-3)):
        flow = jf.solve_jko(prior, sde, tau, tau, "implicit-euler", engine, pool=512)
        assert len(flow.maps) == 1
        torch.testing.assert_close(flow.final.mean, moved, rtol=0, atol=close)
        torch.testing.assert_close(flow.final.covariance, after, rtol=0, atol=close)
        torch.testing.assert_close(flow.final.log_prob(x), exact.log_prob(x), rtol=0, atol=20 * close)


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_the_optimality_residual_vanishes_at_the_closed_form_and_nowhere_near(beta: float) -> None:
    covariance, precision = spd(3, 1), spd(3, 2)
    law = MultivariateNormal(torch.zeros(3, dtype=torch.float64), covariance)
    x = normals(50, 3)
    sde = jf.LangevinSDE(jf.Quadratic(torch.zeros(3, dtype=torch.float64), precision), beta)
    problem = StepProblem.start(sde, prior_pool(law, x), x, TAU)
    matrix = gaussian_map(covariance, precision, TAU, beta)
    for off in (0.0, 1e-3):
        psi = RidgeSpline.affine((1 + off) * 0.5 * (matrix + matrix.mT), torch.zeros(3).double())
        pushed, residual = problem.solved_by(psi)
        if off:
            assert residual.norm(dim=-1).mean() > 1e-3
        else:
            assert residual.abs().max() < 1e-9
            law_after = MultivariateNormal(law.mean, matrix @ covariance @ matrix.mT)
            torch.testing.assert_close(pushed.pool.log_prob, law_after.log_prob(pushed.pool.x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n", [60, 200])
def test_refinements_drive_the_residual_of_a_gaussian_step_to_zero_on_few_particles(n: int) -> None:
    covariance, precision = spd(3, 3), spd(3, 5)
    law = MultivariateNormal(torch.zeros(3, dtype=torch.float64), covariance)
    x = normals(n, 3) @ root(covariance)
    sde = jf.LangevinSDE(jf.Quadratic(torch.ones(3, dtype=torch.float64), precision))
    problem = StepProblem.start(sde, prior_pool(law, x), x, 0.2)
    start = RidgeSpline.affine(torch.eye(3, dtype=torch.float64), torch.zeros(3).double())
    sizes = []
    for refinements in (0, 2, 8):
        solved = RidgeEngine(refinements=refinements).solve(problem, start, generator())
        sizes.append(solved.residual.square().sum(-1).mean().item())
    assert sizes[1] < 1e-3 * sizes[0]
    assert sizes[2] < 1e-16
    matrix = gaussian_map(covariance, precision, 0.2, 1.0)
    torch.testing.assert_close(solved.psi.hessian(x[:1])[0], matrix, rtol=0, atol=1e-8)


# --- the problem -----------------------------------------------------------------------------------------------------


def test_the_control_variate_has_mean_zero_for_every_field() -> None:
    n = 40_000
    problem = problem_on(jf.DoubleWell(2), 0.05, n)
    start = RidgeSpline.identity(Ridges.spanning(problem.pool.x, EYE, 8))
    bent = RidgeSpline(
        start.quadratic, start.shift, start.ridges, start.coefficients * torch.linspace(0.2, 2.0, 7).double()
    )
    pushed = push(bent, problem.pool)
    u = problem.pool.x[:, 0]
    other = problem.pool.x[:, 1]
    zero = torch.zeros_like(u)
    # v = (sin u, u w), of which the second is no gradient, and its Jacobian by rows.
    field = torch.stack((u.sin(), u * other), -1)
    jacobian = torch.stack((torch.stack((u.cos(), zero), -1), torch.stack((other, u), -1)), -2)
    around = problem.around(pushed)
    assert around.inverse_jacobian is not None
    terms = (around.inverse_jacobian @ jacobian).diagonal(dim1=-2, dim2=-1).sum(-1) + (around.score * field).sum(-1)
    assert terms.mean().abs() < 4 * terms.std() / math.sqrt(n)
    # A score that belongs to another law would show: the test has the power to see it.
    wrong = (around.inverse_jacobian @ jacobian).diagonal(dim1=-2, dim2=-1).sum(-1) - (pushed.pool.x * field).sum(-1)
    assert wrong.mean().abs() > 10 * wrong.std() / math.sqrt(n)


def test_the_convex_program_has_one_solution_whatever_it_starts_from() -> None:
    problem = problem_on(jf.DoubleWell(2), 0.05)
    ridges = Ridges.spanning(problem.pool.x, EYE, 12)
    fits = [fit_ridge(problem, RidgeSpline.identity(ridges, share)) for share in (0.2, 0.8)]
    maps = [fit.psi.gradient(problem.pool.x) for fit in fits]
    moved = (maps[0] - problem.pool.x).square().mean().sqrt()
    assert (maps[0] - maps[1]).square().mean().sqrt() < 1e-3 * moved
    assert fits[0].loss == pytest.approx(fits[1].loss, abs=1e-5)
    # The shift is free of barrier and smoothing: the objective is flat along it.
    h = 1e-4
    for step in h * EYE:
        psi = fits[0].psi
        up, down = (RidgeSpline(psi.quadratic, psi.shift + e, psi.ridges, psi.coefficients) for e in (step, -step))
        assert abs(objective(problem, up) - objective(problem, down)) / (2 * h) < 2e-3


@pytest.mark.parametrize("engine", [RidgeEngine(), NETWORK])
def test_a_step_of_either_engine_lowers_the_residual_of_standing_still(engine: Engine) -> None:
    problem = problem_on(jf.DoubleWell(2), 0.05, 1024)
    start = engine.begin(problem.sde, problem.pool, None)
    solved = engine.solve(problem, start, generator())
    still = problem.residual(problem.pool.x, problem.pool.score)
    # Medians: a few particles of the tails move fastest and are fitted last.
    assert solved.residual.square().sum(-1).median() < 0.05 * still.square().sum(-1).median()
    assert isinstance(solved.pushed, Pushed)
    assert math.isfinite(solved.loss)
    assert solved.iterations > 0


@pytest.mark.slow
def test_both_engines_find_the_same_step() -> None:
    problem = problem_on(jf.DoubleWell(2), 0.05, 1024)
    maps = []
    for engine in (RidgeEngine(), NETWORK):
        solved = engine.solve(problem, engine.begin(problem.sde, problem.pool, None), generator())
        maps.append(solved.pushed.pool.x)
    scale = (maps[0] - problem.pool.x).square().sum(-1).median()
    assert (maps[0] - maps[1]).square().sum(-1).median() < 0.01 * scale


# --- directions ------------------------------------------------------------------------------------------------------


def test_directions_of_a_rotated_product_are_found() -> None:
    rotation = torch.linalg.qr(normals(3, 3, seed=4))[0]
    potential = jf.DoubleWell(3, rotation)
    x = normals(512, 3)
    found = proposed_directions(potential, x, 10)
    cosines = (found @ rotation.mT).abs()
    assert found.shape == (3, 3)
    assert cosines.max(1).values.min() > 1 - 1e-9
    assert cosines.max(0).values.min() > 1 - 1e-9
    # A cubic velocity along them is a ridge function each; eight knots resolve it, an affine field does not.
    velocity = -potential.gradient(x)
    weights = tempered_weights(velocity)
    ridged, affine = (
        fit_velocity(x, velocity, weights, Ridges.spanning(x, directions, 16)).mean_square
        for directions in (found, found[:0])
    )
    assert ridged < 1e-3 * affine
