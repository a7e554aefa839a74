"""Running an experiment in this process: what ``jkofilter run`` does, and a scenario file that is run itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import typer

from jkofilter.errors import FilterError, InputError
from jkofilter.experiments.command.options import Filters, Out, Plots, Seeds, Threads, parse_names, parse_seeds
from jkofilter.experiments.command.screen import complain, console, results, speeds, watched
from jkofilter.experiments.contract import Experiment
from jkofilter.experiments.report.exhibits import exhibits
from jkofilter.experiments.report.tables import noted, ordered, run_table, summary_table
from jkofilter.experiments.sweep.plan import Loaded, tasks_of
from jkofilter.experiments.sweep.records import key_of
from jkofilter.experiments.sweep.runner import Ran, require_threads, run_here
from jkofilter.files import require_writable, written_whole


def run_and_report(
    experiment: Experiment,
    filters: str | None = None,
    seeds: str | None = None,
    out: str | None = None,
    plots: bool = True,
    threads: int = 1,
) -> None:
    """Run, print the table, write the files; exit code 1 when a run failed.

    Raises:
        InputError: an argument cannot be used; nothing was run or written then.
    """
    names, numbers = parse_names(filters, experiment.methods), parse_seeds(seeds)
    # Found out before the hours of work, not after.
    tasks_of([Loaded(experiment)], names, numbers)
    require_threads(threads)
    folder = require_writable(out or Path("out") / experiment.name)
    with watched() as watch:
        ran = run_here(experiment, names, numbers, threads, plots, watch)
    screen = console()
    screen.print(f"[bold]{experiment.name}[/bold]: {experiment.description}")
    runs = ordered(run_table(ran.records), [case.name for case in experiment.cases], list(experiment.methods))
    title = f"medians (worst) over seeds; {threads} thread{'s' * (threads != 1)}"
    screen.print(results(runs, tuple(experiment.measures), title))
    for line in (*speeds(runs), *(f"{case.name}: {case.note}" for case in experiment.cases if case.note)):
        screen.print(line)
    for line in noted(ran.records):
        screen.print(f"note: {line}", soft_wrap=True)
    for path in write_files(experiment, ran, folder, plots):
        screen.print(f"wrote {path}", soft_wrap=True)
    failed = [record for record in ran.records if record["status"] != "ok"]
    for record in failed:
        complain(f"{key_of(record)}: {record['status']}")
    if failed:
        raise typer.Exit(1)


def write_files(experiment: Experiment, ran: Ran, folder: Path, plots: bool = True) -> list[Path]:
    """Write every run, the summary and the pictures; each file appears whole or not at all.

    Returns:
        What was written.
    """
    runs = run_table(ran.records)
    tables = {"runs": runs, "summary": summary_table(runs)}
    written = [
        written_whole(folder / f"{name}.csv", partial(table.to_csv, index=False)) for name, table in tables.items()
    ]
    if not plots:
        return written
    of_figures = exhibits(runs, experiment.methods, experiment.published)
    pictures = dict(experiment.exhibits(ran.kept, ran.seed)) | {name: one.figure for name, one in of_figures.items()}
    for name, figure in pictures.items():
        written.append(written_whole(folder / f"{name}.png", partial(figure.savefig, format="png")))
    return written


def call(application: typer.Typer, arguments: Sequence[str] | None, program: str) -> None:
    """Run an application: an error of the toolkit is one sentence, exit code 2 for input, 1 for what failed."""
    try:
        application(args=None if arguments is None else list(arguments), prog_name=program)
    except InputError as error:
        complain(str(error))
        raise SystemExit(2) from None
    except FilterError as error:
        complain(str(error))
        raise SystemExit(1) from None
    except BrokenPipeError:
        # The reader of our output went away (head, less): nothing is wrong, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


class Commanded:
    """The habit of every experiment of the package: its file is a command."""

    def main(self: Experiment, arguments: Sequence[str] | None = None) -> None:
        """Run this experiment from its own file, with the options of ``jkofilter run``.

        Args:
            arguments: instead of those of the command line.
        """
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

        @single.command()
        def _run(
            filters: Filters = None,
            seeds: Seeds = None,
            out: Out = None,
            plots: Plots = True,
            threads: Threads = 1,
        ) -> None:
            run_and_report(self, filters, seeds, out, plots, threads)

        call(single, arguments, self.name)
