"""Paths of a gap guided towards the reading at its end, weighed exactly.

Twisted sequential Monte Carlo (Guarniero, Johansen & Lee 2017, JASA 112, 1636-1647; Whiteley & Lee 2014, Ann. Stat. 42,
115-141) on the standard normal numbers z of the steps of a path. The reading y expected from x at the beginning of step
j is

    h_j(x) = N(y; g(m_j(x)), G C_j G' + R),

with m_j(x) where the drift alone leads from x by the end, G the slope of the sensor g there, and C_j the covariance
that the noise of the steps to come adds under the linear part of the drift, A. A step draws z from its law given y
under the same linearisation, N(mu, M^-1) with M = I + B' V^-1 B, mu = M^-1 B' V^-1 (y - g), where B = G D S carries z
to the reading (S the deviation of a step's noise, D the decay from there to the end) and V = G C_{j+1} G' + R. Weights
take in p(z) h_{j+1}(x') / (q(z) h_j(x)), at last p(y | x) for h. That is exact for paths in these steps, whatever the
guide is worth; where drift and sensor are linear only the weights of h_0 are left.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from jkofilter._typing import Matrix, Points, Readings, Scalars
from jkofilter.assimilation.likelihood import LogLikelihood
from jkofilter.assimilation.paths import PathMap
from jkofilter.numerics.draws import standard_normal
from jkofilter.numerics.heun import Linear, phi1
from jkofilter.numerics.linalg import symmetrised
from jkofilter.numerics.resampling import resample
from jkofilter.numerics.weights import effective_sample_size, normalise_log_weights

Slopes: TypeAlias = Float[Tensor, "p d"] | Float[Tensor, "n p d"]
"""Of a sensor: one matrix for all points, or one each."""

Sensor: TypeAlias = Callable[[Points], tuple[Readings, Slopes]]
"""For points (n, d) what the reading exceeds the sensor's value by, (n, p), and the sensor's slopes."""


@dataclass(frozen=True, eq=False)
class GuidedPaths:
    """What a reading makes of paths.

    Attributes:
        ends: where they end, (n, d).
        log_weights: normalised, (n,).
        log_evidence: log p(reading | before).
        ess: effective share of the twisted weights, at the start and after every step.
        resampled: how often.
    """

    ends: Points
    log_weights: Scalars
    log_evidence: float
    ess: tuple[float, ...]
    resampled: int


@dataclass(frozen=True, eq=False)
class _Ahead:
    """What is ahead of a step: the flow to the end, and what the noise of the steps does until then."""

    flow: PathMap
    decay: Matrix
    covariance: Matrix

    def towards(self, x: Points) -> Points:
        """Where the drift alone leads, (n, d)."""
        return self.flow.end(x, x.new_zeros(len(self.flow.steps), *x.shape)) if self.flow.steps else x


def guide(
    path: PathMap,
    start: Points,
    log_weights: Scalars,
    reading: tuple[Sensor, Matrix, LogLikelihood],
    share: float,
    generator: Generator,
) -> GuidedPaths:
    """Takes a reading in.

    Args:
        path: the gap, without walls.
        start: of the paths, (n, d).
        log_weights: theirs, normalised, (n,).
        reading: its sensor, the covariance of its noise (p, p), and its log likelihood.
        share: of the paths; they are resampled after a step that leaves fewer of them effective.
        generator: draws everything.

    Raises:
        NumericalError: no path can come from the reading.
    """
    sensor, noise, log_likelihood = reading
    x, ahead = start, _all_ahead(path)
    foreseen, residual, slopes = _foreseen(ahead[0], x, sensor, noise)
    log_weights, log_evidence = normalise_log_weights(log_weights + foreseen)
    effective, resampled = [effective_sample_size(log_weights) / len(x)], 0
    for j, step in enumerate(path.steps):
        if effective[-1] < share:
            chosen = resample(log_weights, "systematic", generator)
            x, foreseen, residual = x[chosen], foreseen[chosen], residual[chosen]
            slopes = slopes if slopes.ndim == 2 else slopes[chosen]
            log_weights = torch.full_like(log_weights, -math.log(len(x)))
            resampled += 1
        spread = _whole(step.linear, (2 / float(path.sde.beta) * step.h * phi1(2 * step.h * step.linear.rates)).sqrt())
        turned = spread if path.turn is None else path.turn.mT @ spread
        z, gain = _numbers(slopes @ ahead[j + 1].decay @ turned, slopes, ahead[j + 1], residual, noise, generator)
        x = replace(path, steps=(step,)).end(x, z.unsqueeze(0))
        lost = ~torch.isfinite(x).all(-1)
        if lost.any():
            x, gain = torch.where(lost.unsqueeze(-1), start, x), torch.where(lost, -math.inf, gain)
        before = foreseen
        if j + 1 < len(path.steps):
            foreseen, residual, slopes = _foreseen(ahead[j + 1], x, sensor, noise)
        else:
            foreseen = log_likelihood(x)
        log_weights, increment = normalise_log_weights(log_weights + gain + foreseen - before)
        log_evidence += increment
        effective.append(effective_sample_size(log_weights) / len(x))
    return GuidedPaths(x, log_weights, log_evidence, tuple(effective), resampled)


def _whole(linear: Linear, factor: Tensor) -> Matrix:
    """The matrix that multiplies eigenvectors of A by ``factor``."""
    return torch.diag(factor) if linear.basis is None else (linear.basis * factor) @ linear.basis.mT


def _all_ahead(path: PathMap) -> list[_Ahead]:
    """What is ahead of every step, in coordinates of the state, and at last nothing."""
    like = path.steps[0].linear.rates
    eye = torch.eye(len(like), dtype=like.dtype, device=like.device)
    decay, covariance, out = eye, torch.zeros_like(eye), [_Ahead(replace(path, steps=()), eye, torch.zeros_like(eye))]
    for j in range(len(path.steps) - 1, -1, -1):
        h, linear = path.steps[j].h, path.steps[j].linear
        own = _whole(linear, 2 / float(path.sde.beta) * h * phi1(2 * h * linear.rates))
        own = own if path.turn is None else path.turn.mT @ own @ path.turn
        covariance = symmetrised(covariance + decay @ own @ decay.mT)
        fading = _whole(linear, torch.exp(-h * linear.rates))
        decay = decay @ (fading if path.turn is None else path.turn.mT @ fading @ path.turn)
        out.append(_Ahead(replace(path, steps=path.steps[j:]), decay, covariance))
    return out[::-1]


def _foreseen(ahead: _Ahead, x: Points, sensor: Sensor, noise: Matrix) -> tuple[Scalars, Readings, Slopes]:
    """log h (n,), by how much the reading exceeds what is foreseen, (n, p), and slopes there."""
    residual, slopes = sensor(ahead.towards(x))
    factor = torch.linalg.cholesky(symmetrised(slopes @ ahead.covariance @ slopes.mT + noise))
    white = _solved(factor, residual)
    log_det = torch.diagonal(factor, dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * white.square().sum(-1) - log_det - 0.5 * len(noise) * math.log(2 * math.pi), residual, slopes


def _numbers(
    carried: Tensor, slopes: Slopes, ahead: _Ahead, residual: Readings, noise: Matrix, generator: Generator
) -> tuple[Points, Scalars]:
    """Numbers of a step drawn given the reading, (n, d), and the log of their prior density over that of the draw."""
    factor = torch.linalg.cholesky(symmetrised(slopes @ ahead.covariance @ slopes.mT + noise))
    white = torch.linalg.solve_triangular(factor, carried, upper=False)
    eye = torch.eye(white.shape[-1], dtype=white.dtype, device=white.device)
    root = torch.linalg.cholesky(symmetrised(eye + white.mT @ white))
    inverse = torch.linalg.solve_triangular(root, eye.expand_as(root), upper=False)
    drawn = standard_normal(residual.new_empty(len(residual), len(eye)), generator)
    pushed = _applied(inverse @ white.mT, _solved(factor, residual))
    z = _applied(inverse.mT, pushed + drawn)
    log_det = torch.diagonal(root, dim1=-2, dim2=-1).log().sum(-1)
    return z, 0.5 * (drawn.square().sum(-1) - z.square().sum(-1)) - log_det


def _applied(matrix: Tensor, vectors: Tensor) -> Tensor:
    """Matrix times vectors (n, k), one matrix for all or one each."""
    return vectors @ matrix.mT if matrix.ndim == 2 else (matrix @ vectors.unsqueeze(-1)).squeeze(-1)


def _solved(factor: Tensor, vectors: Tensor) -> Tensor:
    """Lower triangular factor(s) divided into vectors (n, k)."""
    if factor.ndim == 2:
        return torch.linalg.solve_triangular(factor, vectors.mT, upper=False).mT
    return torch.linalg.solve_triangular(factor, vectors.unsqueeze(-1), upper=False).squeeze(-1)
