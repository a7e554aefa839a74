"""Dates and durations as numbers of a named unit since an origin, and back."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from jkofilter.errors import InputError
from jkofilter.models.checks import is_moment, missing_value

Moments: TypeAlias = "pd.DatetimeIndex | pd.TimedeltaIndex"

_DAY = 86_400 * 10**9
UNITS = {
    "ns": 1,
    "us": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "min": 60 * 10**9,
    "h": 3_600 * 10**9,
    "day": _DAY,
    "week": 7 * _DAY,
    "year": 1_461 * _DAY // 4,
}
"""Nanoseconds of every unit of time; a day has 24 hours and a year 365.25 days."""
_ALIASES = {
    **{"nanosecond": "ns", "microsecond": "us", "millisecond": "ms", "second": "s", "sec": "s"},
    **{"minute": "min", "hour": "h", "d": "day", "w": "week", "y": "year", "yr": "year"},
}


def checked_unit(unit: Any) -> str:
    """The name of a unit as ``UNITS`` has it; plurals and common abbreviations will do.

    Raises:
        InputError: no such unit.
    """
    name = unit.lower() if isinstance(unit, str) else ""
    # A plural, but "s" and "ms" are what they are.
    singular = name[:-1] if len(name) > 2 and name.endswith("s") else name
    found = next((one for one in (name, singular) if one in UNITS or one in _ALIASES), None)
    if found is None:
        raise InputError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}.")
    return _ALIASES.get(found, found)


@dataclass(frozen=True)
class Clock:
    """Where times are counted from, and in what.

    Attributes:
        unit: a key of ``UNITS``; the SDE's unit of time.
        origin: the date of time zero, with a zone or without; for durations the duration that counts as zero.
    """

    unit: str
    origin: pd.Timestamp | pd.Timedelta

    def numbers(self, moments: Moments) -> Tensor:
        """Dates or durations as times, (m,), float64."""
        since = moments - self.origin
        # Whole units and the rest apart: the quotient of two numbers of nanoseconds is exact only below 2^53.
        counts, unit = _nanoseconds(since), UNITS[self.unit]
        whole = counts // unit
        rest = counts - whole * unit
        return torch.from_numpy(whole.astype(np.float64) + rest.astype(np.float64) / unit)

    def number(self, moment: Any, name: str) -> float:
        """One date or duration as a time.

        Raises:
            InputError: it is none, or none that can be told from the origin.
        """
        return self.numbers(_like(moment_of(moment, name), self.origin, name)).item()

    def moments(self, times: Tensor) -> Moments:
        """Times (m,) as dates or durations, to the digits that a float64 of such times holds."""
        unit = UNITS[self.unit]
        whole = torch.floor(times.detach().cpu().double())
        rest = (times.detach().cpu().double() - whole).numpy()
        # float64 cannot tell moments closer than this apart; rounded to it, dates come back as they went in.
        step = _digits(float(times.abs().max()) * unit * 2**-50) if times.numel() else 1
        left = np.rint(rest * unit / step).astype(np.int64) * step
        nanoseconds = whole.numpy().astype(np.int64).astype(object) * unit + left.astype(object)
        rounded = [int(round(n / step)) * step if step > 1 else int(n) for n in nanoseconds]
        return self.origin + _durations(rounded)


def _digits(error: float) -> int:
    """The least power of ten of nanoseconds above ``error``."""
    step = 1
    while step < error:
        step *= 10
    return step


def _durations(nanoseconds: Iterable[int]) -> pd.TimedeltaIndex:
    numbers = list(nanoseconds)
    if max(map(abs, numbers), default=0) < 2**63:
        return pd.TimedeltaIndex(np.array(numbers, dtype="timedelta64[ns]"))
    # Centuries: microseconds reach 300,000 years.
    return pd.TimedeltaIndex(np.array([n // 1000 for n in numbers], dtype="timedelta64[us]"))


def _nanoseconds(since: pd.TimedeltaIndex) -> np.ndarray:
    """As integers, of Python where 64 bits would not hold them."""
    scale = UNITS[since.unit]
    counts = since.to_numpy().astype(f"timedelta64[{since.unit}]").astype(np.int64)
    if counts.size and int(np.abs(counts).max()) * scale >= 2**63:
        return counts.astype(object) * scale
    return counts * scale


def moments_in(value: Any, name: str) -> Moments | None:
    """The dates or durations in any container, or None where it holds numbers.

    Raises:
        InputError: text, periods, dates that are missing or of several zones, or dates among numbers.
    """
    if isinstance(value, Tensor) or not _flat(value) or len(value) == 0:
        return None
    dtype = getattr(value, "dtype", None)
    if isinstance(dtype, pd.PeriodDtype):
        raise InputError(f"{name} holds periods; give the moments you mean, such as {name}.to_timestamp().")
    listed = dtype is None or getattr(dtype, "kind", "O") not in "biufcmM"
    entries = list(value) if listed else value
    kind = _kind_of(entries, name) if listed else getattr(dtype, "kind", "")
    if kind == "U":
        raise InputError(f"{name} holds text; convert dates with pandas.to_datetime, numbers with float.")
    return _index(entries, kind, name) if kind in ("m", "M") else None


def _flat(value: Any) -> bool:
    """Whether ``value`` is a row of entries; rows of unequal length are none, which others say."""
    try:
        return np.ndim(value) == 1
    except ValueError:
        return False


def _kind_of(entries: list[Any], name: str) -> str:
    """M for dates, m for durations, U for text, f for numbers."""
    kinds = set()
    for one in entries:
        if isinstance(one, (str, bytes)):
            return "U"
        if isinstance(one, (np.timedelta64, datetime.timedelta)):
            kinds.add("m")
        elif isinstance(one, (np.datetime64, datetime.date)):
            kinds.add("M")
        elif one is pd.NaT:
            kinds.add("NaT")
        elif not missing_value(one):
            return "f" if not kinds else _mixed(name)
    present = kinds - {"NaT"}
    if len(present) > 1:
        _mixed(name)
    return present.pop() if present else "M" if kinds else "f"


def _mixed(name: str) -> NoReturn:
    raise InputError(f"{name} mixes dates, durations and numbers; give one kind.")


def _index(entries: Any, kind: str, name: str) -> Moments:
    types = {str(getattr(one, "dtype", "")) for one in (entries, *entries[:1])}
    if types & {"timedelta64[Y]", "timedelta64[M]"}:
        raise InputError(f"{name} holds durations in years or months, which differ in length; give days.")
    what = "date" if kind == "M" else "duration"
    moments = [_stamp(one) for one in entries] if isinstance(entries, list) else _filled(entries)
    if kind == "M" and isinstance(moments, list):
        _require_one_zone(moments, name)
    try:
        index = pd.DatetimeIndex(moments) if kind == "M" else pd.TimedeltaIndex(moments)
    except (TypeError, ValueError, OverflowError) as error:
        cure = "pandas.to_datetime(..., utc=True)" if kind == "M" else "pandas.to_timedelta(..., unit=...)"
        raise InputError(f"{name} cannot be read as {what}s of one kind; convert with {cure}.") from error
    if index.isna().any():
        row = int(np.flatnonzero(index.isna())[0])
        raise InputError(f"{name} has no {what} in row {row}; drop the rows without one.")
    return index


def _filled(moments: Any) -> Any:
    """Masked dates and durations as NaT."""
    if not isinstance(moments, np.ma.MaskedArray):
        return moments
    return np.where(np.ma.getmaskarray(moments), np.array("NaT", moments.dtype), np.ma.getdata(moments))


def _require_one_zone(stamps: list[Any], name: str) -> None:
    """Raise InputError unless dates are of one zone, or all without."""
    zones = {str(stamp.tz) for stamp in stamps if isinstance(stamp, pd.Timestamp)}
    if len(zones) > 1:
        raise InputError(
            f"{name} mixes the time zones {', '.join(sorted(zones))}; convert to one with "
            "pandas.to_datetime(..., utc=True)."
        )


def _stamp(one: Any) -> Any:
    if missing_value(one):
        return pd.NaT
    return pd.Timedelta(one) if isinstance(one, (np.timedelta64, datetime.timedelta)) else pd.Timestamp(one)


def moment_of(value: Any, name: str) -> pd.Timestamp | pd.Timedelta:
    """One date or duration, as pandas has it.

    Raises:
        InputError: it is none.
    """
    if not isinstance(value, str) and not is_moment(value):
        raise InputError(f"{name} must be a date or duration as times are, got {value!r}.")
    try:
        duration = isinstance(value, (np.timedelta64, datetime.timedelta))
        moment = pd.Timedelta(value) if duration else pd.Timestamp(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name} must be a date or duration as times are, got {value!r}.") from error
    if moment is pd.NaT:
        raise InputError(f"{name} must be a date or duration, got NaT.")
    return moment


def _like(moment: pd.Timestamp | pd.Timedelta, other: pd.Timestamp | pd.Timedelta, name: str) -> Moments:
    """``moment`` as an index that can be told from ``other``: in a zone if that is.

    Raises:
        InputError: one is a date and the other a duration, or only the first has a zone.
    """
    if isinstance(moment, pd.Timestamp) != isinstance(other, pd.Timestamp):
        kind = "date" if isinstance(other, pd.Timestamp) else "duration"
        raise InputError(f"{name} must be a {kind}, as the times are, got {moment!r}.")
    if isinstance(moment, pd.Timestamp) and isinstance(other, pd.Timestamp):
        if moment.tz is None and other.tz is not None:
            moment = moment.tz_localize(other.tz)
        elif moment.tz is not None and other.tz is None:
            raise InputError(f"{name} has a time zone but times have none; give both one with tz_localize.")
        elif moment.tz is not None:
            moment = moment.tz_convert(other.tz)
    return pd.Index([moment])


def clock_for(moments: Moments, unit: Any, origin: Any) -> Clock:
    """The clock of readings at such moments: from ``origin``, or the first date; durations count from zero.

    Raises:
        InputError: no unit, or an origin that moments cannot be told from.
    """
    if unit is None:
        raise InputError("unit must be named where times are dates or durations, for example unit='day'.")
    zero = pd.Timedelta(0) if isinstance(moments, pd.TimedeltaIndex) else moments[0]
    start = zero if origin is None else _like(moment_of(origin, "origin"), zero, "origin")[0]
    return Clock(checked_unit(unit), start)


def stored_clock(clock: Clock | None) -> dict[str, str] | None:
    """A clock as plain text, for files."""
    if clock is None:
        return None
    if isinstance(clock.origin, pd.Timedelta):
        return {"unit": clock.unit, "duration": clock.origin.isoformat()}
    zone = "" if clock.origin.tz is None else str(clock.origin.tz)
    return {"unit": clock.unit, "origin": clock.origin.isoformat(), "zone": zone}


def restored_clock(stored: dict[str, str] | None) -> Clock | None:
    """The clock that ``stored_clock`` wrote."""
    if stored is None:
        return None
    unit = checked_unit(stored["unit"])
    if "duration" in stored:
        return Clock(unit, pd.Timedelta(stored["duration"]))
    origin = pd.Timestamp(stored["origin"])
    return Clock(unit, origin.tz_convert(stored["zone"]) if stored["zone"] else origin)
