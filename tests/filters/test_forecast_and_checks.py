"""What comes next, and whether readings came as predicted."""

import math

import numpy as np
import pytest
import torch
from scipy.special import ndtr

import jkofilter as jf

TIMES = [0.5 * k for k in range(1, 41)]


def model(noise: float = 0.3, rate: float = 1.0) -> jf.StateSpaceModel:
    return jf.StateSpaceModel(
        torch.distributions.Normal(torch.zeros(1).double(), 1.0),
        jf.LangevinSDE(jf.Quadratic(0.0, rate), 1.0),
        jf.LinearGaussian(1.0, noise),
    )


def test_forecast_of_a_linear_model_is_its_closed_form() -> None:
    result = jf.KalmanFilter(model()).run(jf.ObservationSeries([1.0, 2.0], [0.4, 0.9]))
    forecast = result.forecast([2.5, 4.0])
    for belief, passed in zip(forecast, (0.5, 2.0), strict=True):
        m, p = result.final.mean.item(), result.final.covariance.item()
        assert belief.mean.item() == pytest.approx(m * math.exp(-passed), abs=1e-12)
        assert belief.covariance.item() == pytest.approx(1 + (p - 1) * math.exp(-2 * passed), abs=1e-12)
    assert forecast.to_frame().columns.tolist() == ["time", "mean0", "sd0", "q0.05_0", "q0.5_0", "q0.95_0", "note"]


def test_forecast_speaks_dates() -> None:
    series = jf.ObservationSeries(np.array(["2026-01-01", "2026-01-03"], dtype="datetime64[D]"), [0.1, 0.2], unit="day")
    frame = jf.KalmanFilter(model()).run(series).forecast(["2026-01-04"]).to_frame()
    assert str(frame["time"][0])[:10] == "2026-01-04"


@pytest.mark.parametrize("times", [[], [1.5], [3.0, 2.5], [float("nan")]])
def test_forecast_of_the_past_or_of_no_times_is_refused(times: list[float]) -> None:
    result = jf.KalmanFilter(model()).run(jf.ObservationSeries([1.0, 2.0], [0.4, 0.9]))
    with pytest.raises(jf.InputError, match="times must"):
        result.forecast(times)


def test_ranks_are_those_of_the_gaussian_predictions() -> None:
    series = jf.ObservationSeries(TIMES[:3], [0.4, math.nan, -1.2])
    checks = jf.KalmanFilter(model()).run(series, keep_beliefs=True).predictive_checks()
    # By hand: predict, rank, update.
    m, p, ranks = 0.0, 1.0, []
    for y in (0.4, math.nan, -1.2):
        m, p = m * math.exp(-0.5), 1 + (p - 1) * math.exp(-1.0)
        ranks.append(ndtr((y - m) / math.sqrt(p + 0.3)))
        if not math.isnan(y):
            m, p = m + p / (p + 0.3) * (y - m), p * 0.3 / (p + 0.3)
    # The Kalman filter's prediction is looked at by 100,000 draws.
    assert np.nanmax(np.abs(checks.pit[:, 0] - ranks)) < 4.5 * 0.5 / 100_000**0.5
    assert math.isnan(checks.pit[1, 0])
    grid = jf.SpectralFilter(model()).run(series, keep_beliefs=True).predictive_checks()
    assert np.nanmax(np.abs(grid.pit[:, 0] - ranks)) < 1e-8
    assert grid.log_density.sum() == pytest.approx(
        jf.KalmanFilter(model()).run(series).log_evidence[-1].item(), abs=1e-8
    )


def test_a_right_model_passes_and_wrong_ones_do_not() -> None:
    times = [0.5 * k for k in range(1, 401)]
    _, series = jf.simulate(model(), times=times, seed=5)

    def checks(wrong: jf.StateSpaceModel) -> jf.filters.predictive.PredictiveChecks:
        return jf.SpectralFilter(wrong).run(series, keep_beliefs=True).predictive_checks()

    right, noisy, fast = checks(model()), checks(model(noise=4.0)), checks(model(rate=8.0))
    assert right.uniformity() > 0.01
    assert right.ljung_box()[1] > 0.01
    assert abs(right.coverage() - 0.9) < 3 * (0.09 / 400) ** 0.5
    assert noisy.uniformity() < 1e-6
    assert fast.ljung_box()[1] < 1e-6
    assert len(right.plot().axes) == 3
    assert right.summary().loc[0, "readings"] == 400


def test_ljung_box_by_hand() -> None:
    from jkofilter.filters.predictive import _portmanteau

    # Residuals 1, -1, 1, -1: r_1 = -3/4, r_2 = 2/4; Q = 4 * 6 (9/16 / 3 + 1/4 / 2) = 7.5.
    assert _portmanteau(np.array([1.0, -1.0, 1.0, -1.0]), 2) == (pytest.approx(7.5), 2)


class Coin:
    """A sensor of one's own that tells the sign of the state."""

    def log_likelihood(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.where((x[:, 0] > 0) == (y[0] > 0.5), math.log(0.9), math.log(0.1)).to(x)

    def sample(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        right = torch.rand(len(x), generator=generator, dtype=x.dtype) < 0.9
        return ((x[:, :1] > 0) == right[:, None]).to(x)


def test_ranks_of_coin_tosses_are_drawn_within_their_jumps() -> None:
    coin = jf.StateSpaceModel(
        torch.distributions.Normal(torch.zeros(1).double(), 1.0), jf.LangevinSDE(jf.Quadratic(0.0, 1.0)), Coin()
    )
    _, series = jf.simulate(coin, times=TIMES[:15], seed=2)
    checks = jf.SpectralFilter(coin).run(series, keep_beliefs=True).predictive_checks()
    first = checks.pit[0, 0]
    # The first prediction is even: below a half for tails, above for heads.
    assert (first > 0.5) == bool(series.values[0, 0] > 0.5)
    assert len(set(np.round(checks.pit[:, 0], 6))) == 15
    assert checks.uniformity() > 0.001
