"""The command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from jkofilter._version import __version__
from jkofilter.cli.bench import bench, report
from jkofilter.cli.calibrate import calibrate
from jkofilter.errors import InputError
from jkofilter.experiments.command.options import Filters, Out, Plots, Seeds, Threads
from jkofilter.experiments.command.run import call, run_and_report
from jkofilter.experiments.command.screen import console
from jkofilter.experiments.load import load

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

app.command("bench")(bench)
app.command("report")(report)
app.command("calibrate")(calibrate)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Track hidden diffusions with filters that carry a density."""
    if version:
        print(__version__)
        raise typer.Exit()


@app.command("run")
def _run(
    scenario: Annotated[str, typer.Argument(help="Path of a scenario file.")],
    filters: Filters = None,
    seeds: Seeds = None,
    out: Out = None,
    plots: Plots = True,
    threads: Threads = 1,
) -> None:
    """Run the filters of a scenario, or the methods of a flow study, and compare them with the reference."""
    run_and_report(load(scenario), filters, seeds, out, plots, threads)


@app.command("list")
def _list(folder: Annotated[str, typer.Argument(help="Folder of scenario files.")] = "scenarios") -> None:
    """List the scenarios of a folder and the filters each one runs."""
    files = sorted(Path(folder).glob("*.py"))
    if not files:
        raise InputError(f"folder {folder!r} holds no scenario files; give a folder such as scenarios.")
    table = Table("scenario", "filters (reference last)", "seeds", "what it is")
    for file in files:
        experiment = load(file)
        table.add_row(str(file), ", ".join(experiment.methods), str(experiment.seeds), experiment.description)
    console().print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """The ``jkofilter`` command."""
    call(app, arguments, "jkofilter")
