"""Nodes placed by a log density, tails continued, edges softened: against Gaussians, exponentials and uniforms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jkofilter.numerics.mesh import (
    DEPTH,
    TROUGH,
    adapt,
    coarseness,
    continue_log_density,
    edge_parabola,
    fill_zeros,
    kink,
    node_density,
    place_nodes,
    roughness,
    shallow,
    without_edges,
)


def gaussian(x: np.ndarray, mean: float = 0.3, variance: float = 0.7) -> np.ndarray:
    return -0.5 * (x - mean) ** 2 / variance


UNEVEN = np.sort(np.random.default_rng(0).uniform(-2.0, 2.5, 40))


@pytest.mark.parametrize("upper", [False, True])
def test_edge_parabola_of_a_gaussian_is_its_own(upper: bool) -> None:
    """Outward slope -+(x - m)/P and curvature -1/P at the last node."""
    edge, level, slope, curvature = edge_parabola(UNEVEN, gaussian(UNEVEN), upper)
    end = UNEVEN[-1] if upper else UNEVEN[0]
    assert (edge, level) == pytest.approx((end, gaussian(end)), abs=1e-12)
    assert slope == pytest.approx((-1 if upper else 1) * (end - 0.3) / 0.7, abs=1e-9)
    assert curvature == pytest.approx(-1 / 0.7, abs=1e-8)


def test_a_gaussian_is_continued_as_itself() -> None:
    points = np.array([-9.0, -2.1, 0.0, 2.6, 12.0])
    found = continue_log_density(UNEVEN, gaussian(UNEVEN), points, np.full(5, 7.0))
    expected = np.where(np.abs(points) < 1, 7.0, gaussian(points))
    np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_tails_fall_even_where_the_parabola_would_rise() -> None:
    """A log density that grows towards the edge is taken down by a nat per edge spacing, an exponential as itself."""
    x = np.linspace(0.0, 3.0, 31)
    assert continue_log_density(x, x, np.array([3.5]), np.zeros(1))[0] == pytest.approx(3.0 - 0.5 / 0.1, abs=1e-9)
    assert continue_log_density(x, x, np.array([-0.5]), np.zeros(1))[0] == pytest.approx(-0.5, abs=1e-9)
    convex = np.abs(x - 1.5) ** 3
    beyond = continue_log_density(x, convex, np.array([-1.0, -2.0, -3.0]), np.zeros(3))
    assert (np.diff(beyond) < 0).all()


def test_wanted_nodes_integrate_to_one() -> None:
    x = np.linspace(-12.0, 12.0, 400)
    widths = np.full(400, x[1] - x[0])
    assert node_density(gaussian(x), widths) @ widths == pytest.approx(1.0, rel=1e-12)
    # Where nothing is told by the density, everything is spread evenly.
    np.testing.assert_allclose(node_density(np.zeros(400), widths), 1 / (400 * widths[0]), rtol=1e-12)


def test_placed_nodes_cover_the_density_and_are_as_fine_as_wanted() -> None:
    nodes = place_nodes(np.linspace(-3.0, 4.0, 200), gaussian(np.linspace(-3.0, 4.0, 200)), 300)
    assert nodes.shape == (300,)
    for end in nodes[[0, -1]]:
        assert gaussian(end) == pytest.approx(-DEPTH, abs=6.0)
    assert coarseness(nodes, gaussian(nodes)) == pytest.approx(1.0, abs=0.1)
    # A node missing doubles a spacing.
    bare = np.delete(nodes, 150)
    assert coarseness(bare, gaussian(bare)) > 1.3
    assert roughness(bare) == pytest.approx(2.0, abs=0.1)
    assert roughness(nodes) < 1.2


def test_roughness_counts_a_ratio_either_way() -> None:
    assert roughness(np.array([0.0, 1.0, 2.0, 5.0])) == pytest.approx(3.0)
    assert roughness(np.array([0.0, 3.0, 4.0, 5.0])) == pytest.approx(3.0)


def test_a_kink_is_the_fourth_difference_where_the_mass_is() -> None:
    """Of |s| at its corner (1, -4, 6, -4, 1) . (2, 1, 0, 1, 2) = -4, of a parabola nothing."""
    s = np.arange(41.0)
    assert kink(-0.25 * np.abs(s - 20)) == pytest.approx(0.25 * 4, abs=1e-12)
    assert kink(-0.01 * (s - 20) ** 2) == pytest.approx(0.0, abs=1e-12)
    # A corner ten nats below the maximum bends no mass.
    deep = np.where(s < 32, 0.0, -8.0 * (s - 32)) - 0.07 * (s - 20) ** 2
    assert kink(deep) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("log_density", "mass"),
    [
        (lambda x: np.where((x >= -1.0) & (x <= 1.5), 0.0, -np.inf), 2.5),
        (lambda x: np.where(x >= 0.2, -3.0 * (x - 0.2), -np.inf), 1 / 3),
        (lambda x: np.where(np.abs(np.abs(x) - 1) <= 0.5, x, -np.inf), 4 * math.cosh(1.0) * math.sinh(0.5)),
    ],
    ids=["uniform", "exponential", "two pieces"],
)
def test_softened_edges_make_no_mass_and_lose_none(log_density: object, mass: float) -> None:
    x = np.linspace(-3.05, 6.0, 120)
    softened = without_edges(log_density, x)
    fine = np.linspace(-3.0, 8.0, 400_001)
    value = softened(fine)
    assert np.isfinite(value).all()
    assert np.trapezoid(np.exp(value), fine) == pytest.approx(mass, rel=2e-5)
    # Far inside nothing is changed.
    inside = np.array([0.9, 1.1])
    np.testing.assert_allclose(softened(inside), log_density(inside), rtol=0, atol=1e-9)


def test_a_density_without_edges_is_left_as_it_is() -> None:
    assert without_edges(gaussian, UNEVEN) is gaussian


def test_zeros_get_a_gaussian_shoulder_off_the_nearest_node() -> None:
    """Two-hundredths of the support, here 4 long: .02 wide; the node at 4.01 lies half a width, a nat's eighth, out."""
    x = np.array([-0.04, 0.0, 1.0, 4.0, 4.01])
    known = np.array([-np.inf, -2.0, 0.0, -1.0, -np.inf])
    expected = [-2.0 - 0.5 * 2.0**2, -2.0, 0.0, -1.0, -1.0 - 0.5 * 0.5**2]
    np.testing.assert_allclose(fill_zeros(x, known), expected, rtol=0, atol=1e-9)


