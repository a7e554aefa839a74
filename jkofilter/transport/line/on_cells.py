"""Where JKO steps get nowhere: the same law carried on cells, and brought back to nodes."""

from __future__ import annotations

import numpy as np

from jkofilter._typing import Array
from jkofilter.numerics.chang_cooper import ChangCooper, Progress
from jkofilter.numerics.grid_ends import LEFT, ends_of, precipice
from jkofilter.numerics.grid_following import Reach, ages, fit, follow, log, upwinding
from jkofilter.numerics.grids import Axis, Grid, interpolant
from jkofilter.numerics.resolution import unresolved
from jkofilter.transport.line.density import MAX_MASS_DEFECT, QuantileDensity, adapted, normalised
from jkofilter.transport.line.landscape import Landscape

CELLS = 4000
_REACH = Reach(90.0, 70.0, 45.0, 4, 20.0, 20.0, 50.0)
_STEPS, _GRADING = 50, 0.05
_MISSED, _UPWIND, _FALLING, _FELT = 0.01, 0.1, 0.3, 1e-5
_APART = 5e-4


class _NotHeldError(Exception):
    """The potential is not finite where the law is, lets it go, or bends between the cells."""


def carried_on_cells(
    before: QuantileDensity, duration: float, landscape: Landscape, step: float, nodes: int
) -> QuantileDensity | None:
    """The density ``duration`` later by Chang-Cooper and TR-BDF2 on cells that follow it; None where they cannot.

    That is where the potential is not finite, lets the law go, or bends between the cells; or where half as many cells
    have another mean or deviation.

    Args:
        before: where to start.
        duration: positive, time.
        landscape: V and beta.
        step: longest, time.
        nodes: how many carry the density at least.
    """
    try:
        grid, p = _carried(before, duration, landscape, step, CELLS)
        rough = _carried(before, duration, landscape, step, CELLS // 2)
    except _NotHeldError:
        return None
    (mean, deviation), (other, wider) = _moments(grid, p), _moments(*rough)
    if max(abs(other - mean), abs(wider - deviation)) > _APART * deviation:
        return None
    return _on_nodes(grid, p, nodes)


def _carried(
    before: QuantileDensity, duration: float, landscape: Landscape, step: float, cells: int
) -> tuple[Grid, Array]:
    """The grid and the densities on it in the end, up to a factor.

    Raises:
        _NotHeldError: see there.
    """
    density = before.law

    def energy(x: Array) -> Array:
        return landscape.beta * landscape.energy(x[:, 0])

    def operator(grid: Grid) -> ChangCooper:
        potential = energy(grid.points)
        if not np.isfinite(potential).all() or precipice(grid, potential, None):
            raise _NotHeldError
        return ChangCooper(potential / landscape.beta, grid.axes[0].width, landscape.beta)

    start = Grid((Axis(float(before.x[0]), float(before.x[-1]), cells),))
    grid, value = fit(lambda x: density(x[:, 0]), start, (cells,), _REACH)
    noise, drift = ages(grid, value, energy(grid.points), landscape.beta)
    grading = _GRADING * (1.0 if noise < drift else _FALLING)
    progress = Progress.start(duration, min(step, duration / _STEPS), min(noise, drift), grading)
    grid, p, _ = follow(grid, np.exp(value - value.max()), progress, operator, (cells,), _REACH)
    held = not any(end.share > (LEFT if end.falls else _FELT) for end in ends_of(grid, p, energy, None))
    seen = unresolved(energy, grid.axes[0], log(p)) <= _MISSED and upwinding(grid, p, energy(grid.points)) < _UPWIND
    if not (held and seen):
        raise _NotHeldError
    return grid, p


def _moments(grid: Grid, p: Array) -> tuple[float, float]:
    """Mean and standard deviation."""
    share, x = p / p.sum(), grid.points[:, 0]
    mean = float(share @ x)
    return mean, float(np.sqrt(share @ (x - mean) ** 2))


def _on_nodes(grid: Grid, p: Array, nodes: int) -> QuantileDensity | None:
    between = interpolant(grid, log(p), closed=False)
    edges = np.linspace(grid.axes[0].low, grid.axes[0].high, 4 * nodes)
    try:
        density, log_mass = normalised(adapted(lambda x: between(x[:, None]), edges, nodes, 3))
    except FloatingPointError:
        return None
    known = float(np.log(p.sum() * grid.volume))
    return density if abs(log_mass - known) < MAX_MASS_DEFECT else None
