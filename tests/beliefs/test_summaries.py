"""Probabilities, intervals and expectations of beliefs against closed forms."""

import math

import pytest
import torch
from scipy.special import ndtr

import jkofilter as jf

PRIOR = torch.distributions.Normal(0.3, 1.2)


def on_the_line(kind: type) -> jf.Belief:
    model = jf.StateSpaceModel(PRIOR, jf.LangevinSDE(jf.Quadratic(0.0, 1.0)), jf.LinearGaussian(1.0, 1.0))
    return kind(model).init(torch.Generator().manual_seed(1))


KINDS = {"kalman": jf.KalmanFilter, "grid": jf.GridFilter, "jko": jf.JKOFilter, "particle": jf.ParticleFilter}
ROUGH = {"particle": 4.5 * 0.5 / 10_000**0.5}


def prob(low: float, high: float) -> float:
    return float(ndtr((high - 0.3) / 1.2) - ndtr((low - 0.3) / 1.2))


@pytest.mark.parametrize("name", KINDS)
def test_probabilities_of_regions_of_the_line(name: str) -> None:
    belief, tolerance = on_the_line(KINDS[name]), ROUGH.get(name, 1e-6)
    assert belief.probability((0.5, 1.5)) == pytest.approx(prob(0.5, 1.5), abs=tolerance)
    assert belief.probability((None, 0.0)) == pytest.approx(prob(-math.inf, 0.0), abs=tolerance)
    assert belief.probability([(1.0, math.inf)]) == pytest.approx(prob(1.0, math.inf), abs=tolerance)
    assert belief.probability((None, None)) == 1.0
    # What a function says is known to the points that stand for the law.
    by_function = belief.probability(lambda x: (x[:, 0] > 0.5) & (x[:, 0] < 1.5))
    assert by_function == pytest.approx(prob(0.5, 1.5), abs=0.008)
    assert belief.sf(0.0) == pytest.approx(prob(0.0, math.inf), abs=tolerance)


@pytest.mark.parametrize("name", KINDS)
def test_intervals_spread_and_expectations(name: str) -> None:
    belief = on_the_line(KINDS[name])
    rough = name in ("particle", "kalman")
    low, high = belief.interval(0.9)
    assert low == pytest.approx(0.3 - 1.2 * 1.6448536, abs=0.1 if name == "particle" else 1e-4)
    assert high == pytest.approx(0.3 + 1.2 * 1.6448536, abs=0.1 if name == "particle" else 1e-4)
    assert belief.std.item() == pytest.approx(1.2, abs=0.05 if name == "particle" else 1e-5)
    square = belief.expect(lambda x: x[:, 0].square()).item()
    assert square == pytest.approx(0.09 + 1.44, abs=0.1 if rough else 1e-3)


def test_boxes_in_the_plane() -> None:
    covariance = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=torch.float64)
    belief = jf.GaussianBelief(0.0, torch.zeros(2).double(), covariance)
    assert belief.probability([(0.0, None), None]) == pytest.approx(0.5, abs=1e-12)
    # A quadrant: 1/4 + asin(rho) / 2 pi.
    quadrant = 0.25 + math.asin(0.6 / math.sqrt(2.0)) / (2 * math.pi)
    assert belief.probability([(0.0, None), (0.0, None)]) == pytest.approx(quadrant, abs=4.5 * 0.5 / 100_000**0.5)


@pytest.mark.parametrize("region", [(1.0, 0.0), 3.0, [(0, 1), (0, 1)], "left", lambda x: x[:, 0], [None, None, None]])
def test_regions_that_cannot_be_read_are_refused(region: object) -> None:
    with pytest.raises(jf.InputError, match="region must"):
        on_the_line(jf.KalmanFilter).probability(region)
