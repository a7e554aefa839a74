"""Tables of slopes: what they give is the potential's own, and where they cannot, the potential is asked."""

from __future__ import annotations

import numpy as np
import pytest

from jkofilter.transport.line.slope_table import CURVATURE_ERROR, SLOPE_ERROR, TabulatedSlopes

NODES = np.linspace(-4.0, 4.0, 400)


class Counted:
    """A potential's slopes, and how many states they were asked for."""

    def __init__(self, slope, curvature):  # type: ignore[no-untyped-def]
        self.slope, self.curvature, self.states = slope, curvature, 0

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.states += x.size
        return self.slope(x), self.curvature(x)


def quartic() -> Counted:
    return Counted(lambda x: 4 * x * (x * x - 1), lambda x: 12 * x * x - 4)


def rough() -> Counted:
    return Counted(lambda x: 2 * np.cos(2 * np.pi * x) + x / 2, lambda x: 0.5 - 4 * np.pi * np.sin(2 * np.pi * x))


def kinked() -> Counted:
    return Counted(lambda x: 2.0 * np.sign(x - 0.013), lambda x: np.zeros_like(x))


@pytest.mark.parametrize("build", [quartic, rough])
def test_a_smooth_potential_is_asked_a_few_times_and_answers_are_its_own(build) -> None:  # type: ignore[no-untyped-def]
    direct, exact = build(), build()
    table = TabulatedSlopes(direct, beta=1.0)
    for _ in range(3):
        table(NODES)
    asked = direct.states
    for shift in np.linspace(-3.0, 3.0, 50):
        moved = NODES + shift
        for found, right, share in zip(table(moved), exact(moved), (SLOPE_ERROR, CURVATURE_ERROR), strict=True):
            assert np.abs(found - right).max() <= 2 * share * (np.abs(right).max() + 1.0)
    assert direct.states == asked


def test_states_that_leave_the_table_get_one_that_holds_them() -> None:
    direct, exact = quartic(), quartic()
    table = TabulatedSlopes(direct, beta=1.0)
    for stretch in (1.0, 1.0, 1.0, 5.0, 40.0):
        wide = stretch * NODES
        np.testing.assert_allclose(table(wide)[0], exact(wide)[0], atol=1e-6 * stretch**3)


def test_a_kink_is_never_smoothed_over() -> None:
    direct, exact = kinked(), kinked()
    table = TabulatedSlopes(direct, beta=1.0)
    for _ in range(10):
        assert (table(NODES)[0] == exact(NODES)[0]).all()


def test_a_pole_beyond_the_states_is_no_trouble() -> None:
    def slope(x: np.ndarray) -> np.ndarray:
        return np.where(x > -5.0, -1.0 / np.where(x > -5.0, x + 5.0, 1.0), np.nan)

    direct = Counted(slope, lambda x: slope(x) ** 2)
    table = TabulatedSlopes(direct, beta=1.0)
    for _ in range(5):
        np.testing.assert_array_equal(table(NODES)[0], -1.0 / (NODES + 5.0))
