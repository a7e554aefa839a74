"""BDF2 of the line at deliberately unequal steps, on a Gaussian law: nodes move by m(t) + sigma(t) z."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jkofilter.transport.line.density import QuantileDensity, normalised
from jkofilter.transport.line.quantile_flow import _bdf2, _Point
from jkofilter.transport.line.quantile_step import LabelledMass

RATE, CENTRE, BETA, MEAN, DEVIATION = 1.3, 0.4, 1.7, -0.9, 0.8
DURATION = 1.2


def law() -> tuple[LabelledMass, np.ndarray]:
    """Log masses of N(MEAN, DEVIATION^2) on nodes symmetric about the mean, the 100th, under Ornstein-Uhlenbeck."""
    x = MEAN + DEVIATION * np.linspace(-8.0, 8.0, 201)
    density, _ = normalised(QuantileDensity(x, -0.5 * ((x - MEAN) / DEVIATION) ** 2))

    def slopes(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return RATE * (at - CENTRE), np.full_like(at, RATE)

    return LabelledMass(density.log_mass, slopes, BETA), x


def march(steps: list[float]) -> tuple[list[float], list[float], list[float]]:
    """Means and standard deviations after every step, the first of them included, and the estimated errors."""
    mass, x = law()
    point = _Point(x, mass.velocity(x))
    means, deviations, errors = [MEAN], [DEVIATION], []
    for tau in steps:
        attempt = _bdf2(mass, point, tau)
        point = attempt.point
        means.append(float(point.x[100]))
        deviations.append(float(point.x[110] - point.x[90]) / (20 * 16.0 / 200))
        errors.append(attempt.error)
    return means, deviations, errors


def exact(time: float) -> tuple[float, float]:
    variance = 1 / (BETA * RATE) + (DEVIATION**2 - 1 / (BETA * RATE)) * math.exp(-2 * RATE * time)
    return CENTRE + (MEAN - CENTRE) * math.exp(-RATE * time), math.sqrt(variance)


def test_means_follow_the_textbook_recursion_at_any_ratio_of_steps() -> None:
    """(1 + 2w)/(1 + w) m'' - (1 + w) m' + w^2/(1 + w) m = tau f(m''), w = tau/tau' (Hairer & al., Solving ODEs I)."""
    steps = [0.05, 0.08, 0.03, 0.06, 0.06, 0.02, 0.045, 0.1]
    means, _, _ = march(steps)
    before, now = means[:2]
    for earlier, tau, found in zip(steps, steps[1:], means[2:], strict=False):
        w = tau / earlier
        right = (1 + w) * now - w**2 / (1 + w) * before + tau * RATE * CENTRE
        before, now = now, right / ((1 + 2 * w) / (1 + w) + tau * RATE)
        assert found == pytest.approx(now, abs=1e-10)


def alternating(cycles: int) -> list[float]:
    """Short and long by turns, the long ones twice the short."""
    return [DURATION / cycles / 3, 2 * DURATION / cycles / 3] * cycles


def test_second_order_with_the_constant_of_unequal_steps() -> None:
    """Steps h and 2h by turns: the mean's error tends to -.75 h^2 a^3 T (m_0 - c) e^{-aT}.

    BDF2 takes the slope of the parabola through three values, which falls short by y''' tau (tau + tau') / 6: h^2 y'''
    over a long step, h^2 y''' / 2 over a short one. So increments of the error e obey 5A/3 - 4B/3 = 2 h^3 y''' over a
    long step after a short one (w = 2), 4B/3 - A/6 = h^3 y''' / 2 the other way round: A + B = 2.25 h^3 y''' in 3h.
    Hence e' + a e = .75 h^2 y''', and y''' = -a^3 (m - c).
    """
    errors = []
    for cycles in (20, 40, 80):
        means, deviations, _ = march(alternating(cycles))
        mean, deviation = exact(DURATION)
        h = DURATION / cycles / 3
        constant = -0.75 * h**2 * RATE**3 * DURATION * (mean - CENTRE)
        errors.append((means[-1] - mean, deviations[-1] - deviation))
        assert (means[-1] - mean) / constant == pytest.approx(1.0, abs=0.01)
    slopes = -np.diff(np.log2(np.abs(errors)), axis=0)
    np.testing.assert_allclose(slopes, 2.0, atol=0.12)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_estimated_error_is_what_a_step_adds_at_any_ratio_of_steps(ratio: float) -> None:
    """tau^2 (tau + tau') / 6 times sigma''' / sigma, in nats: the change of the log density is that of log sigma.

    The defect tau (tau + tau') / 6 times the third derivative in the velocity, over one step.
    """
    tau = 2e-3
    earlier = tau / ratio
    count = 100
    _, _, errors = march([earlier] * count + [tau])
    time = count * earlier + tau
    h = 1e-2
    sigma = [exact(time + k * h)[1] for k in (-2, -1, 1, 2)]
    third = (sigma[3] - 2 * sigma[2] + 2 * sigma[1] - sigma[0]) / (2 * h**3)
    expected = tau**2 * (tau + earlier) / 6 * abs(third) / exact(time)[1]
    assert 0.9 < errors[-1] / expected < 1.1
