"""What a filter makes of a series: moments, evidence and beliefs after every reading."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from jkofilter._typing import Array
from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.info import StepInfo
from jkofilter.beliefs.region import as_region
from jkofilter.errors import InputError
from jkofilter.files import DamagedError, Format, Table
from jkofilter.filters.contract import Filter, failed, joined
from jkofilter.filters.forecast import Forecast, forecast
from jkofilter.filters.passage import first_passage
from jkofilter.filters.predictive import PredictiveChecks, predictive_checks
from jkofilter.models.clock import Clock, restored_clock, stored_clock
from jkofilter.models.series import ObservationSeries, is_one_time, moment_columns, times_by, times_shown
from jkofilter.numerics.draws import stream
from jkofilter.pictures.over_time import Track, track_figure
from jkofilter.pictures.style import DEFAULT_LABELS, Labels
from jkofilter.transport.laws.storage import decoded_belief, encoded_belief
from jkofilter.transport.time_steps import WORTH_A_NOTE

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


FORMAT = Format(
    "jkofilter result",
    1,
    "a result written by FilterResult.save()",
    lambda found: {"times", "means", "covariances", "infos", "predict_infos", "final"} <= set(found),
)
MOST_NOTES = 3
"""Notes of steps that the note of a run quotes."""


@dataclass(frozen=True, eq=False)
class FilterResult:
    """The filtering laws after each reading.

    Attributes:
        times: (m,).
        means: (m, d).
        covariances: (m, d, d).
        log_evidence: log p(y_1..y_k) after each reading, (m,).
        infos: what each update reported, m of them.
        predict_infos: what each predict reported; one more than m when ``until`` lies past the last reading.
        final: the belief at the end (at ``until`` when given).
        beliefs: all m beliefs when kept, else empty.
        clock: what makes dates of times, where the series had dates.
        filter: that made it; None in a result that was loaded.
        series: what it was made of; None in a result that was loaded.

    Where a predict failed and was reported, its reading is left out: the belief is that of an earlier time, and the
    next predict starts from there.
    """

    times: Tensor
    means: Tensor
    covariances: Tensor
    log_evidence: Tensor
    infos: tuple[StepInfo, ...]
    predict_infos: tuple[StepInfo, ...]
    final: Belief
    beliefs: tuple[Belief, ...] = ()
    clock: Clock | None = None
    filter: Filter | None = None
    series: ObservationSeries | None = None

    def __len__(self) -> int:
        """Number of readings m."""
        return self.times.shape[0]

    @property
    def status(self) -> str:
        """ "ok", or the first thing that went wrong."""
        return next((info.status for info in (*self.predict_infos, *self.infos) if failed(info)), "ok")

    @property
    def note(self) -> str:
        """What a user should know of the run as a whole; empty where there is nothing.

        That is what the fits of all JKO steps may have added together, however little each did, and the first few of
        the steps' own notes.
        """
        added = sum(info.details.get("kl", 0.0) for info in self.predict_infos)
        total = f"the fits of all steps may add up to {added:.2g} nats of KL" if added > WORTH_A_NOTE else ""
        noted = [f"{place}: {note}" for place, note in self._notes if note]
        more = f"and {len(noted) - MOST_NOTES} more notes" if len(noted) > MOST_NOTES else ""
        return joined(total, *noted[:MOST_NOTES], more)

    @property
    def _notes(self) -> list[tuple[str, str]]:
        """Where in the run a step stands, and its note: a row a reading, and one for the predict after the last."""
        pairs = zip(self.times.tolist(), self.predict_infos, self.infos, strict=False)
        rows = [(f"time {time:g}", joined(p.note, u.note)) for time, p, u in pairs]
        for last in self.predict_infos[len(rows) :]:
            rows.append(("after the last reading", last.status if failed(last) else last.note))
        return rows

    def to_frame(self) -> pd.DataFrame:
        """One row per reading: time, mean and sd of every coordinate, log evidence, status, note, ess, seconds.

        Times are dates where the series had dates. The status is that of the predict before the reading where it
        failed, else that of the update; the note is that of both, and in the last row also of the predict on to
        ``until``.
        """
        columns = moment_columns(self.times, self.means, self.covariances, self.clock)
        columns["log_evidence"] = self.log_evidence.numpy()
        steps = list(zip(self.predict_infos, self.infos, strict=False))
        columns["status"] = [p.status if failed(p) else u.status for p, u in steps]
        notes = [note for _, note in self._notes]
        columns["note"] = [*notes[: len(self) - 1], joined(*notes[len(self) - 1 :])]
        columns["ess"] = [np.nan if info.ess is None else info.ess for info in self.infos]
        columns["seconds"] = [p.seconds + u.seconds for p, u in steps]
        return pd.DataFrame(columns)

    def to_xarray(self, samples: int = 0, seed: int = 0) -> xarray.Dataset:
        """Dataset over (time, state, state2), and ``sample`` draws of each belief when they were kept.

        Args:
            samples: draws per belief; needs ``keep_beliefs=True``.
            seed: seeds the draws.

        Raises:
            InputError: xarray is not installed, or beliefs were not kept.
        """
        try:
            import xarray
        except ImportError as error:
            raise InputError("to_xarray needs the optional extra: pip install 'jkofilter[xarray]'.") from error
        data = {
            "mean": (("time", "state"), self.means.cpu().numpy()),
            "covariance": (("time", "state", "state2"), self.covariances.cpu().numpy()),
            "log_evidence": (("time",), self.log_evidence.numpy()),
        }
        if samples:
            if not self.beliefs:
                raise InputError("samples needs the beliefs; run with keep_beliefs=True.")
            generator = stream(seed, "draws", self.means.device)
            draws = torch.stack([belief.sample(samples, generator) for belief in self.beliefs])
            data["draws"] = (("time", "sample", "state"), draws.cpu().numpy())
        return xarray.Dataset(data, coords={"time": times_shown(self.times, self.clock)})

    def forecast(self, times: Any, seed: int = 0) -> Forecast:
        """The laws at times to come, without further readings.

        Args:
            times: increasing, after the last reading (after ``until``, where the run went on to that); numbers in the
                SDE's unit, or dates where the series has dates.
            seed: seeds all draws.

        Raises:
            InputError: the result was loaded from a file, or times are not of the future or not increasing.
            FilterError: a step failed.
        """
        if self.filter is None:
            raise InputError("a result that was loaded knows no filter to forecast with; run the series again.")
        return forecast(self.filter, self.final, times_by(self.clock, times, "times"), seed, self.clock)

    def passage(self, region: Any, by: Any, seed: int = 0) -> float | Array:
        """Probability to be in a region at some time from the end of the record on.

        Args:
            region: as for ``Belief.probability``: (low, high), None where there is no end; in more dimensions such a
                pair or None for each coordinate, or a function of points.
            by: a time after the last reading, or several, increasing; numbers in the SDE's unit, or dates.
            seed: seeds the paths that are drawn in more than one dimension.

        Returns:
            A number, or one for each time, (k,).

        Raises:
            InputError: the result was loaded from a file, the region cannot be read, or times are not of the future.
        """
        if self.filter is None:
            raise InputError("a result that was loaded knows no model to ask; run the series again.")
        times, now = times_by(self.clock, by, "by"), self.final.time
        if not times or not all(before <= time < math.inf for before, time in pairwise([now, *times])):
            raise InputError(f"by must hold finite times that increase from {now:g}, got {by!r}.")
        generator = stream(seed, "forecast", self.means.device)
        durations = [time - now for time in times]
        found = first_passage(self.filter.model, self.final, as_region(region, self.final.dim), durations, generator)
        return float(found[0]) if is_one_time(by) else found

    def predictive_checks(self, seed: int = 0) -> PredictiveChecks:
        """How each reading lay within what was predicted for it: ranks, residuals, log densities.

        Args:
            seed: seeds the draws of filters that need some, and of readings that are whole numbers.

        Raises:
            InputError: the result was loaded from a file, or beliefs were not kept.
            FilterError: a step failed.
        """
        if self.filter is None or self.series is None:
            raise InputError("a result that was loaded knows no filter to predict with; run the series again.")
        if not self.beliefs:
            raise InputError("predictive_checks needs the beliefs; run with keep_beliefs=True.")
        increments = self.log_evidence.diff(prepend=self.log_evidence.new_zeros(1))
        return predictive_checks(self.filter, self.series, self.beliefs, increments, seed)

    def plot(
        self,
        path: Tensor | None = None,
        series: ObservationSeries | None = None,
        labels: Labels = DEFAULT_LABELS,
        readings_on_state_axis: bool = False,
    ) -> Figure:
        """The picture of this result: heat map where beliefs on the line were kept, else mean and 90 % band.

        Args:
            path: true states at ``times``, (m, d), to show with it.
            series: readings to show with it.
            labels: of the axes, with units.
            readings_on_state_axis: in one dimension, draw readings over the states, where they are states plus noise.
        """
        beliefs = self.beliefs
        if beliefs and self.final.time > beliefs[-1].time:
            beliefs = (*beliefs, self.final)
        track = Track(self.times, self.means, self.covariances, beliefs, self.clock)
        return track_figure(track, path, series, labels, readings_on_state_axis)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything, beliefs included, to one file (torch format, plain tensors and numbers only).

        Raises:
            InputError: the folder of ``path`` is not there or cannot be written to, or a belief holds a prior or map
                that is not stored.
        """
        FORMAT.save(path, encoded_result(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FilterResult:
        """Read what ``save`` wrote, since release 0.1.0; no code in the file is run.

        Raises:
            InputError: the file is missing, is not a saved result, or is damaged.
        """
        return FORMAT.load(path, decoded_result)


def encoded_result(result: FilterResult) -> dict[str, Any]:
    """Plain tensors and numbers.

    Raises:
        InputError: a belief holds a prior or map that is not stored.
    """
    document = {f.name: getattr(result, f.name) for f in fields(result) if f.name not in ("filter", "series")}
    document["clock"] = stored_clock(result.clock)
    document["infos"] = encoded_infos(result.infos)
    document["predict_infos"] = encoded_infos(result.predict_infos)
    document["final"] = encoded_belief(result.final)
    document["beliefs"] = [encoded_belief(belief) for belief in result.beliefs]
    return document


def encoded_infos(infos: Sequence[StepInfo]) -> list[dict[str, Any]]:
    """Reports of steps as plain tables."""
    return [{"fields": vars(info)} for info in infos]


def decoded_infos(entries: list[Table]) -> tuple[StepInfo, ...]:
    """The inverse of ``encoded_infos``.

    Raises:
        DamagedError: something is missing.
    """
    return tuple(entry.table("fields").built(StepInfo) for entry in entries)


def decoded_result(document: Table) -> FilterResult:
    """The inverse of ``encoded_result``.

    Raises:
        DamagedError: something is missing or does not belong together.
    """
    found = Table(
        document
        | {
            "infos": decoded_infos(document.tables("infos")),
            "predict_infos": decoded_infos(document.tables("predict_infos")),
            "final": decoded_belief(document.table("final")),
            "beliefs": tuple(decoded_belief(entry) for entry in document.tables("beliefs")),
            "clock": decoded_clock(document.get("clock")),
        }
    ).built(FilterResult)
    shapes = [tuple(one.shape) for one in (found.times, found.means, found.covariances, found.log_evidence)]
    m, d = len(found.infos), found.final.dim
    if shapes != [(m,), (m, d), (m, d, d), (m,)] or len(found.predict_infos) not in (m, m + 1):
        raise DamagedError("times, moments, evidence and infos do not belong together")
    return found


def decoded_clock(stored: Any) -> Clock | None:
    """A clock that was stored; results from before there were dates have none.

    Raises:
        DamagedError: it is no clock.
    """
    if not isinstance(stored, dict | None):
        raise DamagedError(f"'clock' is a {type(stored).__name__} and no table")
    try:
        return restored_clock(stored)
    except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError("the clock is no unit and origin") from error
