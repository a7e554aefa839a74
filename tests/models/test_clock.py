"""Dates and durations in every container, as numbers of a named unit and back."""

from __future__ import annotations

import datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
import torch

import jkofilter as jf
from jkofilter.models.checks import with_missing
from jkofilter.models.clock import UNITS, Clock, clock_for, restored_clock, stored_clock

STAMPS = pd.to_datetime(["2024-01-01 00:00", "2024-01-02 12:00", "2024-01-05 00:00"])
DAYS = [0.0, 1.5, 4.0]
BERLIN = ZoneInfo("Europe/Berlin")
CONTAINERS: dict[str, Any] = {
    "index": STAMPS,
    "nanoseconds": STAMPS.as_unit("ns"),
    "seconds": STAMPS.as_unit("s"),
    "series": pd.Series(STAMPS),
    "series of objects": pd.Series(list(STAMPS), dtype=object),
    "category": pd.Series(STAMPS).astype("category"),
    "numpy hours": STAMPS.to_numpy().astype("datetime64[h]"),
    "numpy nanoseconds": STAMPS.to_numpy().astype("datetime64[ns]"),
    "masked, without a mask": np.ma.array(STAMPS.to_numpy()),
    "stamps": list(STAMPS),
    "numpy stamps": tuple(STAMPS.to_numpy()),
    "Python": [stamp.to_pydatetime() for stamp in STAMPS],
    "mixed": [STAMPS[0], STAMPS[1].to_pydatetime(), STAMPS[2].to_numpy()],
    "zone": STAMPS.tz_localize("Europe/Berlin"),
    "Python, zone": [stamp.to_pydatetime().replace(tzinfo=BERLIN) for stamp in STAMPS],
}


@pytest.mark.parametrize("dates", CONTAINERS.values(), ids=CONTAINERS.keys())
@pytest.mark.parametrize(("unit", "per_day"), [("day", 1.0), ("h", 24.0), ("seconds", 86400.0), ("weeks", 1 / 7)])
def test_all_containers_of_dates_agree_and_come_back(dates: Any, unit: str, per_day: float) -> None:
    series = jf.ObservationSeries(dates, [1, 2, 3], unit=unit)
    np.testing.assert_allclose(series.times, np.array(DAYS) * per_day, rtol=1e-15)
    shown = pd.DatetimeIndex(series.to_frame()["time"])
    assert (shown.tz_localize(None) == STAMPS).all()
    assert str(shown.tz) == str(getattr(pd.Series(list(dates)).iloc[0], "tz", None))


def test_days_of_the_calendar_are_dates() -> None:
    days = [datetime.date(2024, 2, 28), datetime.date(2024, 3, 1)]
    assert jf.ObservationSeries(days, [1, 2], unit="day").times.tolist() == [0.0, 2.0]
    years = np.array(["1500", "2500"], "datetime64[Y]")
    assert jf.ObservationSeries(years, [1, 2], unit="year").times[1].item() == pytest.approx(
        365_243 / 365.25, rel=1e-15
    )


@pytest.mark.parametrize(
    "durations",
    [
        pd.to_timedelta([0, 30], unit="s"),
        pd.to_timedelta([0, 30], unit="s").as_unit("ns"),
        np.array([0, 30], "timedelta64[s]"),
        np.array([0, 30_000], "timedelta64[ms]"),
        [datetime.timedelta(0), datetime.timedelta(seconds=30)],
    ],
)
def test_all_containers_of_durations_agree_and_come_back(durations: Any) -> None:
    series = jf.ObservationSeries(durations, [1, 2], unit="min")
    assert series.times.tolist() == [0.0, 0.5]
    assert series.to_frame()["time"].tolist() == [pd.Timedelta(0), pd.Timedelta("30s")]


def test_time_goes_on_where_clocks_are_put_back() -> None:
    hours = pd.date_range("2024-10-27 00:00", periods=4, freq="h", tz="UTC").tz_convert("Europe/Berlin")
    assert jf.ObservationSeries(hours, [1, 2, 3, 4], unit="h").times.tolist() == [0.0, 1.0, 2.0, 3.0]
    local = hours.tz_localize(None)
    with pytest.raises(jf.InputError, match=r"^times holds 2024-10-27 02:00:00 twice"):
        jf.ObservationSeries(local, [1, 2, 3, 4], unit="h")
    with pytest.raises(jf.InputError, match="tz_localize"):
        jf.ObservationSeries(local[[0, 2, 1]], [1, 2, 3], unit="h")


