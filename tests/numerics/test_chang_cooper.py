"""Chang-Cooper and TR-BDF2 against closed forms and a dense matrix exponential."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from jkofilter.numerics.chang_cooper import ChangCooper, Progress, bernoulli, evolve


def centres(low: float, high: float, cells: int) -> np.ndarray:
    return low + (high - low) * (np.arange(cells) + 0.5) / cells


def normal(x: np.ndarray, mean: float, variance: float) -> np.ndarray:
    return np.exp(-0.5 * (x - mean) ** 2 / variance) / math.sqrt(2 * math.pi * variance)


def run(operator: ChangCooper, p: np.ndarray, duration: float, step: float) -> np.ndarray:
    progress = Progress.start(duration, step)
    p = evolve(operator, p, progress, progress.total)
    assert progress.done
    return p


def test_bernoulli_near_zero_and_far_out():
    assert bernoulli(np.array([0.0]))[0] == 1.0
    # Oracle: z/(e^z - 1) = z e^{-z/2} / (2 sinh(z/2)), well conditioned for moderate z.
    z = np.array([1e-8, 1e-3, 0.00999, 0.0101, 1.0, 30.0])
    np.testing.assert_allclose(bernoulli(z), z * np.exp(-z / 2) / (2 * np.sinh(z / 2)), rtol=2e-14)
    assert bernoulli(np.array([1e5]))[0] == 0.0


@pytest.mark.parametrize("beta", [0.1, 1.0, 20.0])
def test_boltzmann_law_is_stationary_exactly(beta):
    x = centres(-2.0, 2.0, 400)
    potential = (x**2 - 1) ** 2
    law = np.exp(-beta * potential)
    law /= law.sum() * 0.01
    operator = ChangCooper(potential, x[1] - x[0], beta)
    after = law
    for _ in range(200):
        after, _, guard = operator.step(after, 0.01, law.sum())
        assert guard == 0
    # Relative cell by cell: the far tails count as much as the wells.
    np.testing.assert_allclose(after, law, rtol=1e-11)
    assert np.abs(after - law).max() < 1e-13


def test_mass_and_positivity_over_ten_thousand_steps():
    x = centres(-6.0, 6.0, 300)
    operator = ChangCooper(np.sin(2 * np.pi * x) / np.pi + x**2 / 4, x[1] - x[0], 1.0)
    p = np.zeros(300)
    p[37] = 1.0
    for _ in range(10_000):
        p, _, _ = operator.step(p, 1e-3)
        assert p.min() >= 0
    assert abs(p.sum() - 1.0) < 1e-12


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=40),
    st.integers(0, 3),
    st.floats(1e-6, 1e3),
    st.floats(0.1, 20.0),
)
def test_mass_and_positivity_for_any_potential(potential, start, duration, beta):
    operator = ChangCooper(np.array(potential), 0.1, beta)
    p = np.zeros(len(potential))
    p[start] = 1.0
    after = run(operator, p, duration, duration / 5)
    assert after.min() >= 0
    assert abs(after.sum() - 1.0) < 1e-12


def test_unscaled_matrices_conserve_mass_and_sign_by_themselves():
    x = centres(-3.0, 3.0, 200)
    operator = ChangCooper(x**4 / 4, x[1] - x[0], 1.0)
    p = normal(x, 1.0, 0.1)
    assert abs(operator.rate(p).sum()) < 1e-9 * np.abs(operator.rate(p)).sum()
    assert operator.solve(p, 10.0).sum() == pytest.approx(p.sum(), rel=1e-12)
    assert operator.backward_euler(np.eye(200)[3], 1.0, 1).min() > 0


def test_matches_dense_matrix_exponential():
    x = centres(-2.0, 2.0, 60)
    potential = np.where(np.abs(x) < 0.7, 0.0, (np.abs(x) - 0.7) ** 2)  # no drift at all in the middle
    operator = ChangCooper(potential, x[1] - x[0], 2.0)
    generator = np.stack([operator.rate(column) for column in np.eye(60)], axis=1)
    p = normal(x, 0.5, 0.05)
    np.testing.assert_allclose(run(operator, p, 0.3, 1e-3), expm(0.3 * generator) @ p, atol=2e-6)


def test_constant_potential_is_the_heat_equation():
    x = centres(-8.0, 8.0, 1600)
    after = run(ChangCooper(np.full(1600, 3.0), 0.01, 2.0), normal(x, 0.3, 0.25), 0.5, 2e-3)
    np.testing.assert_allclose(after, normal(x, 0.3, 0.25 + 2 / 2.0 * 0.5), atol=5e-6)


@pytest.mark.parametrize("axis", ["time", "space"])
def test_second_order(axis):
    def error(level: int) -> float:
        cells, step = (4000, 0.1 / 2**level) if axis == "time" else (100 * 2**level, 5e-4)
        x = centres(-6.0, 6.0, cells)
        after = run(ChangCooper(x**2 / 2, 12.0 / cells, 1.0), normal(x, 1.0, 0.3), 0.4, step)
        exact = normal(x, math.exp(-0.4), 1.0 + (0.3 - 1.0) * math.exp(-0.8))
        return float(np.abs(after - exact).max())

    slope = math.log2(error(0) / error(1))
    assert slope == pytest.approx(2.0, abs=0.2)


def test_guard_takes_over_for_a_spike_under_a_long_step():
    operator = ChangCooper(np.zeros(101), 0.01, 1.0)
    p = np.eye(101)[50]
    assert operator.tr_bdf2(p, 0.1)[0].min() < 0
    after, stage, guard = operator.step(p, 0.1)
    assert guard == 2
    assert stage is None
    assert after.min() > 0
    assert after.sum() == pytest.approx(1.0, abs=1e-13)


def test_progress_ends_exactly_and_grades():
    progress = Progress.start(1.0, 0.3, scale=0.01, grading=0.1)
    assert progress.next_size() <= 0.001
    total = 0.0
    while not progress.done:
        size = progress.next_size()
        assert size <= min(0.25, 0.1 * (0.01 + total) + 1e-12)
        total += size
        progress.advance(0)
    assert total == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("scale", [0.02, 0.03, 0.05, 0.08, 0.13, 0.2, math.inf])
def test_steps_grow_at_the_end_however_many_graded_ones_began(scale):
    x = centres(-2.0, 2.0, 100)
    operator = ChangCooper((x**2 - 1) ** 2, x[1] - x[0], 1.0)
    progress = Progress.start(200.0, 0.05, scale, 0.1)
    evolve(operator, normal(x, 0.5, 0.05), progress, progress.total)
    assert progress.done
    assert progress.steps < 1500
