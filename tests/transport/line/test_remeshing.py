"""New nodes carry the same law."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import (
    Array,
    Law,
    mixture_log_density,
)

from jkofilter.transport.line.density import adapted, misfit, normalised, remeshed


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[Array, Array, Array]:
    count = draw(st.integers(1, 3))
    weights = np.array(draw(st.lists(st.floats(0.05, 1.0), min_size=count, max_size=count)))
    means = np.array(draw(st.lists(st.floats(-4.0, 4.0), min_size=count, max_size=count)))
    deviations = np.array(draw(st.lists(st.floats(0.1, 2.0), min_size=count, max_size=count)))
    return weights / weights.sum(), means, deviations


@settings(max_examples=30, deadline=None, derandomize=True)
@given(mixtures())
def test_remeshing_keeps_mass_mean_and_variance(mixture: tuple[Array, Array, Array]) -> None:
    """Twice, through another number of nodes, against the mixture's own moments."""
    weights, means, deviations = mixture
    mean = float(weights @ means)
    variance = float(weights @ (deviations**2 + (means - mean) ** 2))
    sd = math.sqrt(variance)
    rough = np.linspace(mean - 15 * sd, mean + 15 * sd, 601)
    density, log_mass = normalised(adapted(lambda x: mixture_log_density(x, *mixture), rough, 400, 3))
    assert abs(log_mass) < 1e-6
    for nodes in (500, 400):
        density = remeshed(density, nodes, misfit(density.law))
        assert density.x.size >= nodes
        assert (np.diff(density.x) > 0).all()
        x = np.linspace(mean - 15 * sd, mean + 15 * sd, 20_001)
        law = Law(x, np.exp(density.law(x)))
        assert law.mass == pytest.approx(1.0, abs=1e-6)
        assert law.mean == pytest.approx(mean, abs=1e-6 * sd)
        assert law.variance == pytest.approx(variance, rel=1e-6)
