"""The commands ``jkofilter bench`` and ``jkofilter report``."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from jkofilter.errors import InputError
from jkofilter.experiments.command.options import Filters, Seeds, Threads, parse_names, parse_seeds
from jkofilter.experiments.command.screen import complain, console, watched
from jkofilter.experiments.report.page import write_report
from jkofilter.experiments.sweep.plan import load_all
from jkofilter.experiments.sweep.records import key_of
from jkofilter.experiments.sweep.runner import Sweep, run_sweep


def bench(
    scenarios: Annotated[list[str], typer.Argument(help="Paths of scenario files.")],
    filters: Filters = None,
    seeds: Seeds = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes of this machine; as many as it has cores by default.")
    ] = None,
    dask: Annotated[str | None, typer.Option(help="Address of a Dask scheduler whose workers to take instead.")] = None,
    threads: Threads = 1,
    out: Annotated[str, typer.Option(help="Folder of the records.")] = os.path.join("out", "bench"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the records that are there.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="With --resume: run again what failed before.")
    ] = False,
) -> None:
    """Run every filter of the scenarios on every seed, one record a run, and go on where it was stopped."""
    if workers is not None and dask is not None:
        raise InputError("give either workers, for processes of this machine, or dask, for a cluster, not both.")
    loaded = load_all(scenarios)
    known = list(dict.fromkeys(name for one in loaded for name in one.experiment.methods))
    sweep = Sweep(
        loaded,
        filters=parse_names(filters, known),
        seeds=parse_seeds(seeds),
        workers=_cores() if workers is None else workers,
        dask=dask,
        threads=threads,
        out=out,
        resume=resume,
        retry_failed=retry_failed,
        command=" ".join(["jkofilter", *(shlex.quote(argument) for argument in sys.argv[1:])]),
    )
    try:
        with watched() as watch:
            made = run_sweep(sweep, watch)
    except KeyboardInterrupt:
        complain("stopped; every finished run is recorded: go on with the same command and --resume.")
        raise typer.Exit(130) from None
    failed = [record for record in made if record["status"] != "ok"]
    for record in failed:
        complain(f"{key_of(record)}: {record['status']}")
    console().print(f"{len(made)} runs recorded in {out}; make the report with: jkofilter report {out}", soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _cores() -> int:
    """Cores that this process may use, which can be fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def report(
    folder: Annotated[str, typer.Argument(help="Folder of the records of a bench.")] = os.path.join("out", "bench"),
    out: Annotated[str | None, typer.Option(help="The page; report.html in the folder by default.")] = None,
) -> None:
    """Make one self-contained HTML page of a bench, and the tables behind it as CSV."""
    for path in write_report(Path(folder), None if out is None else Path(out)):
        console().print(f"wrote {path}", soft_wrap=True)
