"""Finite differences on polynomials, of which they are exact up to their order."""

from __future__ import annotations

import numpy as np
import pytest

from jkofilter.numerics.differences import first_difference, second_difference, smooth_first_difference

S = np.arange(9.0)


@pytest.mark.parametrize("power", [0, 1, 2, 3, 4])
def test_inside_they_are_exact_to_the_fourth_power(power: int) -> None:
    x = (S - 2.5) ** power
    first = power * (S - 2.5) ** max(power - 1, 0)
    second = power * (power - 1) * (S - 2.5) ** max(power - 2, 0)
    np.testing.assert_allclose(first_difference(x)[2:-2], first[2:-2], rtol=0, atol=1e-10)
    np.testing.assert_allclose(second_difference(x)[2:-2], second[2:-2], rtol=0, atol=1e-10)
    np.testing.assert_allclose(smooth_first_difference(x), first, rtol=0, atol=1e-10)


@pytest.mark.parametrize("ends", [slice(None, 2), slice(-2, None)], ids=["left", "right"])
def test_the_last_two_at_either_end_take_the_shortest_stencils(ends: slice) -> None:
    """Of s^2: one-sided 1 at zero and 15 at eight, centred 2 and 14; curvature zero at the end and 2 beside it."""
    x = S**2
    assert first_difference(x)[ends].tolist() == {0: [1.0, 2.0], 1: [14.0, 15.0]}[int(ends.start is not None)]
    assert second_difference(x)[ends].tolist() == {0: [0.0, 2.0], 1: [2.0, 0.0]}[int(ends.start is not None)]


def test_a_monotone_sequence_keeps_a_positive_stretch_at_its_ends() -> None:
    x = np.array([0.0, 0.001, 5.0, 5.001, 5.002, 5.003, 9.0, 9.001])
    assert (first_difference(x)[[0, 1, -2, -1]] > 0).all()
