"""Every scheme on Gaussian laws: its own recursion, and its order, at equal and unequal steps."""

import math

import oracles
import pytest
import torch
from filter_problems import gen, normals, spd
from torch.distributions import Independent, MultivariateNormal, Normal

import jkofilter as jf
from jkofilter.transport.laws.prior_pool import prior_draws, prior_pool
from jkofilter.transport.steps.ridge_engine import RidgeEngine
from jkofilter.transport.steps.stepping import FlowState, JKOStepper


def two_stages(law: tuple[float, float], tau: float, rest: tuple[float, float, float]) -> tuple[float, float]:
    """SDIRK2 on mean and deviation: a stage's centre is affine too, so that each stage is a scalar step from it."""
    gamma = 1 - 1 / math.sqrt(2)
    middle = oracles.gaussian_jko_step(*law, *rest, gamma * tau)
    shifted = [old + (1 - gamma) / gamma * (new - old) for old, new in zip(law, middle, strict=True)]
    return oracles.gaussian_jko_step(*shifted, *rest, gamma * tau)


@pytest.mark.parametrize("scheme", ["implicit-euler", "sdirk2", "bdf2"])
def test_every_scheme_is_its_own_recursion_of_mean_and_deviation(scheme: str) -> None:
    rest, tau = (1.3, 0.4, 1.7), 0.1
    laws = [(-0.5, 0.8)]
    for number in range(4):
        if scheme == "implicit-euler":
            laws.append(oracles.gaussian_jko_step(*laws[-1], *rest, tau))
        elif scheme == "sdirk2" or number == 0:
            laws.append(two_stages(laws[-1], tau, rest))
        else:
            centre = [(4 * now - before) / 3 for before, now in zip(*laws[-2:], strict=True)]
            laws.append(oracles.gaussian_jko_step(*centre, *rest, 2 * tau / 3))
    prior = Independent(Normal(*torch.tensor([[-0.5], [0.8]], dtype=torch.float64)), 1)
    sde = jf.LangevinSDE(jf.Quadratic([0.4], [[1.3]]), 1.7)
    flow = jf.solve_jko(prior, sde, 0.4, tau, scheme, pool=256)  # type: ignore[arg-type]
    assert len(flow.maps) == 4
    for time, (mean, deviation) in zip(flow.times, laws, strict=True):
        assert flow.at(time).mean.item() == pytest.approx(mean, abs=1e-9)
        assert flow.at(time).covariance.sqrt().item() == pytest.approx(deviation, abs=1e-9)


RATIOS = (1.0, 0.5, 1.8, 0.7, 2.0, 0.4, 1.3)
"""Of every step to the first: each to the one before it from a third to almost three times."""


def by_bdf2(h: float, sde: jf.LangevinSDE, prior: MultivariateNormal, rounds: int) -> list[FlowState]:
    """The flow by steps of unequal lengths, ``RATIOS`` times h over and over."""
    stepper = JKOStepper(sde, RidgeEngine(refinements=3), "bdf2")
    x = prior_draws(prior, 256, gen())
    states = [FlowState(0.0, prior_pool(prior, x))]
    for ratio in RATIOS * rounds:
        step = stepper.step(states[-1], ratio * h, gen())
        assert step.extrapolated
        states.append(step.state)
    return states


def test_bdf2_at_unequal_steps_solves_its_own_recursion_in_many_dimensions() -> None:
    """Of means: (1 + 2 w)/(1 + w) m' - (1 + w) m + w^2/(1 + w) m'' = -tau A (m' - b), w the ratio of the steps."""
    precision, centre = spd(3, 2), normals(3, seed=6)
    prior = MultivariateNormal(normals(3, seed=7), spd(3, 8))
    states = by_bdf2(0.05, jf.LangevinSDE(jf.Quadratic(centre, precision), 2.0), prior, 1)
    for before, now, after in zip(states, states[1:], states[2:], strict=False):
        w, (far, near, new) = after.step / now.step, (state.pool.x.mean(0) for state in (before, now, after))
        left = (1 + 2 * w) / (1 + w) * new - (1 + w) * near + w**2 / (1 + w) * far
        torch.testing.assert_close(left, -after.step * precision @ (new - centre), rtol=0, atol=1e-7)


def test_bdf2_at_unequal_steps_is_of_second_order_in_many_dimensions() -> None:
    """Against the exact law of an Ornstein-Uhlenbeck process: halved steps leave a quarter of the error."""
    precision, centre, beta, end = spd(2, 2), normals(2, seed=6), 2.0, 0.56
    prior = MultivariateNormal(normals(2, seed=7), spd(2, 8))
    sde = jf.LangevinSDE(jf.Quadratic(centre, precision), beta)
    decay, rest = torch.linalg.matrix_exp(-end * precision), torch.linalg.inv(beta * precision)
    mean = centre + decay @ (prior.mean - centre)
    covariance = rest + decay @ (prior.covariance_matrix - rest) @ decay.mT
    errors = []
    for rounds in (2, 4, 8):
        pool = by_bdf2(end / (rounds * sum(RATIOS)), sde, prior, rounds)[-1].pool
        spread = torch.cov(pool.x.mT, correction=0)
        errors.append([(pool.x.mean(0) - mean).norm().item(), (spread - covariance).norm().item()])
    for coarse, fine in zip(errors, errors[1:], strict=False):
        for larger, smaller in zip(coarse, fine, strict=True):
            assert math.log2(larger / smaller) == pytest.approx(2.0, abs=0.3)
