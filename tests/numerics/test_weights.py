"""Log weights against plain arithmetic, and their invariants."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jkofilter.errors import InputError, NumericalError
from jkofilter.numerics import metrics
from jkofilter.numerics.weights import effective_sample_size, log_mean_exp, normalise_log_weights

LOG_WEIGHTS = st.lists(st.floats(-2000, 2000), min_size=1, max_size=50)


@given(LOG_WEIGHTS)
@settings(max_examples=60, deadline=None)
def test_weights_sum_to_one_and_ess_is_between_one_and_n(values: list[float]) -> None:
    weights, _ = normalise_log_weights(torch.tensor(values, dtype=torch.float64))
    assert weights.exp().sum().item() == pytest.approx(1.0, abs=1e-11)
    assert 1 - 1e-9 <= effective_sample_size(weights) <= len(values) * (1 + 1e-9)


@given(LOG_WEIGHTS, st.floats(-1e4, 1e4))
@settings(max_examples=40, deadline=None)
def test_a_common_factor_moves_only_the_sum(values: list[float], shift: float) -> None:
    tensor = torch.tensor(values, dtype=torch.float64)
    plain, total = normalise_log_weights(tensor)
    moved, moved_total = normalise_log_weights(tensor + shift)
    assert torch.allclose(plain, moved, atol=1e-8)
    assert moved_total - total == pytest.approx(shift, abs=1e-8)


def test_ess_and_log_mean_exp_by_hand() -> None:
    w = np.array([0.5, 0.25, 0.25])
    assert effective_sample_size(torch.log(torch.tensor(w)) - 900) == pytest.approx(1 / (w**2).sum(), rel=1e-10)
    assert log_mean_exp(torch.log(torch.tensor([1.0, 3.0], dtype=torch.float64))) == pytest.approx(math.log(2))


@pytest.mark.parametrize(("values", "word"), [([-math.inf] * 3, "every weight is zero"), ([0.0, math.nan], "NaN")])
def test_hopeless_weights_are_numbers_that_broke_down_and_a_bad_argument_where_a_user_gave_them(
    values: list[float], word: str
) -> None:
    weights = torch.tensor(values, dtype=torch.float64)
    with pytest.raises(NumericalError, match=word):
        normalise_log_weights(weights)
    with pytest.raises(InputError, match=f"^log_weights .*{word}"):
        metrics.effective_sample_size(weights)


def test_no_weights_are_a_bad_argument() -> None:
    with pytest.raises(InputError, match="shape"):
        normalise_log_weights(torch.zeros(0))
