"""Equal cells of an interval or a rectangle, and log densities between their centres."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy.interpolate import PchipInterpolator, RectBivariateSpline

from jkofilter._typing import Array
from jkofilter.numerics.domain import Domain
from jkofilter.numerics.mesh import continue_log_density, fill_zeros
from jkofilter.numerics.splines import cubics, value_at

LogDensity: TypeAlias = Callable[[Array], Array]
"""Log densities, (n,), at points (n, d)."""

_FLOOR = 740.0
_KINK = 30.0
_KINK_DEPTH = 200.0


class Axis(NamedTuple):
    """One side of a grid: ``cells`` equal cells of [low, high]."""

    low: float
    high: float
    cells: int

    @property
    def length(self) -> float:
        """In units of the state."""
        return self.high - self.low

    @property
    def width(self) -> float:
        """Length of a cell, in units of the state."""
        return self.length / self.cells

    @property
    def centres(self) -> Array:
        """Centres of the cells, (cells,)."""
        return self.low + self.length * (np.arange(self.cells) + 0.5) / self.cells


@dataclass(frozen=True)
class Grid:
    """The cells of an interval (one axis) or a rectangle (two)."""

    axes: tuple[Axis, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Cells along each axis."""
        return tuple(axis.cells for axis in self.axes)

    @property
    def widths(self) -> tuple[float, ...]:
        """Sides of a cell, in units of the state."""
        return tuple(axis.width for axis in self.axes)

    @property
    def volume(self) -> float:
        """Of a cell: product of its sides."""
        return float(np.prod(self.widths))

    @cached_property
    def points(self) -> Array:
        """Cell centres, (n, d), the last axis fastest."""
        centres = np.meshgrid(*(axis.centres for axis in self.axes), indexing="ij")
        return np.stack([centre.reshape(-1) for centre in centres], axis=-1)


def log_mass(grid: Grid, log_density: Array) -> float:
    """Logarithm of the mass of a density, from its logarithm at the centres, ``grid.shape``; -inf where there is none.

    SciPy's logsumexp takes six times as long on two thousand cells.
    """
    top = float(log_density.max())
    if not np.isfinite(top):
        return top
    return top + math.log(float(np.exp(log_density - top).sum()) * grid.volume)


def interpolant(grid: Grid, log_density: Array, closed: bool, walls: Domain | None = None) -> LogDensity:
    """A function giving the log density anywhere from its values at the cell centres.

    Args:
        grid: of one or two axes.
        log_density: ``grid.shape``, any additive constant; -inf where there is no mass.
        closed: whether it is -inf beyond the grid; else the tails are continued.
        walls: beyond which it is -inf.
    """
    everywhere = (_on_line if len(grid.axes) == 1 else _on_plane)(grid, log_density, closed)
    return everywhere if walls is None else lambda x: np.where(walls.holds(x), everywhere(x), -np.inf)


def _on_line(grid: Grid, log_density: Array, closed: bool) -> LogDensity:
    """A cubic spline; its tails are parabolas."""
    (axis,) = grid.axes
    x = axis.centres
    known = np.maximum(log_density, log_density.max() - _FLOOR) if closed else fill_zeros(x, log_density)
    # A cubic spline rings at a hard edge; the monotone one does not, and is less accurate everywhere else.
    kinked = np.abs(np.diff(known, 2)).max() > _KINK
    between = PchipInterpolator(x, known) if kinked else partial(value_at, x, cubics(x, known))

    def evaluate(points: Array) -> Array:
        at = np.ascontiguousarray(points[:, 0])
        inside = between(at)
        if not closed:
            return continue_log_density(x, known, at, inside)
        return np.where((at < axis.low) | (at > axis.high), -np.inf, inside)

    return evaluate