def test_troughs_are_filled_to_their_depth_and_tails_are_not() -> None:
    x = np.linspace(-3.0, 3.0, 601)
    log_density = -200.0 * (np.abs(x) - 1) ** 2 + np.where(x > 0, 10.0, 0.0)
    filled = shallow(log_density)
    # 200 nats below the lower of the two modes at the centre, filled to TROUGH below it.
    assert filled[300] == pytest.approx(-TROUGH, abs=0.5)
    tails = np.abs(x) > 1
    np.testing.assert_allclose(filled[tails], log_density[tails], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(shallow(gaussian(x)), gaussian(x))


def test_nodes_find_a_needle_far_from_where_they_start() -> None:
    def needle(x: np.ndarray) -> np.ndarray:
        return -0.5 * ((x - 7.0) / 1e-4) ** 2

    nodes, value = adapt(needle, np.linspace(-10.0, 10.0, 101), 201, passes=2)
    assert nodes.shape == value.shape == (201,)
    np.testing.assert_array_equal(value, needle(nodes))
    mass = np.trapezoid(np.exp(value), nodes)
    assert mass == pytest.approx(1e-4 * math.sqrt(2 * math.pi), rel=1e-4)
    with pytest.raises(FloatingPointError, match="zero at every node"):
        adapt(lambda x: np.full_like(x, -np.inf), np.linspace(0.0, 1.0, 50), 100, passes=1)
