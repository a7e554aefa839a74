"""Argument checks every belief shares."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from jkofilter.errors import InputError
from jkofilter.numerics.draws import stream


def checked_points(x: Tensor, dim: int) -> Tensor:
    """``x`` as it is, once its shape is (n, dim).

    Raises:
        InputError: another shape.
    """
    if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[1] != dim:
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"x must be a tensor of shape (n, {dim}), got {shape}.")
    return x


def checked_quantile(q: float, coordinate: int, dim: int) -> None:
    """Raise InputError unless 0 < q < 1 and 0 <= coordinate < dim."""
    if not 0 < q < 1:
        raise InputError(f"q must lie strictly between 0 and 1, got {q!r}.")
    _require_coordinate(coordinate, dim)


def checked_state(x: float, coordinate: int, dim: int) -> float:
    """``x`` as a float, once 0 <= coordinate < dim.

    Raises:
        InputError: ``x`` is NaN, or there is no such coordinate.
    """
    _require_coordinate(coordinate, dim)
    if math.isnan(x):
        raise InputError("x must not be NaN.")
    return float(x)


def _require_coordinate(coordinate: int, dim: int) -> None:
    if coordinate not in range(dim):
        raise InputError(f"coordinate must be between 0 and {dim - 1}, got {coordinate!r}.")


def generator_or_default(generator: Generator | None, device: torch.device) -> Generator:
    """``generator``, or a fresh one seeded with 0, so that the global generators stay untouched."""
    return stream(0, "draws", device) if generator is None else generator
