"""What lies at the open ends of cells that follow a law: laws that have left, and cells that were too few."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jkofilter._typing import Array
from jkofilter.numerics.domain import Domain
from jkofilter.numerics.grids import Grid

LEFT = 1e-9
"""Share of a law beyond which it has left: far out, less than that already makes the moments."""
_FEWEST = {1: 50, 2: 8}
_SHARE = {1: 100, 2: 40}


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
    for k, axis in enumerate(grid.axes):
        near = max(_FEWEST[d], axis.cells // _SHARE[d])
        low, high = (-np.inf, np.inf) if walls is None else walls.sides[k]
        layers, centres = np.moveaxis(p, k, 0), np.moveaxis(grid.points.reshape(*grid.shape, d), k, 0)
        for outer, inner, strip, is_open in (
            (0, near, slice(None, near), axis.low > low),
            (-1, -1 - near, slice(-near, None), axis.high < high),
        ):
            share = float(layers[strip].sum() / p.sum())
            if not is_open or share == 0.0:
                continue
            mass = layers[strip].sum(0).reshape(-1)
            there = mass > 0.0
            ends = (centres[row].reshape(-1, d)[there] for row in (outer, inner))
            drop = np.subtract(*(energy(points) for points in ends))
            at = f"{'x' if d == 1 else f'x[{k}]'} = {axis.centres[outer]:g}"
            found.append(End(at, share, bool(mass[there] @ np.sign(drop) < 0.0)))
    return found
