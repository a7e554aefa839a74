"""Grids that follow a law: they cover it down to a depth, resolve it, and grow and shrink with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from jkofilter._typing import Array
from jkofilter.numerics.chang_cooper import ImplicitOperator, Progress, evolve
from jkofilter.numerics.domain import Domain
from jkofilter.numerics.grids import Axis, Grid, LogDensity, interpolant

_CORE = 12.0
"""Nats below its maximum within which a law has its bulk."""
_PASSES = 80
_BLOCK = 8
_KINKS = 0.02
"""Share of the bulk where a law may bend however sharply, as at the kinks of a potential, and its grid still grow."""


class Reach(NamedTuple):
    """How far a free grid extends and how finely.

    Attributes:
        depth: nats below its maximum to which the grid carries the density.
        refit_above: a grid whose sides lie deeper than this may be left as it is.
        redo_above: with sides higher than this, nats below the maximum, steps are taken again on a wider grid.
        most: how many times the cells asked for an axis may have.
        per_scale: cells wanted within the length on which the bulk of the law bends.
        fewest_per_scale: an axis grows no further once even ``most`` times the cells would leave fewer than these.
        trusted: nats below its maximum to which a law that has been stepped is relied on: implicit steps fatten its
            tails, and guards take the place of second order there.
    """

    depth: float
    refit_above: float
    redo_above: float
    most: int
    per_scale: float
    fewest_per_scale: float
    trusted: float = 25.0

    def widest(self, cells: int, scale: float) -> float:
        """Longest axis on which a law of local ``scale`` stays resolved."""
        return self.most * cells * scale / self.fewest_per_scale


LINE = Reach(230.0, 180.0, 70.0, 8, 20.0, 20.0, 50.0)
"""21 standard deviations of a Gaussian each way."""

PLANE = Reach(60.0, 45.0, 30.0, 2, 10.0, 3.0)
"""11 standard deviations of a Gaussian each way: cells are dear, and walls at exp(-30) are not felt."""


def fit(
    log_density: LogDensity, grid: Grid, cells: tuple[int, ...], reach: Reach, walls: Domain | None = None
) -> tuple[Grid, Array]:
    """A grid that covers ``log_density`` and resolves it, searched from ``grid``.

    Args:
        log_density: maps points (n, d) to (n,).
        grid: where the search starts.
        cells: asked for along each axis; the result has at least these, and ``reach.most`` times as many at most.
        reach: how far and how finely.
        walls: beyond which the grid does not go.

    Returns:
        The grid, and the values at its centres, ``grid.shape``; all -inf where the search found no mass.
    """
    grid = _within(grid, walls)
    for _ in range(_PASSES):
        value = log_density(grid.points).reshape(grid.shape)
        top = np.unravel_index(int(value.argmax()), value.shape)
        if not np.isfinite(value[top]):
            return grid, value
        near = value[tuple(slice(max(0, k - 1), k + 2) for k in top)]
        # Between coarse cells the maximum may be higher than at any of them, by about this much.
        slack = float(value[top] - near[np.isfinite(near)].min())
        covered = value > value[top] - reach.depth - slack
        axes = tuple(
            _fitted(
                axis,
                _along(covered, k),
                local_scale(value, k, axis.width),
                cells[k],
                reach,
                len(_open_sides(grid, k, walls)) < 2
                or axis.length < reach.widest(cells[k], _scale_but_kinks(value, k, axis)),
            )
            for k, axis in enumerate(grid.axes)
        )
        wanted = _within(Grid(axes), walls)
        if wanted == grid:
            return grid, value
        grid = wanted
    return grid, log_density(grid.points).reshape(grid.shape)


def _within(grid: Grid, walls: Domain | None) -> Grid:
    """``grid`` with its axes cut at the walls."""
    if walls is None:
        return grid
    return Grid(
        tuple(
            axis._replace(low=max(axis.low, low), high=min(axis.high, high))
            for axis, (low, high) in zip(grid.axes, walls.sides, strict=True)
        )
    )


def _along(covered: Array, axis: int) -> Array:
    """Indices along ``axis`` of the slices that hold any True, increasing."""
    return np.flatnonzero(covered.any(axis=tuple(k for k in range(covered.ndim) if k != axis)))


def _fitted(axis: Axis, covered: Array, scale: float, asked: int, reach: Reach, may_grow: bool) -> Axis:
    """``axis`` cut to the ``covered`` cells or grown beyond them; the very same where that would change little.

    It is cut whatever ``may_grow`` says.
    """
    first, last = int(covered[0]), int(covered[-1])
    low, high = axis.low + (first - 1) * axis.width, axis.low + (last + 2) * axis.width
    if may_grow:
        low -= 0.3 * axis.length * (first == 0)
        high += 0.3 * axis.length * (last == axis.cells - 1)
    else:
        low, high = max(low, axis.low), min(high, axis.high)
    wanted = math.ceil(min(reach.per_scale * (high - low) / scale, reach.most * asked))
    cells = max(wanted, asked)
    growing = high - low > 1.1 * axis.length
    shrinking = high - low < 0.8 * axis.length
    if not (growing or shrinking) and cells <= 1.25 * axis.cells:
        return axis
    return Axis(low, high, cells)


def follow(
    grid: Grid,
    p: Array,
    progress: Progress,
    operator_on: Callable[[Grid], ImplicitOperator],
    cells: tuple[int, ...],
    reach: Reach,
    walls: Domain | None = None,
) -> tuple[Grid, Array, int]:
    """Evolve a law to the end of ``progress`` on a grid that keeps it covered.

    Args:
        grid: where the law lies.
        p: non-negative densities at the centres, ``grid.shape``, up to a factor.
        progress: how far to go; updated in place.
        operator_on: builds the generator on a grid.
        cells: asked for along each axis.
        reach: how far and how finely.
        walls: beyond which the grid does not go, and through which there is no flux.

    Returns:
        The grid in the end, the densities on it up to a factor, and how often the grid was changed.
    """
    operator = operator_on(grid)
    regrids = 0
    while not progress.done:
        saved = replace(progress)
        after = evolve(operator, p, progress, _BLOCK)
        depths = [_side_depth(after, k, _open_sides(grid, k, walls)) for k in range(p.ndim)]
        # Whether an axis may get longer is asked only where it would, for that looks at the whole law.
        may_widen = partial(_may_widen, grid, p, cells, reach, walls)
        felt = [depth < reach.redo_above and may_widen(k) for k, depth in enumerate(depths)]
        if any(felt):
            # The end of the grid has been felt: these steps are taken again from where they began, on a wider grid.
            progress.__dict__.update(saved.__dict__)
            axes = [
                _doubled(axis, reach.most * asked) if wall else axis
                for axis, asked, wall in zip(grid.axes, cells, felt, strict=True)
            ]
            wider = _within(Grid(tuple(axes)), walls)
            log_density = interpolant(grid, log(p), closed=False)(wider.points).reshape(wider.shape)
            grid = wider
        else:
            p = after
            if progress.done:
                continue
            loose = p > math.exp(-1.4 * reach.depth) * p.max()
            good = [
                _is_tight(_along(loose, k), grid.axes[k]) and (depths[k] > reach.refit_above or not may_widen(k))
                for k in range(p.ndim)
            ]
            if all(good):
                continue
            grid, log_density = fit(interpolant(grid, log(p), closed=False), grid, cells, reach, walls)
        p = np.exp(log_density - log_density.max())
        operator = operator_on(grid)
        regrids += 1
    return grid, p, regrids


def _doubled(axis: Axis, most: int) -> Axis:
    return Axis(axis.low - 0.5 * axis.length, axis.high + 0.5 * axis.length, min(2 * axis.cells, most))


def _may_widen(grid: Grid, p: Array, cells: tuple[int, ...], reach: Reach, walls: Domain | None, k: int) -> bool:
    """Whether an axis may get longer: if it stays resolved, or is at a wall, where a law may bend without bound."""
    axis = grid.axes[k]
    if len(_open_sides(grid, k, walls)) < 2:
        return True
    return axis.length < 0.5 * reach.widest(cells[k], _scale_but_kinks(log(p), k, axis))


def _is_tight(loose: Array, axis: Axis) -> bool:
    """Whether the law takes up most of the axis."""
    return bool(loose[-1] - loose[0] > 0.7 * axis.cells)


def _open_sides(grid: Grid, axis: int, walls: Domain | None) -> list[int]:
    """Indices along ``axis`` of those of its two sides that are no walls."""
    if walls is None:
        return [0, -1]
    (low, high), own = walls.sides[axis], grid.axes[axis]
    return [index for index, free in ((0, own.low > low), (-1, own.high < high)) if free]


def _side_depth(p: Array, axis: int, sides: list[int]) -> float:
    """Nats from the maximum of ``p`` down to the highest value on some of the two sides across ``axis``."""
    side = float(np.take(p, sides, axis=axis).max()) if sides else 0.0
    # Not of the quotient, which may come out as zero.
    return math.log(p.max()) - math.log(side) if side > 0 else math.inf


def _scale_but_kinks(log_density: Array, axis: int, own: Axis) -> float:
    """The local scale; kinks left out where mass that moments feel stands at a side and needs room."""
    lines = np.moveaxis(log_density, axis, -1)
    felt = lines[..., [0, -1]].max() > log_density.max() - _CORE
    return local_scale(log_density, axis, own.width, _KINKS if felt else 0.0)


def local_scale(log_density: Array, axis: int, width: float, left_out: float = 0.0) -> float:
    """Shortest length along ``axis`` on which the bulk of a law bends: 1 / sqrt of its logarithm's largest curvature.

    Args:
        log_density: (n,) or (n1, n2).
        axis: along which.
        width: of a cell along it, in units of the state.
        left_out: share of the bulk whose curvature, the largest, does not count.
    """
    lines = np.moveaxis(log_density, axis, -1)
    before, here, after = lines[..., :-2], lines[..., 1:-1], lines[..., 2:]
    bulk = here > log_density.max() - _CORE
    length = width * lines.shape[-1]
    if not bulk.any():
        return length
    bends = np.abs(before[bulk] - 2.0 * here[bulk] + after[bulk])
    most = bends.size - 1 - int(left_out * bends.size)
    curvature = np.partition(bends, most)[most] / width**2
    return float(min(max(1.0 / math.sqrt(curvature), 1e-3 * width), length)) if curvature > 0 else length


def ages(grid: Grid, log_density: Array, energy: Array, beta: float) -> tuple[float, float]:
    """Times in which noise doubles the width of a law, and in which drift carries the law as far.

    Args:
        grid: where the law lies.
        log_density: ``grid.shape``, any additive constant.
        energy: beta V at the centres, ``grid.shape``.
        beta: inverse temperature.
    """
    mass = np.exp(log_density - log_density.max())
    mass /= mass.sum()
    noise = drift = math.inf
    for k, axis in enumerate(grid.axes):
        scale = max(local_scale(log_density, k, axis.width), axis.width)
        # A potential that is not finite is for others to complain of.
        with np.errstate(invalid="ignore"):
            slope = float((mass * np.abs(np.gradient(energy, axis.width, axis=k))).sum())
        noise = min(noise, 0.5 * beta * scale**2)
        drift = min(drift, beta * scale / slope if slope > 0.0 else math.inf)
    return noise, drift


def upwinding(grid: Grid, p: Array, energy: Array) -> float:
    """By what share cells too wide for the drift add to the noise where a law is, along the axis with most of it.

    With a fall z of beta V across a cell the scheme's noise is (z/2) coth(z/2) times the true one, or 1 + z^2/12. It is
    not felt where a law is as it would be at rest, p exp(beta V) the same on both sides, which the scheme knows.

    Args:
        grid: where the law lies.
        p: densities at its cells, up to a factor.
        energy: beta V there.
    """
    held = p > math.exp(-_CORE) * p.max()
    unrest = np.where(held, log(np.where(held, p, 1.0)) + energy, 0.0)
    products = (np.abs(np.gradient(energy, axis=k) * np.gradient(unrest, axis=k)) for k in range(p.ndim))
    inner = [held.copy() for _ in range(p.ndim)]
    for k, mask in enumerate(inner):
        # Differences across the edge of the bulk are none.
        rows = np.moveaxis(mask, k, 0)
        rows[1:] &= np.moveaxis(held, k, 0)[:-1]
        rows[:-1] &= np.moveaxis(held, k, 0)[1:]
    return max(float((p * one)[mask].sum() / p.sum()) / 12.0 for one, mask in zip(products, inner, strict=True))


def log(p: Array) -> Array:
    """log p, -inf where p is zero."""
    with np.errstate(divide="ignore"):
        return np.log(p)
