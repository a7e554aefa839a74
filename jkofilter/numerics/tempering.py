"""Temperatures between prior and posterior, chosen by effective sample size."""

from __future__ import annotations

import torch

from jkofilter._typing import Scalars
from jkofilter.numerics.weights import effective_sample_size

_BISECTIONS = 60


def next_temperature(log_likelihood: Scalars, now: float, share: float) -> float:
    """The largest temperature up to one at which reweighting keeps ``share`` of the particles effective.

    Args:
        log_likelihood: of each particle, (n,); -inf counts as lost at any temperature.
        now: the present temperature, below one.
        share: of the particles with a positive likelihood.

    Returns:
        A temperature in (now, 1].
    """
    possible = log_likelihood[torch.isfinite(log_likelihood)]
    enough = share * possible.numel()
    if effective_sample_size((1 - now) * possible) >= enough:
        return 1.0
    low, high = 0.0, 1 - now
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if effective_sample_size(middle * possible) >= enough else (low, middle)
    return min(now + max(low, torch.finfo(possible.dtype).eps * max(now, 1e-12)), 1.0)
