"""Pictures of studies: errors against dimension or case, medians of all measures, laws on principal components."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.distributions import Distribution

from jkofilter._typing import Sampled
from jkofilter.experiments.published import PublishedFigure
from jkofilter.models.state_space import sample_prior
from jkofilter.numerics.draws import stream
from jkofilter.pictures.style import COLOURS, DPI, FONT, LINES, MARKERS, a_decade_at_least, legend_below, ticks_apart

TITLES = {
    "symmetric_kl": "symmetric KL to the exact law (nats)",
    "kl_stationary": "KL(method, stationary law) (nats)",
    "ess": "1 - effective share of draws\nweighted to the stationary law",
}
TITLES_OF_MEASURES = {
    "ess": "effective share of draws\nweighted to the stationary law",
    "seconds": "wall time of a run (s)",
}
LEAST = 1e-8
SHOWN = 2500


def error_figure(records: pd.DataFrame, measure: str, published: Sequence[PublishedFigure] = ()) -> Figure:
    """Error against dimension (or case), one panel a judged time, and against seconds, one point a run.

    Args:
        records: as of ``tables.judged``.
        measure: "symmetric_kl", "kl_stationary" or "ess"; the last one is drawn as what is missing to one.
        published: figures that others report; those of this measure are drawn against dimension.
    """
    methods = list(dict.fromkeys(records["filter"]))
    data = records.assign(error=1 - records["ess"] if measure == "ess" else records[measure])
    data = data.dropna(subset="error").assign(error=lambda frame: frame["error"].clip(lower=LEAST))
    times = sorted(data["time"].unique())
    figure = Figure(figsize=(4.2 * (len(times) + 1), 4.2), dpi=DPI, layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(times) + 1, sharey=True))
    by_dim = one_dim_a_case(data)
    for axis, time in zip(axes, times, strict=False):
        _against_case(axis, data[data["time"] == time], methods, by_dim)
        if by_dim:
            dims = dict(zip(data["case"], data["dim"], strict=True))
            own = [one for one in published if one.measure == measure and one.case in dims]
            _published(axis, [one for one in own if (times[-1] if one.time is None else one.time) == time], dims)
        axis.set_title(f"t = {time:g}", fontsize=FONT)
        axis.set_xlabel("dimension d" if by_dim else "case", fontsize=FONT)
        if not by_dim:
            axis.tick_params(axis="x", rotation=30)
    for name, group in data.groupby("filter", sort=False):
        axes[-1].plot(group["seconds"], group["error"], **_point(methods.index(name)), label=str(name), ms=6)
    if data["seconds"].max() > 10 * data["seconds"].min():
        axes[-1].set_xscale("log")
        ticks_apart(axes[-1])
    axes[-1].set_xlabel("wall time of a run (s)", fontsize=FONT)
    axes[0].set_ylabel(TITLES[measure], fontsize=FONT)
    axes[0].set_yscale("log")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=FONT - 1)
    shown = [pair for axis in axes[:-1] for pair in zip(*axis.get_legend_handles_labels()[::-1], strict=True)]
    entries = dict(reversed(shown))
    labels = list(dict.fromkeys(label for label, _ in shown))
    handles = [entries[label] for label in labels]
    legend_below(figure, handles, labels)
    return figure


def one_dim_a_case(records: pd.DataFrame) -> bool:
    """Whether every case has a dimension of its own, so that errors can be drawn against it."""
    return bool(records["dim"].nunique() == records["case"].nunique())


def _line(k: int) -> dict[str, Any]:
    """Look of the k-th method as a line with a marker."""
    return _point(k) | {"linestyle": LINES[k % len(LINES)]}


def _point(k: int) -> dict[str, Any]:
    """Look of the k-th method as a marker."""
    return {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)], "linestyle": ""}


def _against_case(axis: Axes, data: pd.DataFrame, methods: Sequence[str], by_dim: bool) -> None:
    for name, group in data.groupby("filter", sort=False):
        medians = group.groupby("dim" if by_dim else "case", sort=by_dim)["error"].median()
        axis.plot(medians.index, medians.to_numpy(), **_line(methods.index(name)), label=str(name), ms=6)
    if by_dim:
        axis.set_xscale("log", base=2)
        dims = sorted(data["dim"].unique())
        shown = [d for d in dims if d in (1, 2, 4, 8, 12, 16, 32)] or dims
        axis.set_xticks(shown, [str(d) for d in shown])
        axis.minorticks_off()


def _published(axis: Axes, figures: Sequence[PublishedFigure], dims: Mapping[str, int]) -> None:
    for k, (source, method) in enumerate(dict.fromkeys((one.source, one.method) for one in figures)):
        own = [(dims[one.case], one.value) for one in figures if (one.source, one.method) == (source, method)]
        dim, value = zip(*sorted(own), strict=True)
        axis.plot(dim, value, marker="x+*1"[k % 4], ls=":", color="black", ms=7, label=f"{method} ({source})")


def measures_figure(records: pd.DataFrame, measures: Sequence[str]) -> Figure:
    """The cases' own measures, the effective share and the seconds, a panel each: medians by case and method.

    Args:
        records: as of ``tables.judged``.
        measures: names of columns.
    """
    panels = [name for name in (*measures, "ess", "seconds") if records[name].notna().any()]
    rows = math.ceil(len(panels) / 4)
    columns = math.ceil(len(panels) / rows)
    figure = Figure(figsize=(4.0 * columns, 3.9 * rows), dpi=DPI, layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    cases, methods = list(dict.fromkeys(records["case"])), list(dict.fromkeys(records["filter"]))
    for axis, measure in zip(axes, panels, strict=False):
        medians = records.groupby(["filter", "case"], sort=False)[measure].median()
        for k, method in enumerate(methods):
            # Side by side within a case: methods that agree would hide one another.
            at = np.arange(len(cases)) + 0.18 * (k - (len(methods) - 1) / 2)
            values = medians[method].reindex(cases)
            axis.plot(at, values.to_numpy(), **_point(k), label=method, ms=7)
        axis.set_title(TITLES_OF_MEASURES.get(measure, measure.replace("_", " ")), fontsize=FONT)
        axis.set_xticks(range(len(cases)), cases, rotation=30, ha="right")
        axis.tick_params(labelsize=FONT - 1)
        axis.grid(alpha=0.3)
        if measure == "seconds":
            axis.set_yscale("log")
    for axis in axes[len(panels) :]:
        axis.remove()
    handles, labels = axes[0].get_legend_handles_labels()
    legend_below(figure, handles, labels)
    return figure


def filter_error_figure(records: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Medians over seeds of mean error, log evidence error and wall time, against dimension (or case).

    Args:
        records: as of ``tables.judged``.
        names: of the filters, in the order of the legend, the references, which have no error, last.
    """
    panels = {
        "mean_error": "error of the mean\n(posterior standard deviations)",
        "log_evidence_error": "error of the log evidence (nats)",
        "seconds": "wall time of a run (s)",
    }
    by_dim = one_dim_a_case(records)
    medians = records.groupby(["case", "dim", "filter"], sort=False)[list(panels)].median().reset_index()
    figure = Figure(figsize=(4.1 * len(panels), 4.2), dpi=DPI, layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels)))
    shown = [name for name in names if name in set(medians["filter"])]
    for axis, (measure, label) in zip(axes, panels.items(), strict=True):
        for k, name in enumerate(shown):
            own = medians[medians["filter"] == name].dropna(subset=measure)
            if len(own):
                error = own[measure].clip(lower=LEAST)
                axis.plot(own["dim" if by_dim else "case"], error, **_line(k), label=name, ms=6)
        axis.set_yscale("log")
        a_decade_at_least(axis, "y")
        axis.set_ylabel(label, fontsize=FONT)
        axis.set_xlabel("dimension d" if by_dim else "case", fontsize=FONT)
        if by_dim:
            dims = sorted(medians["dim"].unique())
            axis.set_xscale("log", base=2)
            axis.set_xticks(dims, [str(d) for d in dims])
            axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=FONT - 1)
    handles, labels = axes[-1].get_legend_handles_labels()
    legend_below(figure, handles, labels)
    return figure


