"""The belief of the spectral filter: masses at the nodes of polynomial elements of the line."""

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
from jkofilter.numerics.elements import Elements
from jkofilter.numerics.nodal_law import NodalLaw


@dataclass(frozen=True, eq=False)
class NodalBelief(Summaries):
    """A law on the line given by its masses at the nodes of elements, on each of which its logarithm is a polynomial.

    Attributes:
        time: in the SDE's unit.
        edges: of the elements, increasing, (k + 1,).
        masses: densities at the N nodes of the elements times their quadrature weights (``numerics/elements.py``),
            summing to one, (N,); zero where the density is below what rounding leaves known.
        log_evidence: log p of the readings so far.
        closed: whether the first and last edges are walls, with no mass beyond them (bounds given by the user).
        walls: of the state's domain, beyond which there is no mass; None where there are none.
    """

    time: float
    edges: Float[Tensor, " k"]
    masses: Float[Tensor, " n"]
    log_evidence: float = 0.0
    closed: bool = False
    walls: Domain | None = None

    @property
    def dim(self) -> int:
        """State dimension, 1."""
        return 1

    @cached_property
    def elements(self) -> Elements:
        """Those of ``edges``."""
        return Elements(as_array(self.edges))

    @cached_property
    def weights(self) -> Array:
        """``masses`` in NumPy."""
        return as_array(self.masses)

    @cached_property
    def law(self) -> NodalLaw:
        """The density that ``log_prob`` evaluates."""
        low, high = (-np.inf, np.inf) if self.walls is None else self.walls.sides[0]
        if self.closed:
            low, high = float(self.elements.edges[0]), float(self.elements.edges[-1])
        return NodalLaw(self.elements, self.weights, low, high)

    @cached_property
    def _moments(self) -> tuple[float, float]:
        return moments(self.elements.nodes, self.weights)

    @property
    def mean(self) -> State:
        """E[X], (1,)."""
        return self.masses.new_tensor([self._moments[0]])

    @property
    def covariance(self) -> Matrix:
        """Var[X], (1, 1)."""
        return self.masses.new_tensor([[self._moments[1]]])

    def log_prob(self, x: Points) -> Scalars:
        """Normalised log density at any point, (n,): polynomials, with quadratic tails beyond what is known."""
        return torch.as_tensor(self.law.log_density(as_array(checked_points(x, 1))[:, 0])).to(self.masses)

    def sample(self, n: int, generator: Generator | None = None) -> Points:
        """``n`` draws by inverting the distribution function, (n, 1)."""
        source = generator_or_default(generator, self.masses.device)
        u = torch.rand(n, generator=source, dtype=torch.float64, device=self.masses.device)
        return torch.as_tensor(self.law.inverse(u.cpu().numpy())).to(self.masses).unsqueeze(-1)

    def weighted_points(self) -> tuple[Points, Scalars]:
        """Nodes and their masses: expectations of smooth functions to the digits of the law itself."""
        return torch.as_tensor(self.elements.nodes).to(self.masses).unsqueeze(-1), self.masses / self.masses.sum()

    def quantile(self, q: float, coordinate: int = 0) -> float:
        """The q-quantile."""
        checked_quantile(q, coordinate, 1)
        return float(self.law.inverse(np.array([q]))[0])

    def cdf(self, x: float, coordinate: int = 0) -> float:
        """P(X <= x)."""
        return float(self.law.cumulative(np.array([checked_state(x, coordinate, 1)]))[0])


def moments(nodes: Array, masses: Array) -> tuple[float, float]:
    """Mean and variance of masses at nodes, (n,) each."""
    total = masses.sum()
    mean = float(masses @ nodes / total)
    return mean, float(masses @ np.square(nodes - mean) / total)
