"""Running the filters of a scenario over its seeds, and measuring them against the reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import Tensor

from jkofilter.beliefs.base import Belief
from jkofilter.errors import FilterError, InputError
from jkofilter.experiments.runs import Reference, matched_filter, run_one, warm_up
from jkofilter.experiments.scenario import FilterStudy, Scenario
from jkofilter.filters.contract import Filter, failed
from jkofilter.filters.driver import Tracker
from jkofilter.filters.result import FilterResult
from jkofilter.models.series import ObservationSeries

FRAMES = 150
MAX_FRAMES = 600
MOST_KEPT = 100
"""Readings up to which the beliefs of a run on the plane are kept for its picture."""

COLUMNS = (
    "scenario",
    "dim",
    "filter",
    "seed",
    "status",
    "seconds",
    "kl_reference",
    "kl_filter",
    "log_density_error",
    "mean_error",
    "sd_ratio",
    "least_ess",
    "log_evidence",
    "log_evidence_error",
)


@dataclass(frozen=True, eq=False)
class FirstSeed:
    """What the pictures are made of.

    Attributes:
        path: true states at the reading times, (m, d), or None for real data.
        series: the readings.
        results: by filter name, those that did not fail.
        film: beliefs of the first filter that is not the reference: on the line close enough in time for a moving
            picture, on the plane after each reading (of at most MOST_KEPT).
    """

    path: Tensor | None
    series: ObservationSeries
    results: Mapping[str, FilterResult]
    film: tuple[Belief, ...] = ()


@dataclass(frozen=True, eq=False)
class Benchmark:
    """All runs of a scenario.

    Attributes:
        scenario: what was run.
        records: one row per (filter, seed) with COLUMNS. kl_reference is KL(reference, filter) of the final laws,
            kl_filter KL(filter, reference), nats; log_density_error is the root mean square over draws of the
            reference; mean_error is in standard deviations of the reference.
        first: the first seed's data and results.
    """

    scenario: Scenario
    records: pd.DataFrame
    first: FirstSeed


def run_scenario(
    scenario: Scenario,
    names: Iterable[str] | None = None,
    seeds: Iterable[int] | None = None,
    on_run: Callable[[str, int], None] = lambda name, seed: None,
) -> Benchmark:
    """Run the named filters (all by default), and the reference, over the seeds.

    Each filter is run once unmeasured on the first reading, so that libraries load outside its time. A run that fails
    is recorded with its error, and the others go on.

    Args:
        scenario: what to run.
        names: filter names.
        seeds: seeds, by default the scenario's own.
        on_run: called after each run with the filter's name and the seed.

    Raises:
        InputError: an unknown name, no seeds, or a filter cannot be built for the model.
    """
    wanted = None if names is None else list(names)
    chosen = scenario.select(wanted)
    seed_list = list(range(scenario.seeds) if seeds is None else seeds)
    if not seed_list:
        raise InputError("seeds must hold at least one seed.")
    filters = {name: make(scenario.model) for name, make in chosen.items()}
    order = [scenario.reference, *(name for name in filters if name != scenario.reference)]
    shown = next((name for name in order if name != scenario.reference), scenario.reference)
    matched = [name for name in scenario.matched if wanted is None or name in wanted]
    rows: list[dict[str, Any]] = []
    first: FirstSeed | None = None
    for seed in seed_list:
        path, series = scenario.data(seed)
        if first is None:
            for item in filters.values():
                warm_up(item, series)
        results: dict[str, FilterResult] = {}
        reference: Reference | None = None
        budget: float | None = None
        for name in (*order, *matched):
            if name not in filters and budget is None:
                continue
            item = filters[name] if name in filters else matched_filter(scenario, name, series, seed, budget or 0.0)
            keep = first is None and name == shown and scenario.model.dim == 2 and len(series) <= MOST_KEPT
            run = run_one(scenario, item, series, seed, reference, keep)
            if name == scenario.reference:
                reference = run.reference
            if name == shown and name != scenario.reference and run.status == "ok":
                budget = run.seconds
            if run.result is not None:
                results[name] = run.result
            labels = {"scenario": scenario.name, "dim": scenario.model.dim, "filter": name, "seed": seed}
            rows.append(labels | {"status": run.status, "seconds": run.seconds} | dict(run.figures))
            on_run(name, seed)
        if first is None:
            first = FirstSeed(path, series, results, _film_of(scenario, filters, results, shown, seed))
    assert first is not None
    return Benchmark(scenario, pd.DataFrame(rows).reindex(columns=list(COLUMNS)), first)


def _film_of(
    scenario: Scenario, filters: Mapping[str, Filter], results: Mapping[str, FilterResult], name: str, seed: int
) -> tuple[Belief, ...]:
    """The beliefs to draw, none where the filter failed or the state is too wide."""
    if name not in results or scenario.model.dim > 1:
        return results[name].beliefs if name in results else ()
    try:
        return _film(filters[name], scenario.data(seed)[1], scenario.until, seed)
    except (FilterError, InputError):
        # Its steps are shorter than those of the run, and may fail where those did not.
        return ()


def _film(item: Filter, series: ObservationSeries, until: float | None, seed: int) -> tuple[Belief, ...]:
    """Beliefs between the readings as well as at them, thinned where there are many.

    None where a step fails and the filter reports it.
    """
    tracker = Tracker(item, seed)
    end = series.times[-1].item() if until is None else until
    beliefs: list[Belief] = [tracker.belief]

    def keep() -> None:
        if tracker.belief.time - beliefs[-1].time >= end / MAX_FRAMES:
            beliefs.append(tracker.belief)

    def advance(time: float) -> None:
        start = tracker.belief.time
        frames = max(1, math.ceil((time - start) * FRAMES / end - 1e-9)) if end > 0 else 1
        for k in range(1, frames + 1):
            tracker.predict(max(start + (time - start) * k / frames - tracker.belief.time, 0.0))
            if k < frames:
                keep()

    for time, y in zip(series.times.tolist(), series.values, strict=True):
        advance(time)
        if failed(tracker.info):
            return ()
        tracker.update(y)
        keep()
    if end > tracker.belief.time:
        advance(end)
        keep()
    return tuple(beliefs)


@dataclass(frozen=True, eq=False)
class StudyBenchmark:
    """All runs of a filter study.

    Attributes:
        study: what was run.
        benchmarks: one a scenario.
        records: their records together.
    """

    study: FilterStudy
    benchmarks: tuple[Benchmark, ...]
    records: pd.DataFrame


def run_filter_study(
    study: FilterStudy,
    names: Iterable[str] | None = None,
    seeds: Iterable[int] | None = None,
    on_run: Callable[[str, int], None] = lambda name, seed: None,
) -> StudyBenchmark:
    """Run every scenario of a study; a named filter that a scenario lacks is left out there.

    Raises:
        InputError: a name is in none of the scenarios, or no seeds.
    """
    wanted = None if names is None else list(names)
    for name in wanted or ():
        if name not in study.filters:
            raise InputError(f"filters names no filter {name!r}; this study has {', '.join(study.filters)}.")
    seed_list = None if seeds is None else list(seeds)
    benchmarks = []
    for scenario in study.scenarios:
        own = None if wanted is None else [n for n in wanted if n in scenario.filters or n in scenario.matched]

        def told(name: str, seed: int, case: str = scenario.name) -> None:
            on_run(f"{name}, {case}", seed)

        benchmarks.append(run_scenario(scenario, own, seed_list, told))
    records = pd.concat([benchmark.records for benchmark in benchmarks], ignore_index=True)
    return StudyBenchmark(study, tuple(benchmarks), records)
