"""The law of a Benes diffusion: a Gaussian tilted by cosh, in one dimension."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from torch import Generator

from jkofilter._typing import Matrix, Points, Scalars, State
from jkofilter.beliefs.checks import checked_points, checked_quantile, checked_state, generator_or_default
from jkofilter.beliefs.summaries import Summaries


@dataclass(frozen=True, eq=False)
class BenesBelief(Summaries):
    """cosh(k x + c) N(x; m, P) / (exp(k^2 P / 2) cosh(k m + c)).

    Since exp(+-k x) N(x; m, P) = exp(+-k m + k^2 P / 2) N(x; m +- k P, P), this is a mixture of two Gaussians, with
    means m + k P and m - k P, the variance P of both, and weights sigmoid(2 (k m + c)) and sigmoid(-2 (k m + c)): of
    two modes where k^2 P exceeds one and k m + c is small. Filtering laws have c = 0.

    Attributes:
        time: in the SDE's unit.
        centre: m, (1,).
        variance: P, positive, (1, 1).
        kappa: k, in inverse units of the state.
        log_evidence: log p of the readings so far.
        offset: c.
    """

    time: float
    centre: State
    variance: Matrix
    kappa: float
    log_evidence: float = 0.0
    offset: float = 0.0

    @property
    def dim(self) -> int:
        """State dimension, 1."""
        return 1

    @property
    def _lean(self) -> State:
        """k m + c, (1,): half the log odds of the right component."""
        return self.kappa * self.centre + self.offset

    @property
    def mean(self) -> State:
        """E[X] = m + k P tanh(k m + c), (1,)."""
        return self.centre + self.kappa * self.variance[0] * torch.tanh(self._lean)

    @property
    def covariance(self) -> Matrix:
        """Var[X] = P + (k P / cosh(k m + c))^2, (1, 1)."""
        share = 1 - torch.tanh(self._lean).square()
        return self.variance + (self.kappa * self.variance).square() * share

    def log_prob(self, x: Points) -> Scalars:
        """Normalised log density, (n,)."""
        points, p = checked_points(x, 1).to(self.centre)[:, 0], self.variance[0, 0]
        gaussian = -0.5 * ((points - self.centre[0]).square() / p + torch.log(2 * math.pi * p))
        tilt = log_cosh(self.kappa * points + self.offset) - log_cosh(self._lean)
        return gaussian + tilt - 0.5 * self.kappa**2 * p

    def sample(self, n: int, generator: Generator | None = None) -> Points:
        """``n`` draws of the two components, (n, 1)."""
        source = generator_or_default(generator, self.centre.device)
        noise = self.centre.new_empty(n, 1).normal_(generator=source)
        right = self.centre.new_empty(n, 1).uniform_(generator=source) < torch.sigmoid(2 * self._lean)
        side = torch.where(right, 1.0, -1.0).to(self.centre)
        return self.centre + self.kappa * self.variance * side + self.variance.sqrt() * noise

    def quantile(self, q: float, coordinate: int = 0) -> float:
        """The q-quantile, between those of the two components."""
        checked_quantile(q, coordinate, 1)
        m, p = self.centre.item(), self.variance.item()
        shift, scale = abs(self.kappa) * p, math.sqrt(p)
        middle = m + scale * float(ndtri(q))
        # A little beyond both, where rounding would leave the two ends with one sign.
        reach = shift * (1 + 1e-9) + 1e-9 * scale
        ends = middle - reach, middle + reach
        return float(brentq(lambda x: self.cdf(x) - q, *ends, xtol=1e-13 * (scale + abs(m)), rtol=1e-14))

    def cdf(self, x: float, coordinate: int = 0) -> float:
        """P(X <= x)."""
        centred, p = checked_state(x, coordinate, 1) - self.centre.item(), self.variance.item()
        right = torch.sigmoid(2 * self._lean).item()
        shift, scale = self.kappa * p, math.sqrt(p)
        return float(right * ndtr((centred - shift) / scale) + (1 - right) * ndtr((centred + shift) / scale))


def log_cosh(x: Scalars) -> Scalars:
    """log cosh(x) without overflow, (n,)."""
    return x.abs() + torch.log1p(torch.exp(-2 * x.abs())) - math.log(2)
