"""Driving a filter: over a whole series, or reading by reading. Both take the same steps in the same order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.info import StepInfo
from jkofilter.beliefs.timing import at_time
from jkofilter.errors import InputError
from jkofilter.filters.checks import as_reading
from jkofilter.filters.contract import Filter, Stretch, Sweeping, stepped
from jkofilter.filters.result import FilterResult
from jkofilter.models.checks import as_number
from jkofilter.models.series import ObservationSeries
from jkofilter.numerics.draws import stream
from jkofilter.numerics.threads import one_thread

FORGOTTEN = 1e3
"""Relaxation times before the first reading, after a start that was only assumed, from which on it is questioned."""


class Tracker:
    """A filter fed step by step; gives what ``run_filter`` gives for the same seed and steps.

    Args:
        filter: any filter.
        seed: seeds the one generator that all steps share.
        start: when the prior holds, in the SDE's unit of time: what the clock of the beliefs starts from.

    Attributes:
        belief: the law now. A step that raises leaves it as it was.
        info: what the last step reported.
    """

    @one_thread()
    def __init__(self, filter: Filter, seed: int = 0, start: float = 0.0) -> None:
        self._filter = filter
        self._generator = stream(seed, "filter", filter.model.device)
        self.belief: Belief = at_time(filter.init(self._generator), as_number(start, "start"))
        self.info = StepInfo()

    @one_thread()
    def predict(self, duration: float) -> Belief:
        """Let ``duration`` (time units) pass; returns the new belief."""
        self.belief, self.info = self._filter.predict(self.belief, duration, self._generator)
        return self.belief

    @one_thread()
    def update(self, y: Any) -> Belief:
        """Take in a reading (p,), a number for p = 1, NaN where missing; returns the new belief.

        Raises:
            InputError: ``y`` is no reading.
        """
        self.belief, self.info = self._filter.update(self.belief, as_reading(y, self._filter.model), self._generator)
        return self.belief

    def stretches(self, times: Sequence[float], values: Tensor) -> Iterator[Stretch]:
        """All steps of readings (m, p) at these times, (m,), as many at a time as the filter takes."""
        if isinstance(self._filter, Sweeping):
            for stretch in self._filter.sweep(self.belief, np.asarray(times), values, self._generator):
                self.belief, self.info = stretch.beliefs[-1], stretch.updated[-1]
                yield stretch
            return
        for time, y in zip(times, values, strict=True):
            self.belief, stretch = stepped(self._filter, self.belief, time, y, self._generator)
            self.info = stretch.updated[-1]
            yield stretch


@dataclass
class _Collected:
    """What the stretches of a series have reported so far."""

    means: list[Tensor] = field(default_factory=list)
    covariances: list[Tensor] = field(default_factory=list)
    evidence: list[float] = field(default_factory=list)
    infos: list[StepInfo] = field(default_factory=list)
    predict_infos: list[StepInfo] = field(default_factory=list)
    beliefs: list[Belief] = field(default_factory=list)
    before: list[Belief] = field(default_factory=list)

    def add(self, stretch: Stretch, keep_beliefs: bool) -> None:
        self.means.append(stretch.means)
        self.covariances.append(stretch.covariances)
        self.evidence += stretch.log_evidence
        self.predict_infos += stretch.predicted
        self.infos += stretch.updated
        if keep_beliefs:
            self.beliefs += stretch.beliefs
            self.before += stretch.before


def run_filter(
    filter: Filter,
    series: ObservationSeries,
    until: Any = None,
    seed: int = 0,
    progress: bool = False,
    keep_beliefs: bool = False,
) -> FilterResult:
    """Filter a whole series from its start.

    Args:
        filter: any filter.
        series: the readings, and when the prior holds (``series.start``); the first may be right then.
        until: predict on to this time (SDE units, or a date where the series has dates) after the last reading.
        seed: seeds the generator of all steps.
        progress: show a progress bar.
        keep_beliefs: keep all m beliefs; without, memory does not grow with them.

    Returns:
        Moments and evidence after every reading, and the final belief.

    Raises:
        InputError: ``until`` lies before the last reading, the first reading comes absurdly long after a start that
            was only assumed, or the filter cannot take this series.
        FilterError: a step failed.
    """
    return run_and_predicted(filter, series, until, seed, progress, keep_beliefs)[0]


@one_thread()
def run_and_predicted(
    filter: Filter, series: ObservationSeries, until: Any, seed: int, progress: bool, keep_beliefs: bool
) -> tuple[FilterResult, tuple[Belief, ...]]:
    """What ``run_filter`` gives, and the beliefs before the readings where these are kept and the filter tells them."""
    if not isinstance(series, ObservationSeries):
        raise InputError("series must be an ObservationSeries(times, values).")
    times = series.times.tolist()
    end = None if until is None else series.time_of(until, "until")
    if end is not None and not times[-1] <= end < math.inf:
        raise InputError(f"until must be finite and not before the last reading at {times[-1]:g}, got {until!r}.")
    require_start_meant(filter, series)
    tracker = Tracker(filter, seed, series.start)
    found = _Collected()
    for stretch in _with_progress(
        tracker.stretches(times, series.values.to(filter.model.device)), len(times), progress
    ):
        found.add(stretch, keep_beliefs)
    if end is not None and end > tracker.belief.time:
        tracker.predict(end - tracker.belief.time)
        found.predict_infos.append(tracker.info)
    result = FilterResult(
        times=series.times,
        means=torch.cat(found.means),
        covariances=torch.cat(found.covariances),
        log_evidence=torch.tensor(found.evidence, dtype=torch.float64),
        infos=tuple(found.infos),
        predict_infos=tuple(found.predict_infos),
        final=tracker.belief,
        beliefs=tuple(found.beliefs),
        clock=series.clock,
        filter=filter,
        series=series,
    )
    return result, tuple(found.before) if len(found.before) == len(times) else ()


def require_start_meant(filter: Filter, series: ObservationSeries) -> None:
    """Raise InputError where the prior would be forgotten a thousand times over before the first reading."""
    if not series.start_assumed:
        return
    relaxations = series.times[0].item() * filter.model.relaxation_rate
    if relaxations > FORGOTTEN:
        raise InputError(
            f"series has its first reading at {series.times[0].item():.10g}, some {relaxations:.0g} relaxation times "
            "after the prior at time zero; give the series start= near its first time, or start=0 if the prior does "
            "hold at zero."
        )


def _with_progress(stretches: Iterator[Stretch], total: int, progress: bool) -> Iterator[Stretch]:
    if not progress:
        yield from stretches
        return
    from rich.progress import Progress

    with Progress() as bar:
        task = bar.add_task("filtering", total=total)
        for stretch in stretches:
            yield stretch
            bar.advance(task, len(stretch.updated))