@pytest.mark.parametrize(
    "dates",
    [
        [pd.Timestamp("2024-01-01", tz="UTC"), pd.Timestamp("2024-01-02", tz="Europe/Berlin")],
        [pd.Timestamp("2024-01-01", tz="UTC"), pd.Timestamp("2024-01-02")],
        [datetime.datetime.fromisoformat(f"2024-10-27T02:30:00+0{h}:00") for h in (2, 1)],
    ],
)
def test_dates_of_several_zones_are_refused_with_a_cure_that_works(dates: list[Any]) -> None:
    with pytest.raises(jf.InputError, match=r"mixes the time zones .* pandas.to_datetime\(..., utc=True\)"):
        jf.ObservationSeries(dates, [1, 2], unit="day")
    assert len(jf.ObservationSeries(pd.to_datetime(dates, utc=True), [1, 2], unit="day")) == 2


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("span", ["1h", "365D", "36500D"])
def test_every_second_of_a_century_comes_back_in_every_unit(unit: str, span: str) -> None:
    seconds = np.sort(np.random.default_rng(0).choice(pd.Timedelta(span) // pd.Timedelta("1s"), 200, replace=False))
    stamps = pd.Timestamp("1950-01-01", tz="UTC") + pd.to_timedelta(seconds, unit="s")
    clock = clock_for(stamps, unit, "1950-01-01")
    assert (clock.moments(clock.numbers(stamps)) == stamps).all()


@pytest.mark.parametrize("unit", ["fortnight", "M", "month", 3, ""])
def test_units_of_no_length_are_refused(unit: Any) -> None:
    with pytest.raises(jf.InputError, match=r"^unit must be one of ns, us"):
        jf.ObservationSeries(STAMPS, [1, 2, 3], unit=unit)


def test_numbers_with_an_origin_become_dates() -> None:
    series = jf.ObservationSeries([1.0, 2.0], [1, 2], unit="week", origin="2024-01-01")
    assert series.to_frame()["time"].tolist() == [pd.Timestamp("2024-01-08"), pd.Timestamp("2024-01-15")]
    with pytest.raises(jf.InputError, match=r"^unit must be named"):
        jf.ObservationSeries([1.0, 2.0], [1, 2], origin="2024-01-01")
    with pytest.raises(jf.InputError, match=r"^origin must be a date"):
        jf.ObservationSeries([1.0, 2.0], [1, 2], unit="day", origin=5)


def test_columns_and_indices_of_dates() -> None:
    frame = pd.DataFrame({"when": STAMPS, "y": pd.array([1, None, 3], dtype="Int64")})
    for given in (frame, frame.set_index("when")):
        series = jf.ObservationSeries.from_frame(given, "when", ["y"], unit="day")
        assert series.times.tolist() == DAYS
        np.testing.assert_array_equal(series.values[:, 0], [1.0, np.nan, 3.0])


@pytest.mark.parametrize(
    "clock",
    [
        None,
        Clock("day", pd.Timestamp("2024-01-01 12:00:00.123456789")),
        Clock("year", pd.Timestamp("2024-01-01", tz="Europe/Berlin")),
        Clock("s", pd.Timedelta("3h")),
    ],
)
def test_clocks_are_stored_as_text(clock: Clock | None) -> None:
    assert restored_clock(stored_clock(clock)) == clock


MISSING: dict[str, Any] = {
    "masked": np.ma.masked_values([1.0, -9999.0, 3.0], -9999.0),
    "masked integers": np.ma.array([1, 5, 3], mask=[0, 1, 0]),
    "masked in a list": [1.0, np.ma.masked, 3.0],
    "None": [1, None, 3],
    "NA": [1, pd.NA, 3],
    "nullable": pd.array([1, None, 3], dtype="Int64"),
    "nullable series": pd.Series([1, None, 3], dtype="Float64"),
    "objects": np.array([1, None, 3], dtype=object),
    "frame": pd.DataFrame({"y": pd.array([1, None, 3], dtype="Int64")}),
    "sparse": pd.arrays.SparseArray([1.0, np.nan, 3.0]),
}


@pytest.mark.parametrize("values", MISSING.values(), ids=MISSING.keys())
def test_whatever_marks_a_missing_value_is_one(values: Any) -> None:
    found = with_missing(values, "values").reshape(-1)
    torch.testing.assert_close(found, torch.tensor([1.0, torch.nan, 3.0]).double(), equal_nan=True, rtol=0, atol=0)


def test_rows_keep_their_masks() -> None:
    rows = [np.ma.array([1, 2], mask=[0, 1]), np.ma.array([3, 4], mask=[1, 0])]
    np.testing.assert_array_equal(with_missing(rows, "values"), [[1.0, np.nan], [np.nan, 4.0]])
