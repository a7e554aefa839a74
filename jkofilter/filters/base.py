"""The filter protocol and what its steps report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Generator, Tensor

from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.info import StepInfo
from jkofilter.errors import FilterError, InputError
from jkofilter.models.series import ObservationSeries
from jkofilter.models.state_space import StateSpaceModel

if TYPE_CHECKING:
    from jkofilter.run import FilterResult, Tracker

B = TypeVar("B", bound=Belief)


@runtime_checkable
class Filter(Protocol):
    """A frozen dataclass of a model and settings; all state lives in the beliefs that go in and out."""

    @property
    def model(self) -> StateSpaceModel:
        """What is tracked."""
        ...

    def init(self, generator: Generator) -> Belief:
        """The prior as a belief at time zero."""
        ...

    def predict(self, belief: Belief, duration: float, generator: Generator) -> tuple[Belief, StepInfo]:
        """The law ``duration`` later, without new readings."""
        ...

    def update(self, belief: Belief, y: Tensor, generator: Generator) -> tuple[Belief, StepInfo]:
        """The law given the reading ``y`` (p,) at the belief's time."""
        ...


class Runnable:
    """The two habits of every filter: ``run`` over a whole series, ``track`` reading by reading."""

    def run(
        self: Filter,
        series: ObservationSeries,
        until: float | None = None,
        seed: int = 0,
        progress: bool = False,
        keep_beliefs: bool = False,
    ) -> FilterResult:
        """Same as ``run_filter(self, series, ...)``."""
        # The driver sits above the filters; imported here so that module imports keep pointing downwards.
        from jkofilter.run import run_filter

        return run_filter(self, series, until=until, seed=seed, progress=progress, keep_beliefs=keep_beliefs)

    def track(self: Filter, seed: int = 0) -> Tracker:
        """A Tracker at time zero, to be fed step by step."""
        from jkofilter.run import Tracker

        return Tracker(self, seed)


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
