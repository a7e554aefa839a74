"""The grid filter: Chang-Cooper between readings, Bayes cell by cell at each of them. The reference for d = 1."""

from __future__ import annotations

import math
import time as clock
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import logsumexp
from torch import Generator, Tensor

from jkofilter._typing import Array
from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.grid import GridBelief, cell_centres, interpolant
from jkofilter.errors import FilterError, InputError
from jkofilter.filters.base import (
    Runnable,
    StepInfo,
    checked_belief,
    checked_duration,
    checked_log_likelihood,
    checked_reading,
)
from jkofilter.models.state_space import StateSpaceModel, sample_prior
from jkofilter.numerics.chang_cooper import ChangCooper, Progress, evolve

DEPTH = 230.0
"""Nats below its maximum to which a free grid carries the density: 21 standard deviations of a Gaussian."""

_REFIT_ABOVE = 180.0
_REDO_ABOVE = 70.0
_CORE = 12.0
_CELLS_PER_SCALE = 20.0
_MOST_CELLS = 8
_FEWEST_CELLS = 50
_PRIOR_REACH = 40.0
_PASSES = 80
_BLOCK = 8
_GRADED_CELLS = 100.0

LogDensity = Callable[[Array], Array]


class _Grid(NamedTuple):
    low: float
    high: float
    cells: int

    @property
    def width(self) -> float:
        return (self.high - self.low) / self.cells

    @property
    def centres(self) -> Array:
        return cell_centres(self.low, self.high, self.cells)


