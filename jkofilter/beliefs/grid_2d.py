"""The belief of the grid filter in two dimensions: log densities on equal cells of a rectangle."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from jkofilter._typing import Array, Matrix, Points, Scalars, State
from jkofilter.beliefs.checks import checked_points, checked_quantile, checked_state, generator_or_default
from jkofilter.beliefs.grid import GridBelief
from jkofilter.beliefs.summaries import Summaries
from jkofilter.numerics.arrays import as_array
from jkofilter.numerics.domain import Domain
from jkofilter.numerics.grids import Axis, Grid, LogDensity, interpolant

_FLOOR = 740.0
_STEEPEST = 500.0


@dataclass(frozen=True, eq=False)
class GridBelief2D(Summaries):
    """A law on the plane given by its log density at the centres of equal cells.

    Attributes:
        time: in the SDE's unit.
        low: lower end of each coordinate's first cell, (low1, low2).
        high: upper end of each coordinate's last cell, (high1, high2).
        log_density: normalised log density at the cell centres, (n1, n2); -inf where a cell is empty.
        log_evidence: log p of the readings so far.
        closed: whether the sides are walls, with no mass beyond them (bounds given by the user).
        walls: of the state's domain, beyond which there is no mass; None where there are none.
    """

    time: float
    low: tuple[float, float]
    high: tuple[float, float]
    log_density: Float[Tensor, "n1 n2"]
    log_evidence: float = 0.0
    closed: bool = False
    walls: Domain | None = None

    @property
    def dim(self) -> int:
        """State dimension, 2."""
        return 2

    @cached_property
    def grid(self) -> Grid:
        """The cells."""
        return Grid(tuple(Axis(*side) for side in zip(self.low, self.high, self.log_density.shape, strict=True)))

    @cached_property
    def _log_density(self) -> Array:
        return as_array(self.log_density)

    @cached_property
    def masses(self) -> Array:
        """Probability of each cell, (n1, n2); sums to one but for rounding."""
        return np.exp(self._log_density) * self.grid.volume

    @cached_property
    def _moments(self) -> tuple[Array, Array]:
        mass = self.masses.reshape(-1) / self.masses.sum()
        mean = mass @ self.grid.points
        centred = self.grid.points - mean
        return mean, (mass[:, None] * centred).T @ centred

    @property
    def mean(self) -> State:
        """E[X], (2,)."""
        return torch.as_tensor(self._moments[0]).to(self.log_density)

    @property
    def covariance(self) -> Matrix:
        """Cov[X], (2, 2)."""
        return torch.as_tensor(self._moments[1]).to(self.log_density)

    @cached_property
    def evaluate(self) -> LogDensity:
        """Log density (n,) at any points (n, 2), in NumPy: the function behind ``log_prob``."""
        return interpolant(self.grid, self._log_density, self.closed, self.walls)

    def log_prob(self, x: Points) -> Scalars:
        """Normalised log density at any point, (n,).

        A bicubic spline through the cells (bilinear for a law with hard edges), with Gaussian tails beyond them, or
        -inf beyond closed sides.
        """
        points = as_array(checked_points(x, 2))
        return torch.as_tensor(self.evaluate(points)).to(self.log_density)

    def marginal(self, coordinate: int) -> GridBelief:
        """The law of one coordinate."""
        with np.errstate(divide="ignore"):
            log_mass = np.log(self.masses.sum(axis=1 - coordinate) / self.grid.widths[coordinate])
        values = torch.as_tensor(log_mass).to(self.log_density)
        low, high = self.low[coordinate], self.high[coordinate]
        walls = None if self.walls is None else Domain((self.walls.sides[coordinate],))
        return GridBelief(self.time, low, high, values, self.log_evidence, self.closed, walls)

    @cached_property
    def _cumulative(self) -> Array:
        """Probability of all cells up to and including each, the last axis fastest, (n1 n2,)."""
        cumulative = np.cumsum(self.masses)
        return cumulative / cumulative[-1]

    def _tilt(self, axis: int) -> Array:
        """Change of the log density across each cell along ``axis``, (n1, n2)."""
        known = np.maximum(self._log_density, self._log_density.max() - _FLOOR)
        return np.clip(np.gradient(known, axis=axis), -_STEEPEST, _STEEPEST)

    def sample(self, n: int, generator: Generator | None = None) -> Points:
        """``n`` independent draws, (n, 2): a cell, then a point in it, the log density taken as linear there."""
        return self._draws(self._uniforms(n, generator_or_default(generator, self.log_density.device)))

    def even_sample(self, n: int, generator: Generator) -> Points:
        """``n`` draws that cover the law evenly, (n, 2): their cells are taken at equally spaced levels of the mass."""
        u = self._uniforms(n, generator)
        u[:, 0] = (np.arange(n) + u[0, 0]) / n
        return self._draws(u)

    def _uniforms(self, n: int, generator: Generator) -> Array:
        u = torch.rand(n, 3, generator=generator, dtype=torch.float64, device=self.log_density.device)
        return np.asarray(u.cpu().numpy())

    def _draws(self, u: Array) -> Points:
        """A draw for every row of three levels."""
        n = len(u)
        cell = np.minimum(np.searchsorted(self._cumulative, u[:, 0], side="right"), self._cumulative.size - 1)
        draws = np.empty((n, 2))
        for k, (axis, index) in enumerate(zip(self.grid.axes, np.unravel_index(cell, self.masses.shape), strict=True)):
            tilt = self._tilt(k).reshape(-1)[cell]
            flat = np.abs(tilt) < 1e-8
            safe = np.where(flat, 1.0, tilt)
            share = np.where(flat, u[:, k + 1], np.log1p(u[:, k + 1] * np.expm1(safe)) / safe)
            draws[:, k] = axis.low + axis.width * (index + share)
        return torch.as_tensor(draws).to(self.log_density)

    def quantile(self, q: float, coordinate: int = 0) -> float:
        """The q-quantile of one coordinate's marginal."""
        checked_quantile(q, coordinate, 2)
        return self._marginals[coordinate].quantile(q)

    def weighted_points(self) -> tuple[Points, Scalars]:
        """Cell centres and the masses of the cells."""
        mass = self.masses.reshape(-1) / self.masses.sum()
        return torch.as_tensor(self.grid.points).to(self.log_density), torch.as_tensor(mass).to(self.log_density)

    def cdf(self, x: float, coordinate: int = 0) -> float:
        """P(X_i <= x) of one coordinate."""
        at = checked_state(x, coordinate, 2)
        return self._marginals[coordinate].cdf(at)

    @cached_property
    def _marginals(self) -> tuple[GridBelief, GridBelief]:
        return self.marginal(0), self.marginal(1)
