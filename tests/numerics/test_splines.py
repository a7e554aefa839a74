"""The compiled not-a-knot spline against SciPy's."""

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from jkofilter.numerics.log_spline import LogSpline
from jkofilter.numerics.splines import cubics, spline


@pytest.mark.parametrize("count", [4, 5, 6, 60])
def test_the_spline_is_that_of_scipy_inside_and_beyond(count: int) -> None:
    x = np.cumsum(np.random.default_rng(0).uniform(0.05, 1.0, count))
    y = np.sin(x) + 0.1 * x * x
    points = np.random.default_rng(1).uniform(x[0] - 0.5, x[-1] + 0.5, 500)
    exact = CubicSpline(x, y)
    np.testing.assert_allclose(spline(x, y, points), exact(points), rtol=0, atol=1e-10)
    np.testing.assert_allclose(spline(x, y, np.sort(points)), exact(np.sort(points)), rtol=0, atol=1e-10)
    np.testing.assert_allclose(cubics(x, y)[2:], exact.c[2:], rtol=0, atol=1e-10)


def test_cubics_are_reproduced() -> None:
    x = np.array([0.0, 0.3, 1.0, 1.1, 2.5, 2.6])
    points = np.linspace(-1.0, 4.0, 31)
    np.testing.assert_allclose(spline(x, x**3 - 2 * x, points), points**3 - 2 * points, rtol=0, atol=1e-12)


def test_a_gaussian_known_to_five_deviations_is_whole_with_its_tails() -> None:
    """Mass, moments and quantiles of N(1, 4) from nodes within five deviations: parabolas continue it exactly."""
    x = 1.0 + 2.0 * np.linspace(-5.0, 5.0, 64)
    law = LogSpline(x, 3.0 - 0.5 * ((x - 1.0) / 2.0) ** 2)
    assert law.log_mass == pytest.approx(3.0 + np.log(2.0 * np.sqrt(2.0 * np.pi)), abs=1e-12)
    assert law.mean == pytest.approx(1.0, abs=1e-12)
    assert law.variance == pytest.approx(4.0, rel=1e-11)
    levels = np.array([1e-12, 1e-7, 0.1, 0.5, 0.975, 1 - 1e-9])
    quantiles = np.array([-7.034483824, -5.199337582, -1.281551566, 0.0, 1.959963985, 5.997807015])
    np.testing.assert_allclose(law.inverse(levels), 1.0 + 2.0 * quantiles, rtol=0, atol=2e-6)
    np.testing.assert_allclose(law.cdf(1.0 + 2.0 * quantiles), levels, rtol=1e-6, atol=1e-15)
