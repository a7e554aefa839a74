"""Every filter gives the right answers, on an Ornstein-Uhlenbeck process seen through two correlated sensors.

Filters with particles miss the exact answers by their Monte Carlo error; CASES says by how much the others may.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conformance import (
    BETA,
    CASES,
    CENTRE,
    NAN,
    PARTICLES,
    RATE,
    TIMES,
    VALUES,
    Case,
    exact_answers,
    gen,
    model_of_two_sensors,
    result_of,
)
from oracles import OrnsteinUhlenbeck, law_of
from torch.distributions import MultivariateNormal

import jkofilter as jf

DRAWS = 20_000


@pytest.fixture(scope="module", params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def case(name: str) -> Case:
    return CASES[name]


@pytest.fixture(scope="module")
def filter(case: Case) -> jf.Filter:
    return case.build(model_of_two_sensors())


@pytest.fixture(scope="module")
def result(name: str) -> jf.FilterResult:
    return result_of(name)


def test_protocols(filter: jf.Filter, result: jf.FilterResult) -> None:
    assert isinstance(filter, jf.Filter)
    assert isinstance(filter.init(gen()), jf.Belief)
    assert isinstance(result.final, jf.Belief)
    with pytest.raises(AttributeError):
        filter.model = model_of_two_sensors()  # type: ignore[misc]
    with pytest.raises(AttributeError):
        result.final.time = 0.0  # type: ignore[misc]


def test_shapes_and_types(result: jf.FilterResult) -> None:
    m = len(TIMES)
    assert len(result) == len(result.times) == len(result.infos) == len(result.beliefs) == m
    assert len(result.predict_infos) == m + 1
    assert result.means.shape == (m, 1)
    assert result.covariances.shape == (m, 1, 1)
    assert result.log_evidence.shape == (m,)
    for belief in (*result.beliefs, result.final):
        assert belief.dim == 1
        assert isinstance(belief.time, float)
        assert isinstance(belief.log_evidence, float)
        assert belief.mean.shape == (1,)
        assert belief.covariance.shape == (1, 1)
        assert belief.log_prob(torch.zeros(7, 1).double()).shape == (7,)
        assert belief.sample(5).shape == (5, 1)
        assert isinstance(belief.quantile(0.3), float)
        for tensor in (belief.mean, belief.covariance, belief.log_prob(torch.zeros(7, 1).double()), belief.sample(5)):
            assert tensor.dtype == torch.float64
            assert not tensor.requires_grad
            assert torch.isfinite(tensor).all()
    assert result.means.dtype == result.covariances.dtype == result.log_evidence.dtype == torch.float64


def test_times(result: jf.FilterResult) -> None:
    assert [belief.time for belief in result.beliefs] == pytest.approx(TIMES, abs=1e-12)
    assert result.final.time == pytest.approx(3.5, abs=1e-12)


def test_against_the_exact_filter(case: Case, result: jf.FilterResult) -> None:
    means, variances, evidence = exact_answers(TIMES, VALUES)
    sd = np.sqrt(variances)
    assert (np.abs(result.means[:, 0].numpy() - means) < case.error * sd).all()
    assert (np.abs(result.covariances[:, 0, 0].sqrt().numpy() - sd) < case.error * sd).all()
    # Each reading adds its own error to the evidence.
    each = case.error if case.evidence is None else case.evidence
    assert (np.abs(result.log_evidence.numpy() - evidence) < each * np.arange(1, len(TIMES) + 1)).all()


def test_prediction_past_the_last_reading(case: Case, result: jf.FilterResult) -> None:
    means, variances, _ = exact_answers(TIMES, VALUES)
    factor, added = OrnsteinUhlenbeck(RATE, CENTRE, BETA, 0.0, 1.0).transition(0.5)
    sd = math.sqrt(factor**2 * variances[-1] + added)
    assert result.final.mean.item() == pytest.approx(CENTRE + factor * (means[-1] - CENTRE), abs=case.error * sd)
    assert math.sqrt(result.final.covariance.item()) == pytest.approx(sd, abs=case.error * sd)
    assert result.final.log_evidence == result.log_evidence[-1].item()


def test_log_prob_integrates_to_one(result: jf.FilterResult) -> None:
    for belief in (result.beliefs[0], result.beliefs[1], result.beliefs[4], result.final):
        sd = math.sqrt(belief.covariance.item())
        law = law_of(belief.log_prob, belief.mean.item() - 9 * sd, belief.mean.item() + 9 * sd, 801)
        assert law.mass == pytest.approx(1.0, abs=1e-6)


def test_log_prob_has_the_mean_and_covariance(case: Case, result: jf.FilterResult) -> None:
    """A kernel estimate is wider than its particles: by Silverman's rule 0.9 n^(-1/5) sd at most, n above a fifth."""
    room = 0.9**2 * (PARTICLES / 5) ** (-2 / 5) if case.inflated else 0.0
    for belief in (result.beliefs[0], result.beliefs[3], result.final):
        mean, variance = belief.mean.item(), belief.covariance.item()
        sd = math.sqrt(variance)
        law = law_of(belief.log_prob, mean - 9 * sd, mean + 9 * sd, 801)
        # The transition mixture is smoothed over the noise of the last lag, not over the particles' own draws of it.
        error = case.error if case.inflated else 1e-6
        assert abs(law.mean - mean) < error * sd
        assert -error < law.variance / variance - 1 < room + error


