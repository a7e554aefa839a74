"""What lies at the open ends of cells that follow a law: laws that have left, and cells that were too few."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from jkofilter._typing import Array
from jkofilter.numerics.domain import Domain
from jkofilter.numerics.grids import Grid

LEFT = 1e-9
"""Share of a law beyond which it has left: far out, less than that already makes the moments."""
_FEWEST = {1: 50, 2: 8}
_SHARE = {1: 100, 2: 40}
_PRECIPICE = 1e4
"""Fall of beta V from cell to cell: a law crosses such a cell in a ten-thousandth of the time noise takes."""


@dataclass(frozen=True)
class End:
    """One open side of a grid.

    Attributes:
        at: where, and along which coordinate.
        share: of the law that lies in the outermost cells.
        falls: whether the potential falls outwards there, on average over that share.
    """

    at: str
    share: float
    falls: bool

    @property
    def told(self) -> str:
        """That a law has left through it, as an error."""
        return (
            f"a share of {self.share:.2g} of the law has left beyond {self.at}, where the potential falls without end; "
            "give Potential(..., domain=(low, high)) around what may be reached."
        )


def ends_of(grid: Grid, p: Array, energy: Callable[[Array], Array], walls: Domain | None) -> list[End]:
    """The sides of a grid of the line or the plane that are no walls.

    Args:
        grid: the cells.
        p: densities at their centres, ``grid.shape``, up to a factor.
        energy: the potential at points (n, d), up to a factor, (n,).
        walls: of the state's domain.
    """
    found, d = [], len(grid.axes)
    for k, outer, inwards in _open_sides(grid, walls):
        near = max(_FEWEST[d], grid.axes[k].cells // _SHARE[d])
        layers, centres = np.moveaxis(p, k, 0), np.moveaxis(grid.points.reshape(*grid.shape, d), k, 0)
        strip = slice(None, near) if inwards > 0 else slice(-near, None)
        share = float(layers[strip].sum() / p.sum())
        if share == 0.0:
            continue
        mass = layers[strip].sum(0).reshape(-1)
        there = mass > 0.0
        ends = (centres[row].reshape(-1, d)[there] for row in (outer, outer + inwards * near))
        drop = np.subtract(*(energy(points) for points in ends))
        found.append(End(_named(grid, k, outer), share, bool(mass[there] @ np.sign(drop) < 0.0)))
    return found


def precipice(grid: Grid, energy: Array, walls: Domain | None) -> str | None:
    """An open side where a potential falls outwards so steeply that a law that has come there is gone; None if none.

    A grid that went on following it would take ever longer steps outwards.

    Args:
        grid: the cells.
        energy: beta V at their centres, ``grid.shape``.
        walls: of the state's domain.
    """
    for k, outer, inwards in _open_sides(grid, walls):
        layers = np.moveaxis(energy, k, 0)
        if np.median(layers[outer + inwards] - layers[outer]) > _PRECIPICE:
            return _named(grid, k, outer)
    return None


def _open_sides(grid: Grid, walls: Domain | None) -> Iterator[tuple[int, int, int]]:
    """Axis, index of the outermost layer and the way inwards from it, of every side that is no wall."""
    for k, axis in enumerate(grid.axes):
        low, high = (-np.inf, np.inf) if walls is None else walls.sides[k]
        if axis.low > low:
            yield k, 0, 1
        if axis.high < high:
            yield k, -1, -1


def _named(grid: Grid, k: int, outer: int) -> str:
    return f"{'x' if len(grid.axes) == 1 else f'x[{k}]'} = {grid.axes[k].centres[outer]:g}"
