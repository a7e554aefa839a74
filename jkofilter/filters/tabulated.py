"""What filters share that step a cloud of points and keep the law between steps in a table."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
import torch
from torch import Generator, Tensor

from jkofilter._typing import Array
from jkofilter.baselines.stepped import ParticleStepper
from jkofilter.baselines.weighted_particles import equally_weighted
from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.grid import GridBelief
from jkofilter.beliefs.grid_2d import GridBelief2D
from jkofilter.beliefs.info import StepInfo
from jkofilter.errors import FilterError, InputError
from jkofilter.filters.base import Runnable
from jkofilter.filters.checks import checked_belief, checked_duration, checked_log_likelihood, checked_reading
from jkofilter.filters.on_grid import Tabulated, tabulated_belief, tabulated_prior
from jkofilter.models.checks import require_count
from jkofilter.models.state_space import StateSpaceModel
from jkofilter.numerics.arrays import as_array
from jkofilter.numerics.grid_following import Reach, fit
from jkofilter.numerics.time_grid import equal_steps

_CELLS = {1: 1000, 2: 100}
_FEWEST_CELLS = 50
_REACH = {1: Reach(60.0, 45.0, 30.0, 4, 20.0, 20.0), 2: Reach(60.0, 45.0, 30.0, 2, 6.0, 3.0)}
"""Far enough for any sum over the table; beyond the cloud the methods only extrapolate."""
_UNBALANCED = 1.0
"""Nats by which the mass of a density may be off before it counts as lost."""


@dataclass(frozen=True)
class TabulatedFilter(Runnable):
    """A filter on the line or the plane that carries the law by steps on points drawn from it.

    After the last step before a reading the density, which the method knows everywhere, is tabulated on a grid that
    covers it down to exp(-60) of its maximum; a reading multiplies the table by the likelihood.

    Attributes:
        model: what is tracked, d = 1 or 2.
        step: longest time step, in the SDE's unit.
        cells: of the table along each coordinate, at least; None takes 1000 on the line, 100 by 100 on the plane.

    Raises:
        InputError: a setting cannot be used.
    """

    model: StateSpaceModel
    step: float = 0.05
    cells: int | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not isinstance(self.model, StateSpaceModel):
            raise InputError("model must be a StateSpaceModel(prior, sde, observation).")
        if self.model.dim > 2:
            raise InputError(
                f"{name} handles dim 1 and 2, but model has dim {self.model.dim}; use a JKOFilter or a ParticleFilter."
            )
        if not isinstance(self.step, int | float) or not 0 < self.step < math.inf:
            raise InputError(f"step must be positive and finite, got {self.step!r}.")
        if self.cells is not None:
            require_count("cells", self.cells, _FEWEST_CELLS)

    @property
    @abstractmethod
    def points(self) -> int:
        """Of the cloud."""

    @property
    @abstractmethod
    def stepper(self) -> ParticleStepper:
        """The method."""

    def init(self, generator: Generator) -> Tabulated:
        """The prior in a table.

        Raises:
            InputError: the prior's log density is NaN, or zero all around its mean.
        """
        grid, log_density = tabulated_prior(self.model, self._cells, _REACH[self.model.dim])
        if not np.isfinite(log_density.max()):
            raise InputError("prior has zero density all around its mean; give one that can be evaluated.")
        return tabulated_belief(self.model, grid, log_density, 0.0, 0.0)[0]

    def predict(self, belief: Belief, duration: float, generator: Generator) -> tuple[Tabulated, StepInfo]:
        """The law ``duration`` later.

        Raises:
            InputError: another filter's belief, or a bad duration.
            FilterError: a step cannot be solved.
        """
        now = self._own(belief)
        duration = checked_duration(duration)
        if duration == 0:
            return now, StepInfo(status="skipped")
        start = perf_counter()
        cloud = equally_weighted(now.even_sample(self.points, generator))
        count, tau = equal_steps(duration, float(self.step))
        stepper, iterations = self.stepper, 0
        for k in range(count):
            try:
                step = stepper(cloud, tau, generator)
            except FilterError as error:
                raise FilterError(f"at time {now.time + k * tau:g}: {error}") from error
            cloud, iterations = step.particles, iterations + step.iterations

        def log_density(x: Array) -> Array:
            with torch.no_grad():
                return as_array(step.density.log_density(torch.as_tensor(x).to(cloud.points)))

        grid, values = fit(log_density, now.grid, self._cells, _REACH[self.model.dim])
        after, mass = tabulated_belief(self.model, grid, values, now.time + duration, now.log_evidence)
        if not abs(mass) < _UNBALANCED:
            raise FilterError(
                f"the density at time {after.time:g} has mass {math.exp(min(mass, 700.0)):.3g} instead of one: it is "
                "extrapolated badly; give more points or shorter steps."
            )
        details = {"steps": count, "iterations": iterations, "mass": math.exp(mass), "cells": math.prod(grid.shape)}
        return after, StepInfo(seconds=perf_counter() - start, ess=cloud.ess, details=details)

    def update(self, belief: Belief, y: Tensor, generator: Generator) -> tuple[Tabulated, StepInfo]:
        """The law given a reading, in a table fitted to it.

        Raises:
            FilterError: the likelihood is NaN, or zero wherever the law has mass.
        """
        now = self._own(belief)
        reading = checked_reading(y, self.model)
        if reading is None:
            return now, StepInfo(status="skipped")
        start = perf_counter()

        def log_joint(x: Array) -> Array:
            points = torch.as_tensor(x, dtype=torch.float64, device=self.model.device)
            with torch.no_grad():
                return now.evaluate(x) + as_array(checked_log_likelihood(self.model, reading, points, now.time))

        grid, values = fit(log_joint, now.grid, self._cells, _REACH[self.model.dim])
        if not np.isfinite(values.max()):
            raise FilterError(
                f"the likelihood is zero wherever the belief has mass at time {now.time:g} for {reading.tolist()}."
            )
        after, increment = tabulated_belief(self.model, grid, values, now.time, now.log_evidence)
        after = replace(after, log_evidence=now.log_evidence + increment)
        return after, StepInfo(log_evidence=increment, seconds=perf_counter() - start)

    @property
    def _cells(self) -> tuple[int, ...]:
        return (self.cells or _CELLS[self.model.dim],) * self.model.dim

    def _own(self, belief: Belief) -> Tabulated:
        if self.model.dim == 1:
            return checked_belief(belief, GridBelief)
        return checked_belief(belief, GridBelief2D)
