"""What every filter is: a model, and three pure steps on beliefs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Generator, Tensor

from jkofilter._typing import Array
from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.info import StepInfo
from jkofilter.models.state_space import StateSpaceModel


def failed(info: StepInfo) -> bool:
    """Whether a step went wrong and kept the belief it was given, as under ``on_failure="report"``."""
    return info.status not in ("ok", "skipped")


def joined(*notes: str) -> str:
    """Notes as one; empty ones leave no trace."""
    return "; ".join(note for note in notes if note)


@dataclass(frozen=True)
class Stretch:
    """Some steps of a series, b of them: predict and update each.

    Attributes:
        means: after the readings, (b, d).
        covariances: (b, d, d).
        log_evidence: of all readings taken in so far, after each.
        predicted: what the predicts reported.
        updated: what the updates reported.
        beliefs: after the readings.
        before: the beliefs before them; empty where many steps are taken at a time.
    """

    means: Tensor
    covariances: Tensor
    log_evidence: Sequence[float]
    predicted: Sequence[StepInfo]
    updated: Sequence[StepInfo]
    beliefs: Sequence[Belief]
    before: Sequence[Belief] = ()


@runtime_checkable
class Sweeping(Protocol):
    """A filter that takes many steps of a series at a time."""

    def sweep(self, belief: Belief, times: Array, values: Tensor, generator: Generator) -> Iterator[Stretch]:
        """All steps of a series: times of the readings (m,), none before the belief's, and the readings (m, p)."""
        ...


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


def stepped(filter: Filter, belief: Belief, time: float, y: Tensor, generator: Generator) -> tuple[Belief, Stretch]:
    """Predict to ``time`` and take in the reading there: the belief after that, and what it was."""
    belief, predicted = filter.predict(belief, max(time - belief.time, 0.0), generator)
    before = belief
    if failed(predicted):
        # The belief has stayed at an earlier time, where this reading was not taken.
        updated = StepInfo(status=predicted.status)
    else:
        belief, updated = filter.update(belief, y, generator)
    mean, covariance = belief.mean.unsqueeze(0), belief.covariance.unsqueeze(0)
    return belief, Stretch(mean, covariance, [belief.log_evidence], [predicted], [updated], [belief], [before])
