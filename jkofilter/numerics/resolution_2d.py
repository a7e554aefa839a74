"""Whether cells of a rectangle see the potential between their centres: wells and walls that would be stepped over."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.interpolate import RectBivariateSpline
from scipy.special import logsumexp

from jkofilter._typing import Array
from jkofilter.numerics.grids import Axis, Grid

_CORE = 12.0
_LOOKS = 4
_FEWEST = 8
_MARGIN = 2
_MOST = 500.0
_CLEAR = 1e-3


def unresolved_on_plane(energy: Callable[[Array], Array], grid: Grid, log_density: Array) -> float:
    """How much the weight of wells, or the conductance across walls, is off where a law has its bulk, as a share.

    The potential at sixteen places of every cell is compared with the bicubic spline through the centres, which knows
    all that cells can tell of a potential that bends on their scale. Compared are, in windows of a standard deviation
    of the law along each axis, integrals of exp(-energy), which is where mass settles, and along each axis the
    conductance of lines side by side, each the inverse of an integral of exp(energy): a law goes round a thin peak, but
    not round a thin wall.

    Args:
        energy: beta V at points (n, 2), (n,).
        grid: the cells.
        log_density: of the law at their centres, ``grid.shape``, any additive constant.
    """
    bulk = log_density > log_density.max() - _CORE
    boxes = [_box(bulk.any(1 - k), axis) for k, axis in enumerate(grid.axes)]
    if any(box.stop - box.start < _FEWEST for box in boxes):
        return 0.0
    centres = [axis.centres[box] for axis, box in zip(grid.axes, boxes, strict=True)]
    between = [_between(x, axis.width) for x, axis in zip(centres, grid.axes, strict=True)]
    at_centres = _on(energy, centres)
    # Where it is infinite the filter itself complains.
    known = np.where(np.isfinite(at_centres), at_centres, at_centres[np.isfinite(at_centres)].max())
    assumed = RectBivariateSpline(*centres, known)(*between)
    found = _on(energy, between)
    found = np.where(np.isfinite(found), found, assumed)
    apart = float(np.abs(found - assumed).max())
    if apart < _CLEAR:
        return apart
    part = np.exp(log_density[tuple(boxes)] - log_density.max())
    windows = [_window(part.sum(1 - k), x) for k, x in enumerate(centres)]
    near = _lit(bulk[tuple(boxes)])
    return max(
        _wells(found, assumed, windows, near),
        *(_walls(np.moveaxis(found, k, 0), np.moveaxis(assumed, k, 0), windows[:: 1 - 2 * k], near, k) for k in (0, 1)),
    )


def _box(held: Array, axis: Axis) -> slice:
    """The cells along an axis that hold the bulk, and a few beyond."""
    where = np.flatnonzero(held)
    return slice(max(int(where[0]) - _MARGIN, 0), min(int(where[-1]) + _MARGIN + 1, axis.cells))


def _between(x: Array, width: float) -> Array:
    """Places between neighbouring centres, _LOOKS of them."""
    return np.asarray((x[:-1, None] + width * (np.arange(_LOOKS) + 0.5) / _LOOKS).reshape(-1))


def _on(energy: Callable[[Array], Array], sides: list[Array]) -> Array:
    points = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1)
    return energy(points.reshape(-1, 2)).reshape(points.shape[:2])


def _window(mass: Array, x: Array) -> int:
    """A standard deviation in cells."""
    mean = mass @ x / mass.sum()
    deviation = np.sqrt(mass @ (x - mean) ** 2 / mass.sum())
    return int(min(max(_FEWEST, round(deviation / (x[1] - x[0]))), x.size - 1))


def _lit(bulk: Array) -> Array:
    """Which of the rectangles between centres touch the bulk."""
    return np.asarray(bulk[:-1, :-1] | bulk[1:, :-1] | bulk[:-1, 1:] | bulk[1:, 1:])


def _wells(found: Array, assumed: Array, windows: list[int], near: Array) -> float:
    """Largest integral of |exp(-found) - exp(-assumed)| over windows, as a share of that of exp(-assumed)."""
    with np.errstate(divide="ignore"):
        missed = np.maximum(-found, -assumed) + np.log(-np.expm1(-np.abs(found - assumed)))
    sums = []
    for logs in (missed, -assumed):
        cells = logsumexp(logs.reshape(near.shape[0], _LOOKS, near.shape[1], _LOOKS), axis=(1, 3))
        cells = np.where(near, cells, -np.inf)
        sums.append(_summed(_summed(cells, windows[0], 0), windows[1], 1))
    return _largest(sums[0], sums[1])


def _walls(found: Array, assumed: Array, windows: list[int], near: Array, axis: int) -> float:
    """By what share the conductance along the first axis of windows that lie in the bulk differs."""
    near, conductances = np.moveaxis(near, axis, 0), []
    for logs in (assumed, found):
        along = logsumexp(logs.reshape(-1, _LOOKS, logs.shape[1]), axis=1)
        # Lines that leave the bulk conduct nothing that counts.
        lit = np.repeat(near, _LOOKS, axis=1)
        lines = _summed(np.where(lit, along, np.inf), windows[0], 0)
        conductances.append(_summed(-lines, _LOOKS * windows[1], 1))
    held = np.isfinite(conductances[0]) & np.isfinite(conductances[1])
    apart = np.abs(conductances[0][held] - conductances[1][held])
    return float(np.expm1(min(apart.max(), _MOST))) if apart.size else 0.0


def _summed(logs: Array, window: int, axis: int) -> Array:
    """Logarithms of sums over windows along an axis, four to a window's length."""
    steps = tuple(slice(None, None, max(window // 4, 1)) if k == axis else slice(None) for k in range(logs.ndim))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(logsumexp(sliding_window_view(logs, window, axis)[steps], axis=-1))


def _largest(missed: Array, whole: Array) -> float:
    held = np.isfinite(whole)
    return float(np.exp(np.minimum((missed[held] - whole[held]).max(), _MOST))) if held.any() else 0.0
