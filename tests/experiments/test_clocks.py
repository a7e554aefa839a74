"""Experiments on series whose clock starts elsewhere: calendar years, and dates."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch.distributions import Independent, Normal

import jkofilter as jf
from jkofilter.experiments.film import film
from jkofilter.experiments.runs import warmed_up

YEARS = jf.ObservationSeries([2025.1, 2025.2, 2025.4], [0.1, 0.2, 0.3], start=2025.0)


def model() -> jf.StateSpaceModel:
    prior = Independent(Normal(torch.zeros(1).double(), torch.ones(1).double()), 1)
    return jf.StateSpaceModel(prior, jf.LangevinSDE(jf.Quadratic(0.0, 1.0)), jf.LinearGaussian(1.0, 0.5))


def test_a_film_spans_the_time_of_its_series() -> None:
    frames = film(jf.KalmanFilter(model()), YEARS, None, 0)
    assert frames[0].time == 2025.0
    assert frames[-1].time == pytest.approx(2025.4)
    assert max(b.time - a.time for a, b in zip(frames, frames[1:], strict=False)) < 0.01


def test_a_film_ends_at_a_date() -> None:
    days = jf.ObservationSeries(pd.to_datetime(["2024-01-01", "2024-01-03"]), [0.1, 0.2], unit="day")
    assert film(jf.KalmanFilter(model()), days, "2024-01-07", 0)[-1].time == pytest.approx(6.0)


def test_warming_up_starts_where_the_series_does(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = []
    predict = jf.KalmanFilter.predict

    def watched(
        filter: jf.KalmanFilter, belief: jf.Belief, duration: float, generator: torch.Generator
    ) -> tuple[jf.Belief, jf.StepInfo]:
        durations.append(duration)
        return predict(filter, belief, duration, generator)

    monkeypatch.setattr(jf.KalmanFilter, "predict", watched)
    warmed_up(jf.KalmanFilter(model()), YEARS)
    assert durations == [pytest.approx(0.1)]


def test_a_scenario_of_calendar_years_is_simulated_and_calibrated_from_its_start() -> None:
    scenario = jf.Scenario(
        name="years", model=model(), filters={"kalman": jf.KalmanFilter}, reference="kalman", times=[2025.1, 2025.2],
        start=2025.0,
    )  # fmt: skip
    _, series = scenario.data(0)
    assert series.start == 2025.0
    asked = scenario.calibrated("kalman")
    assert jf.calibrate(asked.filter, asked.times, runs=2, start=asked.start).runs == 2