def projection_figure(title: str, prior: Distribution, laws: Mapping[str, Sampled]) -> Figure:
    """Draws of a prior and of other laws on the two principal components of the last of them.

    Args:
        title: above the panels.
        prior: law at time zero.
        laws: by what to call them.
    """
    draws = {"prior, t = 0": sample_prior(prior, SHOWN, stream(0, "picture"))}
    draws |= {name: law.sample(SHOWN, stream(k, "picture")) for k, (name, law) in enumerate(laws.items(), start=1)}
    last = list(draws.values())[-1]
    axes_of = torch.linalg.eigh(torch.cov(last.mT)).eigenvectors[:, [-1, -2]]
    limit = 1.2 * (last @ axes_of).abs().max().item()
    figure = Figure(figsize=(4.0 * len(draws), 4.1), dpi=DPI, layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(draws), sharex=True, sharey=True))
    for axis, (name, points) in zip(axes, draws.items(), strict=True):
        x, y = (points @ axes_of).cpu().numpy().T
        axis.plot(x, y, ".", ms=2, alpha=0.5, color=COLOURS[0], rasterized=True)
        axis.set_title(name, fontsize=FONT)
        axis.set_xlim(-limit, limit)
        axis.set_ylim(-limit, limit)
        axis.set_xlabel("first principal component (state units)", fontsize=FONT)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("second principal component (state units)", fontsize=FONT)
    figure.suptitle(title, fontsize=FONT + 1)
    return figure
