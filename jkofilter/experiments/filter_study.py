"""A filter study: the same filters on a family of scenarios."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.figure import Figure

from jkofilter.errors import InputError
from jkofilter.experiments.command.run import Commanded
from jkofilter.experiments.contract import Calibrated, Left, Measured, Run
from jkofilter.experiments.measures import FILTER_MEASURES
from jkofilter.experiments.published import PublishedFigure, check_published
from jkofilter.experiments.scenario import Scenario


@dataclass(frozen=True, eq=False)
class FilterStudy(Commanded):
    """The same filters on a family of scenarios, such as one problem in several dimensions.

    Attributes:
        name: used for the output folder.
        scenarios: in the order of the pictures; their names label the cases.
        description: one sentence.
        published: figures that others report, of the cases.

    Raises:
        InputError: no scenarios, a name used twice, or a published figure of what is not there.
    """

    name: str
    scenarios: Sequence[Scenario]
    description: str = ""
    published: Sequence[PublishedFigure] = ()

    def __post_init__(self) -> None:
        names = [scenario.name for scenario in self.scenarios]
        if not names or len(set(names)) != len(names):
            raise InputError(f"scenarios must be at least one, with different names, got {', '.join(names) or 'none'}.")
        check_published(self.published, set(self.methods), set(names))

    @property
    def seeds(self) -> int:
        """The most seeds of any of them."""
        return max(scenario.seeds for scenario in self.scenarios)

    @property
    def cases(self) -> Sequence[Scenario]:
        """The scenarios."""
        return self.scenarios

    @property
    def methods(self) -> list[str]:
        """Names of all filters in any of the scenarios, the references last."""
        references = list(dict.fromkeys(scenario.reference for scenario in self.scenarios))
        names = dict.fromkeys(name for one in self.scenarios for name in (*one.filters, *one.matched))
        return [*(name for name in names if name not in references), *references]

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the figures of a filter's run."""
        return FILTER_MEASURES

    def _scenario(self, case: str | None) -> Scenario:
        by_name = {scenario.name: scenario for scenario in self.scenarios}
        if case not in by_name:
            raise InputError(f"case must be one of {', '.join(by_name)}, got {case!r}.")
        return by_name[case]

    def planned(self, names: Collection[str] | None = None, seeds: Sequence[int] | None = None) -> list[Run]:
        """The runs of every scenario; a named filter that a scenario lacks is left out there."""
        return [replace(run, case=one.name) for one in self.scenarios for run in one.planned(names, seeds)]

    def warm_up(self, run: Run) -> None:
        """As the run's scenario does."""
        self._scenario(run.case).warm_up(run)

    def perform(self, run: Run, needs: Mapping[str, Left], keep: bool = False) -> Measured:
        """As the run's scenario does; nothing is kept, because a study is drawn by its figures alone."""
        return replace(self._scenario(run.case).perform(run, needs), kept=None)

    def exhibits(self, kept: Mapping[tuple[str, str], Any], seed: int) -> dict[str, Figure]:
        """None beside those of the figures."""
        return {}

    def calibrated(self, method: str, case: str | None = None) -> Calibrated:
        """As the scenario of that name."""
        return self._scenario(case).calibrated(method)
