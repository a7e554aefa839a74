"""The filters of the conformance suite, and the problem they are held to: an Ornstein-Uhlenbeck process, exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from oracles import OrnsteinUhlenbeck
from torch.distributions import Independent, Normal

import jkofilter as jf

NAN = math.nan
PARTICLES = 20_000
POOL = 4_000


@dataclass(frozen=True)
class Case:
    """A filter, and how far its mean, sd and log evidence may be from the exact ones.

    Attributes:
        build: the filter of a model.
        error: of mean and sd, in exact deviations.
        evidence: error of the log evidence for each reading, nats; None for ``error``.
    """

    build: Callable[[jf.StateSpaceModel], jf.Filter]
    error: float
    evidence: float | None = None
    inflated: bool = False
    """Whether samples come from a kernel estimate, wider than the particles that mean and covariance describe."""
    seeded: bool = False
    """Whether chance enters although the belief is a table."""


SUBSTEP = 0.005
# Members are never weighted; the gain, estimated from as many, adds half a standard error.
ENSEMBLE = 1.5 * 4 / math.sqrt(PARTICLES) + 0.002
# Four standard errors at an effective size of a fifth of the particles, the least that these readings leave; and what
# Euler-Maruyama adds to the sd, rate * substep / 4.
MONTE_CARLO = 4 / math.sqrt(PARTICLES / 5) + 0.002
# Four standard errors, sqrt((1 / share - 1) / n), of a mean likelihood at the share of .6 that readings mostly leave.
EVIDENCE = 4 * math.sqrt((1 / 0.6 - 1) / PARTICLES)

CASES = {
    # Time steps: a local error of up to 5e-5 nats (the default tolerance) in each of the twenty steps between readings.
    "jko-sdirk2": Case(jf.JKOFilter, 1e-3),
    "jko-sdirk4": Case(lambda m: jf.JKOFilter(m, scheme="sdirk4"), 1e-5),
    "jko-bdf2": Case(lambda m: jf.JKOFilter(m, scheme="bdf2"), 1e-3),
    # First order: the local error estimate holds 5e-5 per step, and hundreds of steps add up.
    "jko-implicit-euler": Case(lambda m: jf.JKOFilter(m, scheme="implicit-euler", step=0.02), 2e-2),
    # Brenier maps on a pool of particles, as in any dimension; samples and density are those of the maps. Global moves
    # make the pool as good as independent draws; a law that is fitted exactly knows the evidence without noise.
    "jko-ridge": Case(
        lambda m: jf.JKOFilter(m, transport="ridge", pool=POOL), 4 / math.sqrt(POOL), 1e-3, inflated=True
    ),
    "grid": Case(lambda m: jf.GridFilter(m, cells=1_000), 1e-4),
    "grid-bounds": Case(lambda m: jf.GridFilter(m, bounds=(-9.0, 9.0), cells=2_000), 1e-4),
    "spectral": Case(jf.SpectralFilter, 1e-6),
    "spectral-bounds": Case(lambda m: jf.SpectralFilter(m, bounds=(-9.0, 9.0)), 1e-6),
    # First order in the step, the particles drawn anew after every reading.
    "dual-jko": Case(
        lambda m: jf.DualJKOFilter(m, settings=jf.DualSettings(points=400, centres=20)), 4e-2, 1e-2, seeded=True
    ),
    "proximal": Case(lambda m: jf.ProximalFilter(m), 4e-2, 1e-2, seeded=True),
    "particle": Case(lambda m: jf.ParticleFilter(m, PARTICLES, substep=SUBSTEP), MONTE_CARLO, EVIDENCE, inflated=True),
    "particle-kde": Case(
        lambda m: jf.ParticleFilter(m, PARTICLES, substep=SUBSTEP, density="kde", resampling="stratified"),
        MONTE_CARLO,
        EVIDENCE,
        inflated=True,
    ),
    "particle-always": Case(
        lambda m: jf.ParticleFilter(m, PARTICLES, substep=SUBSTEP, ess_threshold=1.0, resampling="residual"),
        MONTE_CARLO,
        EVIDENCE,
        inflated=True,
    ),
    "tempered": Case(lambda m: jf.TemperedParticleFilter(m, PARTICLES), MONTE_CARLO, EVIDENCE, inflated=True),
    "guided": Case(lambda m: jf.GuidedParticleFilter(m, PARTICLES), MONTE_CARLO, EVIDENCE, inflated=True),
    # With one coordinate there is one block.
    "block": Case(lambda m: jf.BlockParticleFilter(m, PARTICLES), MONTE_CARLO, EVIDENCE, inflated=True),
    "kalman": Case(jf.KalmanFilter, 1e-10),
    "unscented": Case(jf.UnscentedKalmanFilter, 1e-6),
    "ensemble": Case(
        lambda m: jf.EnsembleKalmanFilter(m, PARTICLES, substep=SUBSTEP), ENSEMBLE, EVIDENCE, inflated=True
    ),
}

RATE, CENTRE, BETA = 1.3, 0.4, 1.7
GAINS = np.array([1.0, 0.5])
NOISE = np.array([[0.3, 0.1], [0.1, 0.4]])
# Zero time, irregular gaps, whole and partly missing readings.
TIMES = [0.0, 0.05, 0.4, 1.3, 1.35, 3.0]
VALUES = np.array([[-0.4, 0.3], [0.2, NAN], [NAN, NAN], [1.5, 0.2], [NAN, 0.9], [0.1, -0.6]])


def model_of_two_sensors() -> jf.StateSpaceModel:
    return jf.StateSpaceModel(
        Independent(Normal(torch.tensor([-0.5]).double(), torch.tensor([0.8], dtype=torch.float64)), 1),
        jf.LangevinSDE(jf.Quadratic([CENTRE], [[RATE]]), beta=BETA),
        jf.LinearGaussian(GAINS[:, None], NOISE),
    )


def _scalar(y: np.ndarray) -> tuple[float, float, float]:
    """The reading of x with noise N(0, v) equivalent to ``y``, v, and what the pair says beyond it (log density)."""
    present = ~np.isnan(y)
    gains, noise, values = GAINS[present], NOISE[np.ix_(present, present)], y[present]
    inverse = np.linalg.inv(noise)
    variance = 1.0 / (gains @ inverse @ gains)
    value = variance * (gains @ inverse @ values)
    residual = values - gains * value
    # log N(y; g x, R) = log N(value; x, variance) + rest, whatever x.
    rest = -0.5 * (residual @ inverse @ residual + np.log(np.linalg.det(2 * np.pi * noise)))
    return value, variance, rest + 0.5 * math.log(2 * math.pi * variance)


def exact_answers(times: list[float], values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means, variances and log evidence after every reading, one scalar Kalman step after another."""
    mean, variance, evidence, now, rows = -0.5, 0.64, 0.0, 0.0, []
    for time, y in zip(times, values, strict=True):
        reading, noise, rest = (NAN, 1.0, 0.0) if np.isnan(y).all() else _scalar(y)
        step = OrnsteinUhlenbeck(RATE, CENTRE, BETA, mean, variance, noise=noise)
        means, variances, increment = step.kalman([time - now], [reading])
        mean, variance, evidence, now = means[0], variances[0], evidence + increment[0] + rest, time
        rows.append((mean, variance, evidence))
    return tuple(np.array(rows).T)  # type: ignore[return-value]


def readings() -> jf.ObservationSeries:
    return jf.ObservationSeries(TIMES, VALUES)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def result_of(name: str) -> jf.FilterResult:
    """What the filter of that case makes of the series, predicted on to time 3.5."""
    filter = CASES[name].build(model_of_two_sensors())
    return jf.run_filter(filter, readings(), until=3.5, seed=1, keep_beliefs=True)