def test_samples_follow_log_prob(result: jf.FilterResult) -> None:
    """Kolmogorov-Smirnov at level 1e-6, against the density's own distribution function."""
    bound = math.sqrt(math.log(2 / 1e-6) / 2 / DRAWS)
    for belief in (result.beliefs[3], result.final):
        x = np.sort(belief.sample(DRAWS, gen(7)).numpy()[:, 0])
        sd = math.sqrt(belief.covariance.item())
        law = law_of(belief.log_prob, belief.mean.item() - 9 * sd, belief.mean.item() + 9 * sd, 801)
        gap = np.abs(law.cdf(x) - (np.arange(DRAWS) + 0.5) / DRAWS).max()
        assert gap < bound + 1e-4


def test_quantiles(case: Case, result: jf.FilterResult) -> None:
    """The law is Gaussian, so its quantiles are mean + z sd."""
    means, variances, _ = exact_answers(TIMES, VALUES)
    for k in (0, 3, 5):
        sd = math.sqrt(variances[k])
        for q, z, hardness in ((0.025, -1.959964, 3.0), (0.5, 0.0, 1.3), (0.9, 1.281552, 2.0)):
            # A sample quantile's standard error is sqrt(q (1 - q)) / pdf(z) in units of that of the mean.
            assert result.beliefs[k].quantile(q) == pytest.approx(
                means[k] + z * sd, abs=(hardness * case.error + 3e-6) * sd
            )


def test_two_readings_at_one_time(case: Case, filter: jf.Filter) -> None:
    """Told one after the other, as two sensors report: the exact filter with a gap of zero."""
    tracker = filter.track(seed=3)
    tracker.predict(0.4)
    tracker.update([0.9, NAN])
    belief = tracker.update([NAN, -0.2])
    tracker.update([0.3, 0.3])
    means, variances, evidence = exact_answers([0.4, 0.4, 0.4], np.array([[0.9, NAN], [NAN, -0.2], [0.3, 0.3]]))
    assert belief.time == pytest.approx(0.4)
    assert belief.mean.item() == pytest.approx(means[1], abs=2 * case.error * math.sqrt(variances[1]))
    assert tracker.belief.mean.item() == pytest.approx(means[2], abs=2 * case.error * math.sqrt(variances[2]))
    assert tracker.belief.log_evidence == pytest.approx(evidence[2], abs=4 * case.error)


