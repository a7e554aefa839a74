"""What every filter asks of its settings and before every step: beliefs, durations, readings, likelihoods."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, TypeVar

import torch
from torch import Tensor

from jkofilter._typing import Matrix
from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.info import StepInfo
from jkofilter.errors import FilterError, InputError, NumericalError
from jkofilter.models.checks import as_number, require_positive, with_missing
from jkofilter.models.line_diffusion import LineDiffusion
from jkofilter.models.observations import NonlinearGaussian
from jkofilter.models.state_space import StateSpaceModel

B = TypeVar("B", bound=Belief)

MOST_STEPS = 1e6
"""Steps of one prediction from which on its duration is questioned."""


# --- settings --------------------------------------------------------------------------------------------------------


def require_model(model: object, any_noise: bool = False) -> None:
    """Raise InputError unless ``model`` is a StateSpaceModel, of a LangevinSDE unless ``any_noise`` will do."""
    if not isinstance(model, StateSpaceModel):
        raise InputError(f"model must be a StateSpaceModel(prior, sde, observation), got {type(model).__name__}.")
    if not any_noise and isinstance(model.sde, LineDiffusion):
        raise InputError(
            "model has a LineDiffusion, whose noise may depend on the state, and this filter takes a LangevinSDE only; "
            "use SpectralFilter or ParticleFilter."
        )


def require_line_or_plane(model: StateSpaceModel, filter: str) -> None:
    """Raise InputError unless ``model`` has one or two dimensions, as ``filter`` needs."""
    if model.dim > 2:
        raise InputError(
            f"{filter} handles dim 1 and 2, but model has dim {model.dim}; use a ParticleFilter or a JKOFilter."
        )


def require_gaussian_noise(model: StateSpaceModel, filter: str) -> None:
    """Raise InputError unless readings of ``model`` are a function of the state plus Gaussian noise."""
    if not isinstance(model.observation, NonlinearGaussian):
        raise InputError(
            f"model has the observation {type(model.observation).__name__}, but {filter} needs NonlinearGaussian or "
            "LinearGaussian; use ParticleFilter or JKOFilter."
        )


# --- steps -----------------------------------------------------------------------------------------------------------


def predicting(
    belief: Belief, kind: type[B], duration: float, step: Callable[[B, float], tuple[B, StepInfo]]
) -> tuple[B, StepInfo]:
    """What ``step`` makes of a belief and a duration once both can be used, with the wall time it took.

    Args:
        belief: the law now.
        kind: of the filter's own beliefs.
        duration: in the SDE's unit; zero is skipped.
        step: the prediction.

    Raises:
        InputError: another filter's belief, or a bad duration.
        FilterError: numbers break down in the step; names the time.
    """
    start = perf_counter()
    now, duration = checked_belief(belief, kind), checked_duration(duration)
    if duration == 0.0:
        return now, StepInfo(status="skipped")
    try:
        after, info = step(now, duration)
    except NumericalError as error:
        raise FilterError(predicting_from(now.time, error)) from error
    return after, replace(info, seconds=perf_counter() - start)


def updating(
    belief: Belief, kind: type[B], y: Tensor, model: StateSpaceModel, step: Callable[[B, Tensor], tuple[B, StepInfo]]
) -> tuple[B, StepInfo]:
    """What ``step`` makes of a belief and a reading once both can be used, with the wall time it took.

    Args:
        belief: the law before.
        kind: of the filter's own beliefs.
        y: the reading, (p,); one that is all NaN is skipped.
        model: gives dtype and device.
        step: Bayes' rule; its reading (p,) has at least one component that is not NaN, and none infinite.

    Raises:
        InputError: another filter's belief, or a bad reading.
        FilterError: numbers break down in the step; names the time and the reading.
    """
    start = perf_counter()
    now, reading = checked_belief(belief, kind), checked_reading(y, model)
    if reading is None:
        return now, StepInfo(status="skipped")
    try:
        after, info = step(now, reading)
    except NumericalError as error:
        raise FilterError(on_occasion(error, reading, now.time)) from error
    return after, replace(info, seconds=perf_counter() - start)


@dataclass(frozen=True, eq=False)
class PresentReading:
    """The k components of a reading that are there.

    Attributes:
        mask: which of the p they are, (p,).
        values: (k,).
        noise: their covariance given the state, (k, k).
    """

    mask: Tensor
    values: Tensor
    noise: Matrix


def present_reading(observation: NonlinearGaussian, reading: Tensor, like: Tensor) -> PresentReading:
    """What is there of a reading (p,) with Gaussian noise, in the type and on the device of ``like``.

    Raises:
        InputError: the reading has another length than the sensor.
    """
    if reading.numel() != observation.dim:
        raise InputError(f"y must have {observation.dim} components, got {reading.numel()}.")
    mask = ~torch.isnan(reading)
    return PresentReading(mask, reading[mask], observation.covariance.to(like)[mask][:, mask])


def require_substep(substep: float | None) -> None:
    """Raise InputError unless ``substep`` is None or positive and finite."""
    if substep is not None:
        require_positive("substep", substep)


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
    value = as_number(duration, "duration")
    if not 0 <= value < math.inf:
        raise InputError(f"duration must be zero or more and finite, got {duration!r}.")
    return value


def require_countable(duration: float, step: float, name: str, most: float = MOST_STEPS) -> None:
    """Raise InputError where steps of the setting called ``name`` would be too many for anyone to wait for.

    Args:
        duration: of the prediction.
        step: longest step.
        name: of the setting that holds it, for the message.
        most: how many steps are not questioned.
    """
    if duration > most * step:
        raise InputError(
            f"duration is {duration:.10g}, more than {most:.0e} steps of {name} {step:g}; {_UNITS}, else give a longer "
            f"{name}."
        )


def require_short(duration: float, model: StateSpaceModel, substep: float | None) -> None:
    """Raise InputError where a prediction would take a million steps, or as many relaxation times of the potential."""
    if substep is not None:
        require_countable(duration, substep, "substep")
    elif duration * model.relaxation_rate > MOST_STEPS:
        raise InputError(
            f"duration is {duration:.10g}, more than {MOST_STEPS:.0e} relaxation times of the potential, "
            f"{1 / model.relaxation_rate:g} each; {_UNITS}, else start anew from the stationary law."
        )


_UNITS = "if the clock starts elsewhere give the series start=, if it counts another unit convert the times"


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
    """``y`` as a vector in the model's dtype, on its device; what is masked is NaN.

    Raises:
        InputError: not numbers.
    """
    if y is None:
        raise InputError("y must be a number or numbers, NaN where one is missing, got None.")
    return with_missing(y, "y").to(dtype=model.dtype, device=model.device).reshape(-1)


# --- likelihoods -----------------------------------------------------------------------------------------------------


def checked_log_likelihood(model: StateSpaceModel, y: Tensor, x: Tensor, time: float) -> Tensor:
    """log p(y | x) at all points of a belief, free of NaN and +inf, and not all -inf.

    Raises:
        FilterError: the likelihood is NaN or infinite somewhere, or zero everywhere; names the time and the reading.
    """
    value = log_likelihood_without_nan(model, y, x, time)
    if (value == -math.inf).all():
        raise FilterError(f"the likelihood is zero at every point of the belief {occasion(y, time)}.")
    return value


def log_likelihood_without_nan(model: StateSpaceModel, y: Tensor, x: Tensor, time: float) -> Tensor:
    """log p(y | x) at some points, free of NaN and +inf; it may well be -inf at all of them.

    Raises:
        FilterError: the likelihood is NaN or infinite somewhere; names the time and the reading.
    """
    value = model.log_likelihood(y, x)
    # A learned sensor would hang its graph on every belief that follows; only who differentiates by x wants one.
    value = value if x.requires_grad else value.detach()
    if torch.isnan(value).any() or (value == math.inf).any():
        raise FilterError(f"log_likelihood is NaN or infinite {occasion(y, time)}; check the observation model.")
    return value


# --- messages --------------------------------------------------------------------------------------------------------


def occasion(y: Tensor, time: float) -> str:
    """When and for which reading something went wrong, for the message."""
    return f"at time {time:g} for reading {y.tolist()}"


def on_occasion(error: Exception, y: Tensor, time: float) -> str:
    """The message of an error with the occasion in it, if it does not tell it already."""
    message, where = str(error), occasion(y, time)
    return message if where in message else f"{message.removesuffix('.')} {where}."


def predicting_from(time: float, error: Exception) -> str:
    """The message of an error in a prediction, with the time at which it set out."""
    return f"predicting from time {time:g}: {error}"
