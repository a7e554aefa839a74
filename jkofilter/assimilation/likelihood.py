"""The log likelihood of a reading, and its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch

from jkofilter._typing import Points, Scalars

LogLikelihood: TypeAlias = Callable[[Points], Scalars]
DIFFERENCE = 1e-5
"""Half a step of the differences that stand in for gradients, in standard deviations of the belief."""


def value_and_force(log_likelihood: LogLikelihood, x: Points) -> tuple[Scalars, Points]:
    """Log likelihood, (n,), and its gradient, (n, d): by torch, or by differences where the likelihood leaves torch."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        try:
            value = log_likelihood(leaf)
        except RuntimeError:
            # What turns states into NumPy arrays refuses those that want a gradient.
            value = log_likelihood(x)
        if value.requires_grad:
            (force,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True, materialize_grads=True)
        else:
            force = _differences(log_likelihood, x)
    # At an edge there is no useful slope.
    return value.detach(), torch.nan_to_num(force, nan=0.0, posinf=0.0, neginf=0.0)


def _differences(log_likelihood: LogLikelihood, x: Points) -> Points:
    steps = torch.diag(DIFFERENCE * x.std(0).clamp(min=torch.finfo(x.dtype).tiny))
    columns = [(log_likelihood(x + step) - log_likelihood(x - step)) / (2 * step.sum()) for step in steps]
    return torch.stack(columns, 1)
