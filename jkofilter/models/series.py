"""Readings with their times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from jkofilter.errors import InputError
from jkofilter.models.checks import as_number, is_moment, with_missing
from jkofilter.models.clock import Clock, checked_unit, clock_for, moment_of, moments_in

FAR = 1e3
"""A first time so many typical gaps after an assumed start is taken for a clock that began elsewhere."""
FAR_BY_GAP, FAR_BY_SPAN, CALENDAR = 100.0, 10.0, 1e3
"""So is one so many gaps away and so many times the length of the series, where it is as large as calendar years are:
a few readings a decade apart."""


def checked_times(times: Any, name: str = "times", start: float | None = None) -> Tensor:
    """``times`` as a float64 tensor (m,), increasing from ``start`` or later.

    Args:
        times: numbers.
        name: of the argument, for messages.
        start: where the model's clock starts; None is zero, and questions times that look as if theirs did not.

    Raises:
        InputError: empty, not one-dimensional, not finite, before the start, unsorted or duplicate; or so far after a
            start that was only assumed that another must be meant.
    """
    moments = moments_in(times, name)
    if moments is not None:
        raise InputError(f"{name} must be numbers here; ObservationSeries(times, values, unit='day') takes dates.")
    return _checked_clock(with_missing(times, name), name, start, None)


def _checked_clock(clock: Tensor, name: str, start: float | None, calendar: Clock | None) -> Tensor:
    if clock.ndim != 1 or clock.numel() == 0:
        raise InputError(f"{name} must be a non-empty sequence of shape (m,), got shape {tuple(clock.shape)}.")
    if not torch.isfinite(clock).all():
        raise InputError(f"{name} must be finite; drop the rows with NaN, missing or infinite times.")
    gaps = clock.diff()
    if (gaps == 0).any():
        duplicate = clock[1:][gaps == 0][:1]
        shown = f"{duplicate.item():.10g}" if calendar is None else str(calendar.moments(duplicate)[0])
        raise InputError(f"{name} holds {shown} twice; join readings of one time into one vector, or drop one.")
    if (gaps < 0).any():
        zone = "" if calendar is None else ", and give local dates their zone with tz_localize if clocks were put back"
        raise InputError(f"{name} must be increasing; sort the readings by time{zone}.")
    _require_near(clock, name, start)
    return clock


def _require_near(clock: Tensor, name: str, start: float | None) -> None:
    """Raise InputError unless the model's clock can have started before the first time, and not absurdly so."""
    first, begin = clock[0].item(), 0.0 if start is None else start
    if first < begin:
        asked = "at zero or later" if start is None else f"at start={start:g} or later"
        raise InputError(f"{name} must start {asked}, got {first:g}; give start= at or before the first time.")
    if start is not None or len(clock) < 2:
        return
    gap, span = clock.diff().median().item(), (clock[-1] - clock[0]).item()
    if first > FAR * gap or first > max(FAR_BY_GAP * gap, FAR_BY_SPAN * span, CALENDAR):
        raise InputError(
            f"{name} start at {first:.10g}, {first / gap:.0f} typical gaps after the model's clock, which starts at "
            f"zero; give start= near the first time, where the prior holds, or start=0 if it does hold at zero."
        )


