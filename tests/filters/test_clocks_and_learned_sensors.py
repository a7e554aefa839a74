"""Every filter starts where the series says, hands dates back, takes what is masked for missing, and keeps no graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.dates import date2num
from torch.distributions import Normal

import jkofilter as jf

FILTERS: dict[str, Callable[[jf.StateSpaceModel], jf.Filter]] = {
    "kalman": jf.KalmanFilter,
    "unscented": jf.UnscentedKalmanFilter,
    "ensemble": lambda m: jf.EnsembleKalmanFilter(m, 100, substep=0.01),
    "particle": lambda m: jf.ParticleFilter(m, 100, substep=0.01),
    "grid": lambda m: jf.GridFilter(m, cells=300),
    "product": lambda m: jf.ProductFilter(m, torch.eye(1), (jf.GridFilter(m, cells=300),)),
    "jko": jf.JKOFilter,
    "jko-ridge": lambda m: jf.JKOFilter(m, transport="ridge", pool=64),
    "dual-jko": lambda m: jf.DualJKOFilter(m, settings=jf.DualSettings(points=50, centres=10)),
    "proximal": jf.ProximalFilter,
}
every_filter = pytest.mark.parametrize("build", FILTERS.values(), ids=FILTERS.keys())
READINGS = [0.3, -0.2, 0.5]
DATES = pd.DatetimeIndex(["2024-01-02", "2024-01-03", "2024-01-04"], tz="Europe/Berlin")


def model_of(potential: jf.Potential | None = None, sensor: object = None) -> jf.StateSpaceModel:
    prior = Normal(torch.tensor(0.0).double(), 1.0)
    return jf.StateSpaceModel(
        prior, jf.LangevinSDE(potential or jf.Quadratic(0.0, 1.0)), sensor or jf.LinearGaussian(1.0, 0.5)
    )


def dated() -> jf.ObservationSeries:
    return jf.ObservationSeries(DATES, READINGS, unit="week", origin="2024-01-01")


@every_filter
def test_the_clock_starts_where_the_series_says(build: Callable[[jf.StateSpaceModel], jf.Filter]) -> None:
    filter = build(model_of())
    # Binary fractions, so that gaps are the same to the last bit.
    here = filter.run(jf.ObservationSeries([0.125, 0.25, 0.5], READINGS), until=0.75, keep_beliefs=True)
    there = filter.run(
        jf.ObservationSeries([2025.125, 2025.25, 2025.5], READINGS, start=2025), until=2025.75, keep_beliefs=True
    )
    assert torch.equal(here.means, there.means)
    assert torch.equal(here.log_evidence, there.log_evidence)
    assert [belief.time for belief in there.beliefs] == [2025.125, 2025.25, 2025.5]
    assert there.final.time == 2025.75
    assert filter.track(start=-3.0).belief.time == -3.0


@every_filter
def test_dates_come_back(build: Callable[[jf.StateSpaceModel], jf.Filter], tmp_path: Path) -> None:
    filter = build(model_of())
    result = filter.run(dated(), until="2024-01-05")
    plain = filter.run(jf.ObservationSeries(np.array([1, 2, 3]) / 7, READINGS), until=4 / 7)
    assert torch.equal(result.means, plain.means)
    assert result.final.time == pytest.approx(4 / 7, abs=1e-15)
    assert (pd.DatetimeIndex(result.to_frame()["time"]) == DATES).all()
    result.save(tmp_path / "result.pt")
    again = jf.FilterResult.load(tmp_path / "result.pt")
    assert again.clock == result.clock
    assert (pd.DatetimeIndex(again.to_frame()["time"]) == DATES).all()


def test_dates_stand_on_the_axes() -> None:
    # Berlin is an hour before Greenwich, and axes count days there.
    days = date2num(np.array([f"2024-01-0{k}T23:00" for k in (1, 2, 3)], "datetime64[m]"))
    for kept in (False, True):
        result = jf.GridFilter(model_of(), cells=300).run(dated(), keep_beliefs=kept)
        above, below = [axis for axis in result.plot(series=dated()).axes if axis.get_ylabel() != "density"]
        np.testing.assert_allclose(below.lines[0].get_xdata(), days, atol=1e-9, rtol=0)
        assert days[0] - 1 <= above.get_xlim()[0] <= days[0] < days[-1] <= above.get_xlim()[1] <= days[-1] + 1
        assert "2024" in below.xaxis.get_major_formatter().format_data_short(days[0])


@every_filter
def test_a_masked_reading_is_skipped(build: Callable[[jf.StateSpaceModel], jf.Filter]) -> None:
    tracker = build(model_of()).track()
    tracker.predict(0.1)
    before = tracker.belief.mean
    tracker.update(np.ma.masked_values([-9999.0], -9999.0))
    assert tracker.info.status == "skipped"
    assert torch.equal(tracker.belief.mean, before)


GAUSSIAN_NOISE = ("unscented", "ensemble")


@pytest.mark.parametrize(
    ("build", "learned"),
    [
        pytest.param(build, learned, id=f"{name}-{learned}")
        for name, build in FILTERS.items()
        for learned in ("sensor", "potential", "student")
        if name != "kalman" and not (name in GAUSSIAN_NOISE and learned == "student")
    ],
)
def test_what_is_learned_leaves_no_graph(
    build: Callable[[jf.StateSpaceModel], jf.Filter], learned: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
    models = {
        "sensor": model_of(sensor=jf.NonlinearGaussian(network, 0.5)),
        "student": model_of(sensor=jf.StudentT(network, 0.5, 4.0)),
        "potential": model_of(jf.Potential(lambda x: x.square().sum(-1) + network(x)[..., 0], 1)),
    }
    model = models[learned]
    result = build(model).run(jf.ObservationSeries([0.1, 0.2], [0.3, -0.2]), keep_beliefs=True)
    result.to_frame()
    result.save(tmp_path / "result.pt")
    x = torch.zeros(2, 1).double()
    for value in (
        result.means,
        result.covariances,
        result.log_evidence,
        result.final.log_prob(x),
        result.final.sample(2),
    ):
        assert not value.requires_grad
    # The model itself keeps the gradient that learning needs.
    y = torch.zeros(1).double()
    kept = model.log_likelihood(y, x) if learned != "potential" else model.sde.potential(x)
    assert kept.requires_grad
