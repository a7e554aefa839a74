"""Numbers that a filter made and that break down are a FilterError; what a user's own code raises passes as it is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from filter_problems import EYE, ZERO, gen, seen
from torch import Tensor

import jkofilter as jf
from jkofilter.errors import NumericalError
from jkofilter.filters import jko_pool

HUGE = 1e200
"""A gain whose square is beyond double precision, so that every covariance of a reading is infinite."""


def overwhelmed() -> jf.StateSpaceModel:
    return seen(jf.Quadratic(ZERO, EYE), jf.LinearGaussian(HUGE * EYE, EYE))


def benes() -> jf.StateSpaceModel:
    prior = jf.benes_prior(0.3, 0.5, 1.2)
    return jf.StateSpaceModel(prior, jf.LangevinSDE(jf.LogCosh(1.2)), jf.LinearGaussian([[HUGE]], [[1.0]]))


OVERWHELMED: dict[str, Callable[[], jf.Filter]] = {
    "kalman": lambda: jf.KalmanFilter(overwhelmed()),
    "unscented": lambda: jf.UnscentedKalmanFilter(overwhelmed()),
    "ensemble": lambda: jf.EnsembleKalmanFilter(overwhelmed(), members=50),
    "benes": lambda: jf.BenesFilter(benes()),
}


@pytest.mark.parametrize("name", OVERWHELMED)
def test_a_covariance_that_overflows_is_a_filter_error_of_that_time_and_reading(name: str) -> None:
    filter = OVERWHELMED[name]()
    y = torch.ones(filter.model.dim).double()
    with pytest.raises(jf.FilterError, match=r"covariance has NaN or infinite entries at time 0 for reading \[1.0"):
        filter.update(filter.init(gen()), y, gen())


@pytest.mark.parametrize("covariance", [[[1.0, 2.0], [2.0, 1.0]], [[-1.0, 0.0], [0.0, 1.0]], [[math.nan, 0], [0, 1]]])
def test_sigma_points_of_a_matrix_that_is_no_covariance_are_a_filter_error(covariance: list[list[float]]) -> None:
    filter = jf.UnscentedKalmanFilter(seen(jf.Quadratic(ZERO, EYE), jf.LinearGaussian(EYE, EYE)))
    broken = jf.GaussianBelief(0.5, ZERO, torch.tensor(covariance).double())
    with pytest.raises(jf.FilterError, match=r"a covariance .* at time 0.5 for reading \[1.0, 1.0\]\.$"):
        filter.update(broken, torch.ones(2).double(), gen())
    with pytest.raises(jf.FilterError, match="the covariance broke down between time 0.5 and 0.6; use ParticleFilter"):
        filter.predict(broken, 0.1, gen())
    with pytest.raises(jf.FilterError, match="substep 0.01 is too long"):
        dataclasses.replace(filter, substep=0.01).predict(broken, 0.1, gen())


def test_two_sensors_that_all_but_agree_without_noise_are_one() -> None:
    """S = [[1, 1], [1, 1]] in double precision: the posterior is N(y, 0) for N(0, 1) and a reading without noise."""
    one = torch.ones(2, 1).double()
    model = jf.StateSpaceModel(
        torch.distributions.MultivariateNormal(ZERO[:1], EYE[:1, :1]),
        jf.LangevinSDE(jf.Quadratic([0.0], [[1.0]])),
        jf.LinearGaussian(one, 1e-18 * EYE),
    )
    filter, y = jf.KalmanFilter(model), torch.tensor([0.7, 0.7]).double()
    after, _ = filter.update(filter.init(gen()), y, gen())
    assert after.mean.item() == pytest.approx(0.7, abs=1e-6)
    assert after.covariance.item() == pytest.approx(0.0, abs=1e-6)
    # The unscented update subtracts covariances, which leaves nothing but rounding here.
    with pytest.raises(jf.FilterError, match="a covariance is not positive definite"):
        jf.UnscentedKalmanFilter(model).update(filter.init(gen()), y, gen())


class Fussy(jf.Potential):
    """x^2 / 2 with a gradient of the user's own, which refuses to be asked once it has been armed."""

    armed = False

    def __init__(self) -> None:
        super().__init__(lambda x: 0.5 * x.square().sum(-1), 2)

    def gradient(self, x: Tensor) -> Tensor:
        if self.armed:
            raise jf.InputError("table must reach as far as the state.")
        return x


STEPPING: dict[str, Callable[[jf.StateSpaceModel], jf.Filter]] = {
    "unscented": jf.UnscentedKalmanFilter,
    "ensemble": lambda model: jf.EnsembleKalmanFilter(model, members=50),
    "particle": lambda model: jf.ParticleFilter(model, particles=50),
    "jko": lambda model: jf.JKOFilter(model, pool=64, on_failure="report"),
}


@pytest.mark.parametrize("name", STEPPING)
def test_an_input_error_of_the_users_own_potential_passes_as_it_is(name: str) -> None:
    potential = Fussy()
    filter = STEPPING[name](seen(potential, jf.LinearGaussian(EYE, EYE)))
    belief = filter.init(gen())
    potential.armed = True
    with pytest.raises(jf.InputError, match="^table must reach as far as the state.$"):
        filter.predict(belief, 0.1, gen())


def test_numbers_that_break_down_within_a_jko_step_are_reported_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise NumericalError("a covariance has NaN or infinite entries.")

    model = seen(jf.Quadratic(ZERO, EYE), jf.LinearGaussian(EYE, EYE))
    filter = jf.JKOFilter(model, pool=64, on_failure="report")
    belief = filter.init(gen())
    monkeypatch.setattr(jko_pool, "carry", broken)
    monkeypatch.setattr(jko_pool, "assimilate", broken)
    after, info = filter.predict(belief, 0.1, gen())
    assert after is belief
    assert info.status == "predicting from time 0: a covariance has NaN or infinite entries."
    after, info = filter.update(belief, torch.tensor([1.0, 0.0]).double(), gen())
    assert after is belief
    assert info.status == "a covariance has NaN or infinite entries at time 0 for reading [1.0, 0.0]."


@pytest.mark.parametrize("kind", [jf.ParticleFilter, jf.TemperedParticleFilter, jf.BlockParticleFilter])
def test_a_skipped_reading_of_weighted_particles_still_tells_their_effective_size(
    kind: type[jf.ParticleFilter],
) -> None:
    filter = kind(seen(jf.Quadratic(ZERO, EYE), jf.LinearGaussian(EYE, EYE)), particles=200)
    belief, given = filter.update(filter.init(gen()), torch.ones(2).double(), gen())
    _, skipped = filter.update(belief, torch.full((2,), np.nan).double(), gen())
    assert skipped.status == "skipped"
    assert skipped.ess == belief.ess
    if kind is not jf.ParticleFilter:
        return
    assert given.ess == belief.ess
    assert given.ess < 150
