"""The choice of temperatures: as far as the particles carry, and always a bit further."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jkofilter.numerics.tempering import next_temperature


def tensor(values: object) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def ess(log_weights: np.ndarray) -> float:
    """(sum w)^2 / sum w^2, in NumPy."""
    w = np.exp(log_weights - log_weights.max())
    return float(w.sum() ** 2 / (w**2).sum())


def misfits(scale: float, n: int = 2_000, seed: int = 0) -> np.ndarray:
    """Log likelihoods of a Gaussian reading ``scale`` times sharper than its particles spread."""
    return -0.5 * (scale * (np.random.default_rng(seed).normal(size=n) - 1)) ** 2


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("scale", [3.0, 30.0, 3e4])
@pytest.mark.parametrize("now", [0.0, 1e-9, 0.3])
def test_the_step_keeps_exactly_the_share_asked_for(share: float, scale: float, now: float) -> None:
    log_likelihood = misfits(scale)
    after = next_temperature(tensor(log_likelihood), now, share)
    if after == 1.0:
        assert ess((1 - now) * log_likelihood) >= share * 2_000 - 1e-6
        return
    assert now < after < 1
    if after - now > 1e-12 * max(now, 1e-300):
        # Where the step is far above what a double near ``now`` can tell apart.
        resolved = 1e-15 * now / (after - now)
        assert ess((after - now) * log_likelihood) == pytest.approx(share * 2_000, rel=1e-6 + 10 * resolved)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50), st.floats(0.05, 0.95), st.floats(0, 0.999))
@settings(max_examples=100, deadline=None)
def test_every_step_is_forward_and_within_one(values: list[float], share: float, now: float) -> None:
    after = next_temperature(tensor(values), now, share)
    assert now < after <= 1.0


def test_one_when_the_whole_of_it_leaves_enough() -> None:
    gentle = misfits(0.3)
    assert ess(gentle) > 0.9 * 2_000
    assert next_temperature(tensor(gentle), 0.0, 0.5) == 1.0
    sharp = misfits(3.0)
    assert ess(sharp) < 0.5 * 2_000 < ess(0.05 * sharp)
    assert next_temperature(tensor(sharp), 0.0, 0.5) < 1.0
    assert next_temperature(tensor(sharp), 0.95, 0.5) == 1.0
    assert next_temperature(tensor([-3.0] * 10), 0.0, 0.99) == 1.0
    assert next_temperature(tensor([-3.0]), 0.0, 0.5) == 1.0


@pytest.mark.parametrize("scale", [1e2, 1e5, 1e8])
def test_a_reading_however_sharp_is_reached_when_the_particles_follow_it(scale: float) -> None:
    """Particles of N(0, 1) exp(-t (scale x)^2 / 2) at every t: steps grow geometrically, about log(scale^2) of them."""
    rng, now, steps = np.random.default_rng(1), 0.0, 0
    while now < 1:
        x = rng.normal(size=2_000) / math.sqrt(1 + now * scale**2)
        now = next_temperature(tensor(-0.5 * (scale * x) ** 2), now, 0.5)
        steps += 1
        assert steps < 100
    # One Gaussian reweighted to a sharper one keeps half its particles while the precision grows about sevenfold.
    assert 0.5 * 2 * math.log(scale) / math.log(7) < steps < 2 + 1.5 * 2 * math.log(scale) / math.log(7)


def test_particles_of_zero_likelihood_count_neither_way() -> None:
    """The share is of those that are left: the same temperature as without them."""
    values = misfits(10.0)
    with_lost = np.concatenate((values, np.full(5_000, -math.inf)))
    assert next_temperature(tensor(with_lost), 0.0, 0.5) == next_temperature(tensor(values), 0.0, 0.5)
    flat = np.where(np.arange(100) < 3, -1.0, -math.inf)
    assert next_temperature(tensor(flat), 0.0, 0.5) == 1.0


def test_log_likelihoods_at_the_edge_of_doubles_still_move_on() -> None:
    values = tensor([-1e300, 0.0, 0.0, -1e-300, -1e200] * 4)
    for now in (0.0, 1e-20, 0.5, 1 - 1e-12):
        assert now < next_temperature(values, now, 0.99) <= 1.0
