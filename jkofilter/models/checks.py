"""Checks of what a user hands in; every message is one sentence with the argument's name and the cure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jkofilter.errors import InputError


def as_tensor(value: Any, name: str) -> Tensor:
    """A finite floating tensor from a tensor, array, list or number; float64 unless already a floating tensor.

    Raises:
        InputError: not numeric, or not finite.
    """
    if isinstance(value, Tensor):
        tensor = value.detach() if value.is_floating_point() else value.detach().to(torch.float64)
    else:
        try:
            tensor = torch.as_tensor(np.array(value, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise InputError(f"{name} must be numeric, got {type(value).__name__}.") from error
    if not torch.isfinite(tensor).all():
        raise InputError(f"{name} must be finite, but has NaN or infinite entries.")
    return tensor


def require_spd(value: Tensor | Sequence[Any], name: str, dim: int | None = None) -> Tensor:
    """``value`` as a symmetric positive definite matrix, (dim, dim).

    Raises:
        InputError: wrong shape, asymmetric, or not positive definite.
    """
    matrix = as_tensor(value, name)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or (dim is not None and matrix.shape[0] != dim):
        wanted = "square" if dim is None else f"of shape ({dim}, {dim})"
        raise InputError(f"{name} must be {wanted}, got shape {tuple(matrix.shape)}.")
    if not torch.allclose(matrix, matrix.mT, rtol=1e-8, atol=1e-12):
        raise InputError(f"{name} must be symmetric; use (M + M.T) / 2.")
    if torch.linalg.cholesky_ex(matrix).info.item() != 0:
        raise InputError(f"{name} must be positive definite; its smallest eigenvalue must be above zero.")
    return matrix


def require_orthogonal(value: Tensor | Sequence[Any], name: str, dim: int | None = None) -> Tensor:
    """``value`` as an orthogonal matrix, (dim, dim).

    Raises:
        InputError: wrong shape or not orthogonal.
    """
    matrix = as_tensor(value, name)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or (dim is not None and matrix.shape[0] != dim):
        wanted = "square" if dim is None else f"of shape ({dim}, {dim})"
        raise InputError(f"{name} must be {wanted}, got shape {tuple(matrix.shape)}.")
    if not torch.allclose(matrix @ matrix.mT, torch.eye(matrix.shape[0]).to(matrix), atol=1e-8):
        raise InputError(f"{name} must be orthogonal; take the Q factor of torch.linalg.qr.")
    return matrix


def require_count(name: str, value: object, least: int) -> None:
    """Raise InputError unless ``value`` is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} must be an integer of at least {least}, got {value!r}.")


def require_positive(name: str, value: float) -> None:
    """Raise InputError unless ``value`` is positive and finite."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < math.inf:
        raise InputError(f"{name} must be positive and finite, got {value!r}.")


def require_non_negative(name: str, value: float) -> None:
    """Raise InputError unless ``value`` is zero or more, and finite."""
    if not 0 <= value < math.inf:
        raise InputError(f"{name} must be zero or more and finite, got {value!r}.")
