"""Driving a filter: over a whole series, or reading by reading. Both take the same steps in the same order."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.info import StepInfo
from jkofilter.errors import InputError
from jkofilter.files import load_tensors, save_tensors
from jkofilter.filters.base import Filter, as_reading
from jkofilter.models.series import ObservationSeries
from jkofilter.numerics.draws import seeded
from jkofilter.transport.storage import decoded_belief, encoded_belief

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


def failed(info: StepInfo) -> bool:
    """Whether a step went wrong and kept the belief it was given, as under ``on_failure="report"``."""
    return info.status not in ("ok", "skipped")


class Tracker:
    """A filter fed step by step; gives what ``run_filter`` gives for the same seed and steps.

    Args:
        filter: any filter.
        seed: seeds the one generator that all steps share.

    Attributes:
        belief: the law now. A step that raises leaves it as it was.
        info: what the last step reported.
    """

    def __init__(self, filter: Filter, seed: int = 0) -> None:
        self._filter = filter
        self._generator = seeded(seed, filter.model.device)
        self.belief: Belief = filter.init(self._generator)
        self.info = StepInfo()

    def predict(self, duration: float) -> Belief:
        """Let ``duration`` (time units) pass; returns the new belief."""
        self.belief, self.info = self._filter.predict(self.belief, duration, self._generator)
        return self.belief

    def update(self, y: Any) -> Belief:
        """Take in a reading (p,), a number for p = 1, NaN where missing; returns the new belief.

        Raises:
            InputError: ``y`` is no reading.
        """
        self.belief, self.info = self._filter.update(self.belief, as_reading(y, self._filter.model), self._generator)
        return self.belief


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

    def __len__(self) -> int:
        """Number of readings m."""
        return self.times.shape[0]

    @property
    def status(self) -> str:
        """ "ok", or the first thing that went wrong."""
        return next((info.status for info in (*self.predict_infos, *self.infos) if failed(info)), "ok")

    def to_frame(self) -> pd.DataFrame:
        """One row per reading: time, mean and sd of every coordinate, log evidence, status, ess, seconds.

        The status is that of the predict before the reading where it failed, else that of the update.
        """
        means = self.means.cpu().numpy()
        deviations = torch.diagonal(self.covariances, dim1=-2, dim2=-1).sqrt().cpu().numpy()
        columns: dict[str, Any] = {"time": self.times.numpy()}
        for i in range(means.shape[1]):
            columns[f"mean{i}"] = means[:, i]
            columns[f"sd{i}"] = deviations[:, i]
        columns["log_evidence"] = self.log_evidence.numpy()
        steps = list(zip(self.predict_infos, self.infos, strict=False))
        columns["status"] = [p.status if failed(p) else u.status for p, u in steps]
        columns["note"] = [u.note for _, u in steps]
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
            generator = seeded(seed, self.means.device)
            draws = torch.stack([belief.sample(samples, generator) for belief in self.beliefs])
            data["draws"] = (("time", "sample", "state"), draws.cpu().numpy())
        return xarray.Dataset(data, coords={"time": self.times.numpy()})

    def plot(self, path: Tensor | None = None, series: ObservationSeries | None = None) -> Figure:
        """The picture of this result: heat map when the beliefs were kept, else mean and 90 % band.

        Args:
            path: true states at ``times``, (m, d), to show with it.
            series: readings to show with it.
        """
        # Drawing sits above the driver; imported here so that module imports keep pointing downwards.
        from jkofilter.plotting import plot_result

        return plot_result(self, path=path, series=series)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything, beliefs included, to one file (torch format, plain tensors and numbers only).

        Raises:
            InputError: the folder of ``path`` is not there or cannot be written to, or a belief holds a prior or map
                that is not stored.
        """
        document = {f.name: getattr(self, f.name) for f in fields(self)}
        document["infos"] = [{"fields": vars(info)} for info in self.infos]
        document["predict_infos"] = [{"fields": vars(info)} for info in self.predict_infos]
        document["final"] = encoded_belief(self.final)
        document["beliefs"] = [encoded_belief(belief) for belief in self.beliefs]
        save_tensors(path, document)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FilterResult:
        """Read what ``save`` wrote; no code in the file is run.

        Raises:
            InputError: the file is missing or is not a saved result.
        """

        def decode(document: dict[str, Any]) -> FilterResult:
            document["infos"] = tuple(StepInfo(**entry["fields"]) for entry in document["infos"])
            document["predict_infos"] = tuple(StepInfo(**entry["fields"]) for entry in document["predict_infos"])
            document["final"] = decoded_belief(document["final"])
            document["beliefs"] = tuple(decoded_belief(entry) for entry in document["beliefs"])
            return cls(**document)

        return load_tensors(path, decode, "a result written by FilterResult.save()")


def run_filter(
    filter: Filter,
    series: ObservationSeries,
    until: float | None = None,
    seed: int = 0,
    progress: bool = False,
    keep_beliefs: bool = False,
) -> FilterResult:
    """Filter a whole series from time zero.

    Args:
        filter: any filter.
        series: the readings; the first may be at time zero.
        until: predict on to this time (SDE units) after the last reading.
        seed: seeds the generator of all steps.
        progress: show a progress bar.
        keep_beliefs: keep all m beliefs; without, memory does not grow with them.

    Returns:
        Moments and evidence after every reading, and the final belief.

    Raises:
        InputError: ``until`` lies before the last reading, or the filter cannot take this series.
        FilterError: a step failed.
    """
    if not isinstance(series, ObservationSeries):
        raise InputError("series must be an ObservationSeries(times, values).")
    times = series.times.tolist()
    if until is not None and not times[-1] <= until < float("inf"):
        raise InputError(f"until must be finite and not before the last reading at {times[-1]:g}, got {until!r}.")
    tracker = Tracker(filter, seed)
    device = filter.model.device
    beliefs, infos, predict_infos, means, covariances, evidence = [], [], [], [], [], []
    for time, y in _with_progress(list(zip(times, series.values, strict=True)), progress):
        predicted, updated = _advance(tracker, time, y.to(device))
        predict_infos.append(predicted)
        infos.append(updated)
        belief = tracker.belief
        means.append(belief.mean)
        covariances.append(belief.covariance)
        evidence.append(belief.log_evidence)
        if keep_beliefs:
            beliefs.append(belief)
    if until is not None and until > tracker.belief.time:
        tracker.predict(until - tracker.belief.time)
        predict_infos.append(tracker.info)
    return FilterResult(
        times=series.times,
        means=torch.stack(means),
        covariances=torch.stack(covariances),
        log_evidence=torch.tensor(evidence, dtype=torch.float64),
        infos=tuple(infos),
        predict_infos=tuple(predict_infos),
        final=tracker.belief,
        beliefs=tuple(beliefs),
    )


def _advance(tracker: Tracker, time: float, y: Tensor) -> tuple[StepInfo, StepInfo]:
    """Predict to ``time`` and take in the reading there; what the two steps reported."""
    tracker.predict(max(time - tracker.belief.time, 0.0))
    predicted = tracker.info
    if failed(predicted):
        # The belief has stayed at an earlier time, where this reading was not taken.
        return predicted, StepInfo(status=predicted.status)
    tracker.update(y)
    return predicted, tracker.info


def _with_progress(steps: list[tuple[float, Tensor]], progress: bool) -> Any:
    if not progress:
        return steps
    from rich.progress import track

    return track(steps, description="filtering")
