"""What every filter of the package inherits: running over a series, and tracking reading by reading."""

from __future__ import annotations

from typing import Any

from jkofilter.filters.contract import Filter
from jkofilter.filters.driver import Tracker, run_filter
from jkofilter.filters.result import FilterResult
from jkofilter.models.series import ObservationSeries


class Runnable:
    """The two habits of every filter: ``run`` over a whole series, ``track`` reading by reading."""

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

    def track(self: Filter, seed: int = 0, start: float = 0.0) -> Tracker:
        """A Tracker at time ``start``, when the prior holds, to be fed step by step."""
        return Tracker(self, seed, start)
