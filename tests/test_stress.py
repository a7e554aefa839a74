"""The stress run's own tools: oracles agree with each other and with closed forms, and a few seeds come out right."""

from __future__ import annotations

import math

import numpy as np
import pytest
from oracles import Chain, OrnsteinUhlenbeck
from stress import FAILURES, Stalled, limited, outcomes
from stress_problems import SHAPES, Line, Prior, Sensor, Shape, problem, truth_of_line, truth_of_linear

NAN = math.nan


def ornstein_uhlenbeck(readings: list[float], noise: float) -> tuple[Line, OrnsteinUhlenbeck]:
    times = np.array([0.0, 0.4, 2.0])
    shape = Shape("quadratic", lambda z: 0.65 * z * z, (-4, 4))
    line = Line(
        shape, 1.7, Prior("normal", 0.3, 0.5), Sensor("linear", 2.0, noise), times, np.zeros(3), np.array(readings)
    )
    return line, OrnsteinUhlenbeck(1.3, 0.0, 1.7, 0.3, 0.25, 2.0, noise**2)


@pytest.mark.parametrize(("readings", "noise"), [([0.5, NAN, -1.0], 0.5), ([0.2, 0.25, 9.0], 0.01)])
def test_the_chain_is_the_kalman_filter_on_its_own_terms(readings: list[float], noise: float) -> None:
    line, exact = ornstein_uhlenbeck(readings, noise)
    truth = truth_of_line(line)
    means, variances, evidence = exact.kalman(line.times.tolist(), readings)
    assert truth.error < 2e-2
    assert np.abs(truth.means[:, 0] - means).max() < (truth.error + 1e-5) * np.sqrt(variances).min()
    assert np.log(truth.sds[:, 0] / np.sqrt(variances)) == pytest.approx(0.0, abs=truth.error + 1e-5)
    assert truth.evidence == pytest.approx(evidence, abs=truth.evidence_error + 1e-5)


def test_the_chain_at_walls_is_the_cosine_series() -> None:
    """On (0, 1) without drift: 1 + 2 sum cos(k pi x) cos(k pi a) exp(-k^2 pi^2 D t) from the point a."""
    edges = np.linspace(0, 1, 2001)
    chain = Chain(edges, np.zeros(2000), beta=2.0)
    start = np.zeros(2000)
    start[499:501] = 0.5
    k = np.arange(1, 40)[:, None]
    terms = np.cos(k * np.pi * chain.x) * np.cos(k * np.pi * edges[500]) * np.exp(-((k * np.pi) ** 2) * 0.5 * 0.1)
    series = 1 + 2 * terms.sum(0)
    assert chain.later(start, 0.1) / chain.widths == pytest.approx(series, abs=1e-5)


def test_what_is_absorbed_is_gone() -> None:
    """A flat unit interval with both ends open loses all but 4/pi exp(-pi^2 D t), to leading order, from its middle."""
    chain = Chain(np.linspace(0, 1, 2001), np.zeros(2000), 2.0, (True, True))
    start = np.zeros(2000)
    start[999:1001] = 0.5
    left = chain.later(start, 1.0).sum()
    assert left == pytest.approx(4 / np.pi * math.exp(-(np.pi**2) * 0.5), rel=1e-3)


def test_the_kalman_filter_of_many_dimensions_is_that_of_one() -> None:
    seeds = [seed for seed in range(60) if problem(seed).linear is not None and problem(seed).dim == 1]
    for seed in seeds[:3]:
        p = problem(seed).linear
        assert p is not None
        if len(p.matrix) > 1:
            continue
        exact = OrnsteinUhlenbeck(
            p.precision[0, 0], p.centre[0], p.beta, p.mean[0], p.covariance[0, 0], p.matrix[0, 0], p.noise[0, 0]
        )
        means, variances, evidence = exact.kalman(p.times.tolist(), p.values[:, 0].tolist())
        truth = truth_of_linear(p)
        assert truth.means[:, 0] == pytest.approx(means)
        assert truth.sds[:, 0] == pytest.approx(np.sqrt(variances))
        assert truth.evidence == pytest.approx(evidence)


def test_every_shape_is_drawn_and_every_seed_is_its_own() -> None:
    drawn = {shape(np.random.default_rng(0)).name.split()[0] for shape in SHAPES}
    seen = {problem(seed).name.split()[0].rstrip(",") for seed in range(300)}
    assert drawn <= seen
    assert np.array_equal(problem(7).values, problem(7).values, equal_nan=True)


def test_a_stall_is_cut_off() -> None:
    def forever() -> None:
        with limited(0.2):
            while True:
                pass

    with pytest.raises(Stalled):
        forever()


@pytest.mark.parametrize("seed", [0, 2, 7, 8])
def test_seeds_that_come_out_right(seed: int) -> None:
    found = list(outcomes(seed, ["grid", "kalman", "unscented", "particle"]))
    assert found
    assert not [one for one in found if one.outcome in FAILURES]
