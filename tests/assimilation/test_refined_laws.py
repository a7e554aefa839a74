"""Laws fitted anew to their own draws, weighed to the exact product: what each mode weighs, moments and evidence."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from filter_problems import EYE, ZERO, gen, normals
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, MultivariateNormal

import jkofilter as jf
from jkofilter.assimilation.base_space import base_space, exact_product
from jkofilter.assimilation.candidates import TriedLaw, refined, share_of_spread, weighed_draws
from jkofilter.assimilation.settings import UpdateSettings
from jkofilter.numerics.weights import log_mean_exp
from jkofilter.transport.laws.belief import TransportBelief
from jkofilter.transport.laws.fitted_law import fitted_laws
from jkofilter.transport.laws.prior_pool import prior_draws, prior_pool

N = 2_000
WELLS = torch.tensor([[0.0, -1.0], [0.0, 1.0]], dtype=torch.float64)


def two_modes(share: float) -> Distribution:
    """Two normal laws of variance .15, the upper one with this share of the mass."""
    weights = torch.tensor([1 - share, share], dtype=torch.float64)
    return MixtureSameFamily(Categorical(weights), MultivariateNormal(WELLS, 0.15 * EYE.expand(2, 2, 2)))


def nothing(x: Tensor) -> Tensor:
    return torch.zeros_like(x[:, 0])


def above(x: Tensor) -> float:
    return (x[:, 1] > 0).double().mean().item()


def test_a_law_whose_modes_weigh_the_wrong_is_put_right() -> None:
    """Half of the mass lies above; the first law is fitted to particles of which a third does."""
    right, settings = two_modes(0.5), UpdateSettings()
    x = prior_draws(right, N, gen())
    belief = TransportBelief(0.0, right, (), prior_pool(right, x), x)
    space = base_space(belief, settings.engine, settings.layers, gen(1))
    wrong = prior_pool(two_modes(1 / 3), prior_draws(two_modes(1 / 3), N, gen(2)))
    law = next(fitted_laws(wrong, wrong.x[:0], settings.engine, 1, gen(3), controlled=False))
    first = TriedLaw(
        law, share_of_spread(wrong.log_prob - law.log_prob(wrong.x)), weighed_draws(space, law, nothing, gen(4))
    )
    assert first.draws is not None
    assert above(first.draws.x) < 0.4
    found, states = refined(space, first, nothing, settings, gen(5))
    assert found.draws is not None
    assert found.agreement > first.agreement
    # The particles are weighed to the exact law: quasi-random, so that a quarter of a binomial standard error is ample.
    assert above(states) == pytest.approx(0.5, abs=0.25 * 0.5 / math.sqrt(N) + 2 / N)
    # The law is what a fit makes of those.
    assert above(found.draws.x) == pytest.approx(0.5, abs=0.01)
    pool = exact_product(space.pool_at(states), nothing, log_mean_exp(found.draws.log_weights))
    torch.testing.assert_close(pool.log_prob, right.log_prob(pool.x), rtol=0, atol=0.01)


def test_the_share_of_a_spread_is_that_of_normal_log_weights() -> None:
    """Weights exp(s Z) have the effective share exp(-s^2)."""
    assert share_of_spread(0.5 * normals(100_000, 1)[:, 0] + 3.0) == pytest.approx(math.exp(-0.25), abs=0.01)
    assert share_of_spread(torch.full((5,), 2.0).double()) == 1.0


def test_a_gaussian_posterior_and_its_evidence_are_nearly_exact() -> None:
    """Errors of 2,000 independent draws would be .022 in the mean; quasi-random ones leave less than a fifth."""
    d = 4
    eye = torch.eye(d, dtype=torch.float64)
    prior = MultivariateNormal(torch.zeros(d).double(), eye)
    model = jf.StateSpaceModel(
        prior, jf.LangevinSDE(jf.Quadratic([0.0] * d, eye)), jf.LinearGaussian(eye[:2], 0.1 * eye[:2, :2])
    )
    y = torch.tensor([0.8, -1.1]).double()
    exact, told = jf.KalmanFilter(model), jf.JKOFilter(model, pool=N)
    right, by_kalman = exact.update(exact.init(gen()), y, gen())
    found, info = told.update(told.init(gen()), y, gen())
    error = (found.mean - right.mean) / right.covariance.diagonal().sqrt()
    assert error.abs().max() < 0.2 / math.sqrt(N)
    assert info.log_evidence == pytest.approx(by_kalman.log_evidence, abs=1e-3)


@pytest.mark.slow
def test_a_well_that_no_reading_sees_keeps_half_of_the_mass() -> None:
    """x_1 alone is read; V is even in x_2. Before, the law said .4 after two readings and .35 after six."""
    model = jf.StateSpaceModel(
        MultivariateNormal(ZERO, EYE),
        jf.LangevinSDE(jf.Potential(lambda x: x[..., 0] ** 2 / 2 + 5 * (x[..., 1] ** 2 - 1) ** 2, 2)),
        jf.LinearGaussian([[1.0, 0.0]], [[0.25]]),
    )
    _, series = jf.simulate(model, np.arange(1, 7) * 0.5, seed=100)
    belief = jf.JKOFilter(model).run(series).final
    assert above(belief.sample(40_000, gen())) == pytest.approx(0.5, abs=0.02)  # type: ignore[arg-type]
    assert above(belief.pool.x) == pytest.approx(0.5, abs=0.02)  # type: ignore[attr-defined]
