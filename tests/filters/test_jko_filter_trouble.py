"""The JKO filter in two dimensions where readings are far away, contradict each other, or cannot be taken in."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from filter_problems import EYE, NAN, ZERO, Sensor, gen, noise_of, seen
from scipy import stats
from torch import Tensor
from torch.distributions import Independent, Normal

import jkofilter as jf


@pytest.mark.parametrize("noise", [1.0, 1e-2, 1e-4])
def test_a_reading_forty_deviations_away_is_followed(noise: float) -> None:
    """Bayes for N(0, I) and y = x + noise is mean y / (1 + noise) and variance noise / (1 + noise)."""
    model = seen(jf.Quadratic(ZERO, EYE), jf.LinearGaussian(EYE, noise * EYE))
    filter, total = jf.JKOFilter(model, pool=1000), 1 + noise
    y = 40 * math.sqrt(total) * torch.tensor([1.0, -1.0]).double()
    after, info = filter.update(filter.init(gen()), y, gen(1))
    sd = math.sqrt(noise / total)
    assert (after.mean - y / total).abs().max() < noise_of(1000) * sd
    assert (after.covariance - sd**2 * EYE).abs().max() < math.sqrt(2) * noise_of(1000) * sd**2
    assert info.log_evidence == pytest.approx(Normal(0.0, math.sqrt(total)).log_prob(y).sum().item(), abs=0.1)
    assert info.status == "ok"
    assert info.details["temperatures"] > 10
    assert info.ess < 5


def test_duplicates_and_readings_that_contradict_each_other_sharply() -> None:
    """Sensor noise .1, ten of its deviations apart: a thousand particles know a Gaussian's tails to a few percent."""
    model = seen(jf.Quadratic(ZERO, EYE), jf.LinearGaussian(EYE, 0.01 * EYE))
    readings = [[0.3, 0.3]] * 3 + [[0.3, -0.7]]
    ours, exact = (f.track(seed=1) for f in (jf.JKOFilter(model, pool=1000), jf.KalmanFilter(model)))
    for count, reading in enumerate(readings, 1):
        for tracker in (ours, exact):
            tracker.update(reading)
        sd = exact.belief.covariance.diagonal().sqrt()
        reach = 1 if count < 4 else 10 * math.sqrt(3 / 4)
        assert ((ours.belief.mean - exact.belief.mean) / sd).abs().max() < noise_of(1000) * reach
        assert ((ours.belief.covariance.diagonal().sqrt() / sd) - 1).abs().max() < noise_of(1000)
        assert ours.info.status == "ok"
    # The misfit of the last, half of 75, is known as well as the variance.
    assert ours.belief.log_evidence == pytest.approx(exact.belief.log_evidence, abs=40 * noise_of(1000))


def test_contradictions_beyond_reach_are_followed_or_named() -> None:
    model = seen(jf.Quadratic(ZERO, EYE), jf.LinearGaussian(EYE, 1e-6 * EYE))
    filter = jf.JKOFilter(model, pool=200)
    belief, _ = filter.update(filter.init(gen()), torch.tensor([0.0, 0.0]).double(), gen())
    before = belief.mean.clone()
    with pytest.raises(jf.FilterError, match=r"tempering reaches .* at time 0 for reading \[5\.0, -5\.0\]"):
        filter.update(belief, torch.tensor([5.0, -5.0]).double(), gen())
    assert torch.equal(belief.mean, before)
    after, info = filter.update(belief, torch.tensor([1e-3, 0.0]).double(), gen())
    assert info.status == "ok"
    assert after.mean[0].item() == pytest.approx(5e-4, abs=2e-3)


def beyond(y: Tensor, x: Tensor) -> Tensor:
    """x_1 is seen to lie beyond y_1, and x_2 with noise .5 at y_2."""
    return torch.where(x[:, 0] > y[0], -0.5 * ((x[:, 1] - y[1]) / 0.5).square(), -math.inf)