@dataclass(frozen=True)
class GridFilter(Runnable):
    """Filter of a one-dimensional diffusion whose belief is a density on equal cells.

    Without ``bounds`` the grid follows the law: it covers it down to exp(-230) of its maximum, grows and shrinks with
    it, and takes more than ``cells`` cells (up to eight times as many) where the law is rough. With ``bounds`` the
    cells are exactly the ones asked for, closed at both ends, at all times.

    Attributes:
        model: what is tracked, d = 1.
        bounds: (low, high) in units of the state, or None.
        cells: how many cells; the error falls with their square. After a sharp reading the first steps are a fraction
            100 / cells of the time in which the law doubles its width.
        step: longest time step while the law changes, in the SDE's unit; the error falls with its square. Once the
            law is all but stationary, steps grow beyond it.

    Raises:
        InputError: a setting cannot be used.
    """

    model: StateSpaceModel
    bounds: tuple[float, float] | None = None
    cells: int = 2000
    step: float = 0.005

    def __post_init__(self) -> None:
        if not isinstance(self.model, StateSpaceModel):
            raise InputError("model must be a StateSpaceModel(prior, sde, observation).")
        if self.model.dim != 1:
            raise InputError(
                f"GridFilter handles dim 1, but model has dim {self.model.dim}; use a ParticleFilter or a JKOFilter."
            )
        if isinstance(self.cells, bool) or not isinstance(self.cells, int) or self.cells < _FEWEST_CELLS:
            raise InputError(f"cells must be an integer of at least {_FEWEST_CELLS}, got {self.cells!r}.")
        if not isinstance(self.step, int | float) or not 0 < self.step < math.inf:
            raise InputError(f"step must be positive and finite, got {self.step!r}.")
        if self.bounds is not None:
            object.__setattr__(self, "bounds", _checked_bounds(self.bounds))
            # Building it here reports a potential that is not finite within the bounds at construction.
            _ = self._closed_operator

    def init(self, generator: Generator) -> GridBelief:
        """The prior on cells.

        Raises:
            InputError: the prior's log density is NaN, or zero throughout the bounds or all around its mean.
        """
        if self.bounds is not None:
            grid = _Grid(*self.bounds, self.cells)
            log_density = self._log_prior(grid.centres)
            cure = "bounds hold no mass of the prior; choose bounds around it."
        else:
            centre, scale = self._location()
            start = _Grid(centre - _PRIOR_REACH * scale, centre + _PRIOR_REACH * scale, self.cells)
            grid, log_density = self._fit(self._log_prior, start)
            cure = "prior has zero density all around its mean; give one that can be evaluated."
        if not np.isfinite(log_density.max()):
            raise InputError(cure)
        return self._belief(grid, log_density, 0.0, 0.0)

    def predict(self, belief: Belief, duration: float, generator: Generator) -> tuple[GridBelief, StepInfo]:
        """The law ``duration`` later.

        Raises:
            InputError: the potential is not finite where the law has arrived.
        """
        now = checked_belief(belief, GridBelief)
        duration = checked_duration(duration)
        if duration == 0.0:
            return now, StepInfo(status="skipped")
        start = clock.perf_counter()
        grid = self._grid_of(now)
        log_density = _numpy(now.log_density)
        scale = 0.5 * float(self.model.sde.beta) * max(_local_scale(log_density, grid.width), grid.width) ** 2
        progress = Progress.start(duration, float(self.step), scale, _GRADED_CELLS / self.cells)
        p = np.exp(log_density - log_density.max())
        if self.bounds is not None:
            p, regrids = evolve(self._closed_operator, p, progress, progress.total), 0
        else:
            grid, p, regrids = self._follow(grid, p, progress)
        with np.errstate(divide="ignore"):
            after = self._belief(grid, np.log(p), now.time + duration, now.log_evidence)
        details = {
            "steps": progress.steps,
            "tail_guards": progress.tail_guards,
            "euler_steps": progress.euler_steps,
            "regrids": regrids,
            "cells": grid.cells,
        }
        return after, StepInfo(seconds=clock.perf_counter() - start, details=details)

    def update(self, belief: Belief, y: Tensor, generator: Generator) -> tuple[GridBelief, StepInfo]:
        """The law given a reading; without ``bounds``, on a grid fitted to it.

        Raises:
            FilterError: the likelihood is NaN, or zero wherever the law has mass.
        """
        now = checked_belief(belief, GridBelief)
        reading = checked_reading(y, self.model)
        if reading is None:
            return now, StepInfo(status="skipped")
        start = clock.perf_counter()

        def log_likelihood(x: Array) -> Array:
            with torch.no_grad():
                return _numpy(checked_log_likelihood(self.model, reading, self._points(x), now.time))

        grid = self._grid_of(now)
        if self.bounds is not None:
            log_density = _numpy(now.log_density) + log_likelihood(grid.centres)
        else:
            grid, log_density = self._fit(lambda x: now.evaluate(x) + log_likelihood(x), grid)
        if not np.isfinite(log_density.max()):
            raise FilterError(
                f"the likelihood is zero wherever the belief has mass at time {now.time:g} for reading "
                f"{reading.tolist()}; check the reading, or leave bounds out."
            )
        increment = float(logsumexp(log_density)) + math.log(grid.width)
        after = self._belief(grid, log_density, now.time, now.log_evidence + increment)
        details = {"cells": grid.cells}
        return after, StepInfo(log_evidence=increment, seconds=clock.perf_counter() - start, details=details)

    def _follow(self, grid: _Grid, p: Array, progress: Progress) -> tuple[_Grid, Array, int]:
        """Evolve ``p`` to the end of ``progress`` on a grid that keeps it covered; also counts the regrids."""
        operator = self._operator(grid)
        regrids = 0
        while not progress.done:
            saved = replace(progress)
            after = evolve(operator, p, progress, _BLOCK)
            depth = -_log_ratio(max(after[0], after[-1]), after.max())
            widest = self._widest(_local_scale(_log(p), grid.width))
            may_widen = grid.high - grid.low < 0.5 * widest
            if depth < _REDO_ABOVE and may_widen:
                # The wall has been felt: these steps are taken again from where they began, on a wider grid.
                progress.__dict__.update(saved.__dict__)
                reach = 0.5 * (grid.high - grid.low)
                wider = _Grid(grid.low - reach, grid.high + reach, min(2 * grid.cells, _MOST_CELLS * self.cells))
                log_density = interpolant(grid.centres, _log(p))(wider.centres)
                grid = wider
            else:
                p = after
                loose = np.flatnonzero(p > math.exp(-1.4 * DEPTH) * p.max())
                tight = loose[-1] - loose[0] > 0.7 * grid.cells
                if progress.done or (tight and (depth > _REFIT_ABOVE or not may_widen)):
                    continue
                grid, log_density = self._fit(interpolant(grid.centres, _log(p)), grid)
            p = np.exp(log_density - log_density.max())
            operator = self._operator(grid)
            regrids += 1
        return grid, p, regrids

    def _widest(self, scale: float) -> float:
        """Longest grid on which a law of local ``scale`` stays resolved."""
        return _MOST_CELLS * self.cells * scale / _CELLS_PER_SCALE

    def _fit(self, log_density: LogDensity, grid: _Grid) -> tuple[_Grid, Array]:
        """A grid that covers ``log_density`` down to DEPTH and resolves it, searched from ``grid``; values there."""
        for _ in range(_PASSES):
            value = log_density(grid.centres)
            top = int(value.argmax())
            if not np.isfinite(value[top]):
                break
            near = value[max(0, top - 1) : top + 2]
            # Between coarse cells the maximum may be higher than at any of them, by about this much.
            slack = float(value[top] - near[np.isfinite(near)].min())
            covered = np.flatnonzero(value > value[top] - DEPTH - slack)
            first, last = int(covered[0]), int(covered[-1])
            scale = _local_scale(value, grid.width)
            length = grid.high - grid.low
            low, high = grid.low + (first - 1) * grid.width, grid.low + (last + 2) * grid.width
            if length < self._widest(scale):
                low -= 0.3 * length * (first == 0)
                high += 0.3 * length * (last == grid.cells - 1)
            else:
                low, high = max(low, grid.low), min(high, grid.high)
            wanted = math.ceil(_CELLS_PER_SCALE * (high - low) / scale)
            cells = min(max(wanted, self.cells), _MOST_CELLS * self.cells)
            growing = high - low > 1.1 * length
            shrinking = high - low < 0.8 * length
            if not (growing or shrinking) and cells <= 1.25 * grid.cells:
                break
            grid = _Grid(low, high, cells)
        return grid, value

    def _grid_of(self, belief: GridBelief) -> _Grid:
        cells = belief.log_density.shape[0]
        if self.bounds is not None and (belief.low, belief.high, cells) != (*self.bounds, self.cells):
            raise InputError("belief must lie on this filter's own bounds and cells; start from its init().")
        return _Grid(belief.low, belief.high, cells)

    def _belief(self, grid: _Grid, log_density: Array, time: float, log_evidence: float) -> GridBelief:
        normalised = log_density - (logsumexp(log_density) + math.log(grid.width))
        values = torch.as_tensor(normalised).to(device=self.model.device, dtype=self.model.dtype)
        return GridBelief(time, grid.low, grid.high, values, log_evidence, self.bounds is not None)

    def _points(self, x: Array) -> Tensor:
        return torch.as_tensor(x, dtype=torch.float64, device=self.model.device).unsqueeze(-1)

    @cached_property
    def _closed_operator(self) -> ChangCooper:
        low, high = self.bounds or (-1.0, 1.0)
        return self._operator(_Grid(low, high, self.cells))

    def _operator(self, grid: _Grid) -> ChangCooper:
        with torch.no_grad():
            value = self.model.sde.potential(self._points(grid.centres))
        if not isinstance(value, Tensor) or value.shape != (grid.cells,):
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"potential must map points of shape (n, 1) to shape (n,), but ({grid.cells}, 1) gave {shape}."
            )
        potential = _numpy(value)
        if not np.isfinite(potential).all():
            at = grid.centres[~np.isfinite(potential)][0]
            raise InputError(f"potential is not finite at x = {at:g}; give bounds=(low, high) within which it is.")
        return ChangCooper(potential, grid.width, float(self.model.sde.beta))

    def _log_prior(self, x: Array) -> Array:
        prior = self.model.prior
        points = self._points(x)
        with torch.no_grad():
            support = prior.support
            inside = torch.ones(x.size, dtype=torch.bool) if support is None else support.check(points).reshape(-1)
            value = torch.full((x.size,), -torch.inf, dtype=torch.float64, device=self.model.device)
            if inside.any():
                value[inside] = prior.log_prob(points[inside]).to(value)
        if torch.isnan(value).any():
            raise InputError("prior.log_prob returns NaN; give a prior that can be evaluated.")
        return _numpy(value)

    def _location(self) -> tuple[float, float]:
        """Centre and scale of the prior; of a thousand draws where it has no finite moments."""
        try:
            centre, scale = float(self.model.prior.mean), float(self.model.prior.stddev)
            if math.isfinite(centre) and math.isfinite(scale) and scale > 0:
                return centre, scale
        except NotImplementedError:
            pass
        draws = sample_prior(self.model.prior, 1001, torch.Generator().manual_seed(0)).double().reshape(-1)
        low, middle, high = torch.quantile(draws, draws.new_tensor([0.25, 0.5, 0.75])).tolist()
        return middle, max(high - low, 1e-12)


def _checked_bounds(bounds: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = (float(bound) for bound in bounds)
    except (TypeError, ValueError) as error:
        raise InputError(f"bounds must be two numbers (low, high) or None, got {bounds!r}.") from error
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"bounds must be finite with low < high, got {bounds!r}.")
    return low, high


def _local_scale(log_density: Array, width: float) -> float:
    """Shortest length on which the bulk of a law bends: 1 / sqrt of the largest curvature of its logarithm."""
    bulk = np.flatnonzero(log_density[1:-1] > log_density.max() - _CORE) + 1
    length = width * log_density.size
    if bulk.size == 0:
        return length
    curvature = np.abs(log_density[bulk - 1] - 2.0 * log_density[bulk] + log_density[bulk + 1]).max() / width**2
    return float(min(max(1.0 / math.sqrt(curvature), 1e-3 * width), length)) if curvature > 0 else length


def _log(p: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.log(p)


def _log_ratio(part: float, whole: float) -> float:
    return math.log(part / whole) if part > 0 else -math.inf


def _numpy(value: Tensor) -> Array:
    return np.asarray(value.detach().cpu().double().numpy())