def _on_plane(grid: Grid, log_density: Array, closed: bool) -> LogDensity:
    """A bicubic spline, its tails those of a Gaussian of the law's covariance matched to value and slope at the side.

    Beyond a Gaussian law's rectangle that is the Gaussian itself.
    """
    first, second = grid.axes
    known = np.maximum(log_density, log_density.max() - _FLOOR)
    # As on the line; the bilinear surface is the one that never rings in two dimensions.
    degree = 1 if _is_kinked(known) else 3
    box = [first.low, first.high, second.low, second.high]
    spline = RectBivariateSpline(first.centres, second.centres, known, bbox=box, kx=degree, ky=degree)
    low, high = np.array([first.low, second.low]), np.array([first.high, second.high])
    precision = None if closed else _precision(grid, known)

    def evaluate(points: Array) -> Array:
        # FITPACK takes finite coordinates only.
        value = np.where(np.isnan(points).any(-1), np.nan, -np.inf)
        finite = np.isfinite(points).all(-1)
        if precision is None:
            finite &= ((points >= low) & (points <= high)).all(-1)
        at = points[finite]
        nearest = np.clip(at, low, high)
        columns = _columns(at)
        inside = _surface(spline, nearest, columns)
        beyond = (at != nearest).any(-1)
        if precision is not None and beyond.any():
            out = (at - nearest)[beyond]
            slopes = np.zeros_like(out)
            if degree > 1:
                # A whole rectangle is had for less than a part of it.
                side, of_side = (nearest, beyond) if columns else (nearest[beyond], slice(None))
                slopes[:, 0] = _surface(spline, side, columns, dx=1)[of_side]
                slopes[:, 1] = _surface(spline, side, columns, dy=1)[of_side]
            # A tail has to fall to be a density.
            inside[beyond] += np.minimum(slopes * out, 0.0).sum(-1) - 0.5 * ((out @ precision) * out).sum(-1)
        value[finite] = inside
        return value

    return evaluate


def _columns(points: Array) -> int:
    """How many points a row has where ``points`` (n, 2) are those of a rectangle, the last axis fastest; else zero."""
    columns = int(np.argmax(points[:, 0] != points[0, 0])) if len(points) else 0
    if columns < 2 or len(points) % columns:
        return 0
    rows = points.reshape(-1, columns, 2)
    product = (rows[..., 0] == rows[:, :1, 0]).all() and (rows[..., 1] == rows[:1, :, 1]).all()
    return columns if product and (np.diff(rows[:, 0, 0]) > 0.0).all() and (np.diff(rows[0, :, 1]) > 0.0).all() else 0


def _surface(spline: RectBivariateSpline, points: Array, columns: int, dx: int = 0, dy: int = 0) -> Array:
    """Values or derivatives at points (n, 2); FITPACK takes a fiftieth of the time where they have ``columns``."""
    if not columns:
        return np.asarray(spline.ev(points[:, 0], points[:, 1], dx=dx, dy=dy))
    return np.asarray(spline(points[::columns, 0], points[:columns, 1], dx=dx, dy=dy)).reshape(-1)


def _is_kinked(known: Array) -> bool:
    """Whether the log density bends within a cell by more than a spline can follow, where there may be mass."""
    floor = known.max() - _KINK_DEPTH
    for lines in (known, known.T):
        before, here, after = lines[:-2], lines[1:-1], lines[2:]
        bend = np.abs(before - 2.0 * here + after)
        if (bend[np.maximum(np.maximum(before, after), here) > floor] > _KINK).any():
            return True
    return False


def _precision(grid: Grid, log_density: Array) -> Array:
    """Inverse covariance, (2, 2), of the law with this log density at the cell centres."""
    mass = np.exp(log_density - log_density.max()).reshape(-1)
    centred = grid.points - mass @ grid.points / mass.sum()
    covariance = (mass[:, None] * centred).T @ centred / mass.sum()
    # So that a law within a single cell has one.
    return np.asarray(np.linalg.inv(covariance + np.diag(1e-9 * np.square(grid.widths))))
