"""The ensemble Kalman update of few members: what holds exactly, however many there are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

import jkofilter as jf
from jkofilter.beliefs.particle import ParticleBelief

MATRIX = np.array([[1.0, 0.5], [-0.3, 1.0], [0.4, 0.4]])
NOISE = np.array([[0.5, 0.2, 0.0], [0.2, 0.4, 0.1], [0.0, 0.1, 0.9]])
MEMBERS = np.array([[0.0, 1.0], [2.0, -1.0], [-1.0, 0.5], [0.3, 0.3], [1.2, 2.2]])
NAN = math.nan


def ensemble_filter() -> jf.EnsembleKalmanFilter:
    prior = torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    sde = jf.LangevinSDE(jf.Quadratic([0.0, 0.0], np.eye(2)))
    return jf.EnsembleKalmanFilter(jf.StateSpaceModel(prior, sde, jf.LinearGaussian(MATRIX, NOISE)), members=5)


FILTER = ensemble_filter()


def updated(reading: list[float], seed: int = 0) -> ParticleBelief:
    log_weights = torch.full((5,), -math.log(5), dtype=torch.float64)
    before = ParticleBelief(0.5, torch.tensor(MEMBERS), log_weights, log_evidence=-3.0)
    y = torch.tensor(reading, dtype=torch.float64)
    after, info = FILTER.update(before, y, torch.Generator().manual_seed(seed))
    assert after.log_evidence == pytest.approx(-3.0 + info.log_evidence, abs=1e-12)
    return after


def kalman(reading: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Mean, covariance, gain and evidence from the moments of the members, covariance over n - 1."""
    y = np.array(reading)
    seen = ~np.isnan(y)
    h, r = MATRIX[seen], NOISE[np.ix_(seen, seen)]
    mean, p = MEMBERS.mean(0), np.cov(MEMBERS.T)
    s = h @ p @ h.T + r
    gain = p @ h.T @ np.linalg.inv(s)
    evidence = float(stats.multivariate_normal(h @ mean, s).logpdf(y[seen]))
    return mean + gain @ (y[seen] - h @ mean), p - gain @ h @ p, gain, evidence


@pytest.mark.parametrize("reading", [[0.7, -1.0, 2.0], [NAN, 0.4, NAN], [1.0, NAN, -0.5]])
def test_mean_and_evidence_are_kalmans_exactly_whatever_the_perturbations(reading: list[float]) -> None:
    mean, _, _, evidence = kalman(reading)
    for seed in (0, 1):
        after = updated(reading, seed)
        np.testing.assert_allclose(after.mean, mean, rtol=0, atol=1e-12)
        assert after.log_evidence == pytest.approx(-3.0 + evidence, abs=1e-10)


def test_perturbations_scatter_as_the_noise_does() -> None:
    """Over seeds: a member's shift less its exact part is the gain times noise of covariance R (1 - 1/n)."""
    reading, runs = [0.7, -1.0, 2.0], 200
    _, _, gain, _ = kalman(reading)
    exact = MEMBERS + (np.array(reading) - MEMBERS @ MATRIX.T) @ gain.T
    scatter = np.stack([updated(reading, seed).particles.numpy() - exact for seed in range(runs)])
    np.testing.assert_allclose(scatter.sum(1), 0.0, atol=1e-11)
    products = scatter[..., :, None] * scatter[..., None, :]
    expected = gain @ NOISE @ gain.T * (1 - 1 / len(MEMBERS))
    error = products.mean(1).std(0) / math.sqrt(runs)
    assert (np.abs(products.mean((0, 1)) - expected) < 5 * error).all()


def test_members_stay_equally_weighted() -> None:
    np.testing.assert_allclose(updated([0.7, -1.0, 2.0]).log_weights, -math.log(5), rtol=1e-12)
