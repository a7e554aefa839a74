"""Global moves: independence Metropolis-Hastings by a fitted law, and what a constant of the likelihood may change."""

from __future__ import annotations

import math

import pytest
import torch
from filter_problems import EYE, ZERO, gen, normals
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

import jkofilter as jf
from jkofilter.assimilation.assimilate import assimilate
from jkofilter.assimilation.candidates import WeighedDraws, global_move
from jkofilter.transport.laws.belief import TransportBelief
from jkofilter.transport.laws.fitted_law import FittedLaw
from jkofilter.transport.laws.prior_pool import prior_pool
from jkofilter.transport.maps.convex import Pool

N = 40_000


@pytest.mark.parametrize("log_evidence", [-7.0, 0.0, 4.0])
@pytest.mark.parametrize("wider", [1.0, 1.5, 3.0])
def test_global_moves_accept_as_often_as_theory_says_and_keep_the_posterior(wider: float, log_evidence: float) -> None:
    """N(0, 1) by proposals N(0, s^2), s > 1: whichever of the two is nearer to zero has the larger weight.

    So E min(1, w'/w) = 2 P(|Z| > s |U|) with Z and U standard normal, which is (4 / pi) arctan(1 / s).
    """
    target, law = Normal(0.0, 1.0), FittedLaw(torch.zeros(1).double(), torch.tensor([[wider]]).double())
    x, drawn = normals(N, 1, seed=1), wider * normals(N, 1, seed=2)
    pool = Pool(x, target.log_prob(x[:, 0]), -x)
    draws = WeighedDraws(drawn, target.log_prob(drawn[:, 0]) + log_evidence - law.log_prob(drawn))
    moved, acceptance = global_move(pool, log_evidence, law, draws, gen(3))
    expected = 4 / math.pi * math.atan(1 / wider)
    assert acceptance == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / N) + 1e-12)
    assert (moved != x).double().mean().item() == pytest.approx(acceptance)
    assert abs(moved.mean().item()) < 5 / math.sqrt(N)
    assert moved.var().item() == pytest.approx(1.0, abs=5 * math.sqrt(2 / N))


def test_draws_without_weight_are_never_moved_to() -> None:
    law = FittedLaw(torch.zeros(1).double(), torch.eye(1).double())
    x = normals(50, 1)
    draws = WeighedDraws(normals(50, 1, seed=1), torch.full((50,), -torch.inf).double())
    moved, acceptance = global_move(law.pool(x), 0.0, law, draws, gen())
    assert torch.equal(moved, x)
    assert acceptance == 0.0
    assert draws.share == 0.0


@pytest.mark.parametrize("constant", [-60.0, 60.0])
def test_a_constant_factor_of_the_likelihood_changes_the_evidence_alone(constant: float) -> None:
    prior = MultivariateNormal(ZERO, EYE)
    x = normals(500, 2)
    belief = TransportBelief(0.0, prior, (), prior_pool(prior, x), x)

    def bent(state: Tensor) -> Tensor:
        return -2 * (state[:, 0] - 1 + 0.3 * state[:, 1].square()).square()

    settings = jf.UpdateSettings()
    one = assimilate(belief, bent, settings, gen(4))
    two = assimilate(belief, lambda state: bent(state) + constant, settings, gen(4))
    assert two.log_evidence - one.log_evidence == pytest.approx(constant, abs=1e-9)
    torch.testing.assert_close(two.belief.pool.x, one.belief.pool.x, rtol=0, atol=1e-6)
    assert two.details["acceptance_global"] == one.details["acceptance_global"]
    assert 0.5 < one.details["acceptance_global"] < 1
    assert two.ess == pytest.approx(one.ess)
