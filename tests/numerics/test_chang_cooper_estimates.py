"""What Chang-Cooper steps say of their own errors, against the matrix exponential of the same chain."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import expm

from jkofilter.numerics.chang_cooper import ChangCooper, Progress, evolve
from jkofilter.numerics.chang_cooper_2d import ChangCooper2D

CELLS = 40
X = -2.0 + 4.0 * (np.arange(CELLS) + 0.5) / CELLS


def double_well(beta: float = 1.5) -> ChangCooper:
    return ChangCooper((X**2 - 1) ** 2 + 0.3 * X, X[1] - X[0], beta)


def dense(operator: ChangCooper | ChangCooper2D, shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape))
    return np.stack([operator.rate(column.reshape(shape)).reshape(-1) for column in np.eye(size)], axis=1)


def test_estimate_on_the_line_is_the_error_of_the_step() -> None:
    """Largest error relative to its cell: to the leading order in the step, so within a tenth for short ones.

    The law has flowed for a while, else its fastest modes would not be resolved by any of these steps.
    """
    operator = double_well()
    generator = dense(operator, (CELLS,))
    p = expm(0.1 * generator) @ np.exp(-3.0 * (X - 0.5) ** 2)
    for duration in (4e-3, 2e-3, 1e-3):
        after, stage = operator.tr_bdf2(p, duration)
        true = np.max(np.abs(after - expm(duration * generator) @ p) / after)
        assert true > 1e-9
        assert 0.9 < operator.local_error(p, stage, after, duration) / true < 1.1


def test_estimate_on_the_line_is_relative_to_each_cell_and_of_third_order() -> None:
    operator = double_well()
    p = operator.backward_euler(np.exp(-3.0 * (X - 0.5) ** 2), 0.2, 50)

    def estimate(duration: float, scale: float = 1.0) -> float:
        after, stage = operator.tr_bdf2(scale * p, duration)
        return operator.local_error(scale * p, stage, after, duration)

    assert estimate(1e-3, scale=1e-40) == pytest.approx(estimate(1e-3), rel=1e-9)
    assert np.log2(estimate(2e-3) / estimate(1e-3)) == pytest.approx(3.0, abs=0.1)


def test_estimate_on_the_plane_is_the_mass_misplaced_by_the_step() -> None:
    """Splitting included, as a share of all mass: two half steps against one tell it by the third order."""
    shape = (14, 11)
    x, y = np.meshgrid(np.linspace(-1.8, 1.8, 14), np.linspace(-1.5, 1.5, 11), indexing="ij")
    potential = (x**2 - 1) ** 2 + 0.5 * (y - x) ** 2 + 0.3 * x * y**2
    operator = ChangCooper2D(potential, (3.6 / 13, 3.0 / 10), 1.2)
    generator = dense(operator, shape)
    p = (expm(0.5 * generator) @ np.exp(-2.0 * ((x - 0.4) ** 2 + y**2)).reshape(-1)).reshape(shape)
    for duration in (8e-4, 4e-4):
        after, stage, guard = operator.step(p, duration)
        assert guard == 0
        exact = (expm(duration * generator) @ p.reshape(-1)).reshape(shape)
        true = np.abs(after - exact).sum() / p.sum()
        assert 0.9 < operator.local_error(p, stage, after, duration) / true < 1.1


def test_cells_of_unequal_sides_keep_their_own_rates() -> None:
    """Heat on a plane: the rate between neighbours is 1 / (beta width^2) along either axis."""
    operator = ChangCooper2D(np.zeros((3, 4)), (0.5, 0.2), 2.0)
    p = np.zeros((3, 4))
    p[1, 2] = 1.0
    expected = np.zeros((3, 4))
    expected[0, 2] = expected[2, 2] = 1 / (2.0 * 0.25)
    expected[1, 1] = expected[1, 3] = 1 / (2.0 * 0.04)
    expected[1, 2] = -expected.sum()
    np.testing.assert_allclose(operator.rate(p), expected, rtol=1e-12, atol=1e-12)


def test_rates_between_two_cells_balance_in_detail() -> None:
    """Chang & Cooper's face weights B(z) and B(-z) = B(z) + z, z the rise of beta V: their ratio is exp(z)."""
    for rise in (-3.0, 0.004, 0.7, 30.0):
        operator = ChangCooper(np.array([0.0, rise]), 0.5, 2.0)
        z = 2.0 * rise
        up = operator.rate(np.array([1.0, 0.0]))[1]
        down = operator.rate(np.array([0.0, 1.0]))[0]
        assert up == pytest.approx(z / np.expm1(z) / (2.0 * 0.25), rel=1e-12)
        assert down == pytest.approx(z / -np.expm1(-z) / (2.0 * 0.25), rel=1e-12)


def test_a_negative_far_tail_is_taken_from_backward_euler_and_the_mass_is_not() -> None:
    """A spike of 1e-22 in a far tail, under a step too long for it: there alone the guard acts."""
    x = -12.0 + 24.0 * (np.arange(240) + 0.5) / 240
    operator = ChangCooper(x**2 / 2, x[1] - x[0], 1.0)
    p = np.exp(-0.5 * (x - 0.5) ** 2)
    p[230:232] *= 1e4
    duration = 0.1
    plain, _ = operator.tr_bdf2(p, duration)
    euler = operator.backward_euler(p, duration, 2)
    after, stage, guard = operator.step(p, duration)
    assert (guard, stage) == (1, None)
    assert after.min() > 0
    bulk = np.abs(x) < 6
    assert np.abs(euler[bulk] / plain[bulk] - 1).max() > 1e-3
    np.testing.assert_allclose(after[bulk], plain[bulk], rtol=1e-12)
    # A cell next to the negative ones is positive, but for the same reason a tenth of what it should be at most.
    small = plain < 0.1 * euler
    assert small.sum() > (plain < 0).sum() > 0
    np.testing.assert_allclose(after[small], euler[small], rtol=1e-12)


class Scripted:
    """A generator that does nothing and says what errors its steps have."""

    growth_tolerance = 1e-9

    def __init__(self, errors: list[float]) -> None:
        self.errors, self.sizes = errors, []

    def step(self, p: np.ndarray, duration: float, total: float | None = None) -> tuple[np.ndarray, np.ndarray, int]:
        self.sizes.append(duration)
        return p, p, 0

    def local_error(self, p: np.ndarray, stage: np.ndarray, after: np.ndarray, duration: float) -> float:
        return self.errors.pop(0) if len(self.errors) > 1 else self.errors[0]


def run(errors: list[float], duration: float = 64.0) -> list[float]:
    operator, progress = Scripted(errors), Progress.start(duration, 1.0)
    evolve(operator, np.ones(3), progress, 10_000)
    assert progress.done
    assert sum(operator.sizes) == pytest.approx(duration, abs=1e-12)
    return operator.sizes


def test_steps_grow_only_below_the_tolerance_and_shrink_again_only_well_above_it() -> None:
    assert set(run([2e-9])) == {1.0}
    # The first check doubles, later ones between the tolerance and a hundred times it leave the step alone.
    sizes = run([5e-10, 2e-9])
    assert set(sizes) == {1.0, 2.0}
    assert sizes[-1] == 2.0
    sizes = run([5e-10, 2e-7])
    assert sizes[8] == 2.0
    assert sizes[-1] == 1.0


def test_a_duration_that_rounding_puts_just_above_whole_steps_takes_no_step_more() -> None:
    progress = Progress.start(0.1 + 0.2, 0.1)
    assert (0.1 + 0.2) / 0.1 > 3
    assert progress.step == pytest.approx(0.1, rel=1e-12)
