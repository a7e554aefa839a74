"""Pictures; the only module that draws. Figures are plain objects: nothing global is touched, nothing is shown."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

from jkofilter._typing import Array
from jkofilter.beliefs.base import Belief
from jkofilter.errors import InputError
from jkofilter.models.series import ObservationSeries
from jkofilter.numerics.arrays import as_array
from jkofilter.run import FilterResult

# Okabe & Ito's palette: told apart with every common kind of colour vision. Black is kept for the reference.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#7A7A00")
LINES: tuple[Any, ...] = (
    "-",
    "--",
    "-.",
    (0, (5, 1, 1, 1, 1, 1)),
    (0, (3, 1)),
    (0, (8, 2)),
    (0, (1, 1)),
    (0, (9, 2, 3, 2)),
)
ORANGE, SKY = COLOURS[4], COLOURS[5]
DPI = 110
FONT = 11
STATE_POINTS = 600
MAX_PANELS = 4
# Log densities are compared where the reference exceeds this share of its maximum.
COMPARED_ABOVE = 1e-6


@dataclass(frozen=True)
class Labels:
    """Axis labels, units included in the text, and the title."""

    time: str = "time"
    state: str = "state"
    reading: str = "reading"
    title: str = ""


DEFAULT_LABELS = Labels()


def plot_result(
    result: FilterResult,
    path: Tensor | None = None,
    series: ObservationSeries | None = None,
    labels: Labels = DEFAULT_LABELS,
    readings_on_state_axis: bool = False,
) -> Figure:
    """A run over time: heat map when beliefs were kept in one dimension, else means with 90 % bands.

    Args:
        result: what ``run_filter`` gave.
        path: true states at ``result.times``, (m, d), or (m,) for d = 1.
        series: readings.
        labels: axis labels.
        readings_on_state_axis: in one dimension, draw readings over the states; a result does not know what its sensor
            measures, so by default they get a panel of their own below.

    Raises:
        InputError: ``path`` has another shape.
    """
    truth = None if path is None else _checked_path(path, tuple(result.means.shape))
    if result.beliefs and result.final.dim == 1:
        last = (result.final,) if result.final.time > result.beliefs[-1].time else ()
        track = None if truth is None else truth[:, 0]
        return density_heatmap(
            (*result.beliefs, *last), result.times, track, series, labels, readings_on_state_axis
        )  # fmt: skip
    return _bands(result, truth, series, labels, readings_on_state_axis and result.means.shape[1] == 1)


def _checked_path(path: Tensor, shape: tuple[int, ...]) -> Tensor:
    track = path.unsqueeze(-1) if path.ndim == 1 else path
    if tuple(track.shape) != shape:
        raise InputError(f"path must hold the true states at the reading times, {shape}, got {tuple(path.shape)}.")
    return track


def _bands(
    result: FilterResult, path: Tensor | None, series: ObservationSeries | None, labels: Labels, overlay: bool
) -> Figure:
    panels = min(result.means.shape[1], MAX_PANELS)
    below = series is not None and not overlay
    heights = [2.0] * panels + [1.0] * below
    figure = Figure(figsize=(10, max(5.2, 1.0 + 1.1 * sum(heights))), dpi=DPI, layout="constrained")
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    times = as_array(result.times)
    for i, axis in enumerate(axes[:panels]):
        mean = as_array(result.means[:, i])
        reach = 1.645 * np.sqrt(as_array(result.covariances[:, i, i]))
        # An edge keeps the band of a single reading visible.
        edge = 6.0 if times.size == 1 else 0.0
        axis.fill_between(
            times, mean - reach, mean + reach, facecolor=SKY, edgecolor=SKY, alpha=0.45, lw=edge, label="90 % band"
        )
        marker = "o" if times.size <= 60 else None
        axis.plot(times, mean, color=COLOURS[0], label="filter mean", linewidth=1.8, marker=marker, markersize=4)
        if path is not None:
            axis.plot(times, as_array(path[:, i]), color="black", linestyle="--", linewidth=1.3, label="truth")
        name = labels.state if result.means.shape[1] == 1 else f"{labels.state}, coordinate {i}"
        _finish(axis, "", name)
    if series is not None and below:
        _reading_panel(axes[-1], series, labels)
    elif series is not None:
        _reading_marks(axes[0], series)
    # Above the axes: no corner is free of curves for certain.
    axes[0].legend(fontsize=FONT - 1, ncols=4, loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False)
    axes[0].set_title(_wrapped(labels.title, 60), fontsize=FONT + 1, loc="left")
    axes[-1].set_xlabel(labels.time, fontsize=FONT)
    return figure


def density_heatmap(
    beliefs: Sequence[Belief],
    path_times: Tensor | None = None,
    path: Tensor | None = None,
    series: ObservationSeries | None = None,
    labels: Labels = DEFAULT_LABELS,
    readings_on_state_axis: bool = True,
) -> Figure:
    """One-dimensional density over time; each belief fills the time halfway to its neighbours.

    Args:
        beliefs: in order of time, which may be irregular; of dimension 1.
        path_times: times of the true path, (k,).
        path: true path, (k,).
        series: readings.
        labels: axis labels.
        readings_on_state_axis: draw readings over the density; else in a panel of their own below.

    Raises:
        InputError: no beliefs, or of dimension above 1.
    """
    if not beliefs or any(belief.dim != 1 for belief in beliefs):
        raise InputError("beliefs must hold at least one belief, all of dimension 1; plot means and bands for others.")
    below = series is not None and not readings_on_state_axis
    figure = Figure(figsize=(10, 6.0 if below else 5.4), dpi=DPI, layout="constrained")
    axes = figure.subplots(1 + below, 1, sharex=True, squeeze=False, height_ratios=(3, 1)[: 1 + below])[:, 0]
    axis = axes[0]
    shown = [as_array(path)] if path is not None else []
    if series is not None and not below:
        shown.append(as_array(series.values).ravel())
    _draw_density(figure, axis, beliefs, np.concatenate([*shown, np.empty(0)]), labels)
    if path is not None and path_times is not None:
        outline = [withStroke(linewidth=4.0, foreground="white")]
        axis.plot(
            as_array(path_times), as_array(path), color="black", linewidth=1.6, label="truth", path_effects=outline
        )  # fmt: skip
    if series is not None and below:
        _reading_panel(axes[1], series, labels)
    elif series is not None:
        _reading_marks(axis, series)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=FONT - 1, loc="upper left", facecolor="lightgrey", framealpha=0.9)
    axis.set_title(_wrapped(labels.title), fontsize=FONT + 1)
    axes[-1].set_xlabel(labels.time, fontsize=FONT)
    return figure


def _draw_density(figure: Figure, axis: Axes, beliefs: Sequence[Belief], shown: Array, labels: Labels) -> None:
    """The mesh and its colour bar, on states that hold nearly all mass and everything in ``shown``."""
    ends = [belief.quantile(q) for belief in beliefs for q in (0.001, 0.999)]
    ends += shown[np.isfinite(shown)].tolist()
    low, high = min(ends), max(ends)
    margin = 0.06 * (high - low) or 1.0
    state = np.linspace(low - margin, high + margin, STATE_POINTS)
    density = np.exp(np.array([_log_density(belief, state) for belief in beliefs])).T
    # Narrow laws would bleach all others: the scale ends at twice the median over time of the highest density.
    top = float(min(density.max(), 2.0 * np.median(density.max(axis=0))))
    top = top if top > 0 else 1.0
    times = _edges(np.array([belief.time for belief in beliefs]))
    mesh = axis.pcolormesh(
        times, _edges(state), density, cmap="cividis", norm=PowerNorm(0.5, 0.0, top), rasterized=True
    )
    bar = figure.colorbar(mesh, ax=axis, pad=0.01, extend="max" if top < density.max() else "neither")
    bar.set_label("density", fontsize=FONT)
    bar.ax.tick_params(labelsize=FONT - 1)
    axis.set_xlim(times[0], times[-1])
    axis.set_ylim(state[0], state[-1])
    _finish(axis, "", labels.state)


def _reading_marks(axis: Axes, series: ObservationSeries) -> None:
    """The readings as markers on the axis of the state."""
    size = 40 if len(series) < 60 else 10
    for i, values in enumerate(as_array(series.values).T):
        label = "readings" if i == 0 else None
        axis.scatter(
            as_array(series.times), values, s=size, c=ORANGE, edgecolors="black", linewidths=0.6, zorder=4, label=label
        )


def _reading_panel(axis: Axes, series: ObservationSeries, labels: Labels) -> None:
    """The readings on an axis of their own, each component with its colour."""
    many = len(series) >= 60
    values = as_array(series.values)
    for i, column in enumerate(values.T[:MAX_PANELS]):
        colour = ORANGE if values.shape[1] == 1 else COLOURS[i]
        size, edge = (2.5, 0.0) if many else (6, 0.6)
        line: dict[str, Any] = dict(
            linewidth=0.5 if many else 0.0, color=colour, marker="os^D"[i], label=f"component {i}"
        )
        axis.plot(
            as_array(series.times), column, markersize=size, markeredgecolor="black", markeredgewidth=edge, **line
        )
    if values.shape[1] > 1:
        axis.legend(fontsize=FONT - 1, ncols=MAX_PANELS)
    axis.margins(y=0.15)
    _finish(axis, "", labels.reading)


def final_densities(
    densities: Mapping[str, Belief], reference: str, labels: Labels = DEFAULT_LABELS, truth: float | None = None
) -> Figure:
    """Final one-dimensional laws over each other, and below how far each log density is from the reference's.

    Args:
        densities: beliefs by filter name, of dimension 1.
        reference: the name the others are measured against.
        labels: axis labels.
        truth: the true state then.

    Raises:
        InputError: ``reference`` is not among ``densities``.
    """
    if reference not in densities:
        raise InputError(f"reference {reference!r} is not among the densities: {', '.join(densities)}.")
    ends = [belief.quantile(q) for belief in densities.values() for q in (1e-4, 1.0 - 1e-4)]
    margin = 0.1 * (max(ends) - min(ends))
    state = np.linspace(min(ends) - margin, max(ends) + margin, 2 * STATE_POINTS)
    exact = _log_density(densities[reference], state)
    compared = exact > exact.max() + np.log(COMPARED_ABOVE)
    figure = Figure(figsize=(10, 6.0), dpi=DPI, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    bottom.set_yscale("log")
    looks = styles(densities, reference)
    for name in [*(n for n in densities if n != reference), reference]:
        value = _log_density(densities[name], state)
        width, label = (1.6, f"{name} (reference)") if name == reference else (2.4, name)
        top.plot(state, np.exp(value), label=label, linewidth=width, **looks[name])
        if name != reference:
            error = np.abs(value - np.where(compared, exact, np.nan))
            error[~np.isfinite(error) | (error == 0)] = np.nan
            bottom.plot(state, error, label=name, linewidth=1.5, **looks[name])
    if truth is not None:
        top.axvline(truth, color="grey", linewidth=1.2, label="truth")
    top.legend(fontsize=FONT - 1)
    top.set_title(_wrapped(labels.title), fontsize=FONT + 1)
    _finish(top, "", f"density at t = {densities[reference].time:g}")
    _finish(bottom, labels.state, f"|log density ratio|\nto {reference}, nats")
    bottom.grid(axis="y", alpha=0.3)
    figure.align_ylabels([top, bottom])
    return figure


def box_plots(records: pd.DataFrame, reference: str) -> Figure:
    """Errors and seconds of every filter over the seeds, one box a filter, every run that did not fail a point.

    Args:
        records: columns filter, seed, status, kl_reference, kl_filter, log_evidence_error, seconds.
        reference: whose own errors, zero by definition, are left out.
    """
    panels = (
        ("kl_reference", f"KL({reference} \u2016 filter), nats"),
        ("kl_filter", f"KL(filter \u2016 {reference}), nats"),
        ("log_evidence_error", "|log evidence error|, nats"),
        ("seconds", "seconds per run"),
    )
    names = [str(name) for name in records["filter"].drop_duplicates()]
    looks = styles(names, reference)
    good = records[records["status"] == "ok"]
    figure = Figure(figsize=(max(10.0, 2.0 * len(names)), 6.0), dpi=DPI, layout="constrained")
    for axis, (column, label) in zip(figure.subplots(2, 2).ravel(), panels, strict=True):
        groups = {}
        for name in names:
            values = good.loc[good["filter"] == name, column].abs().to_numpy(dtype=float)
            values = values[~np.isnan(values)]
            if values.size and (name != reference or column == "seconds"):
                groups[name] = values
        boxes(axis, groups, {name: style["color"] for name, style in looks.items()})
        _finish(axis, "", label)
    seeds, failed = records["seed"].nunique(), len(records) - len(good)
    note = f"{seeds} seed{'s' * (seeds != 1)}; boxes: quartiles and median, points: runs"
    figure.suptitle(note + (f"; {failed} failed, not shown" if failed else ""), fontsize=FONT)
    return figure


def boxes(axis: Axes, groups: Mapping[str, Array], colours: Mapping[str, str], slanted: bool = False) -> None:
    """One box and its points for each group, on a log axis; says how many values such an axis cannot show.

    Args:
        axis: to draw on.
        groups: values by name.
        colours: by name.
        slanted: write the names at an angle, where they are many or long.
    """
    axis.set_yscale("log")
    drawn = {name: values[np.isfinite(values) & (values > 0)] for name, values in groups.items()}
    hidden = sum(groups[name].size - drawn[name].size for name in groups)
    drawn = {name: values for name, values in drawn.items() if values.size}
    if hidden:
        axis.set_title(f"{hidden} not shown (zero or infinite)", fontsize=FONT - 1, loc="right")
    if not drawn:
        axis.text(0.5, 0.5, "nothing to show", ha="center", transform=axis.transAxes, fontsize=FONT)
        axis.set_xticks([])
        return
    axis.boxplot(
        list(drawn.values()), widths=0.5, showfliers=False, medianprops={"color": "black", "linewidth": 1.8}
    )  # fmt: skip
    for k, (name, values) in enumerate(drawn.items()):
        # A fixed spread instead of random jitter: the same records give the same picture.
        offsets = 0.16 * np.sin(2.4 * np.arange(values.size))
        axis.scatter(k + 1 + offsets, values, s=20, color=colours[name], alpha=0.75, zorder=3)
    crowded = sum(len(name) for name in drawn) > 30
    axis.set_xticks(range(1, len(drawn) + 1), [_broken(name) if crowded else name for name in drawn])
    if slanted:
        axis.set_xticks(range(1, len(drawn) + 1), list(drawn), rotation=30, ha="right", rotation_mode="anchor")
    axis.grid(axis="y", alpha=0.3)


def _broken(name: str) -> str:
    """A name over two lines, parted at its first space or hyphen."""
    return re.sub(r"[ ]|(?<=-)", "\n", name, count=1)


def styles(names: Sequence[str] | Mapping[str, object], reference: str) -> dict[str, dict[str, Any]]:
    """Colour and line of each filter; those of the reference are its own, so that pictures agree with each other."""
    others = [name for name in names if name != reference]
    looks = {
        name: {"color": COLOURS[k % len(COLOURS)], "linestyle": LINES[k % len(LINES)]} for k, name in enumerate(others)
    }
    return looks | {reference: {"color": "black", "linestyle": ":"}}


def _log_density(belief: Belief, state: Array) -> Array:
    """Log density at ``state`` (n,), whatever the device and precision of the belief."""
    points = torch.as_tensor(state).to(belief.mean).unsqueeze(-1)
    return as_array(belief.log_prob(points))


def _finish(axis: Axes, x: str, y: str) -> None:
    axis.set_xlabel(x, fontsize=FONT)
    axis.set_ylabel(y, fontsize=FONT)
    axis.tick_params(labelsize=FONT - 1)


def _wrapped(title: str, width: int = 95) -> str:
    return textwrap.fill(title, width)


def _edges(centres: Array) -> Array:
    """Cell edges halfway between irregular centres, (k + 1,)."""
    if centres.size == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = 0.5 * (centres[1:] + centres[:-1])
    return np.concatenate(([2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]))
