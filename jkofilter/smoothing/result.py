"""What smoothing makes of a series: laws of the past given all readings, and paths drawn from them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from jkofilter._typing import Paths
from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.info import StepInfo
from jkofilter.errors import InputError
from jkofilter.files import DamagedError, Format, Table
from jkofilter.filters.contract import joined
from jkofilter.filters.result import (
    FilterResult,
    decoded_clock,
    decoded_infos,
    decoded_result,
    encoded_infos,
    encoded_result,
)
from jkofilter.models.clock import Clock, stored_clock
from jkofilter.models.series import ObservationSeries, moment_columns, times_by, times_shown
from jkofilter.numerics.draws import stream
from jkofilter.numerics.threads import one_thread
from jkofilter.pictures.over_time import Track, track_figure
from jkofilter.pictures.style import DEFAULT_LABELS, Labels
from jkofilter.smoothing.contract import PathDraws, Record, Smoother, same_time
from jkofilter.smoothing.residence import Residence, residence
from jkofilter.transport.laws.storage import decoded_belief, encoded_belief

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

FORMAT = Format("jkofilter smoother result", 1, "a result written by SmootherResult.save()", lambda found: False)


@dataclass(frozen=True, eq=False)
class SmootherResult:
    """The laws of the past given all readings.

    Attributes:
        times: of the readings and the others asked for, increasing, (k,).
        means: (k, d).
        covariances: (k, d, d).
        beliefs: the smoothing law at each of the times.
        infos: what was done for each.
        initial: the law at the start, when the prior holds.
        filtered: what the forward pass made of the series, beliefs included.
        backward_log_evidence: log p of all readings as the backward pass finds it; None where that tells none.
        clock: what makes dates of times, where the series had dates.
        smoother: the filter; None in a result that was loaded.
        record: its laws; None in a result that was loaded.
    """

    times: Tensor
    means: Tensor
    covariances: Tensor
    beliefs: tuple[Belief, ...]
    infos: tuple[StepInfo, ...]
    initial: Belief
    filtered: FilterResult
    backward_log_evidence: float | None = None
    clock: Clock | None = None
    smoother: Smoother | None = None
    record: Record | None = None

    def __len__(self) -> int:
        """Number of times k."""
        return self.times.shape[0]

    @property
    def log_evidence(self) -> float:
        """log p of all readings, from the forward pass."""
        return self.filtered.log_evidence[-1].item()

    @property
    def note(self) -> str:
        """What a user should know; empty where there is nothing."""
        own = [
            f"smoothing at time {t:g}: {i.note}" for t, i in zip(self.times.tolist(), self.infos, strict=True) if i.note
        ]
        return joined(self.filtered.note, *own)

    def sample_paths(self, n: int, times: Any = None, seed: int = 0) -> Paths:
        """``n`` whole paths given all readings, (n, m, d).

        Args:
            n: how many.
            times: increasing, between the start and the last reading, (m,); numbers or dates. None takes ``times``.
            seed: seeds the draws.

        Raises:
            InputError: a time lies outside the record, or the result was loaded from a file.
            FilterError: paths cannot be drawn.
        """
        return self.path_draws(n, times, seed).states

    @one_thread()
    def path_draws(self, n: int, times: Any = None, seed: int = 0) -> PathDraws:
        """As ``sample_paths``, with what was done for them: effective number of draws, notes."""
        if self.smoother is None or self.record is None:
            raise InputError("a result that was loaded knows no model to draw paths from; smooth the series again.")
        if not isinstance(n, int) or n < 1:
            raise InputError(f"n must be an integer of 1 or more, got {n!r}.")
        return self.smoother.paths(self.record, n, self._times(times), stream(seed, "paths", self.means.device))

    def residence(self, regions: Mapping[str, Any], n: int = 1000, times: Any = None, seed: int = 0) -> Residence:
        """In which of some regions, such as wells, the past was spent, and how often it went from one to another.

        Args:
            regions: by name, as for ``Belief.probability``; they must not overlap.
            n: how many paths tell.
            times: as for ``sample_paths``; jumps between two of them are not seen.
            seed: seeds the draws.

        Raises:
            InputError: as ``sample_paths``, or a region cannot be read.
        """
        found = self._times(times)
        paths = self.sample_paths(n, times, seed)
        return residence(paths, torch.tensor(found, dtype=torch.float64), regions, self.clock)

    def _times(self, times: Any) -> list[float]:
        if times is None:
            return self.times.tolist()
        found = times_by(self.clock, times, "times")
        start, end = self.initial.time, self.times[-1].item()
        for before, time in zip([-float("inf"), *found], found, strict=False):
            if not (start <= time or same_time(start, time)) or not (time <= end or same_time(time, end)):
                raise InputError(
                    f"times must lie between the start at {start:g} and the last reading at {end:g}, got {time:g}."
                )
            if not before < time:
                raise InputError(f"times must be increasing, got {time:g} after {before:g}.")
        return found

    def to_frame(self) -> pd.DataFrame:
        """One row a time: time, mean and sd of every coordinate, note. Times are dates where the series had dates."""
        columns = moment_columns(self.times, self.means, self.covariances, self.clock)
        columns["note"] = [info.note for info in self.infos]
        return pd.DataFrame(columns)

    def to_xarray(self, samples: int = 0, seed: int = 0) -> xarray.Dataset:
        """Dataset over (time, state, state2), with ``samples`` whole paths over (sample, time, state).

        Raises:
            InputError: xarray is not installed, or paths are asked of a result that was loaded.
        """
        try:
            import xarray
        except ImportError as error:
            raise InputError("to_xarray needs the optional extra: pip install 'jkofilter[xarray]'.") from error
        data = {
            "mean": (("time", "state"), self.means.cpu().numpy()),
            "covariance": (("time", "state", "state2"), self.covariances.cpu().numpy()),
        }
        if samples:
            paths = self.sample_paths(samples, seed=seed)
            data["paths"] = (("sample", "time", "state"), paths.cpu().numpy())
        return xarray.Dataset(
            data, coords={"time": times_shown(self.times, self.clock)}, attrs={"log_evidence": self.log_evidence}
        )

    def plot(
        self,
        path: Tensor | None = None,
        series: ObservationSeries | None = None,
        labels: Labels = DEFAULT_LABELS,
        readings_on_state_axis: bool = False,
    ) -> Figure:
        """The picture of this result: heat map on the line, else mean and 90 % band.

        Args:
            path: true states at ``times``, (k, d), to show with it.
            series: readings to show with it.
            labels: of the axes, with units.
            readings_on_state_axis: in one dimension, draw readings over the states, where they are states plus noise.
        """
        track = Track(self.times, self.means, self.covariances, self.beliefs, self.clock)
        return track_figure(track, path, series, labels, readings_on_state_axis)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything but the model to one file (torch format, plain tensors and numbers only).

        Raises:
            InputError: the folder of ``path`` is not there or cannot be written to, or a belief holds a prior or map
                that is not stored.
        """
        document = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("smoother", "record")}
        document["clock"] = stored_clock(self.clock)
        document["infos"] = encoded_infos(self.infos)
        document["filtered"] = encoded_result(self.filtered)
        document["initial"] = encoded_belief(self.initial)
        document["beliefs"] = [encoded_belief(belief) for belief in self.beliefs]
        FORMAT.save(path, document)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SmootherResult:
        """Read what ``save`` wrote; no code in the file is run.

        Raises:
            InputError: the file is missing, is not a saved result, or is damaged.
        """
        return FORMAT.load(path, _decoded)


def _decoded(document: Table) -> SmootherResult:
    """Raises DamagedError where something is missing or does not belong together."""
    found = Table(
        document
        | {
            "infos": decoded_infos(document.tables("infos")),
            "filtered": decoded_result(document.table("filtered")),
            "initial": decoded_belief(document.table("initial")),
            "beliefs": tuple(decoded_belief(entry) for entry in document.tables("beliefs")),
            "clock": decoded_clock(document.get("clock")),
        }
    ).built(SmootherResult)
    k, d = len(found.beliefs), found.initial.dim
    shapes = [tuple(one.shape) for one in (found.times, found.means, found.covariances)]
    if shapes != [(k,), (k, d), (k, d, d)] or len(found.infos) != k:
        raise DamagedError("times, moments, beliefs and infos do not belong together")
    return found
