"""The grid filter: Chang-Cooper between readings, Bayes cell by cell at each of them. The reference for d = 1 and 2."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Generator, Tensor

from jkofilter._typing import Array
from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.info import StepInfo
from jkofilter.errors import FilterError, InputError
from jkofilter.filters.base import Runnable
from jkofilter.filters.checks import (
    checked_belief,
    checked_log_likelihood,
    occasion,
    predicting,
    require_countable,
    require_line_or_plane,
    require_model,
    updating,
)
from jkofilter.filters.contract import joined
from jkofilter.filters.on_grid import (
    OnGrid,
    belief_on_grid,
    checked_bounds,
    in_support,
    kind_of_belief,
    log_prior,
    prior_on_grid,
)
from jkofilter.filters.surprise import surprise
from jkofilter.models.checks import require_positive
from jkofilter.models.state_space import StateSpaceModel
from jkofilter.numerics.arrays import as_array
from jkofilter.numerics.chang_cooper import ChangCooper, Progress, evolve
from jkofilter.numerics.chang_cooper_2d import ChangCooper2D
from jkofilter.numerics.grid_ends import LEFT, ends_of, precipice
from jkofilter.numerics.grid_following import LINE, PLANE, Reach, ages, fit, follow, log, upwinding
from jkofilter.numerics.grids import Axis, Grid, LogDensity, log_mass
from jkofilter.numerics.resolution import unresolved
from jkofilter.numerics.resolution_2d import unresolved_on_plane
from jkofilter.smoothing.contract import PathDraws, Record, Smoothed
from jkofilter.smoothing.gridded import GridSmoother, gridded_paths

MOST_GRID_STEPS = 1e9
"""Steps of the length asked for from which on a duration is questioned: a stationary law takes far longer ones."""
RESOLVED = 0.01
"""Share by which integrals over the wells of a potential may be off before cells are narrowed, or this is noted."""
_FELT = 1e-4
"""Share of a law at an end of its cells that is noted."""
_CELLS = {1: 2000, 2: 300}
_FEWEST_CELLS = 50
_GRADED_CELLS = 100.0
_LONGEST_GRADED = 0.1
_FALLING = 0.3
_UPWIND = 0.3
"""Share added to the noise that is noted: half of a tenth of it shows in a law's deviation."""

