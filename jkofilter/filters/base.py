"""What every filter of the package inherits: running over a series, smoothing it, tracking reading by reading."""

from __future__ import annotations

from typing import Any

from jkofilter.filters.contract import Filter
from jkofilter.filters.driver import Tracker, run_filter
from jkofilter.filters.result import FilterResult
from jkofilter.models.series import ObservationSeries
from jkofilter.smoothing.driver import run_smoother
from jkofilter.smoothing.result import SmootherResult


class Runnable:
    """The habits of every filter: ``run`` over a series, ``smooth`` it, ``track`` reading by reading."""

    def run(
        self: Filter,
        series: ObservationSeries,
        until: Any = None,
        seed: int = 0,
        progress: bool = False,
        keep_beliefs: bool = False,
    ) -> FilterResult:
        """Same as ``run_filter(self, series, ...)``."""
        return run_filter(self, series, until=until, seed=seed, progress=progress, keep_beliefs=keep_beliefs)

    def smooth(
        self: Filter, series: ObservationSeries, at: Any = None, seed: int = 0, progress: bool = False
    ) -> SmootherResult:
        """Same as ``run_smoother(self, series, ...)``: the laws of the past given all readings."""
        return run_smoother(self, series, at=at, seed=seed, progress=progress)

    def track(self: Filter, seed: int = 0, start: float = 0.0) -> Tracker:
        """A Tracker at time ``start``, when the prior holds, to be fed step by step."""
        return Tracker(self, seed, start)
