"""Streams: one for every seed, purpose and part, and the same one each time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from jkofilter.errors import InputError
from jkofilter.numerics.draws import derived_seed, standard_normal, stream, uniform


def test_seed_purpose_and_part_each_give_a_stream_of_their_own() -> None:
    seeds = [
        derived_seed(seed, purpose, index)
        for seed in (-1, 0, 1, 2**63)
        for purpose in ("simulation", "filter", "particles")
        for index in (0, 1, 2)
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_stream_is_the_same_each_time_and_unlike_its_neighbours() -> None:
    n = 10_000
    rows = [stream(seed, purpose) for seed in (0, 1) for purpose in ("simulation", "filter")]
    draws = torch.stack([torch.randn(n, generator=row, dtype=torch.float64) for row in rows])
    assert torch.equal(draws[0], torch.randn(n, generator=stream(0, "simulation"), dtype=torch.float64))
    correlation = np.corrcoef(draws.numpy()) - np.eye(4)
    assert np.abs(correlation).max() < 5 / math.sqrt(n)


@pytest.mark.parametrize("seed", [0.5, "one", None, 2**64, -(2**63) - 1])
def test_what_is_no_seed_of_64_bits_is_refused(seed: object) -> None:
    with pytest.raises(InputError, match=r"^seed must"):
        stream(seed, "filter")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_have_shape_and_type_of_their_model_and_their_law(dtype: torch.dtype) -> None:
    like, n = torch.zeros(2, 20_000, dtype=dtype), 40_000
    normal, even = standard_normal(like, stream(0, "filter")), uniform(like, stream(0, "filter"))
    assert normal.shape == even.shape == like.shape
    assert normal.dtype == even.dtype == dtype
    for draws, mean, variance, kurtosis in ((normal, 0.0, 1.0, 3.0), (even, 0.5, 1 / 12, 1.8)):
        assert draws.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(variance / n))
        assert draws.var().item() == pytest.approx(variance, rel=5 * math.sqrt((kurtosis - 1) / n))
