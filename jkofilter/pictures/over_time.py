"""Laws over time: heat maps of densities on the line, means and bands in more dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

from jkofilter._typing import Array
from jkofilter.beliefs.base import Belief
from jkofilter.errors import InputError
from jkofilter.models.clock import UNITS, Clock
from jkofilter.models.series import ObservationSeries
from jkofilter.numerics.arrays import as_array
from jkofilter.pictures.style import (
    COLOURS,
    DEFAULT_LABELS,
    DPI,
    FONT,
    ORANGE,
    SKY,
    Labels,
    label_axes,
    log_density_at,
    wrapped,
)

STATE_POINTS = 600
MAX_PANELS = 4


@dataclass(frozen=True, eq=False)
class Track:
    """A law followed over time.

    Attributes:
        times: of the readings, (m,).
        means: (m, d).
        covariances: (m, d, d).
        beliefs: in order of time, where they were kept, else empty.
        clock: what makes dates of times; None for plain numbers.
    """

    times: Tensor
    means: Tensor
    covariances: Tensor
    beliefs: tuple[Belief, ...] = ()
    clock: Clock | None = None

    @property
    def dim(self) -> int:
        """State dimension d."""
        return self.means.shape[1]


def track_figure(
    track: Track,
    path: Tensor | None = None,
    series: ObservationSeries | None = None,
    labels: Labels = DEFAULT_LABELS,
    readings_on_state_axis: bool = False,
) -> Figure:
    """A law over time: heat map where beliefs were kept in one dimension, else means with 90 % bands.

    Args:
        track: what is drawn.
        path: true states at ``track.times``, (m, d), or (m,) for d = 1.
        series: readings.
        labels: axis labels.
        readings_on_state_axis: in one dimension, draw readings over the states; a track does not know what its sensor
            measures, so by default they get a panel of their own below.

    Raises:
        InputError: ``path`` has another shape.
    """
    truth = None if path is None else _checked_path(path, tuple(track.means.shape))
    if track.beliefs and track.dim == 1:
        line = None if truth is None else truth[:, 0]
        return density_heatmap(track.beliefs, track.times, line, series, labels, readings_on_state_axis, track.clock)
    return _bands(track, truth, series, labels, readings_on_state_axis and track.dim == 1)


def _checked_path(path: Tensor, shape: tuple[int, ...]) -> Tensor:
    track = path.unsqueeze(-1) if path.ndim == 1 else path
    if tuple(track.shape) != shape:
        raise InputError(f"path must hold the true states at the reading times, {shape}, got {tuple(path.shape)}.")
    return track


def _bands(
    track: Track, path: Tensor | None, series: ObservationSeries | None, labels: Labels, overlay: bool
) -> Figure:
    panels = min(track.means.shape[1], MAX_PANELS)
    below = series is not None and not overlay
    heights = [2.0] * panels + [1.0] * below
    figure = Figure(figsize=(10, max(5.2, 1.0 + 1.1 * sum(heights))), dpi=DPI, layout="constrained")
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    times = on_axis(as_array(track.times), track.clock)
    for i, axis in enumerate(axes[:panels]):
        mean = as_array(track.means[:, i])
        reach = 1.645 * np.sqrt(as_array(track.covariances[:, i, i]))
        # An edge keeps the band of a single reading visible.
        edge = 6.0 if times.size == 1 else 0.0
        axis.fill_between(
            times, mean - reach, mean + reach, facecolor=SKY, edgecolor=SKY, alpha=0.45, lw=edge, label="90 % band"
        )
        marker = "o" if times.size <= 60 else None
        axis.plot(times, mean, color=COLOURS[0], label="filter mean", linewidth=1.8, marker=marker, markersize=4)
        if path is not None:
            axis.plot(times, as_array(path[:, i]), color="black", linestyle="--", linewidth=1.3, label="truth")
        name = labels.state if track.means.shape[1] == 1 else f"{labels.state}, coordinate {i}"
        label_axes(axis, "", name)
    if series is not None and below:
        _reading_panel(axes[-1], series, labels, track.clock)
    elif series is not None:
        _reading_marks(axes[0], series, track.clock)
    # Above the axes: no corner is free of curves for certain.
    axes[0].legend(fontsize=FONT - 1, ncols=4, loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False)
    axes[0].set_title(wrapped(labels.title, 60), fontsize=FONT + 1, loc="left")
    _label_time(axes[-1], labels, track.clock)
    return figure


def density_heatmap(
    beliefs: Sequence[Belief],
    path_times: Tensor | None = None,
    path: Tensor | None = None,
    series: ObservationSeries | None = None,
    labels: Labels = DEFAULT_LABELS,
    readings_on_state_axis: bool = True,
    clock: Clock | None = None,
) -> Figure:
    """One-dimensional density over time; each belief fills the time halfway to its neighbours.

    Args:
        beliefs: in order of time, which may be irregular; of dimension 1.
        path_times: times of the true path, (k,).
        path: true path, (k,).
        series: readings.
        labels: axis labels.
        readings_on_state_axis: draw readings over the density; else in a panel of their own below.
        clock: what makes dates of times, by default that of ``series``.

    Raises:
        InputError: no beliefs, or of dimension above 1.
    """
    if not beliefs or any(belief.dim != 1 for belief in beliefs):
        raise InputError("beliefs must hold at least one belief, all of dimension 1; plot means and bands for others.")
    clock = series.clock if clock is None and series is not None else clock
    below = series is not None and not readings_on_state_axis
    figure = Figure(figsize=(10, 6.0 if below else 5.4), dpi=DPI, layout="constrained")
    axes = figure.subplots(1 + below, 1, sharex=True, squeeze=False, height_ratios=(3, 1)[: 1 + below])[:, 0]
    axis = axes[0]
    shown = [as_array(path)] if path is not None else []
    if series is not None and not below:
        shown.append(as_array(series.values).ravel())
    _draw_density(figure, axis, beliefs, np.concatenate([*shown, np.empty(0)]), labels, clock)
    if path is not None and path_times is not None:
        outline = [withStroke(linewidth=4.0, foreground="white")]
        times = on_axis(as_array(path_times), clock)
        axis.plot(times, as_array(path), color="black", linewidth=1.6, label="truth", path_effects=outline)
    if series is not None and below:
        _reading_panel(axes[1], series, labels, clock)
    elif series is not None:
        _reading_marks(axis, series, clock)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=FONT - 1, loc="upper left", facecolor="lightgrey", framealpha=0.9)
    axis.set_title(wrapped(labels.title), fontsize=FONT + 1)
    _label_time(axes[-1], labels, clock)
    return figure


def on_axis(times: Array, clock: Clock | None) -> Array:
    """Times (m,) as an axis has them: days as matplotlib counts them where they are dates, else as they are."""
    if clock is None or isinstance(clock.origin, pd.Timedelta):
        return times
    start = clock.origin if clock.origin.tz is None else clock.origin.tz_convert(None)
    return date2num(start.to_pydatetime(warn=False)) + times * (UNITS[clock.unit] / UNITS["day"])


def _label_time(axis: Axes, labels: Labels, clock: Clock | None) -> None:
    axis.set_xlabel(labels.time, fontsize=FONT)
    if clock is None:
        return
    if isinstance(clock.origin, pd.Timedelta):
        axis.set_xlabel(f"{labels.time}, {clock.unit}", fontsize=FONT)
    else:
        locator = AutoDateLocator(tz=clock.origin.tz)
        axis.xaxis.set_major_locator(locator)
        axis.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=clock.origin.tz))


def _draw_density(
    figure: Figure, axis: Axes, beliefs: Sequence[Belief], shown: Array, labels: Labels, clock: Clock | None
) -> None:
    """The mesh and its colour bar, on states that hold nearly all mass and everything in ``shown``."""
    ends = [belief.quantile(q) for belief in beliefs for q in (0.001, 0.999)]
    ends += shown[np.isfinite(shown)].tolist()
    low, high = min(ends), max(ends)
    margin = 0.06 * (high - low) or 1.0
    state = np.linspace(low - margin, high + margin, STATE_POINTS)
    density = np.exp(np.array([log_density_at(belief, state) for belief in beliefs])).T
    # Narrow laws would bleach all others: the scale ends at twice the median over time of the highest density.
    top = float(min(density.max(), 2.0 * np.median(density.max(axis=0))))
    top = top if top > 0 else 1.0
    times = _edges(on_axis(np.array([belief.time for belief in beliefs]), clock))
    mesh = axis.pcolormesh(
        times, _edges(state), density, cmap="cividis", norm=PowerNorm(0.5, 0.0, top), rasterized=True
    )
    bar = figure.colorbar(mesh, ax=axis, pad=0.01, extend="max" if top < density.max() else "neither")
    bar.set_label("density", fontsize=FONT)
    bar.ax.tick_params(labelsize=FONT - 1)
    axis.set_xlim(times[0], times[-1])
    axis.set_ylim(state[0], state[-1])
    label_axes(axis, "", labels.state)


def _reading_marks(axis: Axes, series: ObservationSeries, clock: Clock | None) -> None:
    """The readings as markers on the axis of the state."""
    times = on_axis(as_array(series.times), clock)
    size = 40 if len(series) < 60 else 10
    for i, values in enumerate(as_array(series.values).T):
        label = "readings" if i == 0 else None
        axis.scatter(times, values, s=size, c=ORANGE, edgecolors="black", linewidths=0.6, zorder=4, label=label)


def _reading_panel(axis: Axes, series: ObservationSeries, labels: Labels, clock: Clock | None) -> None:
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
            on_axis(as_array(series.times), clock),
            column,
            markersize=size,
            markeredgecolor="black",
            markeredgewidth=edge,
            **line,
        )
    if values.shape[1] > 1:
        axis.legend(fontsize=FONT - 1, ncols=MAX_PANELS)
    axis.margins(y=0.15)
    label_axes(axis, "", labels.reading)


def _edges(centres: Array) -> Array:
    """Cell edges halfway between irregular centres, (k + 1,)."""
    if centres.size == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = 0.5 * (centres[1:] + centres[:-1])
    return np.concatenate(([2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]))
