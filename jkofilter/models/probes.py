"""Trying a user's functions out where the prior lives, once and cheaply, before they are relied upon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jkofilter._typing import Points
from jkofilter.errors import InputError

SINGLES = 2
"""Points that are also asked for one by one."""
FRACTIONS = (1e-2, 1e-4, 1e-6)
"""Lengths of central differences, in standard deviations of the prior: the short ones for fine structure, the long ones
for values of many digits before the point."""
SLACK = {torch.float64: 3e-4, torch.float32: 3e-2}
"""How far a derivative may be from differences, relative to its size at the draws."""
TORCH_ONLY = "compute it with torch functions (torch.cos for numpy.cos, torch.as_tensor for arrays)"
NOT_A_GRADIENT = "only drifts that are -grad V are this toolkit's"


def probe_points(dim: int, dtype: torch.dtype = torch.float64) -> Points:
    """Points in general position about the origin, (n, d)."""
    generator = torch.Generator().manual_seed(dim)
    return torch.randn(_batch(dim), dim, generator=generator, dtype=dtype)


def _batch(dim: int) -> int:
    """How many points no dimension can be mistaken for."""
    return 9 if dim != 9 else 10


def require_pointwise(function: Callable[[Tensor], Tensor], points: Points, name: str, tail: tuple[int, ...]) -> None:
    """Raise InputError unless ``function`` acts on each point by itself, whatever the shape of a batch.

    Args:
        function: maps (..., d) to (..., *tail).
        points: at least ten of them, (n, d); where the value is NaN or infinite nothing is compared.
        name: of the function, for messages.
        tail: shape of the value at one point.
    """
    dim = points.shape[-1]
    rows, columns = 2, 3 if dim != 3 else 4
    flat = points[: _batch(dim)]
    block = flat[: rows * columns].reshape(rows, columns, dim)
    whole = _value(function, flat, name, tail)
    others = [(_value(function, block, name, tail).reshape(-1, *tail), whole[: rows * columns])]
    others += [(_value(function, flat[i], name, tail), whole[i]) for i in range(SINGLES)]
    size = whole[torch.isfinite(whole)].abs().amax() if torch.isfinite(whole).any() else whole.new_zeros(())
    slack = size * (1e-7 if whole.dtype == torch.float64 else 1e-4)
    for value, expected in others:
        known = torch.isfinite(expected)
        if not ((value - expected).abs()[known] <= slack).all():
            raise InputError(
                f"{name} must act on each point by itself, but a point's value depends on which others come with it; "
                "reduce over the last axis only, and index coordinates as x[..., i]."
            )


def _value(function: Callable[[Tensor], Tensor], x: Tensor, name: str, tail: tuple[int, ...]) -> Tensor:
    try:
        value: Any = function(x)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{name} fails on points of shape {tuple(x.shape)} ({type(error).__name__}: {_line(error)}); "
            f"index coordinates as x[..., i], and {TORCH_ONLY}."
        ) from error
    wanted = (*x.shape[:-1], *tail)
    if not isinstance(value, Tensor):
        raise InputError(f"{name} must return a tensor, got {type(value).__name__}; {TORCH_ONLY}.")
    if tuple(value.shape) != wanted:
        ending, total = "".join(f", {n}" for n in tail), "" if tail else " and sum over the last axis"
        raise InputError(
            f"{name} must map points of shape (..., {x.shape[-1]}) to values of shape (...{ending}), but "
            f"{tuple(x.shape)} gave {tuple(value.shape)}; index coordinates as x[..., i]{total}."
        )
    return value.detach()


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0].rstrip(".")[:120] if text else "no message"


def require_derivative(
    function: Callable[[Tensor], Tensor],
    derivative: Callable[[Tensor], Tensor],
    points: Points,
    complain: Callable[[], str],
) -> None:
    """Raise InputError unless ``derivative`` is that of ``function`` at the points, by central differences.

    Of several lengths of difference one that agrees will do, so that kinks and fine structure are no reason.

    Args:
        function: maps (..., d) to (..., *tail).
        derivative: maps (n, d) to (n, *tail, d).
        points: where, (n, d).
        complain: the message, asked for when there is one to give.
    """
    slope = derivative(points)
    fractions = FRACTIONS if points.dtype == torch.float64 else FRACTIONS[:2]
    generator = torch.Generator(points.device).manual_seed(0)
    signs = torch.randn(points.shape, generator=generator, dtype=points.dtype, device=points.device)
    direction = signs * points.std(0)
    lengths = torch.tensor(fractions, dtype=points.dtype, device=points.device).reshape(-1, 1, 1)
    ahead, behind = function(torch.stack([points + lengths * direction, points - lengths * direction])).detach()
    tail = slope.ndim - 2
    lengths = lengths.reshape(-1, *[1] * (1 + tail))
    towards = direction.reshape(len(points), *[1] * tail, -1)
    expected, terms = (slope * towards).sum(-1), (slope * towards).abs().sum(-1)
    apart = ((ahead - behind) / (2 * lengths) - expected).abs()
    rounding = 16 * torch.finfo(points.dtype).eps * torch.maximum(ahead.abs(), behind.abs()) / lengths
    typical = torch.nan_to_num(terms, 0.0, 0.0, 0.0).mean(0)
    size = torch.maximum(terms, typical)
    # A length so short that rounding could hide the slope tells nothing.
    telling = torch.isfinite(apart) & (rounding <= 0.1 * size)
    agrees = telling & (apart <= SLACK.get(points.dtype, 0.1) * size + rounding)
    if (telling.any(0) & ~agrees.any(0)).any():
        raise InputError(complain())


def turns(field: Callable[[Tensor], Tensor], points: Points) -> bool:
    """Whether a vector field (n, d) -> (n, d) has curl at the points: whether its Jacobian is not symmetric there."""
    dim = points.shape[-1]
    steps = torch.diag(1e-4 * points.std(0))
    columns = [(field(points + step) - field(points - step)) / (2 * step.sum()) for step in steps]
    jacobian = torch.nan_to_num(torch.stack(columns, -1), 0.0, 0.0, 0.0)
    return dim > 1 and ((jacobian - jacobian.mT).abs() > 1e-2 * jacobian.abs().mean()).any().item() is True
