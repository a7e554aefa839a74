"""Chang-Cooper sweeps on the plane: mass, positivity, the Boltzmann law, and second order in time and space."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plane_problems import BETA, CENTRE, PRECISION, PRIOR_COVARIANCE, PRIOR_MEAN, coupled, moments, plane, transition
from scipy.linalg import expm
from torch.distributions import MultivariateNormal

import jkofilter as jf
from jkofilter.numerics.chang_cooper import ChangCooper, Progress, evolve
from jkofilter.numerics.chang_cooper_2d import ChangCooper2D
from jkofilter.numerics.grids import Grid


def operator_on(grid: Grid, beta: float = 1.0, potential=coupled) -> ChangCooper2D:
    return ChangCooper2D(potential(grid.points).reshape(grid.shape), grid.widths, beta)


def run(operator: ChangCooper2D, p: np.ndarray, duration: float, step: float) -> tuple[np.ndarray, Progress]:
    progress = Progress.start(duration, step)
    p = evolve(operator, p, progress, progress.total)
    assert progress.done
    return p, progress


def test_lines_side_by_side_do_not_mix():
    rng = np.random.default_rng(0)
    potential, p = rng.normal(size=(3, 40)), rng.random((3, 40))
    together = ChangCooper(np.ascontiguousarray(potential.T), 0.1, 2.0)
    columns = np.ascontiguousarray(p.T)
    after, stage = together.tr_bdf2(columns, 0.2)
    for k, line in enumerate(potential):
        alone = ChangCooper(line, 0.1, 2.0)
        np.testing.assert_allclose(together.solve(columns, 0.3)[:, k], alone.solve(p[k], 0.3))
        np.testing.assert_allclose(together.rate(columns)[:, k], alone.rate(p[k]), atol=1e-10)
        np.testing.assert_allclose((after[:, k], stage[:, k]), alone.tr_bdf2(p[k], 0.2), atol=1e-14)


@pytest.mark.parametrize("beta", [0.1, 1.0, 10.0])
def test_boltzmann_law_of_a_coupled_potential_is_stationary_exactly(beta):
    grid = plane(-2.5, 2.5, 80, 60)
    law = np.exp(-beta * coupled(grid.points)).reshape(grid.shape)
    law /= law.sum() * grid.volume
    operator = operator_on(grid, beta)
    assert np.abs(operator.rate(law)).max() < 1e-11 * np.abs(operator.first.outflow).max()
    after = law
    for _ in range(100):
        after, _, guard = operator.step(after, 0.02, law.sum())
        assert guard == 0
    # Relative cell by cell: the corners count as much as the wells.
    np.testing.assert_allclose(after, law, rtol=1e-11)


def test_mass_and_positivity_over_a_thousand_steps():
    grid = plane(-3.0, 3.0, 50, 70)
    operator = operator_on(grid)
    p = np.zeros(grid.shape)
    p[7, 60] = 1.0
    for _ in range(1000):
        p, _, _ = operator.step(p, 2e-3)
        assert p.min() >= 0
    assert abs(p.sum() - 1.0) < 1e-12


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-1e3, 1e3), min_size=24, max_size=24),
    st.integers(0, 23),
    st.floats(1e-6, 1e3),
    st.floats(0.1, 20.0),
)
def test_mass_and_positivity_for_any_potential(potential, start, duration, beta):
    operator = ChangCooper2D(np.reshape(potential, (4, 6)), (0.1, 0.2), beta)
    p = np.zeros(24)
    p[start] = 1.0
    after, _ = run(operator, p.reshape(4, 6), duration, duration / 5)
    assert after.min() >= 0
    assert abs(after.sum() - 1.0) < 1e-12


def test_matches_dense_matrix_exponential_also_once_steps_grow():
    grid = plane(-2.0, 2.0, 18, 22)
    operator = operator_on(grid, beta=1.0)
    columns = [operator.rate(column.reshape(grid.shape)).reshape(-1) for column in np.eye(18 * 22)]
    generator = np.stack(columns, axis=1)
    p = np.exp(-4.0 * ((grid.points - [0.8, 0.5]) ** 2).sum(-1))
    p /= p.sum()
    for duration, step, most_steps, atol in ((0.3, 2e-3, 150, 2e-7), (40.0, 0.02, 800, 1e-7)):
        after, progress = run(operator, p.reshape(grid.shape), duration, step)
        np.testing.assert_allclose(after.reshape(-1), expm(duration * generator) @ p, atol=atol)
        assert progress.steps <= most_steps


@pytest.mark.parametrize("axis", ["time", "space"])
def test_second_order(axis):
    def moments_after(cells: int, step: float) -> np.ndarray:
        grid = plane(-5.0, 5.0, cells, cells)
        operator = operator_on(grid, BETA, lambda x: jf.Quadratic(CENTRE, PRECISION)(torch.as_tensor(x)).numpy())
        start = MultivariateNormal(PRIOR_MEAN, PRIOR_COVARIANCE).log_prob(torch.as_tensor(grid.points)).exp().numpy()
        return moments(grid, run(operator, start.reshape(grid.shape), 0.4, step)[0])

    if axis == "time":
        exact = moments_after(60, 1e-3)
        errors = [np.abs(moments_after(60, step) - exact).max() for step in (0.1, 0.05, 0.025)]
    else:
        mean, covariance = transition(PRIOR_MEAN, PRIOR_COVARIANCE, 0.4)
        exact = np.append(mean.numpy(), covariance.numpy())
        errors = [np.abs(moments_after(cells, 5e-3) - exact).max() for cells in (40, 80, 160)]
        # Second order also means a small constant: cells of 1/16 of a unit, laws of width 0.6.
        assert errors[-1] < 0.2 * (10.0 / 160) ** 2
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(slopes, 2.0, atol=0.25)
