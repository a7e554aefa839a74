"""Resampling against filterpy given the same uniforms, and the properties each scheme promises."""

import filterpy.monte_carlo.resampling as filterpy_resampling
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jkofilter.errors import InputError
from jkofilter.numerics.resampling import _invert, resample

SCHEMES = ["systematic", "stratified", "multinomial", "residual"]
WEIGHTS = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1.0)), min_size=1, max_size=60).filter(lambda w: sum(w) > 0)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("scheme", SCHEMES[:3])
@pytest.mark.parametrize("seed", range(5))
def test_same_indices_as_filterpy(scheme: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 257
    weights = np.random.default_rng(seed).gamma(0.3, size=n)
    weights /= weights.sum()
    size = 1 if scheme == "systematic" else n
    uniforms = torch.rand(size, generator=generator(seed), dtype=torch.float64).numpy()
    monkeypatch.setattr(filterpy_resampling, "random", lambda k=None: uniforms[0] if k is None else uniforms)
    expected = getattr(filterpy_resampling, f"{scheme}_resample")(weights)
    ours = resample(torch.log(torch.from_numpy(weights)), scheme, generator(seed))
    assert np.array_equal(ours.numpy(), expected)


@given(WEIGHTS, st.integers(0, 2**31), st.sampled_from(SCHEMES))
@settings(max_examples=150, deadline=None)
def test_no_index_of_zero_weight_and_the_right_number(weights: list[float], seed: int, scheme: str) -> None:
    w = torch.tensor(weights, dtype=torch.float64)
    indices = resample(torch.log(w), scheme, generator(seed))
    assert indices.shape == w.shape
    assert (w[indices] > 0).all()


@given(WEIGHTS, st.integers(0, 2**31))
@settings(max_examples=80, deadline=None)
def test_counts_stay_near_their_expectation(weights: list[float], seed: int) -> None:
    w = torch.tensor(weights, dtype=torch.float64)
    n = w.numel()
    expected = n * w / w.sum()
    systematic = torch.bincount(resample(torch.log(w), "systematic", generator(seed)), minlength=n)
    assert ((systematic - expected).abs() < 1 + 1e-9).all()
    stratified = torch.bincount(resample(torch.log(w), "stratified", generator(seed)), minlength=n)
    assert ((stratified - expected).abs() < 2 + 1e-9).all()
    residual = torch.bincount(resample(torch.log(w), "residual", generator(seed)), minlength=n)
    assert (residual >= torch.floor(expected - 1e-9)).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_unbiased(scheme: str) -> None:
    w = torch.tensor([0.05, 0.0, 0.35, 0.2, 0.4], dtype=torch.float64)
    source, repeats = generator(3), 4000
    counts = sum(torch.bincount(resample(torch.log(w), scheme, source), minlength=5) for _ in range(repeats))
    # Multinomial has the largest variance, n w (1 - w) <= 1.25 a draw of five: five standard errors are 0.09.
    assert torch.allclose(torch.as_tensor(counts).double() / repeats, 5 * w, atol=5 * (1.25 / repeats) ** 0.5)


def test_unknown_scheme_lists_the_known() -> None:
    with pytest.raises(InputError, match="systematic, stratified, multinomial, residual"):
        resample(torch.zeros(3), "roulette", generator(0))


def test_number_of_draws_can_differ() -> None:
    assert resample(torch.zeros(3), "systematic", generator(0), n=9).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_positions_on_a_boundary_belong_to_the_next_and_never_to_a_weight_of_zero() -> None:
    weights = torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0], dtype=torch.float64)
    positions = torch.tensor([0.0, 0.25, 0.5, 0.75], dtype=torch.float64)
    assert _invert(weights, positions).tolist() == [1, 1, 3, 3]


def test_a_position_above_a_sum_that_rounding_left_below_one_goes_to_the_last_weight_above_zero() -> None:
    weights = torch.tensor([0.1] * 10 + [0.0], dtype=torch.float64)
    top = torch.tensor([1 - 2.0**-53], dtype=torch.float64)
    assert weights.cumsum(0)[-1] <= top
    assert _invert(weights, top).tolist() == [9]
