"""What filters share that predict by proximal recursion on points, and keep the law on a grid between predictions."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator, Tensor

from jkofilter._typing import Array
from jkofilter.baselines.stepped import ParticleStepper
from jkofilter.baselines.weighted_particles import equally_weighted
from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.info import StepInfo
from jkofilter.errors import FilterError, InputError
from jkofilter.filters.base import Runnable
from jkofilter.filters.checks import (
    checked_log_likelihood,
    occasion,
    predicting,
    require_countable,
    require_line_or_plane,
    require_model,
    updating,
)
from jkofilter.filters.on_grid import OnGrid, belief_on_grid, in_support, kind_of_belief, prior_on_grid
from jkofilter.models.checks import require_count, require_positive
from jkofilter.models.potential_checks import trouble_around
from jkofilter.models.sde import refuse_walls
from jkofilter.models.state_space import StateSpaceModel
from jkofilter.numerics.arrays import as_array
from jkofilter.numerics.grid_following import Reach, fit
from jkofilter.numerics.time_grid import equal_steps

_CELLS = {1: 1000, 2: 100}
_FEWEST_CELLS = 50
_REACH = {1: Reach(60.0, 45.0, 30.0, 4, 20.0, 20.0), 2: Reach(60.0, 45.0, 30.0, 2, 6.0, 3.0)}
"""Far enough for any sum over the grid; beyond the particles the methods only extrapolate."""
_UNBALANCED = 1.0
"""Nats by which the mass of a density may be off before it counts as lost."""


@dataclass(frozen=True)
class ProximalRecursionFilter(Runnable):
    """A filter on the line or the plane that carries the law by JKO steps on points drawn from it.

    After the last step before a reading the density, which the method knows everywhere, is put on a grid that covers
    it down to exp(-60) of its maximum; a reading multiplies it there by the likelihood.

    Attributes:
        model: what is tracked, d = 1 or 2.
        step: longest time step, in the SDE's unit.
        cells: of the grid along each coordinate, at least; None takes 1000 on the line, 100 by 100 on the plane.

    Raises:
        InputError: a setting cannot be used.
    """

    model: StateSpaceModel
    step: float = 0.05
    cells: int | None = None

    def __post_init__(self) -> None:
        require_model(self.model)
        require_line_or_plane(self.model, type(self).__name__)
        refuse_walls(self.model.sde, type(self).__name__)
        require_positive("step", self.step)
        if self.cells is not None:
            require_count("cells", self.cells, _FEWEST_CELLS)

    @property
    @abstractmethod
    def points(self) -> int:
        """Of the particles."""

    @property
    @abstractmethod
    def stepper(self) -> ParticleStepper:
        """The method."""

    def init(self, generator: Generator) -> OnGrid:
        """The prior on a grid.

        Raises:
            InputError: the prior's log density is NaN, or zero all around its mean.
        """
        grid, log_density = prior_on_grid(self.model, self._cells, _REACH[self.model.dim])
        if not np.isfinite(log_density.max()):
            raise InputError("prior has zero density all around its mean; give one that can be evaluated.")
        return belief_on_grid(self.model, grid, log_density, 0.0, 0.0)[0]

    def predict(self, belief: Belief, duration: float, generator: Generator) -> tuple[OnGrid, StepInfo]:
        """The law ``duration`` later.

        Raises:
            InputError: another filter's belief, or a bad duration.
            FilterError: a step cannot be solved.
        """

        def step(now: OnGrid, duration: float) -> tuple[OnGrid, StepInfo]:
            return self._later(now, duration, generator)

        return predicting(belief, kind_of_belief(self.model), duration, step)

    def _later(self, now: OnGrid, duration: float, generator: Generator) -> tuple[OnGrid, StepInfo]:
        require_countable(duration, self.step, "step")
        particles = equally_weighted(now.even_sample(self.points, generator))
        count, tau = equal_steps(duration, float(self.step))
        stepper, iterations = self.stepper, 0
        for k in range(count):
            try:
                step = stepper(particles, tau, generator)
            except FilterError as error:
                trouble = trouble_around(self.model.sde.potential, particles.points)
                raise FilterError(f"at time {now.time + k * tau:g}: {trouble or error}") from error
            particles, iterations = step.particles, iterations + step.iterations

        def log_density(x: Array) -> Array:
            with torch.no_grad():
                return as_array(step.density.log_density(torch.as_tensor(x).to(particles.points)))

        grid, values = fit(log_density, now.grid, self._cells, _REACH[self.model.dim])
        after, mass = belief_on_grid(self.model, grid, values, now.time + duration, now.log_evidence)
        if not abs(mass) < _UNBALANCED:
            raise FilterError(
                f"the density at time {after.time:g} has mass {math.exp(min(mass, 700.0)):.3g} instead of one: it is "
                "extrapolated badly; give more points or shorter steps."
            )
        details = {"steps": count, "iterations": iterations, "mass": math.exp(mass), "cells": math.prod(grid.shape)}
        return after, StepInfo(ess=particles.ess, details=details)

    def update(self, belief: Belief, y: Tensor, generator: Generator) -> tuple[OnGrid, StepInfo]:
        """The law given a reading, on a grid fitted to it.

        Raises:
            FilterError: the likelihood is NaN, or zero wherever the law has mass.
        """
        return updating(belief, kind_of_belief(self.model), y, self.model, self._given)

    def _given(self, now: OnGrid, reading: Tensor) -> tuple[OnGrid, StepInfo]:

        def log_joint(x: Array) -> Array:
            points = torch.as_tensor(x, dtype=torch.float64, device=self.model.device)
            with torch.no_grad():
                likelihood = as_array(checked_log_likelihood(self.model, reading, points, now.time))
            return in_support(self.model, now.time, x, now.evaluate(x)) + likelihood

        grid, values = fit(log_joint, now.grid, self._cells, _REACH[self.model.dim])
        if not np.isfinite(values.max()):
            raise FilterError(f"the likelihood is zero wherever the belief has mass {occasion(reading, now.time)}.")
        after, increment = belief_on_grid(self.model, grid, values, now.time, now.log_evidence)
        after = replace(after, log_evidence=now.log_evidence + increment)
        return after, StepInfo(log_evidence=increment)

    @property
    def _cells(self) -> tuple[int, ...]:
        return (self.cells or _CELLS[self.model.dim],) * self.model.dim
