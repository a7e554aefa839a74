"""Stein variational gradient descent: the direction by its formula, targets with known moments, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch.distributions import MultivariateNormal

import jkofilter as jf
from jkofilter.baselines.svgd import direction, median_bandwidth

COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=torch.float64)
MEAN = torch.tensor([1.0, -2.0], dtype=torch.float64)
TARGET = MultivariateNormal(MEAN, COVARIANCE)


def start(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_direction_is_the_mean_of_attraction_and_repulsion() -> None:
    """Equation 8 of Liu & Wang, particle by particle, the kernel differentiated by torch."""
    x, h = start(7, 3), 1.3
    score = torch.sin(x)
    for i in range(7):
        total = torch.zeros(3).double()
        for j in range(7):
            other = x[j].clone().requires_grad_(True)
            kernel = torch.exp(-(other - x[i]).square().sum() / h)
            (slope,) = torch.autograd.grad(kernel, other)
            total += kernel.detach() * score[j] + slope
        torch.testing.assert_close(direction(x, score, h)[i], total / 7)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = start(50, 2)
    whole = direction(x, -x, 0.7)
    monkeypatch.setattr("jkofilter.baselines.svgd._PAIRS", 150)
    torch.testing.assert_close(direction(x, -x, 0.7), whole)


def test_the_bandwidth_makes_the_kernels_of_a_particle_sum_to_about_one() -> None:
    x = torch.tensor([[0.0], [1.0], [3.0]]).double()
    # Distances 1, 2, 3: n exp(-median^2/h) = n/(n + 1).
    assert 3 * math.exp(-4 / median_bandwidth(x)) == pytest.approx(3 / 4)


def test_a_gaussian_is_met_in_mean_and_covariance() -> None:
    result = jf.svgd(TARGET.log_prob, start(200, 2), steps=800)
    assert (result.particles.mean(0) - MEAN).abs().max() < 0.02
    # The particles spread themselves out; a sample would miss by 2 sqrt(2/200) = 0.2.
    ratio = torch.linalg.eigvals(torch.linalg.solve(COVARIANCE, torch.cov(result.particles.mT))).real
    assert (ratio - 1).abs().max() < 0.1
    assert result.speed < 0.01
    assert result.belief.dim == 2


def test_two_modes_are_both_filled() -> None:
    mixture = jf.GaussianMixture([[-2.0], [2.0]], [[[0.25]], [[0.25]]], [0.5, 0.5])
    result = jf.svgd(lambda x: -mixture(x), 2 * start(100, 1), steps=800)
    x = result.particles[:, 0]
    right = x > 0
    assert right.double().mean().item() == pytest.approx(0.5, abs=0.1)
    for side, centre in ((x[right], 2.0), (x[~right], -2.0)):
        assert side.mean().item() == pytest.approx(centre, abs=0.05)
        assert side.std().item() == pytest.approx(0.5, rel=0.15)


def test_minibatch_scores_lead_to_the_same_target() -> None:
    """The posterior of a mean from 400 readings, 40 of them at a time: N(sum y / 401, 1/401)."""
    y = 0.7 + start(400, 1, seed=5)

    def score(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        batch = y[torch.randint(400, (40,), generator=generator)]
        return -x + 10 * (batch.sum(0) - 40 * x)

    result = jf.svgd(None, start(50, 1), steps=3000, rate=3e-3, score=score, seed=1)
    deviation = 1 / math.sqrt(401)
    # One batch moves all particles alike: its noise, three posterior deviations, is averaged over the steps only.
    assert result.particles.mean().item() == pytest.approx(y.sum().item() / 401, abs=0.3 * deviation)
    assert result.particles.std().item() == pytest.approx(deviation, rel=0.05)
    again = jf.svgd(None, start(50, 1), steps=3000, rate=3e-3, score=score, seed=1)
    assert torch.equal(result.particles, again.particles)


def test_the_start_and_the_global_generator_are_left_alone() -> None:
    particles = start(10, 2)
    before, state = particles.clone(), torch.random.get_rng_state()
    jf.svgd(TARGET.log_prob, particles, steps=3)
    assert torch.equal(particles, before)
    assert torch.equal(torch.random.get_rng_state(), state)


BAD: dict[str, tuple[str, Callable[[], object]]] = {
    "one-particle": ("start", lambda: jf.svgd(TARGET.log_prob, start(1, 2))),
    "shape": ("start", lambda: jf.svgd(TARGET.log_prob, torch.zeros(3))),
    "not-finite": ("start", lambda: jf.svgd(TARGET.log_prob, torch.full((3, 2), math.nan))),
    "steps": ("steps", lambda: jf.svgd(TARGET.log_prob, start(9, 2), steps=0)),
    "rate": ("rate", lambda: jf.svgd(TARGET.log_prob, start(9, 2), rate=0.0)),
    "decay": ("decay", lambda: jf.svgd(TARGET.log_prob, start(9, 2), decay=1.0)),
    "bandwidth": ("bandwidth", lambda: jf.svgd(TARGET.log_prob, start(9, 2), bandwidth=-1.0)),
    "neither": ("target or score", lambda: jf.svgd(None, start(9, 2))),
    "both": ("target or score", lambda: jf.svgd(TARGET.log_prob, start(9, 2), score=lambda x, generator: -x)),
}


@pytest.mark.parametrize(("names", "call"), BAD.values(), ids=BAD.keys())
def test_bad_arguments_are_named(names: str, call: Callable[[], object]) -> None:
    with pytest.raises(jf.InputError, match=names):
        call()


def test_a_score_that_is_not_finite_stops_the_descent() -> None:
    with pytest.raises(jf.FilterError, match="step 0"):
        jf.svgd(None, start(9, 2), score=lambda x, generator: x * math.nan)
