"""One JKO step: the closed-form Gaussian step, the convex program, the control variate."""

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import jkofilter as jf
from jkofilter.errors import FilterError
from jkofilter.transport.belief import prior_pool
from jkofilter.transport.convex import log_det
from jkofilter.transport.engines import Engine, RidgeEngine
from jkofilter.transport.icnn_engine import ICNNEngine
from jkofilter.transport.problem import StepProblem
from jkofilter.transport.ridge import Ridges, RidgeSpline
from jkofilter.transport.ridge_fit import fit_ridge

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
    shifted = EYE + tau * a
    r = root(s)
    n = torch.linalg.inv(r) @ shifted @ torch.linalg.inv(r)
    matrix = torch.linalg.inv(shifted) @ r @ (0.5 * EYE + root(0.25 * EYE + (tau / beta) * n)) @ torch.linalg.inv(r)
    return matrix, torch.linalg.solve(shifted, m + tau * a @ b)


PROBLEMS = {
    "commuting": (torch.diag(torch.tensor([2.0, 0.5])), torch.diag(torch.tensor([0.7, 1.5]))),
    "not commuting": (torch.tensor([[2.0, 0.6], [0.6, 0.5]]), torch.tensor([[0.7, -0.4], [-0.4, 1.5]])),
}


@pytest.mark.parametrize("beta", [1.0, 3.0])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize(("engine", "tolerance"), [(RidgeEngine(), 1e-5), (NETWORK, 0.05)], ids=["ridge", "icnn"])
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
