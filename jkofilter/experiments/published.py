"""What others have published, to be held against our figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jkofilter.errors import InputError
from jkofilter.experiments.measures import MEASURES

STATISTICS = ("median", "mean", "least", "worst")


@dataclass(frozen=True)
class PublishedFigure:
    """A figure that others report, and which of ours to hold against it.

    Attributes:
        source: who reports it, for example "Mokrov et al. 2021".
        method: what they ran, as they call it.
        filter: name of the filter or method of ours to compare.
        measure: one of MEASURES.
        value: what they report, in the unit of the measure.
        case: name of the case of a study; empty for a scenario, which is its own only case.
        time: when it is judged; None for the end of the run.
        statistic: over their runs, and then over ours: "median", "mean", "least" or "worst" (the largest).

    Raises:
        InputError: an unknown measure or statistic.
    """

    source: str
    method: str
    filter: str
    measure: str
    value: float
    case: str = ""
    time: float | None = None
    statistic: str = "median"

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise InputError(f"measure {self.measure!r} is unknown; take one of {', '.join(MEASURES)}.")
        if self.statistic not in STATISTICS:
            raise InputError(f"statistic {self.statistic!r} is unknown; take one of {', '.join(STATISTICS)}.")


def check_published(figures: Sequence[PublishedFigure], filters: set[str], cases: set[str]) -> None:
    """That every figure is of a filter and case that exist.

    Raises:
        InputError: one is not; or it is no PublishedFigure.
    """
    for figure in figures:
        if not isinstance(figure, PublishedFigure):
            raise InputError(f"published must hold PublishedFigure(...) only, got {type(figure).__name__}.")
        if figure.filter not in filters:
            known = ", ".join(sorted(filters))
            raise InputError(f"published names no filter or method {figure.filter!r}; there are {known}.")
        if figure.case not in cases:
            known = ", ".join(sorted(cases)) or "none"
            raise InputError(f"published names no case {figure.case!r}; there are {known}.")