def test_a_likelihood_that_is_zero_on_a_half_plane_cuts_it_off() -> None:
    """Particles and evidence are exact; a smooth law cannot have the edge, which the status says or agreement shows."""
    model = seen(jf.Quadratic(ZERO, EYE), Sensor(beyond))
    filter = jf.JKOFilter(model, pool=2000)
    after, info = filter.update(filter.init(gen()), torch.tensor([0.5, 1.0]).double(), gen(1))
    tail = stats.norm.sf(0.5)
    mean = stats.norm.pdf(0.5) / tail
    spread = math.sqrt(1 + 0.5 * mean - mean**2)
    assert (after.pool.x[:, 0] > 0.5).all()
    assert after.mean[0].item() == pytest.approx(mean, abs=noise_of(2000) * spread)
    assert after.mean[1].item() == pytest.approx(0.8, abs=noise_of(2000) * math.sqrt(0.2))
    exact = math.log(tail) + stats.norm.logpdf(1.0, 0, math.sqrt(1.25)) + 0.5 * math.log(2 * math.pi * 0.25)
    assert info.log_evidence == pytest.approx(exact, abs=noise_of(2000))
    assert info.details["agreement"] < 0.9
    x = after.sample(500, gen(2))
    assert torch.isfinite(after.log_prob(x)).all()
    later, _ = filter.predict(after, 0.1, gen())
    assert torch.isfinite(later.mean).all()


def nan_on_the_right(y: Tensor, x: Tensor) -> Tensor:
    return torch.where(x[:, 0] > y[0], NAN, -0.5 * x[:, 1].square())


