"""The command ``jkofilter calibrate``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from jkofilter.cli.options import console
from jkofilter.errors import InputError
from jkofilter.experiments import calibration
from jkofilter.experiments.pictures.calibration import calibration_figure
from jkofilter.experiments.scenario import FilterStudy, Scenario
from jkofilter.files import require_writable, written_whole

PROBABILITY = 0.9


def calibrate(
    scenario: Annotated[str, typer.Argument(help="Path of a scenario file.")],
    filter: Annotated[str, typer.Option(help="Name of the filter to put to the test.")],
    case: Annotated[str | None, typer.Option(help="Name of the scenario within a study.")] = None,
    runs: Annotated[int, typer.Option(help="How many simulations.")] = 200,
    seed: Annotated[int, typer.Option(help="Another seed gives other simulations.")] = 0,
    out: Annotated[str | None, typer.Option(help="Folder of table and picture; out/calibration by default.")] = None,
) -> None:
    """Simulate truths and readings from a scenario's own model, and rank the truths within a filter's beliefs."""
    calibration.check_request(runs, seed)
    chosen = _chosen(Scenario.load(scenario), case)
    _require(filter, chosen)
    times = chosen.times if chosen.series is None else chosen.series.times
    tested = chosen.filters[filter](chosen.model)
    folder = require_writable(out or Path("out") / "calibration")
    screen = console()
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress:
        bar = progress.add_task(filter, total=runs)
        found = calibration.calibrate(
            tested, times, runs, seed, chosen.substep, lambda run: progress.update(bar, completed=run + 1)
        )
    covered, error = found.coverage(PROBABILITY), found.coverage_error(PROBABILITY)
    screen.print(f"{PROBABILITY:.0%} intervals of {filter} cover {covered:.1%} +- {error:.1%} of {runs} simulated runs")
    figure = calibration_figure(found, f"{chosen.description or chosen.name}: {filter}")
    for path in (
        written_whole(folder / "levels.csv", lambda path: found.to_frame().to_csv(path, index=False)),
        written_whole(folder / "calibration.png", partial(figure.savefig, format="png")),
    ):
        screen.print(f"wrote {path}", soft_wrap=True)


def _require(filter: str, scenario: Scenario) -> None:
    have = f"this scenario has {', '.join(scenario.filters)}"
    if filter in scenario.matched:
        raise InputError(
            f"filter {filter!r} cannot be calibrated, because its size is chosen by the wall time of another filter; "
            f"{have}."
        )
    if filter not in scenario.filters:
        raise InputError(f"filter names no filter {filter!r}; {have}.")


def _chosen(loaded: object, case: str | None) -> Scenario:
    if isinstance(loaded, Scenario) and case is None:
        return loaded
    if isinstance(loaded, Scenario):
        raise InputError("case is for studies; this scenario stands alone.")
    if not isinstance(loaded, FilterStudy):
        raise InputError("scenario must be one of filters: a flow study has no readings to be calibrated with.")
    cases = {one.name: one for one in loaded.scenarios}
    if case not in cases:
        raise InputError(f"case must be one of {', '.join(cases)}, got {case!r}.")
    return cases[case]
