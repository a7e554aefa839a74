"""Pictures of a sweep: error against wall time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jkofilter.experiments.measures import MEASURES
from jkofilter.numerics.intervals import median_interval
from jkofilter.pictures.style import COLOURS, DPI, FONT, MARKERS, a_decade_at_least, legend_below, ticks_apart

PANELS_A_ROW = 3
SMALLEST = 1e-12
"""Where an error of zero is drawn on a logarithmic axis."""


def _panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    columns = min(count, PANELS_A_ROW)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(4.3 * columns, 5.5), height * rows + 0.5), dpi=DPI, layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel().tolist()
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, axes[:count]


def time_to_accuracy(panels: Mapping[str, tuple[pd.DataFrame, str]], names: Sequence[str]) -> Figure:
    """Error against wall time, a small point a run, a large one the medians with their intervals.

    Args:
        panels: by title, runs as of ``tables.judged`` and the measure to draw.
        names: of the filters, in the order of colours.
    """
    figure, axes = _panels(len(panels), 3.9)
    for axis, (title, (runs, measure)) in zip(axes, panels.items(), strict=True):
        for k, name in enumerate(names):
            own = runs[runs["filter"] == name].dropna(subset=measure)
            if own.empty:
                continue
            seconds, error = own["seconds"].to_numpy(), own[measure].clip(lower=SMALLEST).to_numpy()
            x, y = median_interval(seconds), median_interval(error)
            colour = COLOURS[k % len(COLOURS)]
            axis.plot(seconds, error, ".", color=colour, alpha=0.45, ms=5)
            axis.errorbar(
                x.median,
                y.median,
                xerr=[[x.median - x.low], [x.high - x.median]],
                yerr=[[y.median - y.low], [y.high - y.median]],
                fmt=MARKERS[k % len(MARKERS)],
                color=colour,
                markeredgecolor="black",
                ms=9,
                label=name,
            )
        axis.set_title(title, fontsize=FONT)
        axis.set_xscale("log")
        axis.set_yscale("log")
        a_decade_at_least(axis, "x", "y")
        ticks_apart(axis)
        axis.set_xlabel(MEASURES["seconds"], fontsize=FONT)
        axis.set_ylabel(MEASURES[measure], fontsize=FONT)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=FONT - 1)
    handles = {h[1]: h[0] for axis in axes for h in zip(*axis.get_legend_handles_labels(), strict=True)}
    legend_below(figure, handles.values(), handles.keys())
    return figure