HOPELESS = {
    "zero everywhere": (beyond, 50.0, "the likelihood is zero at every particle"),
    "nan": (nan_on_the_right, 0.5, "log_likelihood is NaN"),
    "nan in the tail": (nan_on_the_right, 2.75, "log_likelihood is NaN"),
    "infinite": (lambda y, x: x.new_full((len(x),), math.inf), 0.5, "NaN or infinite"),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_a_hopeless_likelihood_is_an_error_that_names_time_and_reading(name: str) -> None:
    function, y, words = HOPELESS[name]
    filter = jf.JKOFilter(seen(jf.Quadratic(ZERO, EYE), Sensor(function)), pool=1000)
    belief, _ = filter.predict(filter.init(gen()), 0.1, gen())
    mean, x = belief.mean.clone(), belief.pool.x.clone()
    reading = torch.tensor([y, 1.0]).double()
    with pytest.raises(jf.FilterError) as caught:
        filter.update(belief, reading, gen())
    assert words in str(caught.value)
    assert f"at time 0.1 for reading [{y}, 1.0]" in str(caught.value)
    assert torch.equal(belief.mean, mean)
    assert torch.equal(belief.pool.x, x)
    later, info = filter.predict(belief, 0.1, gen())
    assert info.status == "ok"
    assert later.time == pytest.approx(0.2)


def test_failures_are_reported_when_asked_for_and_the_belief_is_kept() -> None:
    model = seen(jf.Quadratic(ZERO, EYE), Sensor(nan_on_the_right))
    filter = jf.JKOFilter(model, pool=500, on_failure="report")
    series = jf.ObservationSeries([0.1, 0.2], [[0.5, 1.0], [9.0, 1.0]])
    result = filter.run(series, keep_beliefs=True)
    assert "log_likelihood is NaN or infinite at time 0.1 for reading [0.5, 1.0]" in result.infos[0].status
    assert result.infos[0].log_evidence == 0.0
    assert result.beliefs[0].log_evidence == 0.0
    assert result.infos[1].status == "ok"
    assert torch.isfinite(result.means).all()


def test_a_failed_prediction_names_the_time_or_is_reported() -> None:
    wild = seen(jf.Potential(lambda x: -1e6 * x.square().sum(-1), 2), jf.LinearGaussian(EYE, EYE))
    filter = jf.JKOFilter(wild, step=0.5, scheme="implicit-euler", pool=64)
    belief = filter.init(gen())
    with pytest.raises(jf.FilterError, match=r"^predicting from time 0: no JKO step succeeds") as caught:
        filter.predict(belief, 0.5, gen())
    after, info = replace(filter, on_failure="report").predict(belief, 0.5, gen())
    assert after is belief
    assert info.status == str(caught.value)


def test_a_prior_with_edges_is_filtered_within_them() -> None:
    """Exponential coordinates and a reading at time zero: exact by quadrature, nothing drawn outside the support."""
    prior = Independent(torch.distributions.Exponential(torch.ones(2).double()), 1)
    model = seen(jf.Quadratic(ZERO, EYE), jf.LinearGaussian(EYE, 0.5 * EYE), prior)
    filter = jf.JKOFilter(model, pool=2000)
    after, info = filter.update(filter.init(gen()), torch.tensor([1.0, 0.4]).double(), gen(1))
    x = np.linspace(0, 20, 20_001)
    evidence = 0.0
    for i, y in enumerate((1.0, 0.4)):
        one, law = oracles.bayes_by_quadrature(lambda x, y=y: -x + stats.norm.logpdf(y, x, math.sqrt(0.5)), x)
        evidence += one
        assert after.mean[i].item() == pytest.approx(law.mean, abs=noise_of(2000) * math.sqrt(law.variance))
    assert (after.pool.x >= 0).all()
    assert info.log_evidence == pytest.approx(evidence, abs=noise_of(2000))


# --- what the particles or the fitted law cannot do ------------------------------------------------------------------

SHARP = seen(jf.Quadratic(ZERO, EYE), jf.LinearGaussian(EYE, 0.01 * EYE))


@pytest.mark.parametrize("moves", [("auxiliary",), ("global",), ("auxiliary", "global")])
def test_particles_that_have_collapsed_are_an_error_not_a_posterior_of_no_width(moves: tuple[str, ...]) -> None:
    filter = jf.JKOFilter(SHARP, pool=400, assimilation=jf.UpdateSettings(moves=moves))  # type: ignore[arg-type]
    with pytest.raises(jf.FilterError, match=r"400 particles have collapsed to \d+ .* at time 0 for reading"):
        filter.update(filter.init(gen()), torch.tensor([4.0, -4.0]).double(), gen(1))


def outside_the_disc(y: Tensor, x: Tensor) -> Tensor:
    return torch.where(x.square().sum(-1) > 1, 0.0, -math.inf)


def test_a_disc_that_is_ruled_out_stays_nearly_empty_and_the_note_tells_how_well_the_law_fits() -> None:
    """P(|x| > 1) = exp(-1/2) for N(0, I); the same reading taken in again tells nothing new."""
    model = seen(jf.Quadratic(ZERO, EYE), Sensor(outside_the_disc))
    filter, reading = jf.JKOFilter(model, pool=1000), torch.zeros(2).double()
    after, info = filter.update(filter.init(gen()), reading, gen(1))
    assert info.log_evidence == pytest.approx(-0.5, abs=noise_of(1000))
    assert (after.pool.x.square().sum(-1) > 1).all()
    # No convex map of few ridges hollows out a disc: the law knows of it, but not all.
    assert (after.sample(20_000, gen(2)).square().sum(-1) < 1).double().mean() < 0.35
    assert f"agrees with the posterior to {info.details['agreement']:.0%}" in info.note
    _, again = filter.update(after, reading, gen(3))
    assert again.log_evidence == pytest.approx(0, abs=noise_of(1000))


def test_a_sensor_written_in_numpy_is_taken_in_as_well_as_one_in_torch() -> None:
    def squared(y: Tensor, x: Tensor) -> Tensor:
        return -5 * (x.square() - y).square().sum(-1)

    def in_numpy(y: Tensor, x: Tensor) -> Tensor:
        return torch.from_numpy(-5 * ((x.numpy() ** 2 - y.numpy()) ** 2).sum(-1))

    reading, beliefs = torch.tensor([1.0, 0.6]).double(), []
    for function in (squared, in_numpy):
        filter = jf.JKOFilter(seen(jf.Quadratic(ZERO, EYE), Sensor(function)), pool=1000)
        beliefs.append(filter.update(filter.init(gen()), reading, gen(1))[0])
    x = beliefs[0].sample(500, gen(2))
    torch.testing.assert_close(beliefs[1].log_prob(x), beliefs[0].log_prob(x), rtol=0, atol=1e-3)


def test_four_modes_that_one_reading_leaves_are_kept_with_their_evidence() -> None:
    """Squares of both coordinates seen with variance .05, by quadrature."""
    model = seen(jf.Quadratic(ZERO, EYE), Sensor(lambda y, x: -10 * (x.square() - y).square().sum(-1)))
    filter, reading = jf.JKOFilter(model, pool=1000), torch.tensor([1.0, 0.6]).double()
    after, info = filter.update(filter.init(gen()), reading, gen(1))
    x, evidence = np.linspace(-5, 5, 20_001), 0.0
    for y in (1.0, 0.6):
        evidence += oracles.bayes_by_quadrature(lambda x, y=y: stats.norm.logpdf(x) - 10 * (x**2 - y) ** 2, x)[0]
    assert info.log_evidence == pytest.approx(evidence, abs=noise_of(1000))
    shares = (after.sample(4000, gen(2)) > 0).double().mean(0)
    assert ((shares - 0.5).abs() < noise_of(1000) / 2).all()


def test_the_few_particles_that_a_small_box_leaves_are_noted() -> None:
    def in_a_box(y: Tensor, x: Tensor) -> Tensor:
        return torch.where(((x - y).abs() < 0.1).all(-1), 0.0, -math.inf)

    filter = jf.JKOFilter(seen(jf.Quadratic(ZERO, EYE), Sensor(in_a_box)), pool=1000)
    after, info = filter.update(filter.init(gen()), torch.ones(2).double(), gen(1))
    exact = 2 * math.log(stats.norm.cdf(1.1) - stats.norm.cdf(0.9))
    # So many particles of a thousand are in the box.
    effective = 1000 * math.exp(exact)
    assert info.note.startswith(f"the reading leaves {info.ess:.1f} of 1000 particles effective")
    assert info.log_evidence == pytest.approx(exact, abs=5 / math.sqrt(effective))
    assert ((after.pool.x - 1).abs() < 0.1).all()


def test_a_likelihood_that_is_nan_where_only_global_moves_go_is_an_error() -> None:
    filter = jf.JKOFilter(
        seen(jf.Quadratic(ZERO, EYE), Sensor(lambda y, x: torch.where(x[:, 0] > y[0], NAN, 0.0))),
        pool=300,
        assimilation=jf.UpdateSettings(moves=("global",)),
    )
    belief = filter.init(gen())
    reading = torch.tensor([belief.pool.x[:, 0].max().item(), 0.0]).double()
    for seed in range(3):
        with pytest.raises(jf.FilterError, match="log_likelihood is NaN"):
            filter.update(belief, reading, gen(seed))


PHI = {
    "nan": (lambda z, c: z * NAN, "auxiliary returns NaN"),
    "another shape": (lambda z, c: c, "auxiliary must return the shape of its points"),
}


@pytest.mark.parametrize("name", PHI)
def test_a_phi_that_cannot_be_used_is_named(name: str) -> None:
    phi, words = PHI[name]
    filter = jf.JKOFilter(SHARP, pool=200, assimilation=jf.UpdateSettings(moves=("auxiliary",), auxiliary=phi))
    with pytest.raises(jf.InputError, match=words):
        filter.update(filter.init(gen()), torch.zeros(2).double(), gen(1))


def test_what_every_temperature_did_is_in_the_history() -> None:
    filter = jf.JKOFilter(SHARP, pool=400)
    _, info = filter.update(filter.init(gen()), torch.tensor([4.0, -4.0]).double(), gen(1))
    temperatures = info.history["temperature"]
    assert len(temperatures) == info.details["temperatures"] == len(info.history["ess"])
    assert list(temperatures) == sorted(temperatures)
    assert temperatures[-1] == 1.0
    assert all(199 < ess <= 400 for ess in info.history["ess"])
