"""Pictures of laws on the plane."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Arc
from matplotlib.patheffects import withStroke
from torch import Tensor

from jkofilter._typing import Array
from jkofilter.beliefs.base import Belief
from jkofilter.errors import InputError
from jkofilter.models.range_bearing import RangeBearing
from jkofilter.models.series import ObservationSeries
from jkofilter.models.state_space import StateSpaceModel
from jkofilter.numerics.arrays import as_array
from jkofilter.pictures.style import COLOURS, DEFAULT_LABELS, DPI, FONT, ORANGE, Labels

PANELS = 6
COLUMNS = 3
POINTS = 120
"""Along each side of a panel."""
LEVELS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Heights of the potential's contours above its lowest point, in units of 1/beta."""
DEVIATIONS = (2.0, 1.0)
"""Where a reading's likelihood is outlined: this many standard deviations below its best."""
_OUTLINE = [withStroke(linewidth=3.5, foreground="white")]


def posterior_panels(
    beliefs: Sequence[Belief],
    model: StateSpaceModel,
    path: Tensor | None = None,
    series: ObservationSeries | None = None,
    labels: Labels = DEFAULT_LABELS,
) -> Figure:
    """Laws on the plane, a panel each: density, contours of the potential, the truth, and what the reading says.

    Args:
        beliefs: in order of time, of dimension 2, by their own ``log_prob``; of many, six evenly spread are shown.
        model: whose potential and sensor are drawn: of a RangeBearing the line and the arc of the reading, of others
            outlines of the likelihood.
        path: true states at the readings, (m, 2).
        series: the m readings; a belief is drawn with the one at its time.
        labels: axis labels.

    Raises:
        InputError: no beliefs, or of another dimension than 2, or a path that does not go with the readings.
    """
    if not beliefs or any(belief.dim != 2 for belief in beliefs):
        raise InputError("beliefs must hold at least one belief, all of dimension 2.")
    if path is not None and (series is None or path.shape != (len(series.times), 2)):
        raise InputError(
            f"path must hold the true states at the readings of series, (m, 2), got {tuple(path.shape)} with "
            f"{'no series' if series is None else f'{len(series.times)} readings'}."
        )
    count = min(len(beliefs), PANELS)
    shown = [beliefs[round(k)] for k in np.linspace(0, len(beliefs) - 1, count)]
    x, y = _sides(shown, path, model)
    points = torch.as_tensor(np.stack(np.meshgrid(x, y, indexing="ij"), -1).reshape(-1, 2)).to(shown[0].mean)
    shape = (x.size, y.size)
    densities = [as_array(belief.log_prob(points).exp()).reshape(shape) for belief in shown]
    # One narrow law would bleach all others.
    top = min(max(d.max() for d in densities), 2 * float(np.median([d.max() for d in densities])))
    energy = as_array(model.sde.potential(points)).reshape(shape) * float(model.sde.beta)
    rows, columns = math.ceil(count / COLUMNS), min(count, COLUMNS)
    height = 3.3 * min(max(float(np.ptp(y) / np.ptp(x)), 0.4), 2.0)
    figure = Figure(figsize=(3.5 * columns + 0.9, (height + 0.35) * rows + 1.1), dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axis, belief, density in zip(axes, shown, densities, strict=False):
        mesh = axis.pcolormesh(x, y, density.T, cmap="Blues", norm=PowerNorm(0.5, 0, top), rasterized=True)
        axis.contour(x, y, energy.T - energy.min(), levels=LEVELS, colors="0.45", linewidths=0.7)
        axis.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), aspect="equal")
        axis.set_title(f"t = {belief.time:g}", fontsize=FONT)
        row = None if series is None else _reading_of(belief, series)
        if row is not None and series is not None:
            _reading(axis, model, series.values[row], (x, y, points))
        if row is not None and path is not None:
            axis.plot(*path[row].tolist(), "*", color="black", ms=13, mec="white", mew=1.2, label="truth", zorder=5)
    for axis in axes[count:]:
        axis.remove()
    _label_outer(axes[:count].tolist(), columns, labels.state)
    bar = figure.colorbar(mesh, ax=list(axes[:count]), pad=0.01, shrink=0.8)
    bar.set_label("density (per square unit of the state)", fontsize=FONT)
    axes[0].plot([], [], color="0.45", lw=0.7, label="potential")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(labels.title, fontsize=FONT + 1)
    return figure


