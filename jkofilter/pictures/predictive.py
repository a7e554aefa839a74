"""Predictive checks: ranks, residuals over time, autocorrelation."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import binom

from jkofilter._typing import Array
from jkofilter.models.series import ObservationSeries
from jkofilter.numerics.arrays import as_array
from jkofilter.numerics.autocorrelation import autocorrelation
from jkofilter.pictures.over_time import on_axis
from jkofilter.pictures.style import COLOURS, DPI, FONT, ORANGE, label_axes

BINS = 10
MAX_COMPONENTS = 4


def predictive_figure(series: ObservationSeries, pit: Array, residuals: Array, lags: int) -> Figure:
    """A row a component, of three panels: what a right model gives lies within the grey bands 95 times in 100.

    Args:
        series: the m readings.
        pit: ranks, (m, p).
        residuals: (m, p).
        lags: of the autocorrelation.
    """
    rows = min(pit.shape[1], MAX_COMPONENTS)
    figure = Figure(figsize=(11, 0.6 + 2.9 * rows), dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False, width_ratios=(1.0, 1.6, 1.0))
    times = on_axis(as_array(series.times), series.clock)
    for i, (ranks, course, memory) in enumerate(axes):
        present = ~np.isnan(pit[:, i])
        n = int(present.sum())
        low, high = binom.ppf([0.025, 0.975], n, 1 / BINS)
        ranks.axhspan(low, high, color="lightgrey")
        ranks.hist(pit[present, i], bins=BINS, range=(0, 1), color=COLOURS[0], edgecolor="white")
        label_axes(ranks, "rank within the prediction", "readings")
        course.axhspan(-1.96, 1.96, color="lightgrey")
        course.plot(times[present], residuals[present, i], "o", markersize=3 if n < 300 else 1.5, color=ORANGE)
        name = "residual (sd)" if pit.shape[1] == 1 else f"residual (sd), component {i}"
        label_axes(course, "time" if series.clock is None else f"time ({series.clock.unit})", name)
        reach = min(lags, n - 1)
        r = autocorrelation(residuals[present, i], reach)
        memory.axhspan(-1.96 / np.sqrt(n), 1.96 / np.sqrt(n), color="lightgrey")
        memory.bar(np.arange(1, reach + 1), r, width=0.4, color=COLOURS[0])
        label_axes(memory, "lag (readings)", "autocorrelation")
    axes[0, 1].set_title("one step ahead: grey is where a right model stays 95 times in 100", fontsize=FONT)
    return figure
