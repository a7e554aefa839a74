"""Resampling schemes, named as in filterpy.

Own code rather than ``filterpy.monte_carlo``: filterpy 2.0 draws from NumPy's global generator, loops in Python, and
its residual scheme subtracts the copies from the weights instead of from n times the weights. The other three agree
with filterpy index for index given the same uniforms, which a test checks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from jkofilter._typing import Scalars
from jkofilter.errors import InputError
from jkofilter.numerics.weights import normalise_log_weights

_Uniform = Callable[[int], Tensor]


def _invert(weights: Tensor, positions: Tensor) -> Tensor:
    """The index whose share of the unit interval holds each position; never one of zero weight."""
    cumulative = torch.cumsum(weights, 0)
    # right=True finds the first sum strictly above the position, which skips weights of zero; rounding can leave the
    # last sum below one, and then the last positive weight owns what is above it.
    last = int(torch.nonzero(weights)[-1].item())
    return torch.searchsorted(cumulative, positions, right=True).clamp(max=last)


def _systematic(weights: Tensor, n: int, uniform: _Uniform) -> Tensor:
    return _invert(weights, (uniform(1) + torch.arange(n).to(weights)) / n)


def _stratified(weights: Tensor, n: int, uniform: _Uniform) -> Tensor:
    return _invert(weights, (uniform(n) + torch.arange(n).to(weights)) / n)


def _multinomial(weights: Tensor, n: int, uniform: _Uniform) -> Tensor:
    return _invert(weights, uniform(n))


def _residual(weights: Tensor, n: int, uniform: _Uniform) -> Tensor:
    copies = torch.floor(n * weights).to(torch.int64)
    whole = torch.repeat_interleave(torch.arange(weights.numel(), device=weights.device), copies)
    missing = n - whole.numel()
    if missing <= 0:
        return whole[:n]
    rest = n * weights - copies
    return torch.cat([whole, _multinomial(rest / rest.sum(), missing, uniform)])


_SCHEMES: dict[str, Callable[[Tensor, int, _Uniform], Tensor]] = {
    "systematic": _systematic,
    "stratified": _stratified,
    "multinomial": _multinomial,
    "residual": _residual,
}


def checked_scheme(name: str) -> str:
    """``name`` once it is one of systematic, stratified, multinomial, residual.

    Raises:
        InputError: unknown name.
    """
    if name not in _SCHEMES:
        raise InputError(f"resampling must be one of {', '.join(_SCHEMES)}, got {name!r}.")
    return name


def resample(log_weights: Scalars, scheme: str, generator: Generator, n: int | None = None) -> Tensor:
    """Indices of the survivors, each index i expected n w_i times.

    Args:
        log_weights: (k,), need not be normalised.
        scheme: systematic, stratified, multinomial (independent draws) or residual.
        generator: the source of the uniforms.
        n: how many to draw; k by default.

    Returns:
        int64 indices, (n,).

    Raises:
        InputError: unknown scheme.
        NumericalError: every weight is zero.
    """
    checked_scheme(scheme)
    normalised, _ = normalise_log_weights(log_weights)
    count = log_weights.numel() if n is None else n

    def uniform(size: int) -> Tensor:
        return torch.rand(size, generator=generator, dtype=normalised.dtype, device=normalised.device)

    return _SCHEMES[scheme](normalised.exp(), count, uniform)
