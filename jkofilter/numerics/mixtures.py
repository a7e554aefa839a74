"""Log density of large Gaussian mixtures, exact to rounding, in bounded memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jkofilter._typing import Points, Scalars
from jkofilter.numerics.threads import in_threads

# Terms left out together weigh less than this share of the sum: exp(-27.6) = 1e-12.
_LOG_TOLERANCE = 27.6
_BLOCK = 16
_PAIRS = 1 << 21


def mixture_log_prob(x: Points, means: Points, log_weights: Scalars, deviation: float) -> Scalars:
    """log sum_i w_i N(x; means_i, deviation^2 I).

    In one dimension only the components that matter at a point are summed: with the nearest ones giving a lower
    bound on the sum, everything beyond the radius where all the weight together could not reach 1e-12 of that bound
    is left out. So the result has a relative error of at most 1e-12, near and arbitrarily far from the components.

    Args:
        x: where, (n, d).
        means: (k, d).
        log_weights: normalised, (k,); -inf drops the component.
        deviation: standard deviation of every component, in units of the state.

    Returns:
        (n,), finite wherever x is.
    """
    kept = torch.isfinite(log_weights)
    means, log_weights = means[kept] / deviation, log_weights[kept]
    scaled = x.to(means) / deviation
    summed = _windowed if x.shape[1] == 1 else _chunked
    constant = x.shape[1] * (0.5 * math.log(2 * math.pi) + math.log(deviation))
    return summed(scaled, means, log_weights) - constant


def _chunked(x: Tensor, means: Tensor, log_weights: Tensor) -> Tensor:
    rows = max(1, _PAIRS // means.shape[0])
    # Distances by matrix products lose digits far from the origin; centring keeps the squares small.
    centre = means.mean(0)
    means = means - centre
    bias = log_weights - 0.5 * means.square().sum(-1)

    def log_sums(block: Tensor) -> Tensor:
        exponents = torch.addmm(bias, block, means.mT)
        return torch.logsumexp(exponents, -1) - 0.5 * block.square().sum(-1)

    return torch.cat(in_threads(log_sums, (x - centre).split(rows)))


def _windowed(x: Tensor, means: Tensor, log_weights: Tensor) -> Tensor:
    centres, order = means[:, 0].sort()
    log_weights = log_weights[order]
    points, back = x[:, 0].sort()
    right = torch.searchsorted(centres, points).clamp(max=centres.numel() - 1)
    left = (right - 1).clamp(min=0)
    bound = torch.maximum(
        log_weights[left] - 0.5 * (points - centres[left]).square(),
        log_weights[right] - 0.5 * (points - centres[right]).square(),
    )
    radius = torch.sqrt(2 * (_LOG_TOLERANCE - bound).clamp(min=0))
    first = torch.searchsorted(centres, points - radius)
    last = torch.searchsorted(centres, points + radius, right=True)
    result = torch.empty_like(points)
    for start in range(0, points.numel(), _BLOCK):
        stop = min(start + _BLOCK, points.numel())
        low, high = int(first[start:stop].min()), int(last[start:stop].max())
        gap = points[start:stop, None] - centres[low:high]
        exponents = gap.square_().mul_(-0.5).add_(log_weights[low:high])
        shift = exponents.amax(1, keepdim=True)
        result[start:stop] = exponents.sub_(shift).exp_().sum(1).log_().add_(shift[:, 0])
    return torch.empty_like(result).index_copy_(0, back, result)
