"""What every experiment is: cases, methods, runs that can be planned and made one by one, and pictures of them.

Whatever satisfies ``Experiment`` can be run, swept over processes or a cluster, resumed, tabulated and reported: the
machine that does it knows this file and none of the kinds of experiment.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from jkofilter.experiments.published import PublishedFigure
from jkofilter.filters.contract import Filter

Role: TypeAlias = Literal["reference", "filter", "matched", "method"]
"""What a run is for: to measure others against, to be measured so, the same at the processor time of another, or to
be judged by what is known of the case itself."""


class Case(Protocol):
    """One problem of an experiment."""

    @property
    def name(self) -> str:
        """Short; empty where there is but one case."""
        ...

    @property
    def dim(self) -> int:
        """State dimension d."""
        ...

    @property
    def reference(self) -> str:
        """Name of the method that the others are measured against; empty where there is none."""
        ...

    @property
    def note(self) -> str:
        """What a reader of the figures must know."""
        ...


@dataclass(frozen=True)
class Run:
    """One method on one case and seed; plain data, so that it can be sent anywhere.

    Attributes:
        case: name of the case.
        method: name of the method or filter.
        seed: of data and method.
        role: what the run is for.
        dim: state dimension d.
        reference: name of the method it is measured against (its own, where it is the reference); or empty.
        timed_by: name of the method whose processor time it gets; or empty.
        lead: whether its beliefs are those that pictures show.
    """

    case: str
    method: str
    seed: int
    role: Role
    dim: int
    reference: str = ""
    timed_by: str = ""
    lead: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the methods whose runs, on the same case and seed, come before this one."""
        return tuple(dict.fromkeys(name for name in (self.reference, self.timed_by) if name not in ("", self.method)))


class Left(NamedTuple):
    """What a run leaves to those that need it.

    Attributes:
        yardstick: what others are measured against; None where the run failed or has none to give.
        processor_seconds: what it took; None where it failed.
    """

    yardstick: Any = None
    processor_seconds: float | None = None


@dataclass(frozen=True, eq=False)
class Measured:
    """What came of a run.

    Attributes:
        status: "ok", or what went wrong.
        seconds: wall time of the method alone, judging excluded; None where it did not run.
        processor_seconds: processor time of the same, of all threads.
        figures: by name, those of MEASURES and the experiment's own, one row a judged time.
        remark: worth a column: steps, particles.
        note: what the method itself cannot vouch for; empty where there is nothing.
        settings: of the method, as plain data.
        left: to the runs that need it.
        kept: what the pictures are made of; None where the run failed.
    """

    status: str
    seconds: float | None = None
    processor_seconds: float | None = None
    figures: Sequence[Mapping[str, float]] = ()
    remark: str = ""
    note: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    left: Left = Left()
    kept: Any = None


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A filter to be calibrated on a model's own simulations.

    Attributes:
        filter: what is put to the test.
        times: of the readings, (m,), in the SDE's unit.
        substep: longest step of the simulations, time; None leaves it to them.
        title: of the problem.
        start: when the prior holds, time; None is time zero.
    """

    filter: Filter
    times: Float[Tensor, " m"]
    substep: float | None
    title: str
    start: float | None = None


@runtime_checkable
class Experiment(Protocol):
    """Cases times methods times seeds, and what is told of them."""

    @property
    def name(self) -> str:
        """Short, used for the output folder and in records."""
        ...

    @property
    def description(self) -> str:
        """One sentence."""
        ...

    @property
    def seeds(self) -> int:
        """How many seeds, 0 to seeds - 1, where none are asked for."""
        ...

    @property
    def published(self) -> Sequence[PublishedFigure]:
        """Figures that others report."""
        ...

    @property
    def cases(self) -> Sequence[Case]:
        """The problems, with different names."""
        ...

    @property
    def methods(self) -> Collection[str]:
        """Names of all methods of all cases, references last."""
        ...

    @property
    def measures(self) -> Sequence[str]:
        """Names of the figures worth a column, in their order; times of runs are told of every experiment."""
        ...

    def planned(self, names: Collection[str] | None = None, seeds: Sequence[int] | None = None) -> list[Run]:
        """The runs, each after those it needs.

        Args:
            names: of methods; those that it lacks are left to others. None takes all.
            seeds: None takes its own.
        """
        ...

    def warm_up(self, run: Run) -> None:
        """Load and compile what a run needs, so that its time does not hold it; called once for a case and method."""
        ...

    def perform(self, run: Run, needs: Mapping[str, Left], keep: bool = False) -> Measured:
        """Make one run, and judge it.

        Args:
            run: one of those planned.
            needs: by method, what the runs named by ``run.needs`` left.
            keep: keep what pictures are made of.
        """
        ...

    def exhibits(self, kept: Mapping[tuple[str, str], Any], seed: int) -> Mapping[str, Figure]:
        """Pictures of what runs made, by file name; those of the figures alone are made of the tables.

        Args:
            kept: by case and method, what the runs of one seed kept.
            seed: which.
        """
        ...

    def calibrated(self, method: str, case: str | None = None) -> Calibrated:
        """What a filter is calibrated with.

        Raises:
            InputError: it cannot be; says why.
        """
        ...
