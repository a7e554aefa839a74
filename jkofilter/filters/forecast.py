"""The future: laws after the last reading."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import pandas as pd
import torch
from torch import Tensor

from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.info import StepInfo
from jkofilter.errors import FilterError, InputError
from jkofilter.filters.contract import Filter, failed
from jkofilter.models.clock import Clock
from jkofilter.models.series import moment_columns
from jkofilter.numerics.draws import stream
from jkofilter.numerics.threads import one_thread
from jkofilter.pictures.over_time import Track, track_figure
from jkofilter.pictures.style import DEFAULT_LABELS, Labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Forecast(Sequence[Belief]):
    """Laws of the state at times to come; a sequence of them.

    Attributes:
        beliefs: in order of time.
        infos: what each prediction reported.
        clock: what makes dates of times; None for plain numbers.
    """

    beliefs: tuple[Belief, ...]
    infos: tuple[StepInfo, ...]
    clock: Clock | None = None

    def __len__(self) -> int:
        """Number of times k."""
        return len(self.beliefs)

    def __iter__(self) -> Iterator[Belief]:
        """The beliefs in order."""
        return iter(self.beliefs)

    @overload
    def __getitem__(self, index: int) -> Belief: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Belief]: ...
    def __getitem__(self, index: int | slice) -> Belief | Sequence[Belief]:
        """The belief at the ``index``-th time."""
        return self.beliefs[index]

    @property
    def times(self) -> Tensor:
        """When, (k,), in the SDE's unit."""
        return torch.tensor([belief.time for belief in self.beliefs], dtype=torch.float64)

    @property
    def means(self) -> Tensor:
        """(k, d)."""
        return torch.stack([belief.mean for belief in self.beliefs])

    @property
    def covariances(self) -> Tensor:
        """(k, d, d)."""
        return torch.stack([belief.covariance for belief in self.beliefs])

    def to_frame(self, quantiles: Sequence[float] = (0.05, 0.5, 0.95)) -> pd.DataFrame:
        """One row a time: time (a date where the series had dates), mean, sd and quantiles of every coordinate."""
        columns = moment_columns(self.times, self.means, self.covariances, self.clock)
        for i in range(self.beliefs[0].dim):
            for q in quantiles:
                columns[f"q{q:g}_{i}"] = [belief.quantile(q, i) for belief in self.beliefs]
        columns["note"] = [info.note for info in self.infos]
        return pd.DataFrame(columns)

    def plot(self, labels: Labels = DEFAULT_LABELS) -> Figure:
        """Heat map of the densities on the line, means and 90 % bands in more dimensions."""
        return track_figure(Track(self.times, self.means, self.covariances, self.beliefs, self.clock), labels=labels)


@one_thread()
def forecast(filter: Filter, belief: Belief, times: Sequence[float], seed: int, clock: Clock | None) -> Forecast:
    """What becomes of a belief without further readings.

    Args:
        filter: that made the belief.
        belief: the law now.
        times: increasing, none before the belief's, in the SDE's unit.
        seed: seeds all draws.
        clock: what makes dates of times.

    Raises:
        InputError: times are missing, not increasing, or lie before the belief's.
        FilterError: a step failed.
    """
    if not times:
        raise InputError("times must hold at least one time.")
    generator = stream(seed, "forecast", filter.model.device)
    beliefs: list[Belief] = []
    infos: list[StepInfo] = []
    for time in times:
        if not time >= belief.time:
            raise InputError(
                f"times must be increasing, none before {belief.time:g}, got {time:g}; of the past, smooth() tells."
            )
        belief, info = filter.predict(belief, time - belief.time, generator)
        if failed(info):
            raise FilterError(f"forecast from time {belief.time:g}: {info.status}")
        beliefs.append(belief)
        infos.append(info)
    return Forecast(tuple(beliefs), tuple(infos), clock)
