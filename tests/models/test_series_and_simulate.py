"""Readings in and out, and the simulator."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from oracles import OrnsteinUhlenbeck
from torch.distributions import Independent, Laplace, Normal

import jkofilter as jf

NAN = math.nan
TIMES = [0.0, 0.1, 0.75, 3.0]
VALUES = [[1.0, NAN], [NAN, NAN], [0.5, -2.0], [7.0, 0.0]]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, lambda v: np.array(v, dtype=np.float32), tuple])
def test_any_kind_of_numbers_will_do(kind: type) -> None:
    series = jf.ObservationSeries(kind(TIMES), kind(VALUES))
    assert series.times.dtype == series.values.dtype == torch.float64
    assert series.times.tolist() == pytest.approx(TIMES, rel=1e-6)
    np.testing.assert_array_equal(series.values.numpy(), np.array(VALUES))
    assert len(series) == 4


def test_a_flat_list_is_one_component_and_integers_become_floats() -> None:
    series = jf.ObservationSeries([0, 1, 2], [3, 4, 5])
    assert series.values.tolist() == [[3.0], [4.0], [5.0]]
    assert series.times.tolist() == [0.0, 1.0, 2.0]


def test_frame_round_trip() -> None:
    series = jf.ObservationSeries(TIMES, VALUES)
    frame = series.to_frame()
    assert list(frame.columns) == ["time", "y0", "y1"]
    back = jf.ObservationSeries.from_frame(frame, time="time", values=["y0", "y1"])
    assert torch.equal(back.times, series.times)
    np.testing.assert_array_equal(back.values.numpy(), series.values.numpy())


def test_from_frame_takes_columns_by_name_in_the_order_asked_and_any_missing_marker() -> None:
    frame = pd.DataFrame(
        {"b": pd.array([1, None, 3], dtype="Int64"), "age": [1, 2, 5], "a": [0.1, 0.2, NAN], "note": list("xyz")},
        index=[9, 4, 7],
    )
    series = jf.ObservationSeries.from_frame(frame, time="age", values=["a", "b"])
    np.testing.assert_array_equal(series.values.numpy(), np.array([[0.1, 1.0], [0.2, NAN], [NAN, 3.0]]))
    assert series.times.tolist() == [1.0, 2.0, 5.0]
    single = jf.ObservationSeries.from_frame(frame, time="age", values=["a"])
    assert single.values.shape == (3, 1)


def test_series_owns_its_numbers() -> None:
    times, values = torch.tensor(TIMES, dtype=torch.float64), torch.tensor(VALUES, dtype=torch.float64)
    arrays = np.array(TIMES), np.array(VALUES)
    from_tensors, from_arrays = jf.ObservationSeries(times, values), jf.ObservationSeries(*arrays)
    times[1], values[0, 0] = 0.2, 99.0
    arrays[0][1], arrays[1][0, 0] = 0.2, 99.0
    for series in (from_tensors, from_arrays):
        assert series.times[1].item() == 0.1
        assert series.values[0, 0].item() == 1.0


def test_one_reading_at_time_zero() -> None:
    assert len(jf.ObservationSeries([0.0], [1.0])) == 1


def test_simulate_shapes_and_clock(ou_model: jf.StateSpaceModel) -> None:
    path, series = jf.simulate(ou_model, torch.tensor([0.0, 0.05, 0.9]), seed=1)
    assert path.shape == series.values.shape == (3, 1)
    assert path.dtype == series.values.dtype == torch.float64
    assert series.times.tolist() == pytest.approx([0.0, 0.05, 0.9])
    path, series = jf.simulate(ou_model, [0.0], seed=1)
    assert path.shape == series.values.shape == (1, 1)


def test_simulate_is_determined_by_its_seed(ou_model: jf.StateSpaceModel) -> None:
    first, again, other = (jf.simulate(ou_model, [0.1, 0.3], seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1].values, again[1].values)
    assert not torch.equal(first[0], other[0])


def test_simulate_leaves_the_global_generators_alone(ou_model: jf.StateSpaceModel) -> None:
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    torch.manual_seed(1)
    first = jf.simulate(ou_model, [0.1, 0.3], seed=5)[0]
    torch.manual_seed(2)
    expected = torch.random.get_rng_state()
    second = jf.simulate(ou_model, [0.1, 0.3], seed=5)[0]
    assert torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), expected)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    torch.random.set_rng_state(state)


def test_simulated_ornstein_uhlenbeck_has_its_moments() -> None:
    """4,000 independent coordinates stand for 4,000 paths; Heun at 5e-3 is off by less than rate * 5e-3 / 2."""
    n, rate, beta, times = 4_000, 1.3, 1.7, [0.0, 0.2, 0.9]
    mean, sd = torch.full((n,), -0.5).double(), torch.full((n,), 0.8).double()
    model = jf.StateSpaceModel(
        Independent(Normal(mean, sd), 1),
        jf.LangevinSDE(jf.Potential(lambda x: 0.5 * rate * (x - 0.4).square().sum(-1), n), beta=beta),
        jf.NonlinearGaussian(lambda x: x[:, :1], [[0.25]]),
    )
    path, series = jf.simulate(model, times, seed=3, substep=5e-3)
    exact = OrnsteinUhlenbeck(rate, 0.4, beta, -0.5, 0.64)
    means, variances, _ = exact.kalman(times, [NAN] * 3)
    bias = rate * 5e-3 / 2 * np.array([0.0, 1.0, 1.0])
    assert (np.abs(path.mean(1).numpy() - means) < 5 * np.sqrt(variances / n) + bias).all()
    assert (np.abs(path.var(1).numpy() / variances - 1) < 5 * math.sqrt(2 / n) + bias).all()
    # Paths are paths: neighbouring times correlate by the transition factor.
    factor, _ = exact.transition(0.2)
    covariance = float(torch.cov(path[:2])[0, 1])
    assert covariance == pytest.approx(factor * 0.64, abs=5 * 0.64 / math.sqrt(n) + bias[1])
    assert series.values.shape == (3, 1)


def test_simulated_noise_has_the_sensor_variance(ou_model: jf.StateSpaceModel) -> None:
    path, series = jf.simulate(ou_model, 1e-3 * torch.arange(5_000), seed=2)
    noise = (series.values - path)[:, 0]
    assert abs(noise.mean().item()) < 5 * 0.5 / math.sqrt(5_000)
    assert noise.var().item() == pytest.approx(0.25, rel=5 * math.sqrt(2 / 5_000))


def test_simulate_starts_from_the_prior() -> None:
    n = 20_000
    model = jf.StateSpaceModel(
        Independent(Laplace(torch.full((n,), 1.0).double(), torch.full((n,), 2.0).double()), 1),
        jf.LangevinSDE(jf.DoubleWell(n)),
        jf.NonlinearGaussian(lambda x: x[:, :1], [[1.0]]),
    )
    start = jf.simulate(model, [0.0])[0]
    assert start.mean().item() == pytest.approx(1.0, abs=5 * math.sqrt(8 / n))
    assert start.var().item() == pytest.approx(8.0, rel=5 * math.sqrt(5 / n))
