"""What every filter is: a model, and three pure steps on beliefs."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Generator, Tensor

from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.info import StepInfo
from jkofilter.models.state_space import StateSpaceModel


def failed(info: StepInfo) -> bool:
    """Whether a step went wrong and kept the belief it was given, as under ``on_failure="report"``."""
    return info.status not in ("ok", "skipped")


def joined(*notes: str) -> str:
    """Notes as one; empty ones leave no trace."""
    return "; ".join(note for note in notes if note)


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