Side: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class GridFilter(Runnable):
    """Filter of a diffusion on the line or the plane whose belief is a density on equal cells.

    Without ``bounds`` the grid follows the law: it covers it down to exp(-230) of its maximum (exp(-60) on the plane),
    grows and shrinks with it, and takes more than ``cells`` cells (up to eight times as many; twice as many along each
    side of the plane) where the law is rough. With ``bounds`` the cells are exactly the ones asked for, closed at all
    ends, at all times.

    The scheme is of second order while cells are narrow for the drift, beta |grad V| width below about 2; beyond that
    it turns upwind and spreads the law. A law far from the wells, or very wide, may therefore want more cells.

    Attributes:
        model: what is tracked, d = 1 or 2, with any coupling between the coordinates.
        bounds: (low, high) in units of the state, for d = 2 of both coordinates or a pair for each; or None. Once
            constructed, d = 2 holds a pair for each.
        cells: how many cells, for d = 2 along both coordinates or a pair; the error falls with their square. None
            takes 2000 on the line, 300 by 300 on the plane. After a sharp reading the first steps are a fraction
            100 / cells (on the plane a tenth at most) of the time in which the law doubles its width.
        step: longest time step while the law changes, in the SDE's unit; the error falls with its square. Once the
            law is all but stationary, steps grow beyond it.

    Raises:
        InputError: a setting cannot be used.
    """

    model: StateSpaceModel
    bounds: Side | tuple[Side, Side] | None = None
    cells: int | tuple[int, int] | None = None
    step: float = 0.005

    def __post_init__(self) -> None:
        require_model(self.model)
        require_line_or_plane(self.model, "GridFilter")
        object.__setattr__(self, "cells", _checked_cells(self.cells, self.model.dim))
        require_positive("step", self.step)
        if self.bounds is not None:
            object.__setattr__(self, "bounds", checked_bounds(self.bounds, self.model.dim))
            # Building it here reports a potential that is not finite within the bounds at construction.
            self._require_inside()
            _ = self._closed_operator

    def init(self, generator: Generator) -> OnGrid:
        """The prior on cells.

        Raises:
            InputError: the prior's log density is NaN, or zero throughout the bounds or all around its mean.
        """
        if self.bounds is not None:
            grid = self._closed_grid
            log_density = log_prior(self.model, grid.points).reshape(grid.shape)
            cure = "bounds hold no mass of the prior; choose bounds around it."
        else:
            grid, log_density = prior_on_grid(self.model, self._asked, self._reach)
            cure = "prior has zero density all around its mean; give one that can be evaluated."
        if not np.isfinite(log_density.max()):
            raise InputError(cure)
        return self._belief(grid, log_density, 0.0, 0.0)

    def predict(self, belief: Belief, duration: float, generator: Generator) -> tuple[OnGrid, StepInfo]:
        """The law ``duration`` later.

        Raises:
            InputError: the potential is not finite where the law has arrived.
        """
        return predicting(belief, self._kind, duration, self._later)

    def _later(self, now: OnGrid, duration: float) -> tuple[OnGrid, StepInfo]:
        require_countable(duration, self.step, "step", MOST_GRID_STEPS)
        self._require_own_grid(now)
        finer = 1
        while True:
            start = self._start(now, finer)
            grid, p, details = self._evolved(start, duration, finer)
            rough = max(self._unresolved(start), self._unresolved((grid, log(p))))
            if rough <= RESOLVED or self.bounds is not None or 2 * finer > self._reach.most:
                break
            finer *= 2
        after = self._belief(grid, log(p), now.time + duration, now.log_evidence)
        note = joined(self._unseen(grid, rough), self._too_wide(grid, p), self._at_ends(grid, p))
        return after, StepInfo(details=details, note=note)

    def _start(self, now: OnGrid, finer: int) -> tuple[Grid, Array]:
        """The law on its own grid, or on one of at least so many times the cells asked for."""
        if finer == 1:
            return now.grid, as_array(now.log_density)
        return fit(now.evaluate, now.grid, *self._finer(finer), self.model.sde.domain)

    def _finer(self, finer: int) -> tuple[tuple[int, ...], Reach]:
        """Cells asked for along each axis and the reach, with ``finer`` times the cells and no more at most."""
        reach = self._reach
        return tuple(finer * cells for cells in self._asked), reach._replace(most=reach.most // finer)

    def _evolved(self, start: tuple[Grid, Array], duration: float, finer: int) -> tuple[Grid, Array, dict[str, float]]:
        """Grid and densities ``duration`` later, and what it took."""
        grid, log_density = start
        energy = self._energy(grid.points).reshape(grid.shape)
        noise, drift = ages(grid, log_density, energy, float(self.model.sde.beta))
        # A law that falls into a well keeps changing at the same rate, where one that spreads slows down.
        grading = self._grading * (1.0 if noise < drift else _FALLING)
        progress = Progress.start(duration, float(self.step), min(noise, drift), grading)
        p = np.exp(log_density - log_density.max())
        if self.bounds is not None:
            p, regrids = evolve(self._closed_operator, p, progress, progress.total), 0
        else:
            grid, p, regrids = follow(grid, p, progress, self._operator, *self._finer(finer), self.model.sde.domain)
        details: dict[str, float] = {
            "steps": progress.steps,
            "tail_guards": progress.tail_guards,
            "euler_steps": progress.euler_steps,
            "regrids": regrids,
            "cells": math.prod(grid.shape),
        }
        return grid, p, details

    def _unresolved(self, law: tuple[Grid, Array]) -> float:
        """How much the potential between the cells is missed where a law is."""
        grid, log_density = law
        if len(grid.axes) == 1:
            return unresolved(self._energy, grid.axes[0], log_density)
        return unresolved_on_plane(self._energy, grid, log_density)

    def _energy(self, x: Array) -> Array:
        """beta V at points (n, d)."""
        with torch.no_grad():
            return float(self.model.sde.beta) * as_array(self.model.sde.potential(self._points(x)))

    def _unseen(self, grid: Grid, rough: float) -> str:
        """What to note of a potential whose wells or barriers fall between the cells; empty where there are none."""
        if rough <= RESOLVED:
            return ""
        more = 4 if len(grid.axes) == 1 else 2
        cells = max(axis.cells for axis in grid.axes)
        cure = f"give at least {more * cells} cells" if rough < 1 else "smooth it over some cells"
        return (
            f"the potential bends between cells of width {max(grid.widths):.3g}: weights of wells or crossings of "
            f"barriers may be off by {min(rough, 1.0):.0%} or more; {cure}"
        )

    def _too_wide(self, grid: Grid, p: Array) -> str:
        """What to note of cells across which the potential falls far; empty where they are narrow enough."""
        added = upwinding(grid, p, self._energy(grid.points).reshape(grid.shape))
        if added <= _UPWIND:
            return ""
        return (
            f"cells of width {max(grid.widths):.3g} are wide for the drift where the law is and add some {added:.0%} "
            f"to the noise, which widens it; give at least {2 * max(axis.cells for axis in grid.axes)} cells"
        )

    def _at_ends(self, grid: Grid, p: Array) -> str:
        """What to note of a law that has come to an end of a free grid; empty where it has not.

        Raises:
            FilterError: the potential falls beyond that end, so that the law has left through it.
        """
        note = ""
        for end in () if self.bounds is not None else ends_of(grid, p, self._energy, self.model.sde.domain):
            if end.share > LEFT and end.falls:
                raise FilterError(end.told)
            if end.share > _FELT:
                note = f"a share of {end.share:.2g} of the law lies at the end {end.at} of its cells; give more cells"
        return note

    def update(self, belief: Belief, y: Tensor, generator: Generator) -> tuple[OnGrid, StepInfo]:
        """The law given a reading; without ``bounds``, on a grid fitted to it.

        Raises:
            FilterError: the likelihood is NaN, or zero wherever the law has mass.
        """
        return updating(belief, self._kind, y, self.model, self._given)

    def _given(self, now: OnGrid, reading: Tensor) -> tuple[OnGrid, StepInfo]:
        self._require_own_grid(now)

        log_likelihood, grid = self._log_likelihood(reading, now.time), now.grid
        if self.bounds is not None:
            log_density = as_array(now.log_density) + log_likelihood(grid.points).reshape(grid.shape)
        else:
            walls = self.model.sde.domain
            grid, log_density = fit(
                lambda x: in_support(self.model, now.time, x, now.evaluate(x)) + log_likelihood(x),
                grid,
                self._asked,
                self._reach,
                walls,
            )
        if not np.isfinite(log_density.max()):
            raise FilterError(
                f"the likelihood is zero wherever the belief has mass {occasion(reading, now.time)}; "
                "check the reading, or leave bounds out."
            )
        increment = log_mass(grid, log_density)
        after = self._belief(grid, log_density, now.time, now.log_evidence + increment)
        return after, StepInfo(
            log_evidence=increment,
            details={"cells": math.prod(grid.shape)},
            note=self._unsure(now, grid, log_density),
            surprise=surprise(
                self.model, reading, self._points(now.grid.points), np.exp(as_array(now.log_density)).ravel()
            ),
        )

    def _log_likelihood(self, reading: Tensor, time: float) -> LogDensity:
        def log_likelihood(x: Array) -> Array:
            with torch.no_grad():
                return as_array(checked_log_likelihood(self.model, reading, self._points(x), time))

        return log_likelihood

    def smoothed(self, record: Record, generator: Generator) -> Smoothed:
        """The laws of a record given all its readings, each on its own cells: this filter over the reversed readings.

        Raises:
            InputError: exp(-beta V) has no finite mass, and the last reading does not bound the state.
            FilterError: a step of the backward pass failed.
        """
        closed, likelihood = self.bounds is not None, self._log_likelihood
        own = GridSmoother(self, closed, self._asked, self._reach, likelihood, lambda x: -self._energy(x))
        return own.smoothed([checked_belief(law, self._kind) for law in record.laws], record.readings, generator)

    def paths(self, record: Record, n: int, times: list[float], generator: Generator) -> PathDraws:
        """``n`` independent paths given all readings, on the line alone (else InputError), by exact transitions."""
        return gridded_paths(self, record, n, times, generator)

    def _unsure(self, before: OnGrid, grid: Grid, log_joint: Array) -> str:
        """What to note where the posterior sits too deep in a tail of the law predicted; empty where it does not."""
        peak = grid.points[[int(log_joint.argmax())]]
        depth = float(as_array(before.log_density).max() - before.evaluate(peak)[0])
        if depth <= self._reach.trusted:
            return ""
        return (
            f"the reading lies beyond what the belief resolves: the posterior sits {depth:.3g} nats below the peak of "
            "the predicted law, so that its shape and the evidence are rough"
        )

    def _require_inside(self) -> None:
        """Raise InputError unless the bounds lie within the potential's domain."""
        domain = self.model.sde.domain
        if domain is None:
            return
        for axis, (low, high) in zip(self._closed_grid.axes, domain.sides, strict=True):
            if axis.low < low or axis.high > high:
                raise InputError(
                    f"bounds ({axis.low:g}, {axis.high:g}) reach beyond the domain {domain} of the potential; leave "
                    "them out, and the grid ends at its walls."
                )

    @property
    def _reach(self) -> Reach:
        return LINE if self.model.dim == 1 else PLANE

    @property
    def _asked(self) -> tuple[int, ...]:
        """Cells asked for along each axis."""
        return self.cells if isinstance(self.cells, tuple) else (self.cells or _CELLS[1],)

    @property
    def _grading(self) -> float:
        grading = _GRADED_CELLS / min(self._asked)
        return grading if self.model.dim == 1 else min(grading, _LONGEST_GRADED)

    @property
    def _kind(self) -> type[OnGrid]:
        return kind_of_belief(self.model)

    def _require_own_grid(self, belief: OnGrid) -> None:
        if self.bounds is not None and belief.grid != self._closed_grid:
            raise InputError("belief must lie on this filter's own bounds and cells; start from its init().")

    def _belief(self, grid: Grid, log_density: Array, time: float, log_evidence: float) -> OnGrid:
        closed = self.bounds is not None
        return belief_on_grid(self.model, grid, log_density, time, log_evidence, closed)[0]

    def _points(self, x: Array) -> Tensor:
        return torch.as_tensor(x, dtype=torch.float64, device=self.model.device)

    @cached_property
    def _closed_grid(self) -> Grid:
        sides = np.reshape(np.asarray(self.bounds, dtype=np.float64), (-1, 2)).tolist()
        return Grid(tuple(Axis(low, high, cells) for (low, high), cells in zip(sides, self._asked, strict=True)))

    @cached_property
    def _closed_operator(self) -> ChangCooper | ChangCooper2D:
        return self._operator(self._closed_grid)

    def _operator(self, grid: Grid) -> ChangCooper | ChangCooper2D:
        points = grid.points
        with torch.no_grad():
            value = self.model.sde.potential(self._points(points))
        if not isinstance(value, Tensor) or value.shape != points.shape[:1]:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"potential must map points of shape (n, {points.shape[1]}) to shape (n,), "
                f"but {points.shape} gave {shape}."
            )
        potential = as_array(value)
        if not np.isfinite(potential).all():
            at = ", ".join(f"{coordinate:g}" for coordinate in points[~np.isfinite(potential)][0])
            at = at if points.shape[1] == 1 else f"({at})"
            raise InputError(
                f"potential is not finite at x = {at}; give Potential(..., domain=(low, high)) within which it is."
            )
        beta = float(self.model.sde.beta)
        side = None if self.bounds else precipice(grid, beta * potential.reshape(grid.shape), self.model.sde.domain)
        if side is not None:
            raise FilterError(
                f"some of the law has left beyond {side}, where the potential falls without end; give Potential(..., "
                "domain=(low, high)) around what may be reached."
            )
        if len(grid.axes) == 1:
            return ChangCooper(potential, grid.axes[0].width, beta)
        return ChangCooper2D(potential.reshape(grid.shape), (grid.axes[0].width, grid.axes[1].width), beta)


def _checked_cells(cells: int | tuple[int, int] | None, dim: int) -> int | tuple[int, int]:
    """One number for d = 1, a pair for d = 2."""
    wanted: Any = _CELLS[dim] if cells is None else cells
    sides = tuple(wanted) if dim == 2 and isinstance(wanted, tuple | list) else (wanted,) * dim
    if len(sides) != dim or any(
        isinstance(side, bool) or not isinstance(side, int) or side < _FEWEST_CELLS for side in sides
    ):
        pair = "" if dim == 1 else ", or a pair of them"
        raise InputError(f"cells must be an integer of at least {_FEWEST_CELLS}{pair}, got {cells!r}.")
    return sides[0] if dim == 1 else (sides[0], sides[1])