def test_one_reading_at_time_zero(case: Case, filter: jf.Filter) -> None:
    result = jf.run_filter(filter, jf.ObservationSeries([0.0], [[0.7, 0.1]]))
    means, variances, evidence = exact_answers([0.0], np.array([[0.7, 0.1]]))
    assert len(result) == 1
    assert result.predict_infos[0].status == "skipped"
    assert result.final.mean.item() == pytest.approx(means[0], abs=2 * case.error * math.sqrt(variances[0]))
    assert result.final.log_evidence == pytest.approx(evidence[0], abs=2 * case.error)


def test_nothing_but_missing_readings_is_a_prediction(case: Case, filter: jf.Filter) -> None:
    result = jf.run_filter(filter, jf.ObservationSeries([0.3, 1.0], np.full((2, 2), NAN)))
    means, variances, _ = exact_answers([0.3, 1.0], np.full((2, 2), NAN))
    assert result.log_evidence.tolist() == [0.0, 0.0]
    assert result.means[:, 0].numpy() == pytest.approx(means, abs=2 * case.error)
    assert result.covariances[:, 0, 0].numpy() == pytest.approx(variances, rel=3 * case.error)


@pytest.mark.parametrize("name", ["jko-ridge", "dual-jko", "particle", "kalman", "unscented", "ensemble"])
def test_two_dimensions_against_the_exact_filter(name: str) -> None:
    """Two independent OU coordinates turned by 30 degrees: filters that take d > 1 against two scalar Kalman runs."""
    cosine, sine = math.cos(math.pi / 6), 0.5
    turn = torch.tensor([[cosine, -sine], [sine, cosine]]).double()
    precision = turn.mT @ torch.diag(torch.tensor([0.8, 2.0]).double()) @ turn
    model = jf.StateSpaceModel(
        MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double()),
        jf.LangevinSDE(jf.Quadratic([0.0, 0.0], 0.5 * (precision + precision.mT))),
        jf.LinearGaussian(turn, 0.25 * torch.eye(2).double()),
    )
    times, values = [0.2, 0.9], np.array([[0.5, -0.3], [1.0, 0.4]])
    result = jf.run_filter(CASES[name].build(model), jf.ObservationSeries(times, values), seed=4, keep_beliefs=True)
    error = 2 * CASES[name].error
    rotated = result.final.mean @ turn.mT
    spread = turn @ result.final.covariance @ turn.mT
    evidence = 0.0
    for i, rate in enumerate((0.8, 2.0)):
        exact = OrnsteinUhlenbeck(rate, 0.0, 1.0, 0.0, 1.0, noise=0.25).kalman(times, values[:, i])
        sd = math.sqrt(exact[1][-1])
        # turn was rounded to single precision on its way in, hence the 1e-6.
        assert rotated[i].item() == pytest.approx(exact[0][-1], abs=(error + 1e-6) * sd)
        assert spread[i, i].item() == pytest.approx(sd**2, rel=2 * error + 1e-6)
        evidence += exact[2][-1]
    assert result.final.log_evidence == pytest.approx(evidence, abs=2 * error + 1e-6)
    draws = result.final.sample(DRAWS, gen(3))
    root = torch.linalg.cholesky(result.final.covariance)
    white = torch.linalg.solve_triangular(root, (draws - result.final.mean).mT, upper=False).mT
    assert white.mean(0).abs().max() < 5 / math.sqrt(DRAWS) + error
    # Silverman's factor in two dimensions, n^(-1/6) squared, is at most 0.08 at an effective size of 2000.
    inflation = 0.08 if CASES[name].inflated else 0.0
    eigenvalues = torch.linalg.eigvalsh(torch.cov(white.mT))
    assert eigenvalues.min() > 1 - 5 * math.sqrt(2 / DRAWS) - error
    assert eigenvalues.max() < 1 + inflation + 5 * math.sqrt(2 / DRAWS) + error
