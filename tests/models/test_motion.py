"""Moves by a substep of the user's own against the moments of Heun's recursion, where steps do not divide the time."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch

import jkofilter as jf
from jkofilter.models.motion import move
from jkofilter.models.state_space import prior_log_prob, sample_prior

N = 20_000


def moved(rate: float, beta: float, duration: float, substep: float, start: float = 2.0) -> torch.Tensor:
    """20,000 points from ``start`` under V = rate x^2 / 2."""
    sde = jf.LangevinSDE(jf.Potential(lambda x: 0.5 * rate * x.square().sum(-1), 1), beta)
    x = torch.full((N, 1), start, dtype=torch.float64)
    after = move(sde, x, duration, torch.Generator().manual_seed(0), substep).points
    assert (x == start).all()
    return after


def check(draws: torch.Tensor, mean: float, variance: float) -> None:
    """Five standard errors of a Gaussian sample; the recursion's law is Gaussian, and no closed form of the SDE."""
    assert draws.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(variance / N))
    assert draws.var().item() == pytest.approx(variance, rel=5 * math.sqrt(2 / N))


def test_noise_is_that_of_the_steps_taken_not_of_the_longest_allowed() -> None:
    """Two steps of .00525: variance 2 * .0105 = .021 for beta = 1, where two of .01 would give .04."""
    check(moved(0.0, 1.0, duration=0.0105, substep=0.01), 2.0, 0.021)


@pytest.mark.parametrize(
    ("duration", "substep", "steps"),
    [(0.25, 0.1, 3), (0.3, 0.1, 3), (0.7, 0.1, 7), (0.31, 0.1, 4), (0.05, 0.1, 1)],
)
def test_moments_are_those_of_the_recursion(duration: float, substep: float, steps: int) -> None:
    """x' = (1 - a h + (a h)^2 / 2) x + (1 - a h / 2) sqrt(2 h / beta) z with h = duration / steps."""
    rate, beta, h = 3.0, 2.5, duration / steps
    mean, variance = 2.0, 0.0
    for _ in range(steps):
        factor = 1 - rate * h + (rate * h) ** 2 / 2
        mean, variance = factor * mean, factor**2 * variance + (1 - rate * h / 2) ** 2 * 2 * h / beta
    check(moved(rate, beta, duration, substep), mean, variance)


def test_a_duration_that_rounding_puts_just_above_whole_steps_takes_no_step_more() -> None:
    """.1 + .2 is .30000000000000004: three steps of .1 leave (1 - .1 + .005)^3 of the start."""
    sde = jf.LangevinSDE(jf.Quadratic([0.0], [[1.0]]), beta=1e30)
    after = move(sde, torch.ones(1, 1).double(), 0.1 + 0.2, torch.Generator().manual_seed(0), 0.1)
    assert after.points.item() == pytest.approx(0.905**3, abs=1e-12)
    assert after.steps == 3


def test_prior_draws_are_fresh_each_time_and_follow_their_generator() -> None:
    prior = torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    source = torch.Generator().manual_seed(3)
    first, second = sample_prior(prior, 5, source), sample_prior(prior, 5, source)
    assert not torch.equal(first, second)
    assert torch.equal(first, sample_prior(prior, 5, torch.Generator().manual_seed(3)))


def test_prior_density_is_zero_outside_its_support_alone() -> None:
    """Uniform on [0, 2] x [1, 2]: log 1/2 inside, minus infinity where either coordinate leaves."""
    low, high = torch.tensor([0.0, 1.0]).double(), torch.tensor([2.0, 2.0]).double()
    prior = torch.distributions.Independent(torch.distributions.Uniform(low, high), 1)
    x = torch.tensor([[1.0, 1.5], [3.0, 1.5], [1.0, 0.5], [0.5, 1.2]]).double()
    expected = [-math.log(2), -math.inf, -math.inf, -math.log(2)]
    assert prior_log_prob(prior, x).tolist() == pytest.approx(expected)


class Quadrant(torch.distributions.Distribution):
    """Two exponentials whose support is told coordinate by coordinate, as users write it."""

    arg_constraints: ClassVar[dict] = {}
    support = torch.distributions.constraints.positive

    def __init__(self) -> None:
        super().__init__(event_shape=torch.Size([2]))

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        return -value.sum(-1)


def test_a_support_told_by_coordinates_holds_where_all_of_them_do() -> None:
    x = torch.tensor([[1.0, 2.0], [-1.0, 2.0], [1.0, -2.0]], dtype=torch.float64)
    assert prior_log_prob(Quadrant(), x).tolist() == [-3.0, -math.inf, -math.inf]
