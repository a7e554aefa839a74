"""The command ``jkofilter calibrate``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from jkofilter.experiments.calibration import calibrate as simulated_ranks
from jkofilter.experiments.calibration import check_request
from jkofilter.experiments.command.screen import console
from jkofilter.experiments.load import load
from jkofilter.experiments.pictures.calibration import calibration_figure
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
    check_request(runs, seed)
    tested = load(scenario).calibrated(filter, case)
    folder = require_writable(out or Path("out") / "calibration")
    screen = console()
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress:
        bar = progress.add_task(filter, total=runs)
        found = simulated_ranks(
            tested.filter,
            tested.times,
            runs,
            seed,
            tested.substep,
            lambda run: progress.update(bar, completed=run + 1),
            tested.start,
        )
    covered, error = found.coverage(PROBABILITY), found.coverage_error(PROBABILITY)
    screen.print(f"{PROBABILITY:.0%} intervals of {filter} cover {covered:.1%} +- {error:.1%} of {runs} simulated runs")
    figure = calibration_figure(found.levels[:, -1], f"{tested.title}: {filter}")
    for path in (
        written_whole(folder / "levels.csv", lambda path: found.to_frame().to_csv(path, index=False)),
        written_whole(folder / "calibration.png", partial(figure.savefig, format="png")),
    ):
        screen.print(f"wrote {path}", soft_wrap=True)
