"""Checks of what a user hands in; every message is one sentence with the argument's name and the cure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from jkofilter.errors import InputError

ROUNDING = 1e-5
"""How far from symmetric or orthogonal a matrix may be, relative to its scale: what float32 leaves, also where it has
been converted to float64 since."""


def as_tensor(value: Any, name: str) -> Tensor:
    """A finite floating tensor from a tensor, array, list or number; float64 unless already a floating tensor.

    A floating tensor is taken as it is, with what it was computed from: models can be differentiated by parameters.

    Raises:
        InputError: not numeric, or not finite.
    """
    tensor = value if isinstance(value, Tensor) and value.is_floating_point() else with_missing(value, name)
    if not torch.isfinite(tensor).all():
        raise InputError(f"{name} must be finite, but has NaN, infinite or missing entries.")
    return tensor


def as_number(value: Any, name: str) -> float:
    """``value`` as a float: a Python or numpy number, or a tensor or array of no dimension.

    Raises:
        InputError: a list, text, a date or duration, or anything else that is no one number.
    """
    single = isinstance(value, (Tensor, np.ndarray)) and value.ndim == 0 and not np.ma.is_masked(value)
    number = value.item() if single else value
    if isinstance(number, Real) and not isinstance(number, np.timedelta64):
        return float(number)
    hint = "; give its number in the SDE's unit of time" if is_moment(number) else ""
    raise InputError(f"{name} must be one number, got {type(value).__name__} {_shortened(value)}{hint}.")


def positive_number(value: Any, name: str) -> float:
    """``value`` as a positive, finite float.

    Raises:
        InputError: no number, or out of range.
    """
    number = as_number(value, name)
    if isinstance(value, bool) or not 0 < number < math.inf:
        raise InputError(f"{name} must be positive and finite, got {value!r}.")
    return number


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def is_moment(value: Any) -> bool:
    """Whether ``value`` is a date or a duration."""
    return isinstance(value, (np.datetime64, np.timedelta64)) or hasattr(value, "isoformat") or hasattr(value, "days")


def with_missing(value: Any, name: str) -> Tensor:
    """Numbers as a float64 tensor of their own, NaN where one is masked or missing.

    Missing is what numpy masks, None, NaN and pandas' NA; numbers are those of lists, arrays, frames and tensors.

    Raises:
        InputError: text, dates, durations, complex numbers, or rows of unequal length.
    """
    if isinstance(value, Tensor):
        if value.is_complex():
            raise InputError(f"{name} must be real, but is complex; give real and imaginary parts as two components.")
        # A masked tensor fills what it masks; all others have no such method.
        filled = getattr(value, "to_tensor", None)
        plain = value if filled is None else filled(math.nan)
        return plain.detach().to(torch.float64, copy=True)
    return torch.from_numpy(_floats(_masked_array(value, name), name))


def _masked_array(value: Any, name: str) -> np.ma.MaskedArray:
    if isinstance(value, pd.DataFrame):
        columns = [_floats(_masked_array(value.iloc[:, i], name), name) for i in range(value.shape[1])]
        return np.ma.array(np.stack(columns, axis=1) if columns else np.empty((len(value), 0)))
    if isinstance(value, (pd.Series, pd.Index, pd.api.extensions.ExtensionArray)):
        missing = np.asarray(pd.isna(value))
        return np.ma.array(np.asarray(value, dtype=object) if missing.any() else np.asarray(value), mask=missing)
    try:
        # Of a list of masked arrays only numpy.ma keeps the masks; of one of a million floats it would take seconds.
        return np.ma.array(_unmasked(value)) if _holds_masks(value) else np.ma.array(np.array(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} must be numeric, in rows of equal length, got {type(value).__name__}.") from error


def _holds_masks(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_holds_masks(one) for one in value)
    return isinstance(value, np.ma.MaskedArray)


def _unmasked(value: Any) -> Any:
    """``value`` with None for numpy's masked in lists, which numpy would warn of."""
    if isinstance(value, (list, tuple)):
        return [_unmasked(one) for one in value]
    return None if value is np.ma.masked else value


def _floats(array: np.ma.MaskedArray, name: str) -> np.ndarray:
    mask, data = np.ma.getmaskarray(array), np.asarray(np.ma.getdata(array))
    if data.dtype.names is not None:
        raise InputError(f"{name} must be plain numbers, but is a structured array; give its columns.")
    if data.dtype == object:
        mask = mask | np.array([missing_value(one) for one in data.ravel()], dtype=bool).reshape(data.shape)
    present = data[~mask]
    kinds = {_kind(one) for one in present} if data.dtype == object else {_KINDS.get(data.dtype.kind, "number")}
    wrong = next((kind for kind in _CURES if kind in kinds), None) if present.size else None
    if wrong is not None:
        raise InputError(f"{name} must be numeric, but holds {wrong}; {_CURES[wrong]}.")
    numbers = np.full(data.shape, math.nan)
    try:
        numbers[~mask] = present.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name} must be numeric, got {_shortened(present.ravel()[0])}.") from error
    return numbers


