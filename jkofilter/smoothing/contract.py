"""What a filter that can smooth offers: laws of the past given all readings, and whole paths."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Generator, Tensor

from jkofilter._typing import Paths
from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.info import StepInfo
from jkofilter.errors import InputError
from jkofilter.filters.contract import Filter


@dataclass(frozen=True, eq=False)
class Record:
    """A series as a filter has passed it: its laws at increasing times, k of them, from when the prior holds.

    Attributes:
        predicted: the laws before the reading of each time; the first is the prior's. Empty where the filter takes many
            steps at a time and does not tell them.
        laws: filtering laws, each after the reading of its time where there is one.
        readings: the reading (p,) at each time, None where there is none.
    """

    predicted: tuple[Belief, ...]
    laws: tuple[Belief, ...]
    readings: tuple[Tensor | None, ...]

    def __len__(self) -> int:
        """Number of times k."""
        return len(self.laws)

    @property
    def times(self) -> list[float]:
        """When the laws hold, in the SDE's unit."""
        return [law.time for law in self.laws]

    def laws_with(self, times: Sequence[float], later: Callable[[Belief, float], Belief]) -> list[Belief]:
        """The laws of the record and those at other times between them, which no reading has reached, in order.

        Args:
            times: within the record.
            later: a law some time later, as the filter predicts it.
        """
        found: list[Belief] = []
        for law, end in zip(self.laws, [*self.times[1:], math.inf], strict=True):
            found.append(law)
            for time in sorted(times):
                if found[-1].time < time < end and not same_time(time, found[-1].time) and not same_time(time, end):
                    found.append(later(found[-1], time - found[-1].time))
        return found


def same_time(one: float, other: float) -> bool:
    """Whether two times differ by no more than the rounding of sums of durations."""
    return math.isclose(one, other, rel_tol=1e-12, abs_tol=1e-300)


def positions(laws: Sequence[Belief], times: Sequence[float]) -> list[int]:
    """Where among laws those of some times stand."""
    return [min(range(len(laws)), key=lambda i: abs(laws[i].time - time)) for time in times]


def require_known(times: Sequence[float], known: Sequence[float]) -> None:
    """Raise InputError unless times are among those of a record, as particles need that were nowhere else."""
    other = next((t for t in times if not any(same_time(t, one) for one in known)), None)
    if other is not None:
        raise InputError(f"times holds {other:g}, where no particle was; smooth(series, at=times) takes them there.")


@dataclass(frozen=True, eq=False)
class Smoothed:
    """The laws of a record given all its readings.

    Attributes:
        laws: k of them; each tells the log evidence of the whole record.
        infos: what was done for each.
        log_evidence: of the whole record as the backward pass finds it; None where that pass tells none.
    """

    laws: tuple[Belief, ...]
    infos: tuple[StepInfo, ...]
    log_evidence: float | None = None


@dataclass(frozen=True, eq=False)
class PathDraws:
    """Whole paths given all readings.

    Attributes:
        states: (n, m, d).
        info: what was done; its ``ess`` is the effective number of draws where they had to be weighed.
    """

    states: Paths
    info: StepInfo = field(default_factory=StepInfo)


@runtime_checkable
class Smoother(Filter, Protocol):
    """A filter that also knows the past given what came later."""

    def smoothed(self, record: Record, generator: Generator) -> Smoothed:
        """The law at each time of a record given all its readings."""
        ...

    def paths(self, record: Record, n: int, times: list[float], generator: Generator) -> PathDraws:
        """``n`` paths given all readings, at increasing times within the record."""
        ...
