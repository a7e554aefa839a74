"""Pictures of calibration."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binom
from torch import Tensor

from jkofilter._typing import Array
from jkofilter.pictures.style import COLOURS, DPI, FONT

MOST_BINS, PER_BIN = 20, 10
"""Bins of the histogram, and runs that each should hold on average at the least."""
BAND = 0.95
"""Probability of the band that an honest filter stays in, bin by bin and level by level."""
PROBABILITIES = np.linspace(0.05, 0.95, 19)


def calibration_figure(levels: Float[Tensor, "r d"], title: str = "") -> Figure:
    """Histograms of the ranks of the truths at the last reading, and coverage of credible intervals.

    Of many coordinates the first few are drawn, which the title then says.

    Args:
        levels: P(X_i <= truth_i | readings) at the last reading, one row a simulated run.
        title: above both panels.
    """
    ranks = levels.cpu().numpy()
    figure = Figure(figsize=(9.6, 4.2), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    _histogram(left, ranks)
    _coverage(right, ranks)
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=FONT - 1)
    runs, dim = ranks.shape
    shown = f", first {len(COLOURS)} of {dim} coordinates" if dim > len(COLOURS) else ""
    figure.suptitle(f"{title} ({runs} simulated runs, last reading{shown})".strip(), fontsize=FONT + 1)
    return figure


def _histogram(axis: Axes, levels: Array) -> None:
    """Runs per bin, one outline a coordinate."""
    runs, dim = levels.shape
    bins = max(4, min(MOST_BINS, runs // PER_BIN))
    edges = np.linspace(0, 1, bins + 1)
    low, high = binom.interval(BAND, runs, 1 / bins)
    axis.axhspan(low, high, color="0.88", label=f"honest filter, {BAND:.0%} of bins")
    axis.axhline(runs / bins, color="black", lw=1)
    for i in range(min(dim, len(COLOURS))):
        axis.stairs(np.histogram(levels[:, i], edges)[0], edges, color=COLOURS[i], lw=1.8, label=f"coordinate {i}")
    axis.set_xlabel("probability integral transform of the truth", fontsize=FONT)
    axis.set_ylabel("simulated runs", fontsize=FONT)
    axis.set_ylim(0, None)
    axis.legend(fontsize=FONT - 2, frameon=False)


def _coverage(axis: Axes, levels: Array) -> None:
    """Share of truths inside central intervals, coordinate by coordinate."""
    runs, dim = levels.shape
    band = [np.array(binom.interval(BAND, runs, p)) / runs - p for p in PROBABILITIES]
    axis.fill_between(PROBABILITIES, *np.transpose(band), color="0.88", label=f"honest filter, {BAND:.0%} of levels")
    axis.axhline(0, color="black", lw=1)
    for i in range(min(dim, len(COLOURS))):
        inside = np.array([(np.abs(levels[:, i] - 0.5) <= 0.5 * p).mean() for p in PROBABILITIES])
        axis.plot(PROBABILITIES, inside - PROBABILITIES, color=COLOURS[i], lw=1.8, label=f"coordinate {i}")
    axis.set_xlabel("probability of the credible interval", fontsize=FONT)
    axis.set_ylabel("share of truths inside, less the probability", fontsize=FONT)
    axis.legend(fontsize=FONT - 2, frameon=False)
