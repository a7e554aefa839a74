"""The belief of the grid filter: log densities on equal cells of the line."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from jkofilter._typing import Array, Matrix, Points, Scalars, State
from jkofilter.beliefs.checks import checked_points, checked_quantile, checked_state, generator_or_default
from jkofilter.beliefs.summaries import Summaries
from jkofilter.numerics.arrays import as_array
from jkofilter.numerics.domain import Domain
from jkofilter.numerics.grids import Axis, Grid, LogDensity, interpolant

_FLOOR = 740.0


@dataclass(frozen=True, eq=False)
class GridBelief(Summaries):
    """A law on the line given by its log density at the centres of equal cells.

    Attributes:
        time: in the SDE's unit.
        low: left end of the first cell.
        high: right end of the last cell.
        log_density: normalised log density at the cell centres, (n,); -inf where a cell is empty.
        log_evidence: log p of the readings so far.
        closed: whether low and high are walls, with no mass beyond them (bounds given by the user).
        walls: of the state's domain, beyond which there is no mass; None where there are none.
    """

    time: float
    low: float
    high: float
    log_density: Float[Tensor, " n"]
    log_evidence: float = 0.0
    closed: bool = False
    walls: Domain | None = None

    @property
    def dim(self) -> int:
        """State dimension, 1."""
        return 1

    @property
    def grid(self) -> Grid:
        """The cells."""
        return Grid((Axis(self.low, self.high, self.log_density.shape[0]),))

    @property
    def width(self) -> float:
        """Length of a cell, in units of the state."""
        return (self.high - self.low) / self.log_density.shape[0]

    @cached_property
    def centres(self) -> Array:
        """Cell centres, (n,)."""
        return self.grid.axes[0].centres

    @cached_property
    def _log_density(self) -> Array:
        return as_array(self.log_density)

    @cached_property
    def masses(self) -> Array:
        """Probability of each cell, (n,); sums to one but for rounding."""
        return np.exp(self._log_density) * self.width

    @cached_property
    def _moments(self) -> tuple[float, float]:
        total = self.masses.sum()
        mean = float(np.dot(self.masses, self.centres) / total)
        return mean, float(np.dot(self.masses, (self.centres - mean) ** 2) / total)

    @property
    def mean(self) -> State:
        """E[X], (1,)."""
        return self.log_density.new_tensor([self._moments[0]])

    @property
    def covariance(self) -> Matrix:
        """Var[X], (1, 1)."""
        return self.log_density.new_tensor([[self._moments[1]]])

    @cached_property
    def evaluate(self) -> LogDensity:
        """Log density (n,) at any points (n, 1), in NumPy: the function behind ``log_prob``."""
        return interpolant(self.grid, self._log_density, self.closed, self.walls)

    def log_prob(self, x: Points) -> Scalars:
        """Normalised log density at any point, (n,).

        A cubic spline through the cells, with quadratic tails beyond them, or -inf beyond closed ends.
        """
        points = as_array(checked_points(x, 1))
        return torch.as_tensor(self.evaluate(points)).to(self.log_density)

    @cached_property
    def _table(self) -> tuple[Array, Array, Array]:
        """Cell edges, cumulative mass there, and log density there, for inverting the distribution function."""
        edges = np.linspace(self.low, self.high, self.log_density.shape[0] + 1)
        at_edges = self.evaluate(edges[:, None])
        ends = np.exp(at_edges)
        cells = (ends[1:] + 4.0 * np.exp(self._log_density) + ends[:-1]) / 6.0
        cumulative = np.append(0.0, np.cumsum(cells))
        return edges, cumulative / cumulative[-1], np.maximum(at_edges, at_edges.max() - _FLOOR)

    def _inverse(self, u: Array) -> Array:
        """Quantiles of the levels ``u``; the log density is taken as linear within each cell."""
        edges, cumulative, log_density = self._table
        cell = np.clip(np.searchsorted(cumulative, u, side="right") - 1, 0, edges.size - 2)
        mass = cumulative[cell + 1] - cumulative[cell]
        share = np.clip((u - cumulative[cell]) / np.where(mass > 0, mass, 1.0), 0.0, 1.0)
        flat, tilt = _tilt(log_density, cell)
        return edges[cell] + self.width * np.where(flat, share, np.log1p(share * np.expm1(tilt)) / tilt)

    def sample(self, n: int, generator: Generator | None = None) -> Points:
        """``n`` draws by inverting the distribution function, (n, 1)."""
        source = generator_or_default(generator, self.log_density.device)
        u = torch.rand(n, generator=source, dtype=torch.float64, device=self.log_density.device)
        return torch.as_tensor(self._inverse(u.cpu().numpy())).to(self.log_density).unsqueeze(-1)

    def even_sample(self, n: int, generator: Generator) -> Points:
        """The quantiles of n equally spaced levels with one random shift, (n, 1): draws that cover the law evenly."""
        shift = torch.rand(1, generator=generator, dtype=torch.float64, device=self.log_density.device).item()
        return torch.as_tensor(self._inverse((np.arange(n) + shift) / n)).to(self.log_density).unsqueeze(-1)

    def quantile(self, q: float, coordinate: int = 0) -> float:
        """The q-quantile."""
        checked_quantile(q, coordinate, 1)
        return float(self._inverse(np.array([q]))[0])

    def weighted_points(self) -> tuple[Points, Scalars]:
        """Cell centres and the masses of the cells."""
        mass = self.masses / self.masses.sum()
        return torch.as_tensor(self.centres).to(self.log_density).unsqueeze(-1), torch.as_tensor(mass).to(
            self.log_density
        )

    def cdf(self, x: float, coordinate: int = 0) -> float:
        """P(X <= x)."""
        edges, cumulative, log_density = self._table
        at = np.clip(checked_state(x, coordinate, 1), edges[0], edges[-1])
        cell = np.clip(np.searchsorted(edges, [at], side="right") - 1, 0, edges.size - 2)
        out = (at - edges[cell]) / self.width
        flat, tilt = _tilt(log_density, cell)
        share = np.where(flat, out, np.expm1(out * tilt) / np.expm1(tilt))
        return float((cumulative[cell] + share * (cumulative[cell + 1] - cumulative[cell]))[0])


def _tilt(at_edges: Array, cell: Array) -> tuple[Array, Array]:
    """Whether each cell is flat, and the change of the log density across it, 1 where it is."""
    tilt = np.clip(at_edges[cell + 1] - at_edges[cell], -500.0, 500.0)
    flat = np.abs(tilt) < 1e-8
    return flat, np.where(flat, 1.0, tilt)
