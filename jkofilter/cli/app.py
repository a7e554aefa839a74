"""The command line; the only module that prints."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from jkofilter._version import __version__
from jkofilter.cli.bench import bench, report
from jkofilter.cli.calibrate import calibrate
from jkofilter.cli.options import Filters, Out, Plots, Seeds, complain, console, parse_names, parse_seeds
from jkofilter.errors import FilterError, InputError
from jkofilter.experiments.benchmark import run_filter_study, run_scenario
from jkofilter.experiments.flow_study import FlowStudy
from jkofilter.experiments.report.files import (
    summarise,
    summarise_study,
    write_files,
    write_filter_study,
    write_study,
)
from jkofilter.experiments.scenario import FilterStudy, Scenario
from jkofilter.experiments.study_run import run_study
from jkofilter.files import require_writable

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
) -> None:
    """Run the filters of a scenario, or the methods of a flow study, and compare them with the reference."""
    _run_any(Scenario.load(scenario), filters, seeds, out, plots)


@app.command("list")
def _list(folder: Annotated[str, typer.Argument(help="Folder of scenario files.")] = "scenarios") -> None:
    """List the scenarios of a folder and the filters each one runs."""
    files = sorted(Path(folder).glob("*.py"))
    if not files:
        raise InputError(f"folder {folder!r} holds no scenario files; give a folder such as scenarios.")
    table = Table("scenario", "filters (reference last)", "seeds", "what it is")
    for file in files:
        scenario = Scenario.load(file)
        if isinstance(scenario, FlowStudy):
            names = list(scenario.methods)
        elif isinstance(scenario, FilterStudy):
            names = scenario.filters
        else:
            names = [*(n for n in scenario.filters if n != scenario.reference), scenario.reference]
        table.add_row(str(file), ", ".join(names), str(scenario.seeds), scenario.description)
    console().print(table)


def _run_any(
    scenario: Scenario | FilterStudy | FlowStudy, filters: str | None, seeds: str | None, out: str | None, plots: bool
) -> None:
    if isinstance(scenario, FlowStudy):
        report_study(scenario, filters, seeds, out, plots)
    elif isinstance(scenario, FilterStudy):
        report_filter_study(scenario, filters, seeds, out, plots)
    else:
        run_and_report(scenario, filters, seeds, out, plots)


def report_study(study: FlowStudy, filters: str | None, seeds: str | None, out: str | None, plots: bool) -> None:
    """Run a flow study, print the table, write the files; exit code 1 when a run failed.

    Raises:
        InputError: an argument cannot be used; nothing was run or written then.
    """
    names = parse_names(filters, list(study.methods))
    chosen = study.select(names)
    seed_list = parse_seeds(seeds, study.seeds)
    folder = require_writable(out or Path("out") / study.name)
    screen = console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task(study.name, total=len(chosen) * len(seed_list) * len(study.cases))

        def advance(name: str, seed: int) -> None:
            progress.update(task, advance=1, description=f"{study.name}: {name}, seed {seed}")
            # Studies take minutes: a log without a progress bar should show that they move.
            if not screen.is_terminal:
                screen.print(f"done: {name}, seed {seed}")

        outcome = run_study(study, names, seed_list, advance)
    screen.print(f"[bold]{study.name}[/bold]: {study.description}")
    screen.print(_study_table(outcome.records, study.measures))
    for note in dict.fromkeys(f"{case.name}: {case.note}" for case in study.cases if case.note):
        screen.print(note)
    for path in write_study(outcome, folder, plots):
        screen.print(f"wrote {path}", soft_wrap=True)
    failed = outcome.records[outcome.records["status"] != "ok"]
    for row in failed.itertuples():
        complain(f"{row.method}, {row.case}, seed {row.seed}: {row.status}")
    if len(failed):
        raise typer.Exit(1)


def report_filter_study(
    study: FilterStudy, filters: str | None, seeds: str | None, out: str | None, plots: bool
) -> None:
    """Run a filter study, print the table, write the files; exit code 1 when a run failed.

    Raises:
        InputError: an argument cannot be used; nothing was written then.
    """
    names = parse_names(filters, list(study.filters))
    seed_list = None if seeds is None else parse_seeds(seeds, study.seeds)
    folder = require_writable(out or Path("out") / study.name)
    screen = console()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task(study.name, total=None)

        def advance(name: str, seed: int) -> None:
            progress.update(task, description=f"{study.name}: {name}, seed {seed}")
            if not screen.is_terminal:
                screen.print(f"done: {name}, seed {seed}")

        outcome = run_filter_study(study, names, seed_list, advance)
    screen.print(f"[bold]{study.name}[/bold]: {study.description}")
    screen.print(_filter_study_table(summarise_study(outcome.records)))
    for path in write_filter_study(outcome, folder, plots):
        screen.print(f"wrote {path}", soft_wrap=True)
    failed = outcome.records[outcome.records["status"] != "ok"]
    for row in failed.itertuples():
        complain(f"{row.filter}, {row.scenario}, seed {row.seed}: {row.status}")
    if len(failed):
        raise typer.Exit(1)


def _filter_study_table(summary: pd.DataFrame) -> Table:
    table = Table(title=f"medians over seeds; {torch.get_num_threads()} threads")
    measures = {
        "kl_reference": "KL(ref, filter)",
        "kl_filter": "KL(filter, ref)",
        "log_density_error": "rms log density error",
        "mean_error": "mean error / sd",
        "sd_ratio": "sd / sd of ref",
        "log_evidence_error": "|log evidence error|",
        "seconds": "seconds",
    }
    shown = {name: title for name, title in measures.items() if summary[name].notna().any()}
    for heading in ("scenario", "filter", "runs"):
        table.add_column(heading)
    for heading in shown.values():
        table.add_column(heading, justify="right")
    for _, row in summary.iterrows():
        runs = f"{row['runs']:.0f}" + (f" ({row['failed']:.0f} failed)" if row["failed"] else "")
        table.add_row(row["scenario"], row["filter"], runs, *(_pair(row[name], math.nan) for name in shown))
    return table


def _study_table(records: pd.DataFrame, own: Sequence[str]) -> Table:
    table = Table(title=f"medians over seeds; {torch.get_num_threads()} threads")
    measures = {
        "kl_exact": "KL(exact, method)",
        "kl_method": "KL(method, exact)",
        "symmetric_kl": "symmetric KL",
        "kl_stationary": "KL(method, stationary)",
        "ess": "stationary ESS",
    }
    shown = {name: title for name, title in measures.items() if records[name].notna().any()}
    for heading in ("case", "method", "t"):
        table.add_column(heading)
    for heading in (*shown.values(), *(name.replace("_", " ") for name in own), "seconds", "remark"):
        table.add_column(heading, justify="right")
    good = records[records["status"] == "ok"]
    for (case, method, time), group in good.groupby(["case", "method", "time"], sort=False):
        cells = [_pair(group[name].median(), math.nan) for name in shown]
        cells += ["-" if group[name].isna().all() else f"{group[name].median():.4g}" for name in own]
        table.add_row(
            case, method, f"{time:g}", *cells, _pair(group["seconds"].median(), math.nan), group["remark"].iloc[0]
        )
    return table


def run_and_report(scenario: Scenario, filters: str | None, seeds: str | None, out: str | None, plots: bool) -> None:
    """Run, print the table, write the files; exit code 1 when a run failed.

    Raises:
        InputError: an argument cannot be used; nothing was run or written then.
    """
    names = parse_names(filters, [*scenario.filters, *scenario.matched])
    chosen = scenario.select(names)
    seed_list = parse_seeds(seeds, scenario.seeds)
    for make in chosen.values():
        make(scenario.model)
    folder = require_writable(out or Path("out") / scenario.name)
    screen = console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task(scenario.name, total=len(chosen) * len(seed_list))

        def advance(name: str, seed: int) -> None:
            progress.update(task, advance=1, description=f"{scenario.name}: {name}, seed {seed}")

        benchmark = run_scenario(scenario, names, seed_list, advance)
    summary = summarise(benchmark)
    screen.print(f"[bold]{scenario.name}[/bold]: {scenario.description}")
    screen.print(_table(summary, scenario.reference))
    for line in _speeds(summary, scenario.reference):
        screen.print(line)
    for path in write_files(benchmark, folder, plots):
        screen.print(f"wrote {path}", soft_wrap=True)
    failed = benchmark.records[benchmark.records["status"] != "ok"]
    for row in failed.itertuples():
        complain(f"{row.filter}, seed {row.seed}: {row.status}")
    if len(failed):
        raise typer.Exit(1)


def _table(summary: pd.DataFrame, reference: str) -> Table:
    table = Table(title=f"against {reference}; median (worst) over seeds; {torch.get_num_threads()} threads")
    table.add_column("filter")
    for heading in ("KL(ref, filter)", "KL(filter, ref)", "mean error / sd", "|log evidence error|", "seconds"):
        table.add_column(heading, justify="right")
    for name, row in summary.iterrows():
        label = f"{name} (reference)" if name == reference else str(name)
        if row["failed"]:
            label += f" ({row['failed']:.0f} of {row['runs']:.0f} failed)"
        pairs = ("kl_reference", "kl_filter", "mean_error", "log_evidence_error", "seconds")
        cells = [_pair(row[f"{stem}_median"], row.get(f"{stem}_worst", math.nan)) for stem in pairs]
        table.add_row(label, *cells)
    return table


def _pair(median: float, worst: float) -> str:
    if math.isnan(median):
        return "-"
    return f"{median:.2g}" if math.isnan(worst) else f"{median:.2g} ({worst:.2g})"


def _speeds(summary: pd.DataFrame, reference: str) -> list[str]:
    """How much faster the first filter is than each other one."""
    names = [str(name) for name in summary.index if name != reference]
    if len(names) < 2:
        return []
    first, seconds = names[0], summary["seconds_median"]
    ratios = [f"{seconds[name] / seconds[first]:.3g} times as fast as {name}" for name in names[1:]]
    return [f"{first} is {', '.join(ratios)} (medians)."]


def _call(application: typer.Typer, arguments: Sequence[str] | None, program: str) -> None:
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


def main(arguments: Sequence[str] | None = None) -> None:
    """The ``jkofilter`` command."""
    _call(app, arguments, "jkofilter")


def main_for_scenario(scenario: Scenario | FilterStudy | FlowStudy, arguments: Sequence[str] | None = None) -> None:
    """The command line of one scenario file: the options of ``jkofilter run`` without the path."""
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @single.command()
    def _scenario(filters: Filters = None, seeds: Seeds = None, out: Out = None, plots: Plots = True) -> None:
        _run_any(scenario, filters, seeds, out, plots)

    _call(single, arguments, scenario.name)
