"""Wells, jumps and entries counted by hand."""

import numpy as np
import pytest
import torch

import jkofilter as jf
from jkofilter.smoothing.residence import residence

WELLS = {"left": (None, -0.5), "right": (0.5, None)}


def paths(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).unsqueeze(-1)


def test_jumps_are_between_wells_and_not_within_the_gap() -> None:
    # The second wanders over zero and back without leaving its well's basin.
    found = residence(
        paths([0.0, -1.0, 0.1, 1.0, -1.0], [-1.0, 0.2, -0.2, 0.3, -1.0], [0.0, 0.1, 0.2, 0.1, 0.0]),
        torch.arange(5.0).double(),
        WELLS,
    )
    assert found.jumps.tolist() == [2, 0, 0]
    assert found.visited.tolist() == [[-1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [-1] * 5]
    assert found.inside[:, 0].tolist() == pytest.approx([1 / 3, 1 / 3, 0, 0, 2 / 3])
    assert found.belongs[2].tolist() == pytest.approx([2 / 3, 0.0])
    assert found.jump_interval() == (0, 2)


def test_first_entries_and_their_interval() -> None:
    rows = [[-1.0] * k + [1.0] * (20 - k) for k in range(1, 20)]
    found = residence(paths(*rows, [-1.0] * 20), torch.arange(20.0).double(), WELLS)
    entry = found.first_entry("right")
    assert entry["median"] == 10.0
    assert (entry["low"], entry["high"]) == (1.0, 19.0)
    assert entry["share"] == pytest.approx(0.95)
    assert found.first_entry("right", after=15)["median"] == 15.0
    with pytest.raises(jf.InputError, match="name must be one of left, right"):
        found.first_entry("middle")


def test_shares_of_smoothed_paths_are_those_of_the_smoothed_laws() -> None:
    model = jf.StateSpaceModel(
        torch.distributions.Normal(torch.zeros(1).double(), 1.0),
        jf.LangevinSDE(jf.Quadratic(0.0, 1.0)),
        jf.LinearGaussian(1.0, 0.5),
    )
    result = jf.KalmanFilter(model).smooth(jf.ObservationSeries([1.0, 2.0, 3.0], [0.8, -0.6, 0.2]))
    n = 20_000
    found = result.residence(WELLS, n=n)
    exact = np.array([[belief.probability(region) for region in WELLS.values()] for belief in result.beliefs])
    assert np.abs(found.inside - exact).max() < 4.5 * 0.5 / n**0.5


def test_overlapping_regions_are_refused() -> None:
    with pytest.raises(jf.InputError, match="overlap"):
        residence(paths([0.0, 1.0]), torch.arange(2.0).double(), {"a": (None, 1.5), "b": (0.5, None)})
    with pytest.raises(jf.InputError, match="at least one region"):
        residence(paths([0.0, 1.0]), torch.arange(2.0).double(), {})
