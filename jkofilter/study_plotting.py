"""Pictures of flow studies."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jkofilter._typing import Array
from jkofilter.plotting import COLOURS, DPI, FONT, LINES
from jkofilter.study import FlowStudy

MARKERS = ("o", "s", "^", "D", "v", "P")
TITLES = {
    "symmetric_kl": "symmetric KL to the exact law (nats)",
    "kl_stationary": "KL(method, stationary law) (nats)",
    "ess": "1 - effective share of draws\nweighted to the stationary law",
}
LEAST = 1e-7


def error_figure(study: FlowStudy, records: pd.DataFrame, measure: str) -> Figure:
    """Error against dimension (or case), one panel a judged time, and against seconds, one point a run.

    Args:
        study: names the cases and figures published by others.
        records: of ``run_study``, those that did not fail.
        measure: "symmetric_kl", "kl_stationary" or "ess"; the last one is drawn as what is missing to one.
    """
    data = records.assign(error=1 - records["ess"] if measure == "ess" else records[measure])
    data = data.dropna(subset="error").assign(error=lambda frame: frame["error"].clip(lower=LEAST))
    times = sorted(data["time"].unique())
    figure = Figure(figsize=(4.2 * (len(times) + 1), 4.2), dpi=DPI, layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(times) + 1, sharey=True))
    by_dim = data["dim"].nunique() == data["case"].nunique()
    for axis, time in zip(axes, times, strict=False):
        _against_case(axis, data[data["time"] == time], by_dim)
        if by_dim:
            _published(axis, study)
        axis.set_title(f"t = {time:g}", fontsize=FONT)
        axis.set_xlabel("dimension d" if by_dim else "case", fontsize=FONT)
    for k, (name, group) in enumerate(data.groupby("method", sort=False)):
        axes[-1].loglog(group["seconds"], group["error"], MARKERS[k % 6], color=COLOURS[k % 6], label=str(name), ms=6)
    axes[-1].set_xlabel("wall time of a run (s)", fontsize=FONT)
    axes[0].set_ylabel(TITLES[measure], fontsize=FONT)
    axes[0].set_yscale("log")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=FONT - 1)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=FONT - 1, frameon=False)
    return figure


def _against_case(axis: Axes, data: pd.DataFrame, by_dim: bool) -> None:
    for k, (name, group) in enumerate(data.groupby("method", sort=False)):
        medians = group.groupby("dim" if by_dim else "case", sort=by_dim)["error"].median()
        style = {"color": COLOURS[k % 6], "linestyle": LINES[k % 6], "marker": MARKERS[k % 6]}
        axis.plot(medians.index, medians.to_numpy(), label=str(name), ms=6, **style)
    if by_dim:
        axis.set_xscale("log", base=2)
        dims = sorted(data["dim"].unique())
        shown = [d for d in dims if d in (1, 2, 4, 8, 12, 16, 32)] or dims
        axis.set_xticks(shown, [str(d) for d in shown])
        axis.minorticks_off()


def _published(axis: Axes, study: FlowStudy) -> None:
    for name, figures in (study.published or {}).items():
        axis.plot(list(figures), list(figures.values()), "x:", color="black", label=name, ms=6)


def projection_figure(
    panels: dict[str, Array], centres: Array, spread: tuple[Array, Array], labels: tuple[str, str]
) -> Figure:
    """Samples on two principal components, one panel a law.

    Args:
        panels: samples already projected, (n, 2), by title.
        centres: marked in every panel, (c, 2).
        spread: limits of both axes, ((low, high), (low, high)).
        labels: of the two axes.
    """
    figure = Figure(figsize=(4.0 * len(panels), 4.1), dpi=DPI, layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels), sharex=True, sharey=True))
    for axis, (title, points) in zip(axes, panels.items(), strict=True):
        axis.plot(points[:, 0], points[:, 1], ".", ms=1.6, alpha=0.5, color=COLOURS[0], rasterized=True)
        axis.plot(centres[:, 0], centres[:, 1], "x", color=COLOURS[1], ms=9, mew=2.2, label="component means")
        axis.set_title(title, fontsize=FONT)
        axis.set_xlim(*spread[0])
        axis.set_ylim(*spread[1])
        axis.set_xlabel(labels[0], fontsize=FONT)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(labels[1], fontsize=FONT)
    axes[0].legend(loc="upper right", fontsize=FONT - 2)
    return figure
