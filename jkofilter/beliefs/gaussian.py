"""A Gaussian belief, exact for linear models."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.special import ndtr, ndtri
from torch import Generator

from jkofilter._typing import Matrix, Points, Scalars, State
from jkofilter.beliefs.checks import checked_points, checked_quantile, checked_state, generator_or_default
from jkofilter.beliefs.summaries import Summaries


@dataclass(frozen=True, eq=False)
class GaussianBelief(Summaries):
    """N(mean, covariance).

    Attributes:
        time: in the SDE's unit.
        mean: (d,).
        covariance: symmetric positive definite, (d, d).
        log_evidence: log p of the readings so far.
    """

    time: float
    mean: State
    covariance: Matrix
    log_evidence: float = 0.0

    @property
    def dim(self) -> int:
        """State dimension d."""
        return self.mean.shape[0]

    def log_prob(self, x: Points) -> Scalars:
        """log N(x; mean, covariance), (n,)."""
        centred = checked_points(x, self.dim).to(self.mean) - self.mean
        cholesky = torch.linalg.cholesky(self.covariance)
        whitened = torch.linalg.solve_triangular(cholesky, centred.mT, upper=False)
        log_det = 2 * torch.log(torch.diagonal(cholesky)).sum()
        return -0.5 * (whitened.square().sum(0) + log_det + self.dim * math.log(2 * math.pi))

    def sample(self, n: int, generator: Generator | None = None) -> Points:
        """``n`` draws, (n, d)."""
        source = generator_or_default(generator, self.mean.device)
        noise = torch.randn(n, self.dim, generator=source, dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + noise @ torch.linalg.cholesky(self.covariance).mT

    def quantile(self, q: float, coordinate: int = 0) -> float:
        """The q-quantile of one coordinate."""
        checked_quantile(q, coordinate, self.dim)
        deviation = math.sqrt(self.covariance[coordinate, coordinate].item())
        return self.mean[coordinate].item() + deviation * float(ndtri(q))

    def cdf(self, x: float, coordinate: int = 0) -> float:
        """P(X_i <= x) of one coordinate."""
        distance = checked_state(x, coordinate, self.dim) - self.mean[coordinate].item()
        return float(ndtr(distance / math.sqrt(self.covariance[coordinate, coordinate].item())))
