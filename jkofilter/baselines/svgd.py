"""Stein variational gradient descent: a sampler of unnormalised targets."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Generator, Tensor

from jkofilter._typing import Points, Scalars
from jkofilter.baselines.weighted_particles import equally_weighted
from jkofilter.beliefs.particle import ParticleBelief
from jkofilter.errors import FilterError, InputError
from jkofilter.models.checks import require_count, require_positive
from jkofilter.numerics.draws import stream
from jkofilter.numerics.threads import one_thread

LogDensity: TypeAlias = Callable[[Points], Scalars]
Score: TypeAlias = Callable[[Points, Generator], Points]

_PAIRS = 1 << 22
_MEDIAN_POINTS = 1000
_FLOOR = 1e-6


@dataclass(frozen=True, eq=False)
class SVGDResult:
    """Where the particles came to rest.

    Attributes:
        particles: (n, d).
        bandwidth: of the last kernel exp(-|x - y|^2 / bandwidth), squared units of the state.
        speed: root mean square of the last update direction, per coordinate; small at rest.
    """

    particles: Points
    bandwidth: float
    speed: float

    @property
    def belief(self) -> ParticleBelief:
        """The particles as a law, its density their kernel estimate."""
        return ParticleBelief(math.inf, self.particles, equally_weighted(self.particles).log_masses)


@one_thread()
def svgd(
    target: LogDensity | None,
    start: Points,
    steps: int = 1000,
    rate: float = 0.1,
    decay: float = 0.9,
    bandwidth: float | None = None,
    score: Score | None = None,
    seed: int = 0,
) -> SVGDResult:
    """Move particles to a target known up to a factor (Liu & Wang, NeurIPS 2016, algorithm 1).

    Every particle moves along

        phi(x) = mean over particles x_j of  k(x_j, x) grad log p(x_j) + grad_{x_j} k(x_j, x)      (their equation 8)

    with k(x, y) = exp(-|x - y|^2 / h), h = median of |x_i - x_j|^2 over log(n + 1) unless given, and AdaGrad steps with
    a moving average, as in their experiments, which keep a fixed length; here it falls to zero over the second half, so
    that the particles come to rest and minibatches average out. The points they rest at stand for the target; their
    spread falls short of the target's where d is not small against n (Ba et al., ICLR 2022).

    Args:
        target: log p up to a constant, maps (n, d) to (n,), differentiable by torch; None where ``score`` is given.
        start: particles, (n, d); moved on a copy.
        steps: how many.
        rate: length of the first steps, units of the state.
        decay: of the moving average of squared directions.
        bandwidth: h, squared units of the state; None takes the median heuristic at every step, on a thousand of the
            particles where there are more.
        score: grad log p, (n, d), or an unbiased estimate of it; called with the particles and a generator, with which
            it may draw a minibatch of the data.
        seed: of that generator.

    Raises:
        InputError: an argument cannot be used.
        FilterError: a score is NaN or infinite.
    """
    gradient = _checked(target, start, steps, rate, decay, bandwidth, score)
    generator = stream(seed, "descent", start.device)
    x = start.detach().clone()
    squares: Tensor | None = None
    width, speed = 0.0, 0.0
    for step in range(steps):
        slope = gradient(x, generator)
        if slope.shape != x.shape or not torch.isfinite(slope).all():
            raise FilterError(f"grad log p must be finite and of shape {tuple(x.shape)}, but is not at step {step}.")
        width = bandwidth if bandwidth is not None else median_bandwidth(x)
        phi = direction(x, slope, width)
        squares = phi.square() if squares is None else decay * squares + (1 - decay) * phi.square()
        x = x + rate * min(1.0, 2.0 * (1.0 - step / steps)) * phi / (_FLOOR + squares.sqrt())
        speed = phi.square().mean().sqrt().item()
    return SVGDResult(x, width, speed)


def direction(x: Points, score: Points, bandwidth: float) -> Points:
    """phi at every particle, (n, d), in blocks of rows so that memory stays bounded."""
    n = len(x)
    squares = x.square().sum(1)
    parts = []
    for rows in torch.arange(n, device=x.device).split(max(1, _PAIRS // n)):
        here = x[rows]
        gap = (squares[rows, None] - 2 * here @ x.mT + squares).clamp_(min=0)
        kernel = gap.div_(-bandwidth).exp_()
        # sum_j grad_{x_j} k(x_j, x) = (2/h) sum_j k(x_j, x) (x - x_j): particles push each other apart.
        repulsion = (2.0 / bandwidth) * (kernel.sum(1, keepdim=True) * here - kernel @ x)
        parts.append((kernel @ score + repulsion) / n)
    return torch.cat(parts)


def median_bandwidth(x: Points) -> float:
    """Median of the squared distances over log(n + 1), so that n exp(-median/h) is about one."""
    stride = max(1, len(x) // _MEDIAN_POINTS)
    median = torch.pdist(x[::stride]).median().item() ** 2
    return max(median, 1e-12) / math.log(len(x) + 1)


def _checked(
    target: LogDensity | None,
    start: Points,
    steps: int,
    rate: float,
    decay: float,
    bandwidth: float | None,
    score: Score | None,
) -> Score:
    """The score to follow, once the arguments can be used."""
    if not isinstance(start, Tensor) or start.ndim != 2 or len(start) < 2 or not torch.isfinite(start).all():
        raise InputError("start must hold at least two finite particles, (n, d).")
    require_count("steps", steps, 1)
    require_positive("rate", rate)
    if not 0 <= decay < 1:
        raise InputError(f"decay must be at least 0 and below 1, got {decay!r}.")
    if bandwidth is not None and not 0 < bandwidth < math.inf:
        raise InputError(f"bandwidth must be positive and finite, or None for the median heuristic, got {bandwidth!r}.")
    if (target is None) == (score is None):
        raise InputError("target or score must be given, and not both.")
    return score if score is not None else _differentiated(target)  # type: ignore[arg-type]


def _differentiated(target: LogDensity) -> Score:
    def score(x: Points, generator: Generator) -> Points:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(target(leaf).sum(), leaf)
        return slope

    return score
