"""Independent coordinates, seen rotated: the exact law of problems that separate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator

from jkofilter._typing import Density, Matrix, Points, Scalars, State
from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.checks import checked_points, checked_quantile, checked_state, generator_or_default
from jkofilter.beliefs.summaries import Summaries

_DRAWS = 100_000


@dataclass(frozen=True, eq=False)
class ProductLaw:
    """The law of x = R'u with independent u_i.

    Attributes:
        marginals: laws of u_1, ..., u_d, each of dimension one.
        rotation: R, orthogonal, (d, d).
    """

    marginals: tuple[Density, ...]
    rotation: Matrix

    @property
    def dim(self) -> int:
        """State dimension d."""
        return len(self.marginals)

    def log_prob(self, x: Points) -> Scalars:
        """sum_i log p_i((R x)_i), (n,)."""
        u = checked_points(x, self.dim) @ self.rotation.mT
        parts = [law.log_prob(u[:, i : i + 1]) for i, law in enumerate(self.marginals)]
        return torch.stack(parts).sum(0)

    def sample(self, n: int, generator: Generator | None = None) -> Points:
        """``n`` independent draws, (n, d)."""
        source = generator_or_default(generator, self.rotation.device)
        u = torch.cat([law.sample(n, source) for law in self.marginals], 1)
        return u @ self.rotation


@dataclass(frozen=True, eq=False)
class ProductBelief(Summaries, ProductLaw):
    """Beliefs about independent coordinates as one belief about x = R'u.

    Attributes:
        marginals: beliefs about u_1, ..., u_d at one time, each of dimension one.
        rotation: R, orthogonal, (d, d).
    """

    marginals: tuple[Belief, ...]

    @property
    def time(self) -> float:
        """Time of all of them."""
        return self.marginals[0].time

    @property
    def log_evidence(self) -> float:
        """Sum over the coordinates."""
        return sum(belief.log_evidence for belief in self.marginals)

    @property
    def mean(self) -> State:
        """R' E[u], (d,)."""
        return torch.cat([belief.mean for belief in self.marginals]) @ self.rotation

    @property
    def covariance(self) -> Matrix:
        """R' diag(Var u_i) R, (d, d)."""
        variances = torch.cat([belief.covariance.reshape(1) for belief in self.marginals])
        return (self.rotation.mT * variances) @ self.rotation

    def quantile(self, q: float, coordinate: int = 0) -> float:
        """The q-quantile of a coordinate of x, from draws: a rotated marginal is a convolution."""
        checked_quantile(q, coordinate, self.dim)
        return self.sample(_DRAWS)[:, coordinate].quantile(q).item()

    def cdf(self, x: float, coordinate: int = 0) -> float:
        """P(X_i <= x) of a coordinate of x, from the same draws."""
        at = checked_state(x, coordinate, self.dim)
        return (self.sample(_DRAWS)[:, coordinate] <= at).double().mean().item()
