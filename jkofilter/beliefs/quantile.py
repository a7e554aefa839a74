"""The belief of the one-dimensional JKO filter: a density on nodes that move with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from jkofilter._typing import Matrix, Points, Scalars, State
from jkofilter.beliefs.checks import checked_points, checked_quantile, checked_state, generator_or_default
from jkofilter.beliefs.summaries import Summaries
from jkofilter.numerics.arrays import as_array
from jkofilter.numerics.log_spline import LogSpline

_LEVELS = 20_000


@dataclass(frozen=True, eq=False)
class QuantileBelief(Summaries):
    """A law on the line given by its log density at increasing nodes.

    Mass, moments, quantiles and draws are all those of the density that ``log_prob`` evaluates.

    Attributes:
        time: in the SDE's unit.
        nodes: increasing, (k,).
        log_density: log density at the nodes, normalised but for rounding, (k,).
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
    def _law(self) -> LogSpline:
        return LogSpline(as_array(self.nodes), as_array(self.log_density))

    @property
    def mean(self) -> State:
        """E[X], (1,)."""
        return self.nodes.new_tensor([self._law.mean])

    @property
    def covariance(self) -> Matrix:
        """Var[X], (1, 1)."""
        return self.nodes.new_tensor([[self._law.variance]])

    def log_prob(self, x: Points) -> Scalars:
        """Normalised log density at any point, (n,): cubic spline between nodes, quadratic tails beyond them."""
        value = self._law(as_array(checked_points(x, 1))[:, 0]) - self._law.log_mass
        return torch.as_tensor(value).to(self.nodes)

    def sample(self, n: int, generator: Generator | None = None) -> Points:
        """``n`` draws by inverting the distribution function, (n, 1)."""
        source = generator_or_default(generator, self.nodes.device)
        u = torch.rand(n, generator=source, dtype=torch.float64, device=self.nodes.device)
        return torch.as_tensor(self._law.inverse(u.cpu().numpy())).to(self.nodes).unsqueeze(-1)

    def weighted_points(self) -> tuple[Points, Scalars]:
        """The quantiles of 20,000 equally spaced levels."""
        x = torch.as_tensor(self._law.inverse((np.arange(_LEVELS) + 0.5) / _LEVELS)).to(self.nodes).unsqueeze(-1)
        return x, x.new_full((_LEVELS,), 1.0 / _LEVELS)

    def quantile(self, q: float, coordinate: int = 0) -> float:
        """The q-quantile."""
        checked_quantile(q, coordinate, 1)
        return float(self._law.inverse(np.array([q]))[0])

    def cdf(self, x: float, coordinate: int = 0) -> float:
        """P(X <= x)."""
        return float(self._law.cdf(np.array([checked_state(x, coordinate, 1)]))[0])
