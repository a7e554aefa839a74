"""Checks of what goes into a filter's steps: beliefs, durations, readings, likelihoods."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

from jkofilter.beliefs.base import Belief
from jkofilter.errors import FilterError, InputError
from jkofilter.models.state_space import StateSpaceModel

B = TypeVar("B", bound=Belief)


def checked_belief(belief: Belief, kind: type[B]) -> B:
    """``belief`` once it is of the filter's own ``kind``.

    Raises:
        InputError: another filter made it.
    """
    if not isinstance(belief, kind):
        raise InputError(f"belief must be a {kind.__name__} made by this filter, got {type(belief).__name__}.")
    return belief


def checked_duration(duration: float) -> float:
    """``duration`` as a float of zero or more.

    Raises:
        InputError: negative or not finite.
    """
    value = float(duration)
    if not 0 <= value < float("inf"):
        raise InputError(f"duration must be zero or more and finite, got {duration!r}.")
    return value


def checked_reading(y: Tensor, model: StateSpaceModel) -> Tensor | None:
    """The reading as a vector (p,), or None when every component is missing.

    Args:
        y: (p,); a number for p = 1.
        model: gives dtype and device; its observation model checks the length.

    Raises:
        InputError: not numbers, empty, or infinite.
    """
    reading = as_reading(y, model)
    if reading.numel() == 0:
        raise InputError("y must hold at least one component.")
    if torch.isinf(reading).any():
        raise InputError("y must not be infinite; write NaN where a component is missing.")
    return None if torch.isnan(reading).all() else reading


def as_reading(y: Any, model: StateSpaceModel) -> Tensor:
    """``y`` as a vector in the model's dtype, on its device.

    Raises:
        InputError: not numbers.
    """
    try:
        return torch.as_tensor(y, dtype=model.dtype, device=model.device).reshape(-1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"y must be a number or numbers, NaN where one is missing, got {type(y).__name__}.") from error


def checked_log_likelihood(model: StateSpaceModel, y: Tensor, x: Tensor, time: float) -> Tensor:
    """log p(y | x) at all points of a belief, free of NaN and +inf, and not all -inf.

    Raises:
        FilterError: the likelihood is NaN or infinite somewhere, or zero everywhere; names the time and the reading.
    """
    value = log_likelihood_without_nan(model, y, x, time)
    if (value == -float("inf")).all():
        raise FilterError(f"the likelihood is zero at every point of the belief {occasion(y, time)}.")
    return value


def log_likelihood_without_nan(model: StateSpaceModel, y: Tensor, x: Tensor, time: float) -> Tensor:
    """log p(y | x) at some points, free of NaN and +inf; it may well be -inf at all of them.

    Raises:
        FilterError: the likelihood is NaN or infinite somewhere; names the time and the reading.
    """
    value = model.log_likelihood(y, x)
    if torch.isnan(value).any() or (value == float("inf")).any():
        raise FilterError(f"log_likelihood is NaN or infinite {occasion(y, time)}; check the observation model.")
    return value


def occasion(y: Tensor, time: float) -> str:
    """When and for which reading something went wrong, for the message."""
    return f"at time {time:g} for reading {y.tolist()}"
