"""Cells, log densities between and beyond them, and the scale on which a law bends."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jkofilter.numerics.grid_following import LINE, PLANE, fit, local_scale
from jkofilter.numerics.grids import Axis, Grid, interpolant, log_mass

COVARIANCE = np.array([[0.5, -0.2], [-0.2, 0.8]])
MEAN = np.array([0.3, -0.4])


def gaussian(points: np.ndarray) -> np.ndarray:
    centred = points - MEAN
    return -0.5 * ((centred @ np.linalg.inv(COVARIANCE)) * centred).sum(-1)


def test_cells_by_hand() -> None:
    grid = Grid((Axis(-1.0, 1.0, 4), Axis(0.0, 0.6, 2)))
    assert grid.axes[0].centres.tolist() == pytest.approx([-0.75, -0.25, 0.25, 0.75])
    assert grid.widths == pytest.approx((0.5, 0.3))
    assert grid.volume == pytest.approx(0.15)
    np.testing.assert_allclose(grid.points[:3], [[-0.75, 0.15], [-0.75, 0.45], [-0.25, 0.15]])


def test_between_cells_of_the_plane_a_cubic_is_itself() -> None:
    """The two coordinates play different parts, and the sides different lengths."""

    def surface(points: np.ndarray) -> np.ndarray:
        x, y = points.T
        return x**3 - 2 * x * y**2 + y - 3 * x**2 * y

    grid = Grid((Axis(-1.0, 1.0, 12), Axis(0.0, 0.9, 9)))
    at = np.random.default_rng(0).uniform([-0.9, 0.1], [0.9, 0.8], (50, 2))
    evaluate = interpolant(grid, surface(grid.points).reshape(grid.shape), closed=True)
    np.testing.assert_allclose(evaluate(at), surface(at), rtol=0, atol=1e-10)


def test_beyond_the_sides_of_the_plane_a_gaussian_is_itself() -> None:
    """Within what is lost of its covariance at sides four and a half deviations out, and never above the side."""
    grid = Grid((Axis(-3.0, 3.6, 70), Axis(-4.6, 3.8, 80)))
    evaluate = interpolant(grid, gaussian(grid.points).reshape(grid.shape), closed=False)
    at = np.array([[5.0, 0.0], [-4.0, 1.0], [0.5, 6.0], [0.0, -6.0], [5.0, 5.0], [-5.0, -6.5], [-4.0, 5.0]])
    # The covariance of the cells differs by what lies beyond: a few parts in ten thousand.
    np.testing.assert_allclose(evaluate(at), gaussian(at), rtol=2e-3)


def test_a_tail_falls_even_where_the_law_rises_towards_the_side() -> None:
    grid = Grid((Axis(0.0, 1.0, 20), Axis(0.0, 2.0, 20)))
    rising = 3.0 * grid.points[:, 0].reshape(grid.shape)
    out = interpolant(grid, rising, closed=False)(np.array([[1.0, 1.0], [1.2, 1.0], [1.6, 1.0]]))
    assert (np.diff(out) < 0).all()


@pytest.mark.parametrize(("axis", "expected"), [(0, 0.4), (1, 0.7)])
def test_the_local_scale_of_a_gaussian_is_its_deviation_along_the_axis(axis: int, expected: float) -> None:
    grid = Grid((Axis(-4.0, 4.0, 200), Axis(-7.0, 7.0, 150)))
    log_density = (-0.5 * (grid.points / np.array([0.4, 0.7])) ** 2).sum(-1).reshape(grid.shape)
    assert local_scale(log_density, axis, grid.widths[axis]) == pytest.approx(expected, rel=1e-9)


def test_the_local_scale_is_that_of_the_bulk_and_at_most_the_length() -> None:
    """A corner 13.5 nats down, beyond the twelve of the bulk, tells nothing; one 4.5 nats down does."""
    x = Axis(-8.0, 8.0, 800).centres
    for corner, scale in ((5.2, 1.0), (3.0, 0.02 / math.sqrt(0.02**2 + 1e3 * 0.01))):
        cut = -0.5 * x**2 - 1e3 * np.maximum(np.abs(x) - corner, 0.0)
        assert local_scale(cut, 0, 0.02) == pytest.approx(scale, rel=1e-6)
    assert local_scale(np.zeros(800), 0, 0.02) == pytest.approx(16.0)


@pytest.mark.parametrize("start", [(-20.0, 30.0), (2.0, 2.5), (-1.0, 1.0)])
def test_a_fitted_line_reaches_to_its_depth_and_resolves_the_law(start: tuple[float, float]) -> None:
    """N(2, .3^2): 230 nats are 21.4 deviations, with twenty cells in each."""
    grid, value = fit(lambda p: -0.5 * ((p[:, 0] - 2) / 0.3) ** 2, Grid((Axis(*start, 200),)), (200,), LINE)
    (axis,) = grid.axes
    reach = 0.3 * math.sqrt(2 * LINE.depth)
    for gap in (2 - axis.low, axis.high - 2):
        assert reach * 0.98 < gap < 1.5 * reach
    assert axis.width <= 1.25 * 0.3 / LINE.per_scale
    np.testing.assert_allclose(value, -0.5 * ((axis.centres - 2) / 0.3) ** 2)


def test_a_fitted_plane_reaches_to_its_depth_along_either_axis() -> None:
    start = Grid((Axis(-1.0, 1.0, 60), Axis(-30.0, 30.0, 60)))
    grid, _ = fit(gaussian, start, (60, 60), PLANE)
    for k, axis in enumerate(grid.axes):
        reach = math.sqrt(2 * PLANE.depth * COVARIANCE[k, k])
        for gap in (MEAN[k] - axis.low, axis.high - MEAN[k]):
            assert 0.98 * reach < gap < 1.6 * reach


def test_closed_ends_are_walls_on_either_side() -> None:
    axis = Axis(-1.0, 2.0, 30)
    evaluate = interpolant(Grid((axis,)), -0.5 * axis.centres**2, closed=True)
    inside, outside = np.array([-1.0, 2.0]), np.array([-1.0 - 1e-9, 2.0 + 1e-9])
    np.testing.assert_allclose(evaluate(inside[:, None]), -0.5 * inside**2, rtol=0, atol=1e-9)
    assert (evaluate(outside[:, None]) == -np.inf).all()


@pytest.mark.parametrize("across", [0, 1])
def test_a_hard_edge_across_either_axis_does_not_ring(across: int) -> None:
    """A step of 100 nats between two cells: a cubic would overshoot by several of them."""
    grid = Grid((Axis(0.0, 1.0, 20), Axis(0.0, 1.0, 25)))
    step = np.where(grid.points[:, across] < 0.5, 0.0, -100.0).reshape(grid.shape)
    at = np.random.default_rng(0).uniform(0.0, 1.0, (2_000, 2))
    value = interpolant(grid, step, closed=True)(at)
    assert value.max() < 1e-9
    assert value.min() > -100 - 1e-9


@pytest.mark.parametrize("shift", [0.0, -2000.0, 900.0])
def test_the_mass_of_a_density_is_had_from_its_logarithm_whatever_its_size(shift: float) -> None:
    grid = Grid((Axis(-8.0, 8.0, 400),))
    log_density = shift - 0.5 * grid.points[:, 0] ** 2
    assert log_mass(grid, log_density) == pytest.approx(shift + 0.5 * math.log(2 * math.pi), abs=1e-12)
    assert log_mass(grid, np.full(400, -np.inf)) == -math.inf
