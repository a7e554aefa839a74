"""Scores and distances on two or three points, and divergences of close laws: values worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from jkofilter.beliefs.gaussian import GaussianBelief
from jkofilter.numerics import metrics

F64 = torch.float64


def points(*values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=F64)


def gaussian(mean: list[float], covariance: list[list[float]]) -> GaussianBelief:
    return GaussianBelief(0.0, points(*mean), points(*covariance))


@pytest.mark.parametrize(
    ("samples", "truth", "score"),
    [
        # F = 1/2 on (0, 1): its square. Over n (n - 1) pairs it were zero, as if one knew the law exactly.
        ((0.0, 1.0), 0.0, 1 / 4),
        ((0.0, 1.0), 0.5, 1 / 4),
        # F = 1/3, 2/3, 2/3 - 1 on (0, 1), (1, 2), (2, 3).
        ((3.0, 0.0, 1.0), 2.0, 1 / 9 + 4 / 9 + 1 / 9),
        ((3.0, 0.0, 1.0), -1.0, 1 + 4 / 9 + 2 / 9),
        ((2.0,), 5.0, 3.0),
    ],
)
def test_crps_of_samples_is_the_integral_for_their_empirical_law(
    samples: tuple[float, ...], truth: float, score: float
) -> None:
    assert metrics.crps(points(*samples), truth).tolist() == pytest.approx([score], abs=1e-12)
    # A coordinate of its own, far away, changes nothing.
    both = torch.stack([100.0 + 7.0 * torch.arange(len(samples)).double(), points(*samples)], 1)
    assert metrics.crps(both, points(100.0, truth))[1].item() == pytest.approx(score, abs=1e-12)


def test_energy_distance_counts_every_pair_a_point_with_itself_too() -> None:
    """Means over all pairs: 2 (1 + 4 + 1 + 2)/4 - (2 + 2)/4 - (3 + 3)/4; with n (n - 1) it were 4 - 2 - 3 = -1."""
    assert metrics.energy_distance(points(0.0, 2.0), points(1.0, 4.0)) == pytest.approx(1.5, abs=1e-12)
    # Unequal numbers: 2 (1 + 2 + 1)/3 - (1 + 3 + 2) 2/9 - 0, and the other way round.
    three, one = points(0.0, 1.0, 3.0), points(2.0)
    expected = 2 * (2 + 1 + 1) / 3 - 12 / 9
    assert metrics.energy_distance(three, one) == pytest.approx(expected, abs=1e-12)
    assert metrics.energy_distance(one, three) == pytest.approx(expected, abs=1e-12)
    # Distances of the plane, not of its coordinates: 3, 4, 5.
    corner, origin = points([3.0, 4.0], [0.0, 0.0]), points([0.0, 0.0])
    assert metrics.energy_distance(corner, origin) == pytest.approx(2 * 5 / 2 - 2 * 5 / 4, abs=1e-12)
    assert metrics.energy_distance(corner, corner.flip(0)) == pytest.approx(0.0, abs=1e-12)


def test_wasserstein_of_two_points_by_hand() -> None:
    """The cheaper of two matchings, in squares: 1 + 1 against 9 + 9, and on the line by rank."""
    x, y = points([0.0, 0.0], [3.0, 0.0]), points([3.0, 1.0], [0.0, 1.0])
    assert metrics.wasserstein2(x, y) == pytest.approx(1.0, abs=1e-12)
    assert metrics.wasserstein2(points(4.0, 0.0), points(1.0, 7.0)) == pytest.approx(math.sqrt((1 + 9) / 2), abs=1e-12)


def test_symmetric_kl_is_the_sum_of_two_that_differ() -> None:
    """N(0, 1) against N(1, 4): (log 4 + 2/4 - 1)/2 one way, (4 + 1 - 1 - log 4)/2 the other."""
    p, q = gaussian([0.0], [[1.0]]), gaussian([1.0], [[4.0]])
    there, back = 0.5 * (math.log(4) + 2 / 4 - 1), 0.5 * (4 + 1 - 1 - math.log(4))
    assert metrics.kl(p, q) == pytest.approx(there, rel=1e-10)
    assert metrics.kl(q, p) == pytest.approx(back, rel=1e-10)
    assert metrics.symmetric_kl(p, q) == metrics.symmetric_kl(q, p) == pytest.approx(there + back, rel=1e-10)


def test_a_normalisation_error_counts_by_half_its_square_on_the_line() -> None:
    """KL of p and c p is c - 1 - log c, and not -log c, which is negative for c above one."""

    class Scaled:
        dim = 1

        def __init__(self, law: GaussianBelief, factor: float) -> None:
            self.law, self.factor = law, factor
            self.quantile, self.sample = law.quantile, law.sample

        def log_prob(self, x: torch.Tensor) -> torch.Tensor:
            return self.law.log_prob(x) + math.log(self.factor)

    law = gaussian([0.3], [[0.5]])
    for factor in (1.01, 0.9):
        expected = factor - 1 - math.log(factor)
        assert metrics.kl(law, Scaled(law, factor)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shift", [0.1, 0.01])
def test_divergence_of_close_laws_in_the_plane_is_told_to_a_share_of_itself(shift: float) -> None:
    """KL = shift^2 / 2, log ratio l = KL + shift z: averaged plainly it is off by shift / sqrt(n), twice KL for .01.

    With q/p - 1 = e^-l - 1 regressed out, -l + l^2/2 - ..., what is left of the noise is of the order of
    sd(l^2 / 2) / sqrt(n) = shift^2 / sqrt(2 n), a share sqrt(2 / n) of KL: .01 here.
    """
    p, q = gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]]), gaussian([shift, 0.0], [[1.0, 0.0], [0.0, 1.0]])
    for seed in range(3):
        assert metrics.kl(p, q, samples=20_000, seed=seed) == pytest.approx(shift**2 / 2, rel=5 * math.sqrt(2 / 20_000))
