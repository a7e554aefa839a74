"""Weights of particles, in log space throughout so that tiny likelihoods never underflow."""

from __future__ import annotations

import math

import torch

from jkofilter._typing import Scalars
from jkofilter.errors import InputError, NumericalError


def normalise_log_weights(log_weights: Scalars) -> tuple[Scalars, float]:
    """Log weights that sum to one, and the log of what they summed to before.

    Args:
        log_weights: (n,), unnormalised; -inf is a weight of zero.

    Returns:
        Normalised log weights, (n,), and the log sum, nats.

    Raises:
        InputError: another shape.
        NumericalError: every weight is zero, or one is NaN or infinite.
    """
    if log_weights.ndim != 1 or log_weights.numel() == 0:
        raise InputError(f"log_weights must have shape (n,) with n of one or more, got {tuple(log_weights.shape)}.")
    total = torch.logsumexp(log_weights, 0)
    if not torch.isfinite(total):
        problem = "every weight is zero" if total == -math.inf else "a log weight is NaN or infinite"
        raise NumericalError(f"{problem}, so that the weights cannot be normalised.")
    return log_weights - total, total.item()


def log_mean_exp(values: Scalars) -> float:
    """log of the mean of exp(values), for values (n,)."""
    return torch.logsumexp(values, 0).item() - math.log(values.numel())


def effective_sample_size(log_weights: Scalars) -> float:
    """(sum w)^2 / sum w^2, between 1 and n, of log weights (n,) that need not be normalised (Kong 1992).

    Raises:
        NumericalError: every weight is zero, or one is NaN or infinite.
    """
    normalised, _ = normalise_log_weights(log_weights)
    return math.exp(-torch.logsumexp(2 * normalised, 0).item())
