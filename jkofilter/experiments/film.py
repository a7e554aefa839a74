"""A filter's beliefs between the readings as well as at them, for a moving picture."""

from __future__ import annotations

import math
from typing import Any

from jkofilter.beliefs.base import Belief
from jkofilter.errors import FilterError, InputError
from jkofilter.filters.contract import Filter, failed
from jkofilter.filters.driver import Tracker
from jkofilter.models.series import ObservationSeries

FRAMES = 150
MAX_FRAMES = 600


def film(item: Filter, series: ObservationSeries, until: Any, seed: int) -> tuple[Belief, ...]:
    """Beliefs in order of time, thinned where there are many readings; none where a step fails.

    Args:
        item: the filter.
        series: the readings.
        until: end, in the SDE's unit or a date as the series has them; None for the last reading.
        seed: of the filter.
    """
    try:
        return _film(item, series, until, seed)
    except (FilterError, InputError):
        # Its steps are shorter than those of a run, and may fail where those do not.
        return ()


def _film(item: Filter, series: ObservationSeries, until: Any, seed: int) -> tuple[Belief, ...]:
    tracker = Tracker(item, seed, series.start)
    end = series.times[-1].item() if until is None else series.time_of(until, "until")
    length = end - series.start
    beliefs: list[Belief] = [tracker.belief]

    def keep() -> None:
        if tracker.belief.time - beliefs[-1].time >= length / MAX_FRAMES:
            beliefs.append(tracker.belief)

    def advance(time: float) -> None:
        start = tracker.belief.time
        frames = max(1, math.ceil((time - start) * FRAMES / length - 1e-9)) if length > 0 else 1
        for k in range(1, frames + 1):
            tracker.predict(max(start + (time - start) * k / frames - tracker.belief.time, 0.0))
            if k < frames:
                keep()

    for time, y in zip(series.times.tolist(), series.values, strict=True):
        advance(time)
        if failed(tracker.info):
            return ()
        tracker.update(y)
        keep()
    if end > tracker.belief.time:
        advance(end)
        keep()
    return tuple(beliefs)
