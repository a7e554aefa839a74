"""The belief of the one-dimensional JKO filter: a density on nodes that move with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import CubicSpline
from torch import Generator, Tensor

from jkofilter._typing import Array, Matrix, Points, Scalars, State
from jkofilter.beliefs.checks import checked_points, checked_quantile, generator_or_default
from jkofilter.numerics.arrays import as_array
from jkofilter.numerics.differences import first_difference
from jkofilter.numerics.mesh import continue_log_density

_REFINEMENT = 4


@dataclass(frozen=True, eq=False)
class QuantileBelief:
    """A law on the line given by its log density at increasing nodes.

    Attributes:
        time: in the SDE's unit.
        nodes: increasing, (k,).
        log_density: normalised log density at the nodes, (k,).
        log_evidence: log p of the readings so far.
    """

    time: float
    nodes: Float[Tensor, " k"]
    log_density: Float[Tensor, " k"]
    log_evidence: float = 0.0

    @property
    def dim(self) -> int:
        """State dimension, 1."""
        return 1

    @cached_property
    def _arrays(self) -> tuple[Array, Array]:
        return as_array(self.nodes), as_array(self.log_density)

    @cached_property
    def _spline(self) -> CubicSpline:
        return CubicSpline(*self._arrays)

    @cached_property
    def _moments(self) -> tuple[float, float]:
        x, log_density = self._arrays
        mass = np.exp(log_density) * first_difference(x)
        mass /= mass.sum()
        mean = float(np.dot(mass, x))
        return mean, float(np.dot(mass, (x - mean) ** 2))

    @property
    def mean(self) -> State:
        """E[X], (1,)."""
        return self.nodes.new_tensor([self._moments[0]])

    @property
    def covariance(self) -> Matrix:
        """Var[X], (1, 1)."""
        return self.nodes.new_tensor([[self._moments[1]]])

    def log_prob(self, x: Points) -> Scalars:
        """Normalised log density at any point, (n,): cubic spline between nodes, quadratic tails beyond them."""
        points = as_array(checked_points(x, 1))[:, 0]
        value = continue_log_density(*self._arrays, points, self._spline(points))
        return torch.as_tensor(value).to(self.nodes)

    @cached_property
    def _table(self) -> tuple[Array, Array, Array]:
        """Fine nodes, cumulative mass there, and log density there, for inverting the distribution function."""
        x, _ = self._arrays
        index = np.arange(x.size)
        fine = CubicSpline(index, x)(np.linspace(0, x.size - 1, _REFINEMENT * (x.size - 1) + 1))
        if not np.all(np.diff(fine) > 0):
            fine = np.interp(np.linspace(0, x.size - 1, _REFINEMENT * (x.size - 1) + 1), index, x)
        log_density = self._spline(fine)
        middle = np.exp(self._spline(0.5 * (fine[1:] + fine[:-1])))
        ends = np.exp(log_density)
        cells = (ends[1:] + 4.0 * middle + ends[:-1]) * np.diff(fine) / 6.0
        cumulative = np.append(0.0, np.cumsum(cells))
        return fine, cumulative / cumulative[-1], log_density

    def _inverse(self, u: Array) -> Array:
        """Quantiles of the levels ``u``; the log density is taken as linear within each fine cell."""
        fine, cumulative, log_density = self._table
        cell = np.clip(np.searchsorted(cumulative, u, side="right") - 1, 0, fine.size - 2)
        width = fine[cell + 1] - fine[cell]
        mass = cumulative[cell + 1] - cumulative[cell]
        share = np.clip((u - cumulative[cell]) / np.where(mass > 0, mass, 1.0), 0.0, 1.0)
        tilt = np.clip(log_density[cell + 1] - log_density[cell], -500.0, 500.0)
        small = np.abs(tilt) < 1e-8
        safe = np.where(small, 1.0, tilt)
        return fine[cell] + width * np.where(small, share, np.log1p(share * np.expm1(safe)) / safe)

    def sample(self, n: int, generator: Generator | None = None) -> Points:
        """``n`` draws by inverting the distribution function, (n, 1)."""
        source = generator_or_default(generator, self.nodes.device)
        u = torch.rand(n, generator=source, dtype=torch.float64, device=self.nodes.device)
        return torch.as_tensor(self._inverse(u.cpu().numpy())).to(self.nodes).unsqueeze(-1)

    def quantile(self, q: float, coordinate: int = 0) -> float:
        """The q-quantile."""
        checked_quantile(q, coordinate, 1)
        return float(self._inverse(np.array([q]))[0])
