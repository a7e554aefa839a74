"""Smoothing on cells of the line and the plane: the grid filter itself over the reversed readings.

The generator on the cells is in detailed balance with exp(-beta V) at their centres, so that r = pi h moves by the very
steps of the filter; on closed cells both passes are products with functions of one matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Generator, Tensor

from jkofilter._typing import Array
from jkofilter.beliefs.grid import GridBelief
from jkofilter.beliefs.info import StepInfo
from jkofilter.errors import InputError
from jkofilter.filters.checks import checked_belief
from jkofilter.filters.contract import Filter, joined
from jkofilter.filters.on_grid import OnGrid, belief_on_grid
from jkofilter.models.line import reversible_line
from jkofilter.numerics.arrays import as_array
from jkofilter.numerics.backward_cells import BackwardCells
from jkofilter.numerics.grid_following import Reach, fit
from jkofilter.numerics.grids import LogDensity
from jkofilter.smoothing.backward import BackwardFunction, OnLine, last_reading, told
from jkofilter.smoothing.contract import PathDraws, Record, Smoothed, positions
from jkofilter.smoothing.line_paths import paths_of

_SIDE = 20.0
"""Nats that a side has to lie below the maximum."""
_MISSED = 1e-6
_HELD = 40.0


@dataclass(frozen=True, eq=False)
class GridSmoother:
    """Goes back over what a grid filter has passed.

    Attributes:
        filter: the filter, of a LangevinSDE.
        closed: whether its cells are those of bounds.
        cells: asked for along each axis.
        reach: how far its grids go.
        log_likelihood: of a reading at points (n, d), the time given.
        log_pi: log of exp(-beta V) at points (n, d), any constant.
    """

    filter: Filter
    closed: bool
    cells: tuple[int, ...]
    reach: Reach
    log_likelihood: Callable[[Tensor, float], LogDensity]
    log_pi: LogDensity

    def smoothed(self, laws: Sequence[OnGrid], readings: Sequence[Tensor | None], generator: Generator) -> Smoothed:
        """The laws given all readings, each on its own cells.

        Raises:
            InputError: pi has no finite mass, and the last reading does not bound the state.
            FilterError: a step of the backward pass failed.
        """
        last, forward = last_reading(readings), laws[-1].log_evidence
        if last is None:
            return Smoothed(tuple(laws), (StepInfo(),) * len(laws))
        found = [(law, StepInfo()) for law in reversed(laws[last:])]
        h: LogDensity = no_reading_at
        backward, r = forward, self._first(laws[last], readings[last])
        for k in range(last - 1, -1, -1):
            law, gap = laws[k], laws[k + 1].time - laws[k].time
            r = replace(self._predicted(r, gap, generator), time=law.time)
            h, note = self._backward_function(law, r, self._weighed_by(h, readings[k + 1], laws[k + 1].time), gap)
            joint = as_array(law.log_density) + h(law.grid.points).reshape(law.grid.shape)
            one, total = belief_on_grid(self.filter.model, law.grid, joint, law.time, forward, self.closed)
            backward = law.log_evidence + total
            info = told(backward, forward)
            found.append((one, replace(info, note=joined(info.note, note))))
            y = readings[k]
            if k > 0 and y is not None:
                r = checked_belief(self.filter.update(r, y, generator)[0], type(r))
        smoothed, infos = zip(*reversed(found), strict=True)
        return Smoothed(smoothed, infos, backward)

    def _predicted(self, r: OnGrid, gap: float, generator: Generator) -> OnGrid:
        return checked_belief(self.filter.predict(r, gap, generator)[0], type(r))

    def _first(self, law: OnGrid, y: Tensor | None) -> OnGrid:
        """pi times the likelihood of the last reading, on cells of its own where there are no bounds."""
        assert y is not None, "the last reading was looked for"
        given, grid = self.log_likelihood(y, law.time), law.grid

        def log_joint(x: Array) -> Array:
            return self.log_pi(x) + given(x)

        model = self.filter.model
        if self.closed:
            value = log_joint(grid.points).reshape(grid.shape)
        else:
            grid, value = fit(log_joint, grid, self.cells, self.reach, model.sde.domain)
            sides = [np.take(value, (0, -1), axis=k).max() for k in range(value.ndim)]
            if max(sides) > value.max() - _SIDE and model.sde.domain is None:
                raise InputError(
                    "potential leaves the stationary density without a finite mass, and the last reading does not "
                    "bound the state; give bounds=(low, high)."
                )
        r, total = belief_on_grid(model, grid, value, law.time, 0.0, self.closed)
        return replace(r, log_evidence=total)

    def _weighed_by(self, h: LogDensity, y: Tensor | None, time: float) -> LogDensity:
        if y is None:
            return h
        given = self.log_likelihood(y, time)
        return lambda x: h(x) + given(x)

    def _backward_function(self, law: OnGrid, r: OnGrid, after: LogDensity, gap: float) -> tuple[LogDensity, str]:
        """log h at points (n, d), and what to note of the law where that is not known."""
        if self.closed:
            # The very cells of both: no quotient of tails.
            value = as_array(r.log_density).reshape(-1) - self.log_pi(r.grid.points) + r.log_evidence
            return _on_cells(r, value), ""
        known = as_array(r.log_density).reshape(-1) > as_array(r.log_density).max() - self.reach.trusted
        points = r.grid.points[known]
        if points.shape[1] > 1:
            quotient = r.evaluate(points) - self.log_pi(points)
            top = float(quotient.max())

            def capped(x: Array) -> Array:
                return np.minimum(r.evaluate(x) - self.log_pi(x), top) + r.log_evidence

            low, high = points.min(0), points.max(0)
            return capped, self._missed(law, capped, ((law.grid.points < low) | (law.grid.points > high)).any(-1))

        line = BackwardFunction(
            lambda x: r.evaluate(x[:, None]), lambda x: self.log_pi(x[:, None]), points[:, 0], r.log_evidence
        )

        def continued(x: Array) -> Array:
            return line(x[:, 0])

        x = law.grid.points[:, 0]
        if not self._missed(law, continued, (x < points[0, 0]) | (x > points[-1, 0])):
            return continued, ""
        low, high = min(law.low, points[0, 0]), max(law.high, points[-1, 0])
        edges = np.linspace(float(low), float(high), law.grid.shape[0] + 1)
        cells = BackwardCells(reversible_line(self.filter.model.sde, self.filter.model.device, edges.size), edges)
        spline = CubicSpline(cells.centres, cells.earlier(after(cells.centres[:, None]), gap), bc_type="natural")
        return lambda x: spline(x[:, 0]), ""

    def _missed(self, law: OnGrid, h: LogDensity, outside: Array) -> str:
        joint = as_array(law.log_density).reshape(-1) + h(law.grid.points)
        masses = np.exp(joint - joint.max())
        share = float(masses[outside].sum() / masses.sum())
        if share <= _MISSED:
            return ""
        return (
            f"a share of {share:.2g} of the law lies where the backward function is not known but continued, since "
            "the stationary density is too deep there"
        )


def gridded_paths(filter: Filter, record: Record, n: int, times: list[float], generator: Generator) -> PathDraws:
    """``n`` paths given all readings at times within the record of a grid filter of the line.

    Raises:
        InputError: the model has two dimensions.
    """
    model = filter.model
    if model.dim > 1:
        raise InputError("GridFilter draws paths on the line only; use ParticleFilter in two dimensions.")
    found = record.laws_with(times, lambda law, duration: filter.predict(law, duration, generator)[0])
    laws = [checked_belief(law, GridBelief) for law in found]

    def between(law: GridBelief) -> OnLine:
        return lambda x: law.evaluate(x[:, None])

    ends = []
    for law in laws:
        held = law.centres[as_array(law.log_density) > as_array(law.log_density).max() - _HELD]
        ends.append((float(held[0]), float(held[-1])))
    bounds = (laws[0].low, laws[0].high) if laws[0].closed else None
    states = paths_of(model, laws, [between(law) for law in laws], ends, n, generator, bounds)
    chosen = torch.from_numpy(states[:, positions(laws, times)]).to(model.device, model.dtype)
    return PathDraws(chosen.unsqueeze(-1))


def no_reading_at(x: Array) -> Array:
    """log h at points (n, d) where no reading is to come."""
    return np.zeros(len(x))


def _on_cells(r: OnGrid, value: Array) -> LogDensity:
    """A function known at the centres of the cells of r only, (n,)."""

    def evaluate(x: Array) -> Array:
        assert x.shape == r.grid.points.shape, "closed cells are the same at all times"
        return value

    return evaluate
