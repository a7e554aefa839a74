"""Is the model right? How each reading lay within what was predicted for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from scipy.special import ndtri
from scipy.stats import chi2, kstest
from torch import Generator, Tensor

from jkofilter._typing import Array
from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.summaries import points_of
from jkofilter.beliefs.timing import at_time
from jkofilter.errors import FilterError
from jkofilter.filters.contract import Filter, failed
from jkofilter.models.observations import TailedObservation
from jkofilter.models.series import ObservationSeries, times_shown
from jkofilter.models.state_space import StateSpaceModel
from jkofilter.numerics.arrays import as_array
from jkofilter.numerics.autocorrelation import autocorrelation
from jkofilter.numerics.draws import stream, uniform
from jkofilter.numerics.resampling import resample
from jkofilter.numerics.threads import one_thread
from jkofilter.pictures.predictive import predictive_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIMULATED = 10_000
"""Readings simulated for a sensor that does not know its distribution function."""
_LAGS = 10
_EDGE = 1e-12


@dataclass(frozen=True, eq=False)
class PredictiveChecks:
    """One-step-ahead checks of a run: of a right model the ranks are uniform and independent (Dawid 1984).

    Attributes:
        series: the readings.
        pit: P(Y <= y | all readings before), (m, p): the probability integral transform of each component under its
            own predictive law, NaN where it is missing. Of whole numbers, drawn between P(Y < y) and P(Y <= y).
        log_density: log p(y_k | y_1..y_(k-1)), (m,), nats.
    """

    series: ObservationSeries
    pit: Array
    log_density: Array

    @property
    def residuals(self) -> Array:
        """The ranks as standard normal residuals, (m, p): independent N(0, 1) of a right model."""
        return np.asarray(ndtri(np.clip(self.pit, _EDGE, 1 - _EDGE)))

    def uniformity(self, component: int = 0) -> float:
        """p-value of the Kolmogorov-Smirnov test that the ranks of a component are uniform."""
        found = self.pit[:, component]
        return float(kstest(found[~np.isnan(found)], "uniform").pvalue)

    def ljung_box(self, lags: int = _LAGS, component: int = 0) -> tuple[float, float]:
        """Statistic and p-value that residuals of a component are uncorrelated up to so many lags (Ljung & Box 1978).

        Readings that are missing are left out; lags count the others.
        """
        found = self.residuals[:, component]
        statistic, used = _portmanteau(found[~np.isnan(found)], lags)
        return statistic, float(chi2.sf(statistic, used))

    def coverage(self, level: float = 0.9, component: int = 0) -> float:
        """Share of the readings within the central predictive interval of that level."""
        found = self.pit[:, component]
        found = found[~np.isnan(found)]
        return float(((found >= 0.5 - 0.5 * level) & (found <= 0.5 + 0.5 * level)).mean())

    def to_frame(self) -> pd.DataFrame:
        """One row a reading: time, reading, rank and residual of each component, log predictive density."""
        values = as_array(self.series.values)
        columns = {"time": times_shown(self.series.times, self.series.clock)}
        for i in range(values.shape[1]):
            columns |= {f"y{i}": values[:, i], f"pit{i}": self.pit[:, i], f"residual{i}": self.residuals[:, i]}
        return pd.DataFrame(columns | {"log_density": self.log_density})

    def summary(self) -> pd.DataFrame:
        """One row a component: readings, mean and sd of the residuals, coverage, p-values of both tests."""
        rows = []
        for i in range(self.pit.shape[1]):
            present = self.residuals[~np.isnan(self.pit[:, i]), i]
            rows.append(
                {
                    "component": i,
                    "readings": len(present),
                    "residual mean": present.mean(),
                    "residual sd": present.std(),
                    "coverage of 90 %": self.coverage(0.9, i),
                    "uniformity p": self.uniformity(i),
                    "Ljung-Box p": self.ljung_box(component=i)[1],
                }
            )
        return pd.DataFrame(rows)

    def plot(self) -> Figure:
        """Histogram of the ranks, residuals over time, and their autocorrelation, of every component."""
        return predictive_figure(self.series, self.pit, self.residuals, _LAGS)


@one_thread()
def predictive_checks(
    filter: Filter, series: ObservationSeries, beliefs: Sequence[Belief], increments: Tensor, seed: int
) -> PredictiveChecks:
    """The checks of a run.

    Args:
        filter: that made it.
        series: the m readings.
        beliefs: after each of them.
        increments: log density of each reading given those before, (m,).
        seed: seeds the draws of filters and sensors that need some.

    Raises:
        FilterError: a step failed.
    """
    generator = stream(seed, "forecast", filter.model.device)
    before: Belief = at_time(filter.init(generator), series.start)
    ranks = []
    for y, time, after in zip(series.values, series.times.tolist(), beliefs, strict=True):
        if time > before.time:
            before, info = filter.predict(before, time - before.time, generator)
            if failed(info):
                raise FilterError(f"no prediction for the reading at time {time:g}: {info.status}")
        ranks.append(_ranks(filter.model, before, y, generator))
        before = after
    return PredictiveChecks(series, np.stack(ranks), as_array(increments))


def _ranks(model: StateSpaceModel, before: Belief, y: Tensor, generator: Generator) -> Array:
    """P(Y_i <= y_i) of every component under a predicted law, (p,)."""
    reading = y.to(dtype=model.dtype, device=model.device)
    if reading.isnan().all():
        return np.full(len(reading), np.nan)
    x, weights = points_of(before)
    if isinstance(model.observation, TailedObservation):
        below, above = (weights.to(x) @ tail.detach() for tail in model.observation.tails(reading, x))
    else:
        chosen = resample(weights.log(), "systematic", generator, _SIMULATED)
        drawn = model.observation.sample(x[chosen], generator).detach()
        below, above = (drawn <= reading).to(x).mean(0), (drawn >= reading).to(x).mean(0)
    # Of a reading without ties the two add up to one, and nothing is drawn.
    share = uniform(below, generator)
    rank = torch.where(below + above > 1 + 1e-9, (1 - above) + share * (below + above - 1), below)
    return as_array(torch.where(reading.isnan(), torch.nan, rank.clamp(0.0, 1.0)))


def _portmanteau(residuals: Array, lags: int) -> tuple[float, int]:
    """Q = n (n + 2) sum_k r_k^2 / (n - k), and over how many lags."""
    n = len(residuals)
    used = min(lags, n - 1)
    r = autocorrelation(residuals, used)
    return float(n * (n + 2) * (r**2 / (n - np.arange(1, used + 1))).sum()), used
