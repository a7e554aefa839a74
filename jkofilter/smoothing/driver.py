"""Driving a filter forth and back over a series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from jkofilter.beliefs.info import StepInfo
from jkofilter.beliefs.timing import at_time
from jkofilter.errors import FilterError, InputError
from jkofilter.filters.contract import Filter, failed, joined
from jkofilter.filters.driver import require_start_meant, run_and_predicted
from jkofilter.filters.result import FilterResult
from jkofilter.models.series import ObservationSeries
from jkofilter.numerics.draws import stream
from jkofilter.numerics.threads import one_thread
from jkofilter.smoothing.contract import Record, Smoother
from jkofilter.smoothing.result import SmootherResult


@one_thread()
def run_smoother(
    filter: Filter, series: ObservationSeries, at: Any = None, seed: int = 0, progress: bool = False
) -> SmootherResult:
    """Filter a whole series, and go back over it: the laws of the past given all readings.

    Args:
        filter: one that can smooth.
        series: the readings, and when the prior holds (``series.start``).
        at: other times at which the law is wanted, between the start and the last reading; numbers in the SDE's unit,
            or dates where the series has dates.
        seed: seeds all draws; the forward pass is that of ``run_filter`` where ``at`` is None.
        progress: show a progress bar.

    Raises:
        InputError: the filter cannot smooth or cannot take this series, or ``at`` holds times outside the record.
        FilterError: a step failed, or the backward pass did.
    """
    if not isinstance(filter, Smoother):
        raise InputError(
            f"{type(filter).__name__} cannot smooth; use SpectralFilter or GridFilter on the line or plane, "
            "KalmanFilter for linear models, or ParticleFilter in any dimension."
        )
    if not isinstance(series, ObservationSeries):
        raise InputError("series must be an ObservationSeries(times, values).")
    require_start_meant(filter, series)
    others = times_within(at, series, "at")
    filled, is_reading = _with_gaps(series, others)
    passed, predicted = run_and_predicted(filter, filled, None, seed, progress, keep_beliefs=True)
    if passed.status != "ok":
        raise FilterError(f"the forward pass did not go through: {passed.status}")
    prior = at_time(filter.init(stream(seed, "filter", filter.model.device)), series.start)
    at_start = bool(passed.times[0] == series.start)
    record = Record(
        predicted if not predicted or at_start else (prior, *predicted),
        passed.beliefs if at_start else (prior, *passed.beliefs),
        tuple(_readings(filled) if at_start else [None, *_readings(filled)]),
    )
    found = filter.smoothed(record, stream(seed, "smoothing", filter.model.device))
    first = 0 if at_start else 1
    return SmootherResult(
        times=passed.times,
        means=torch.stack([law.mean for law in found.laws[first:]]),
        covariances=torch.stack([law.covariance for law in found.laws[first:]]),
        beliefs=found.laws[first:],
        infos=found.infos[first:],
        initial=found.laws[0],
        filtered=replace(_at_readings(passed, is_reading), series=series),
        backward_log_evidence=found.log_evidence,
        clock=series.clock,
        smoother=filter,
        record=record,
    )


def times_within(at: Any, series: ObservationSeries, name: str) -> list[float]:
    """Other times asked for, increasing, each once.

    Raises:
        InputError: they are no times, or lie outside the record.
    """
    if at is None:
        return []
    found = sorted(set(series.times_of(at, name)))
    start, end = series.start, series.times[-1].item()
    outside = next((time for time in found if not start <= time <= end), None)
    if outside is not None:
        raise InputError(
            f"{name} must lie between the start at {start:g} and the last reading at {end:g}, got {outside:g}; for "
            "what comes after, use forecast()."
        )
    return found


def _with_gaps(series: ObservationSeries, others: Sequence[float]) -> tuple[ObservationSeries, Tensor]:
    """The series with rows without a reading at other times, and which rows are its own."""
    new = torch.tensor(others, dtype=torch.float64)
    new = new[~torch.isin(new, series.times)]
    times = torch.cat([series.times, new])
    order = torch.argsort(times)
    missing = series.values.new_full((len(new), series.values.shape[1]), torch.nan)
    values = torch.cat([series.values, missing])[order]
    if len(new) == 0:
        return series, torch.ones(len(series), dtype=torch.bool)
    return replace(series, times=times[order], values=values), order < len(series)


def _readings(series: ObservationSeries) -> list[Tensor | None]:
    return [None if torch.isnan(y).all() else y for y in series.values]


def _at_readings(passed: FilterResult, is_reading: Tensor) -> FilterResult:
    """The result at the readings alone: what the predicts of one gap report is told as one."""
    rows = is_reading.nonzero()[:, 0].tolist()
    starts = [0, *(row + 1 for row in rows[:-1])]
    return replace(
        passed,
        times=passed.times[rows],
        means=passed.means[rows],
        covariances=passed.covariances[rows],
        log_evidence=passed.log_evidence[rows],
        infos=tuple(passed.infos[row] for row in rows),
        predict_infos=tuple(
            _together(passed.predict_infos[start : row + 1]) for start, row in zip(starts, rows, strict=True)
        ),
        beliefs=tuple(passed.beliefs[row] for row in rows),
    )


def _together(infos: Sequence[StepInfo]) -> StepInfo:
    """What predicts one after the other report, as one: the last one's details, and the sum of what adds up."""
    last = infos[-1]
    if len(infos) == 1:
        return last
    status = next((info.status for info in infos if failed(info)), last.status)
    seconds = sum(info.seconds for info in infos)
    details = dict(last.details)
    if "kl" in details:
        details["kl"] = sum(info.details.get("kl", 0.0) for info in infos)
    return replace(last, status=status, seconds=seconds, note=joined(*(i.note for i in infos)), details=details)
