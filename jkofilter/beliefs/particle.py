"""Weighted particles, with a density from a kernel estimate or from the last transition."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from jkofilter._typing import Matrix, Points, Scalars, State
from jkofilter.beliefs.checks import checked_points, checked_quantile, checked_state, generator_or_default
from jkofilter.beliefs.summaries import Summaries
from jkofilter.numerics.arrays import as_array
from jkofilter.numerics.domain import Domain, folded_log_prob
from jkofilter.numerics.linalg import safe_cholesky, weighted_moments
from jkofilter.numerics.mixtures import mixture_log_prob
from jkofilter.numerics.resampling import resample
from jkofilter.numerics.weights import effective_sample_size


@dataclass(frozen=True, eq=False)
class ParticleBelief(Summaries):
    """Particles x_i with weights w_i.

    Mean, covariance and quantiles are those of the weighted particles. ``log_prob`` and ``sample`` are those of one
    law: with ``kernel_means`` the Gaussian mixture of the last transition, else a Gaussian kernel estimate, whose
    covariance is larger than that of the particles by the factor 1 + bandwidth^2. Both are folded at the walls.

    Attributes:
        time: in the SDE's unit.
        particles: (n, d).
        log_weights: normalised, (n,).
        log_evidence: log p of the readings so far.
        kernel_means: mean of every particle's last transition, (n, d), with weights ``log_weights``; None for the
            kernel estimate.
        kernel_variance: variance per coordinate of that transition.
        walls: of the state's domain, or None.
        ancestors: place of the particle that each came from among those of the belief before the prediction, (n,);
            None where that is not told.
    """

    time: float
    particles: Points
    log_weights: Scalars
    log_evidence: float = 0.0
    kernel_means: Tensor | None = None
    kernel_variance: float = 0.0
    walls: Domain | None = None
    ancestors: Tensor | None = None

    @property
    def dim(self) -> int:
        """State dimension d."""
        return self.particles.shape[1]

    @property
    def density(self) -> str:
        """What ``log_prob`` evaluates: "transition" or "kde"."""
        return "kde" if self.kernel_means is None else "transition"

    @property
    def ess(self) -> float:
        """Effective sample size of the weights."""
        return effective_sample_size(self.log_weights)

    @property
    def mean(self) -> State:
        """Weighted mean, (d,)."""
        return self.log_weights.exp() @ self.particles

    @property
    def covariance(self) -> Matrix:
        """Weighted covariance, (d, d)."""
        return weighted_moments(self.particles, self.log_weights)[1]

    def log_prob(self, x: Points) -> Scalars:
        """Log density of the transition mixture or of the kernel estimate, (n,)."""
        checked_points(x, self.dim)
        return self._unfolded(x) if self.walls is None else folded_log_prob(self._unfolded, x, self.walls)

    def _unfolded(self, x: Points) -> Scalars:
        if self.kernel_means is not None:
            return mixture_log_prob(x, self.kernel_means, self.log_weights, math.sqrt(self.kernel_variance))
        bandwidth = self._bandwidth()
        whitened = torch.linalg.solve_triangular(
            bandwidth, torch.cat([x.to(bandwidth), self.particles]).mT, upper=False
        )
        points, means = whitened.mT.contiguous().split([x.shape[0], self.particles.shape[0]])
        log_det = torch.log(torch.diagonal(bandwidth)).sum()
        return mixture_log_prob(points, means, self.log_weights, 1.0) - log_det

    def sample(self, n: int, generator: Generator | None = None) -> Points:
        """``n`` independent draws of the law that ``log_prob`` evaluates, (n, d)."""
        source = generator_or_default(generator, self.particles.device)
        chosen = resample(self.log_weights, "multinomial", source, n)
        noise = torch.randn(n, self.dim, generator=source, dtype=self.particles.dtype, device=self.particles.device)
        if self.kernel_means is not None:
            draws = self.kernel_means[chosen] + math.sqrt(self.kernel_variance) * noise
        else:
            draws = self.particles[chosen] + noise @ self._bandwidth().mT
        return draws if self.walls is None else self.walls.reflect(draws)

    def weighted_points(self) -> tuple[Points, Scalars]:
        """The particles and their weights."""
        return self.particles, self.log_weights.exp()

    def quantile(self, q: float, coordinate: int = 0) -> float:
        """The q-quantile of one coordinate of the weighted particles, linear between their mid-cumulative weights."""
        checked_quantile(q, coordinate, self.dim)
        values, middle = self._ranked(coordinate)
        right = int(torch.searchsorted(middle, torch.tensor([q], dtype=middle.dtype, device=middle.device)).item())
        if right == 0 or right == values.numel():
            return values[min(right, values.numel() - 1)].item()
        low, high = middle[right - 1].item(), middle[right].item()
        share = (q - low) / (high - low) if high > low else 1.0
        return torch.lerp(values[right - 1], values[right], share).item()

    def cdf(self, x: float, coordinate: int = 0) -> float:
        """The level of which ``x`` is the quantile; 0 and 1 beyond the outermost particles."""
        at = checked_state(x, coordinate, self.dim)
        values, middle = self._ranked(coordinate)
        return float(np.interp(at, as_array(values), as_array(middle), left=0.0, right=1.0))

    def _ranked(self, coordinate: int) -> tuple[Tensor, Tensor]:
        """One coordinate of the particles, increasing, and their mid-cumulative weights, (n,) each."""
        values, order = self.particles[:, coordinate].sort()
        weights = self.log_weights.exp()[order]
        return values, torch.cumsum(weights, 0) - 0.5 * weights

    def _bandwidth(self) -> Matrix:
        """Lower factor of the kernel's covariance, (d, d): Silverman's rule on the effective sample size.

        In one dimension Silverman's robust form, 0.9 min(sd, IQR / 1.349) n^(-1/5), which blurs several modes less;
        in more, the covariance times (n (d + 2) / 4)^(-2/(d + 4)) (Silverman 1986, eqs 3.31 and 4.14).
        """
        covariance = self.covariance
        size = self.ess
        if self.dim == 1:
            deviation = math.sqrt(covariance.item())
            robust = (self.quantile(0.75) - self.quantile(0.25)) / 1.349
            # A heavy atom makes the quartiles coincide; the standard deviation is what is left to go by.
            width = 0.9 * (min(deviation, robust) if robust > 0 else deviation) * size**-0.2
            return torch.full_like(covariance, max(width, 1e-12 * (1.0 + abs(self.mean.item()))))
        factor = (size * (self.dim + 2) / 4) ** (-1 / (self.dim + 4))
        return factor * safe_cholesky(covariance)[0]