@dataclass(frozen=True, eq=False)
class ObservationSeries:
    """Readings y_k at times t_k; irregular times are normal, NaN is a missing component, and so is what is masked.

    Times are numbers in the SDE's unit of time; or dates (with a zone or without) or durations, of pandas, numpy or
    Python, which become numbers of the ``unit`` that is named, dates counted from ``origin``. They come back as dates
    in frames and pictures.

    Attributes:
        times: increasing, (m,), in the SDE's unit of time; tensors, arrays, lists, dates or durations in, float64 out.
        values: readings, (m, p), or (m,) for p = 1; masked, None and NA become NaN.
        unit: of times: "ns", "us", "ms", "s", "min", "h", "day" (24 h), "week" or "year" (365.25 days). Must be named
            for dates and durations, whose numbers otherwise depend on what holds them.
        origin: the date of time zero, the first reading's by default; with numeric times, what makes dates of them.
        start: when the model's clock starts, that is when the prior holds; a number, or a date as the times are.
            None is time zero, unless times lie so far from it that another start must be meant.
        start_assumed: whether ``start`` was left out.

    Raises:
        InputError: shapes disagree; times unsorted, duplicate, missing, before or absurdly long after the start; dates
            without a unit or of several zones; or a reading is infinite or no number.
    """

    times: Tensor
    values: Tensor
    unit: str | None = None
    origin: Any = None
    start: Any = None
    start_assumed: bool = field(init=False)

    def __post_init__(self) -> None:
        times, clock = _times_and_clock(self.times, self.unit, self.origin)
        start = None if self.start is None else _number(self.start, "start", clock)
        times = _checked_clock(times, "times", start, clock)
        values = with_missing(self.values, "values")
        if values.ndim == 1:
            values = values.unsqueeze(-1)
        if values.ndim != 2 or values.shape[0] != times.shape[0]:
            raise InputError(f"values must have shape ({times.shape[0]}, p), got {tuple(values.shape)}.")
        if torch.isinf(values).any():
            row = int(torch.isinf(values).any(1).nonzero()[0])
            raise InputError(f"values holds an infinite reading in row {row}; write NaN where a reading is missing.")
        object.__setattr__(self, "times", times)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "unit", None if self.unit is None else checked_unit(self.unit))
        object.__setattr__(self, "origin", None if clock is None else clock.origin)
        object.__setattr__(self, "start", 0.0 if start is None else start)
        object.__setattr__(self, "start_assumed", start is None)

    def __len__(self) -> int:
        """Number of readings m."""
        return self.times.shape[0]

    @property
    def clock(self) -> Clock | None:
        """What makes dates of times, where they are known."""
        return None if self.origin is None or self.unit is None else Clock(self.unit, self.origin)

    def times_of(self, moments: Any, name: str) -> list[float]:
        """Dates, durations or numbers, one or several, as times of this series in the order given.

        Raises:
            InputError: one is none.
        """
        return times_by(self.clock, moments, name)

    def time_of(self, moment: Any, name: str = "moment") -> float:
        """A date, duration or number as a time of this series.

        Raises:
            InputError: a date, but the times of the series are plain numbers; or nothing of the kind.
        """
        return _number(moment, name, self.clock)

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        time: str,
        values: Sequence[str],
        unit: str | None = None,
        origin: Any = None,
        start: Any = None,
    ) -> ObservationSeries:
        """Readings from the columns of a DataFrame.

        Args:
            frame: one row per reading.
            time: column (or name of the index) of times: numbers, dates or durations.
            values: columns of the reading, p of them.
            unit: as for the class; needed for dates and durations.
            origin: as for the class.
            start: as for the class.

        Raises:
            InputError: a column is missing, or what the class itself raises.
        """
        columns = [values] if isinstance(values, str) else list(values)
        indexed = frame.index.name is not None and time == frame.index.name and time not in frame.columns
        wanted = columns if indexed else [time, *columns]
        missing = [column for column in wanted if column not in frame.columns]
        if missing:
            raise InputError(f"frame has no column {missing[0]!r}; it has {', '.join(map(repr, frame.columns))}.")
        clock = frame.index if indexed else frame[time]
        return cls(clock, with_missing(frame[columns], "values"), unit, origin, start)

    def to_frame(self) -> pd.DataFrame:
        """Columns ``time`` (dates, where they are known), ``y0``, ``y1``, ..."""
        columns = {f"y{i}": self.values[:, i].numpy() for i in range(self.values.shape[1])}
        return pd.DataFrame({"time": times_shown(self.times, self.clock), **columns})


def times_by(clock: Clock | None, moments: Any, name: str) -> list[float]:
    """One date, duration or number, or several, as times of a clock in the order given.

    Raises:
        InputError: one is none, or a date without a clock to tell it.
    """
    return [_number(moment, name, clock) for moment in ([moments] if is_one_time(moments) else moments)]


def is_one_time(moments: Any) -> bool:
    """Whether it is one date, duration or number, and not several."""
    if isinstance(moments, str) or is_moment(moments) or not hasattr(moments, "__iter__"):
        return True
    return getattr(moments, "ndim", 1) == 0


def times_shown(times: Tensor, clock: Clock | None) -> Any:
    """Times (m,) as their clock has them: dates, durations, or plain numbers without one."""
    return times.cpu().numpy() if clock is None else clock.moments(times)


def moment_columns(times: Tensor, means: Tensor, covariances: Tensor, clock: Clock | None) -> dict[str, Any]:
    """Columns of a frame: time (m,), and mean and sd of every coordinate, from moments (m, d) and (m, d, d)."""
    deviations = torch.diagonal(covariances, dim1=-2, dim2=-1).sqrt().cpu().numpy()
    columns: dict[str, Any] = {"time": times_shown(times, clock)}
    for i in range(means.shape[1]):
        columns[f"mean{i}"] = means[:, i].cpu().numpy()
        columns[f"sd{i}"] = deviations[:, i]
    return columns


def _times_and_clock(times: Any, unit: Any, origin: Any) -> tuple[Tensor, Clock | None]:
    moments = moments_in(times, "times")
    if moments is not None:
        clock = clock_for(moments, unit, origin)
        return clock.numbers(moments), clock
    numbers = with_missing(times, "times")
    if origin is None:
        return numbers, None
    if unit is None:
        raise InputError("unit must be named where an origin makes dates of times, for example unit='day'.")
    return numbers, Clock(checked_unit(unit), moment_of(origin, "origin"))


def _number(moment: Any, name: str, clock: Clock | None) -> float:
    if clock is not None and (isinstance(moment, str) or is_moment(moment)):
        return clock.number(moment, name)
    return as_number(moment, name)