def _label_outer(axes: Sequence[Axes], columns: int, state: str) -> None:
    """Axis labels to the left and below the panels, but not between them."""
    for k, axis in enumerate(axes):
        lowest = k + columns >= len(axes)
        axis.set_xlabel(f"{state}, coordinate 0" if lowest else "", fontsize=FONT)
        axis.set_ylabel(f"{state}, coordinate 1" if k % columns == 0 else "", fontsize=FONT)
        axis.tick_params(labelsize=FONT - 1, labelbottom=lowest)


def _sides(beliefs: Sequence[Belief], path: Tensor | None, model: StateSpaceModel) -> tuple[Array, Array]:
    """Coordinates of the panels' columns and rows: nearly all mass, the truth, and a station that is not far off."""
    sides = []
    for k in range(2):
        ends = [belief.quantile(q, k) for belief in beliefs for q in (0.001, 0.999)]
        ends += [] if path is None else path[:, k].tolist()
        low, high = min(ends), max(ends)
        if isinstance(model.observation, RangeBearing):
            station = model.observation.station[k].item()
            if low - (high - low) < station < high + (high - low):
                low, high = min(low, station), max(high, station)
        margin = 0.06 * (high - low) or 1.0
        sides.append(np.linspace(low - margin, high + margin, POINTS))
    return sides[0], sides[1]


def _reading_of(belief: Belief, series: ObservationSeries) -> int | None:
    gaps = (series.times - belief.time).abs()
    row = int(gaps.argmin())
    return row if gaps[row] <= 1e-9 * max(1.0, abs(belief.time)) else None


def _reading(axis: Axes, model: StateSpaceModel, y: Tensor, cells: tuple[Array, Array, Tensor]) -> None:
    """What one reading says; nothing where it is missing, or impossible from all over the panel."""
    x_side, y_side, points = cells
    if torch.isnan(y).all():
        return
    if isinstance(model.observation, RangeBearing):
        _line_and_arc(axis, model.observation, y, float(np.hypot(np.ptp(x_side), np.ptp(y_side))))
        return
    value = as_array(model.log_likelihood(y.to(points), points)).reshape(x_side.size, y_side.size)
    if not np.isfinite(value.max()):
        return
    levels = [value.max() - 0.5 * deviation**2 for deviation in DEVIATIONS]
    axis.contour(x_side, y_side, value.T, levels=levels, colors=ORANGE, linewidths=1.6, linestyles=["--", "-"])
    axis.plot([], [], color=ORANGE, lw=1.6, label="reading (likelihood at 1 and 2 deviations)")


def _line_and_arc(axis: Axes, sensor: RangeBearing, y: Tensor, reach: float) -> None:
    """The bearing as a line, the range as an arc two deviations to either side of it."""
    (east, north), (distance, bearing) = sensor.station.tolist(), y.tolist()
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    if left <= east <= right and bottom <= north <= top:
        axis.plot(east, north, "^", color=COLOURS[1], ms=9, mec="white", label="station", zorder=5)
    if math.isfinite(bearing):
        along = sensor.boresight + bearing
        ends = [east, east + 2 * reach * math.cos(along)], [north, north + 2 * reach * math.sin(along)]
        axis.plot(*ends, color=ORANGE, lw=1.6, ls="--", label="bearing read", path_effects=_OUTLINE)
    if math.isfinite(distance):
        middle = math.degrees(sensor.boresight + (bearing if math.isfinite(bearing) else 0.0))
        half = math.degrees(2 * sensor.covariance[1, 1].sqrt().item()) if math.isfinite(bearing) else 180.0
        arc = Arc((east, north), 2 * distance, 2 * distance, theta1=middle - half, theta2=middle + half)
        arc.set(color=COLOURS[3], lw=1.8, path_effects=_OUTLINE)
        axis.add_patch(arc)
        axis.plot([], [], color=COLOURS[3], lw=1.8, label="range read, to 2 deviations of the bearing")
