"""A scenario: a model, its readings, and the filters to be compared on it, in one file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from jkofilter.errors import FilterError, InputError
from jkofilter.experiments.command.run import Commanded
from jkofilter.experiments.contract import Calibrated, Left, Measured, Run
from jkofilter.experiments.film import film
from jkofilter.experiments.load import load
from jkofilter.experiments.measures import FILTER_MEASURES
from jkofilter.experiments.published import PublishedFigure, check_published
from jkofilter.experiments.runs import TRIAL, Against, affordable, filtered, measured, settings_of, warmed_up
from jkofilter.filters.contract import Filter
from jkofilter.filters.result import FilterResult
from jkofilter.models.series import ObservationSeries, checked_times
from jkofilter.models.simulate import simulate
from jkofilter.models.state_space import StateSpaceModel
from jkofilter.pictures.comparison import final_densities
from jkofilter.pictures.over_time import density_heatmap
from jkofilter.pictures.plane import posterior_panels
from jkofilter.pictures.style import Labels

MOST_KEPT = 100
"""Readings up to which the beliefs of a run on the plane are kept for its picture."""


@dataclass(frozen=True, eq=False)
class Scenario(Commanded):
    """What to run and how to show it.

    Attributes:
        name: short, used for the output folder.
        model: the hidden diffusion and its sensor.
        filters: by name, a function of the model that builds the filter.
        reference: name of the filter that the others are measured against.
        matched: by name, a function of the model and of how many particles fit into the processor time that the first
            filter beside the reference has just taken; they join the comparison at equal time.
        times: reading times (m,), each seed simulating a path of its own; or None.
        series: real readings, the same for every seed; or None. Give one of the two.
        until: predict on to this time, in the SDE's unit or a date as the series has them; None ends at the last
            reading.
        seeds: how many seeds, 0 to seeds - 1; they drive the simulation and the random filters.
        substep: longest step of the simulation, time; None chooses steps from the curvature.
        description: one sentence.
        time_label: axis label with unit.
        state_label: axis label with unit.
        reading_label: axis label with unit.
        kl: whether the final densities are compared too; kernel estimates in many dimensions take minutes.
        readings_on_state_axis: whether a reading is the state plus noise and can be drawn on its axis.
        published: figures that others report.
        start: of simulated readings: when the prior holds, time; None is time zero. A series has its own.

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
    until: Any = None
    seeds: int = 1
    substep: float | None = None
    description: str = ""
    time_label: str = "time"
    state_label: str = "state"
    reading_label: str = "reading"
    kl: bool = True
    readings_on_state_axis: bool = True
    published: Sequence[PublishedFigure] = ()
    start: float | None = None

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
        if self.reference not in self.filters:
            known = ", ".join(self.filters)
            raise InputError(f"reference names no filter {self.reference!r}; this scenario has {known}.")
        if (self.times is None) == (self.series is None):
            raise InputError("give either times (simulated readings) or series (real readings), not both or neither.")
        if self.times is not None:
            object.__setattr__(self, "times", checked_times(self.times, start=self.start))
        elif not isinstance(self.series, ObservationSeries):
            raise InputError("series must be an ObservationSeries(times, values).")
        if not isinstance(self.seeds, int) or self.seeds < 1:
            raise InputError(f"seeds must be a positive integer, got {self.seeds!r}.")
        check_published(self.published, {*self.filters, *self.matched}, {""})

    load = staticmethod(load)

    @property
    def dim(self) -> int:
        """State dimension d."""
        return self.model.dim

    @property
    def note(self) -> str:
        """Nothing beside the description."""
        return ""

    @property
    def cases(self) -> tuple[Scenario]:
        """A scenario is its own only case, without a name."""
        return (replace(self, name=""),)

    @property
    def methods(self) -> list[str]:
        """Names of all filters, the reference last."""
        return [*(name for name in (*self.filters, *self.matched) if name != self.reference), self.reference]

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the figures of a filter's run."""
        return FILTER_MEASURES

    def data(self, seed: int) -> tuple[Tensor | None, ObservationSeries]:
        """The true path at the reading times, (m, d), where it is simulated, and the readings."""
        if self.series is not None:
            return None, self.series
        return simulate(self.model, self.times, seed=seed, substep=self.substep, start=self.start)

    def planned(self, names: Collection[str] | None = None, seeds: Sequence[int] | None = None) -> list[Run]:
        """The reference, the named filters (all by default), and what is matched to the first of the scenario."""
        others = [name for name in self.filters if name != self.reference]
        wanted = self.methods if names is None else [name for name in self.methods if name in names]
        matched = [name for name in self.matched if name in wanted]
        # What runs at equal time needs the time of the filter it is matched to.
        timed_by = others[0] if others and matched else ""
        chosen = [name for name in others if name in (*wanted, timed_by)]
        runs: list[Run] = []
        for seed in range(self.seeds) if seeds is None else seeds:
            common: dict[str, Any] = {"case": "", "seed": seed, "dim": self.dim, "reference": self.reference}
            runs.append(Run(method=self.reference, role="reference", lead=not chosen, **common))
            runs += [Run(method=name, role="filter", lead=name == chosen[0], **common) for name in chosen]
            runs += [Run(method=name, role="matched", timed_by=timed_by, **common) for name in matched]
        return runs if wanted else []

    def warm_up(self, run: Run) -> None:
        """Run a filter on the first reading alone; what is matched has a trial run of its own."""
        if run.role != "matched":
            warmed_up(self.filters[run.method](self.model), self.data(run.seed)[1])

    def perform(self, run: Run, needs: Mapping[str, Left], keep: bool = False) -> Measured:
        """Run a filter on the readings of a seed, and hold it against the reference."""
        series = self.data(run.seed)[1]
        reference = "" if run.role == "reference" else run.reference
        against = Against(reference, needs[reference].yardstick if reference else None, self.kl)
        try:
            item = self._matched(run, needs, series) if run.role == "matched" else self.filters[run.method](self.model)
        except FilterError as error:
            return Measured(str(error))
        kept = keep and run.lead and self.dim == 2 and len(series) <= MOST_KEPT
        remark = f"{getattr(item, 'particles', 'unknown')} particles" if run.role == "matched" else ""
        return measured(filtered(item, series, self.until, run.seed, kept), against, settings_of(item), remark)

    def _matched(self, run: Run, needs: Mapping[str, Left], series: ObservationSeries) -> Filter:
        """A matched filter of as many particles as fit into the processor time of another."""
        seconds = needs[run.timed_by].processor_seconds if run.timed_by else None
        if seconds is None:
            raise FilterError("not run: the filter that sets its processor time failed or was not compared.")
        make = self.matched[run.method]
        trial = filtered(make(self.model, TRIAL), series, self.until, run.seed)
        return make(self.model, affordable(seconds, trial))

    def exhibits(self, kept: Mapping[tuple[str, str], Any], seed: int) -> dict[str, Figure]:
        """Beliefs of the first filter over time, and the final densities of all on the line."""
        results: dict[str, FilterResult] = {method: result for (_, method), result in kept.items()}
        path, series = self.data(seed)
        labels = Labels(self.time_label, self.state_label, self.reading_label, self.description)
        pictures: dict[str, Figure] = {}
        name = next((name for name in results if name != self.reference), self.reference)
        result = results.get(name)
        frames = film(self.filters[name](self.model), series, self.until, seed) if result and self.dim == 1 else ()
        if frames:
            line, over = None if path is None else path[:, 0], self.readings_on_state_axis
            pictures["density_over_time"] = density_heatmap(frames, series.times, line, series, labels, over)
        elif result is not None:
            pictures["state_over_time"] = result.plot(path, series, labels=labels)
        if result is not None and result.beliefs and self.dim == 2:
            titled = replace(labels, title=f"{labels.title}: {name}")
            pictures["posterior_over_time"] = posterior_panels(result.beliefs, self.model, path, series, titled)
        if self.reference in results and self.dim == 1:
            finals = {name: result.final for name, result in results.items()}
            pictures["final_densities"] = final_densities(finals, self.reference, labels)
        return pictures

    def calibrated(self, method: str, case: str | None = None) -> Calibrated:
        """A filter of fixed size, to be calibrated on the scenario's own reading times."""
        if case is not None:
            raise InputError("case is for studies; this scenario stands alone.")
        have = f"this scenario has {', '.join(self.filters)}"
        if method in self.matched:
            raise InputError(
                f"filter {method!r} cannot be calibrated, because its size is chosen by the processor time of another "
                f"filter; {have}."
            )
        if method not in self.filters:
            raise InputError(f"filter names no filter {method!r}; {have}.")
        times, start = (self.times, self.start) if self.series is None else (self.series.times, self.series.start)
        title = self.description or self.name
        return Calibrated(self.filters[method](self.model), times, self.substep, title, start)
