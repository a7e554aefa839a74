"""A scenario: a model, its readings, and the filters to be compared on it, in one file."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from jkofilter.errors import InputError
from jkofilter.experiments.flow_study import FlowStudy
from jkofilter.experiments.measures import PublishedFigure, check_published
from jkofilter.filters.contract import Filter
from jkofilter.models.series import ObservationSeries, checked_times
from jkofilter.models.state_space import StateSpaceModel, simulate


@dataclass(frozen=True, eq=False)
class Scenario:
    """What to run and how to show it.

    Attributes:
        name: short, used for the output folder.
        model: the hidden diffusion and its sensor.
        filters: by name, a function of the model that builds the filter.
        reference: name of the filter that the others are measured against.
        matched: by name, a function of the model and of how many particles fit into the wall time that the first
            filter beside the reference has just taken; they join the comparison at equal time.
        times: reading times (m,), each seed simulating a path of its own; or None.
        series: real readings, the same for every seed; or None. Give one of the two.
        until: predict on to this time, in the SDE's unit; None ends at the last reading.
        seeds: how many seeds, 0 to seeds - 1; they drive the simulation and the random filters.
        substep: longest Euler-Maruyama step of the simulation.
        description: one sentence.
        time_label: axis label with unit.
        state_label: axis label with unit.
        reading_label: axis label with unit.
        kl: whether the final densities are compared too; kernel estimates in many dimensions take minutes.
        readings_on_state_axis: whether a reading is the state plus noise and can be drawn on its axis.
        published: figures that others report.

    Raises:
        InputError: the parts do not fit together.
    """

    name: str
    model: StateSpaceModel
    filters: Mapping[str, Callable[[StateSpaceModel], Filter]]
    reference: str
    matched: Mapping[str, Callable[[StateSpaceModel, int], Filter]] = field(default_factory=dict)
    times: Any = None
    series: ObservationSeries | None = None
    until: float | None = None
    seeds: int = 1
    substep: float = 1e-3
    description: str = ""
    time_label: str = "time"
    state_label: str = "state"
    reading_label: str = "reading"
    kl: bool = True
    readings_on_state_axis: bool = True
    published: Sequence[PublishedFigure] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.model, StateSpaceModel):
            raise InputError("model must be a StateSpaceModel(prior, sde, observation).")
        if not self.filters:
            raise InputError("filters must name at least one filter, as {name: function of the model}.")
        for name, factory in self.filters.items():
            if not callable(factory):
                raise InputError(f"filters[{name!r}] must be a function that builds the filter from the model.")
        if set(self.matched) & set(self.filters):
            raise InputError("matched must not repeat the name of a filter.")
        self._require_filter(self.reference, "reference")
        if (self.times is None) == (self.series is None):
            raise InputError("give either times (simulated readings) or series (real readings), not both or neither.")
        if self.times is not None:
            object.__setattr__(self, "times", checked_times(self.times))
        elif not isinstance(self.series, ObservationSeries):
            raise InputError("series must be an ObservationSeries(times, values).")
        if not isinstance(self.seeds, int) or self.seeds < 1:
            raise InputError(f"seeds must be a positive integer, got {self.seeds!r}.")
        check_published(self.published, {*self.filters, *self.matched}, {""})

    def _require_filter(self, name: str, argument: str) -> None:
        if name not in self.filters:
            raise InputError(f"{argument} names no filter {name!r}; this scenario has {', '.join(self.filters)}.")

    def select(self, names: Sequence[str] | None) -> Mapping[str, Callable[[StateSpaceModel], Filter]]:
        """The named filters, and the reference with them; all when ``names`` is None.

        Raises:
            InputError: a name is unknown.
        """
        if names is None:
            return self.filters
        for name in names:
            if name not in self.matched:
                self._require_filter(name, "filters")
        wanted = {*names, self.reference}
        if wanted & set(self.matched):
            # What runs at equal time needs the time of the filter it is matched to.
            wanted.add(next((name for name in self.filters if name != self.reference), self.reference))
        return {name: make for name, make in self.filters.items() if name in wanted}

    def data(self, seed: int) -> tuple[Tensor | None, ObservationSeries]:
        """The true path at the reading times, (m, d), where it is simulated, and the readings."""
        if self.series is not None:
            return None, self.series
        return simulate(self.model, self.times, seed=seed, substep=self.substep)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Scenario | FilterStudy | FlowStudy:
        """The ``SCENARIO`` of a Python file, loaded by its path, as if the file were run.

        The file may import its neighbours, and define dataclasses and whatever else looks itself up in ``sys.modules``.

        Raises:
            InputError: no such file, it fails to run, or it defines no SCENARIO.
        """
        file = Path(path)
        if not file.exists():
            raise InputError(f"scenario {str(path)!r} does not exist; give a path such as scenarios/sine_1d.py.")
        if file.suffix != ".py" or not file.is_file():
            raise InputError(f"scenario {str(path)!r} is not a Python file; give a path such as scenarios/sine_1d.py.")
        spec = importlib.util.spec_from_file_location(f"scenario_{file.stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        folder = str(file.resolve().parent)
        sys.modules[spec.name] = module
        sys.path.insert(0, folder)
        try:
            spec.loader.exec_module(module)
        except BaseException as error:
            sys.modules.pop(spec.name, None)
            if not isinstance(error, Exception | SystemExit):
                raise
            first_line = (str(error).splitlines() or [""])[0]
            raise InputError(f"scenario {str(path)!r} fails to load: {type(error).__name__}: {first_line}") from error
        finally:
            if folder in sys.path:
                sys.path.remove(folder)
        scenario = getattr(module, "SCENARIO", None)
        if not isinstance(scenario, Scenario | FilterStudy | FlowStudy):
            raise InputError(
                f"scenario {str(path)!r} defines no SCENARIO = jkofilter.Scenario(...), FilterStudy(...) or "
                "FlowStudy(...)."
            )
        return scenario

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """Run this scenario from its own file, with the options of ``jkofilter run``.

        Args:
            arguments: instead of those of the command line.
        """
        # The command line sits above; imported here so that module imports keep pointing downwards.
        from jkofilter.cli.app import main_for_scenario

        main_for_scenario(self, arguments)


@dataclass(frozen=True, eq=False)
class FilterStudy:
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
        check_published(self.published, set(self.filters), set(names))

    @property
    def seeds(self) -> int:
        """The most seeds of any of them."""
        return max(scenario.seeds for scenario in self.scenarios)

    @property
    def filters(self) -> list[str]:
        """Names of all filters in any of the scenarios, the references last."""
        references = list(dict.fromkeys(scenario.reference for scenario in self.scenarios))
        names = dict.fromkeys(name for one in self.scenarios for name in (*one.filters, *one.matched))
        return [*(name for name in names if name not in references), *references]

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """Run this study from its own file, with the options of ``jkofilter run``."""
        from jkofilter.cli.app import main_for_scenario

        main_for_scenario(self, arguments)