_KINDS = {"U": "text", "S": "text", "T": "text", "M": "dates", "m": "durations", "c": "complex numbers"}
_CURES = {
    "text": "convert it with float, or dates with pandas.to_datetime",
    "dates": "convert them to numbers first",
    "durations": "divide them by the unit you mean, such as pandas.Timedelta('1h')",
    "complex numbers": "give real and imaginary parts as two components",
}


def missing_value(one: Any) -> bool:
    """Whether a single entry of an array of objects stands for nothing: None, NaN, NaT, NA, or numpy's masked."""
    return bool(pd.api.types.is_scalar(one) and pd.isna(one))


def _kind(one: Any) -> str:
    if isinstance(one, (str, bytes)):
        return "text"
    if isinstance(one, np.timedelta64) or hasattr(one, "total_seconds"):
        return "durations"
    if isinstance(one, np.datetime64) or hasattr(one, "isoformat"):
        return "dates"
    return "complex numbers" if isinstance(one, (complex, np.complexfloating)) else "number"


def as_square(value: Any, name: str, dim: int | None = None) -> Tensor:
    """``value`` as a square matrix, (dim, dim); one number is a matrix of one row.

    Raises:
        InputError: another shape, or not finite numbers.
    """
    matrix = as_tensor(value, name)
    if matrix.ndim < 2 and matrix.numel() == 1 and dim in (None, 1):
        matrix = matrix.reshape(1, 1)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or (dim is not None and matrix.shape[0] != dim):
        wanted = "square" if dim is None else f"of shape ({dim}, {dim})"
        cure = f"; a multiple of the identity is c * torch.eye({dim})" if matrix.numel() == 1 and dim else ""
        raise InputError(f"{name} must be {wanted}, got shape {tuple(matrix.shape)}{cure}.")
    return matrix


def require_spd(
    value: Tensor | Sequence[Any] | float,
    name: str,
    dim: int | None = None,
    asymmetric: str = "use (M + M.T) / 2 if that is rounding",
    singular: str = "its smallest eigenvalue must be above zero",
) -> Tensor:
    """``value`` as a symmetric positive definite matrix, (dim, dim).

    Asymmetry that float32 rounding leaves, relative to the diagonal, is taken for that and evened out.

    Args:
        value: matrix, or a number for dimension one.
        name: of the argument, for messages.
        dim: wanted dimension; any for None.
        asymmetric: what to do about a matrix that is not symmetric.
        singular: what to do about one that is not positive definite.

    Raises:
        InputError: wrong shape, asymmetric, or not positive definite.
    """
    matrix = as_square(value, name, dim)
    scale = torch.diagonal(matrix).abs().sqrt()
    apart = (matrix - matrix.mT).abs()
    if (apart > ROUNDING * scale.unsqueeze(-1) * scale).any():
        raise InputError(
            f"{name} must be symmetric, but entries across its diagonal differ by up to {apart.max().item():.2g}; "
            f"{asymmetric}."
        )
    matrix = matrix if (apart == 0).all() else 0.5 * (matrix + matrix.mT)
    if torch.linalg.cholesky_ex(matrix).info.item() != 0:
        raise InputError(f"{name} must be positive definite; {singular}.")
    return matrix


def require_orthogonal(value: Tensor | Sequence[Any], name: str, dim: int | None = None) -> Tensor:
    """``value`` as an orthogonal matrix, (dim, dim), to what float32 can tell.

    Raises:
        InputError: wrong shape or not orthogonal.
    """
    matrix = as_square(value, name, dim)
    apart = (matrix @ matrix.mT - torch.eye(matrix.shape[0]).to(matrix)).abs().max().item()
    if apart > ROUNDING:
        raise InputError(
            f"{name} must be orthogonal, but R R' differs from the identity by {apart:.2g}; give torch.linalg.qr(R).Q."
        )
    return matrix


def require_count(name: str, value: object, least: int) -> None:
    """Raise InputError unless ``value`` is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} must be an integer of at least {least}, got {value!r}.")


def require_share(name: str, value: float) -> None:
    """Raise InputError unless ``value`` lies between 0 and 1."""
    if not 0 < value < 1:
        raise InputError(f"{name} must be a share between 0 and 1, got {value!r}.")


def require_positive(name: str, value: float) -> None:
    """Raise InputError unless ``value`` is positive and finite."""
    positive_number(value, name)


def require_non_negative(name: str, value: float) -> None:
    """Raise InputError unless ``value`` is zero or more, and finite."""
    if not 0 <= as_number(value, name) < math.inf:
        raise InputError(f"{name} must be zero or more and finite, got {value!r}.")
