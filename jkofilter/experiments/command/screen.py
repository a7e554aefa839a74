"""Where the commands speak: results on standard output, one sentence on standard error where something is wrong."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from jkofilter.experiments.measures import ERRORS, FLOW_ERRORS, HEADINGS
from jkofilter.experiments.report.tables import figure_text, shown_measures, summary_table
from jkofilter.experiments.sweep.records import key_of
from jkofilter.experiments.sweep.runner import Watch

_WITH_WORST = (*ERRORS, *FLOW_ERRORS)


def console() -> Console:
    """Standard output; of a fixed width where it is not a terminal, so that tables are not cut."""
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def complain(sentence: str, kind: str = "error") -> None:
    """Say on standard error, in one line, what is wrong."""
    print(f"{kind}: {' '.join(sentence.split())}", file=sys.stderr)


def warn(sentence: str) -> None:
    """Say on standard error, in one line, what is odd but stops nothing."""
    complain(sentence, "warning")


@contextmanager
def watched() -> Iterator[Watch]:
    """Shows how runs go: a bar on a terminal, elsewhere a line a run as soon as it is done."""
    screen = console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        bar = progress.add_task("starting", total=None)

        def begin(total: int, kept: int) -> None:
            progress.update(bar, total=total, completed=kept)
            screen.print(f"{total} runs, {kept} of them done before" if kept else f"{total} runs")

        def done(record: dict[str, Any]) -> None:
            progress.update(bar, advance=1, description=str(key_of(record)))
            if not screen.is_terminal:
                # Rich hands every line on at once: a log, or a reader at the other end, sees that runs move.
                seconds = "" if record["seconds"] is None else f", {record['seconds']:.3g} s"
                word = "done" if record["status"] == "ok" else "failed"
                screen.print(f"{word}: {key_of(record)}{seconds}", soft_wrap=True)

        yield Watch(warn, begin, done)


def results(runs: pd.DataFrame, measures: tuple[str, ...], title: str) -> Table:
    """Medians over seeds, and of errors the worst where there are several, as a table for the screen.

    Args:
        runs: of ``run_table``, in the order of the rows.
        measures: names of the figures worth a column.
        title: above the table.
    """
    summary = summary_table(runs)
    references = set(zip(runs["case"], runs["reference"], strict=True))
    several = {"case": summary["case"].any(), "t": summary["time"].nunique() > 1, "remark": summary["remark"].any()}
    shown = shown_measures(runs, measures)
    table = Table(title=title)
    for heading in ("case", "filter", "t"):
        if several.get(heading, True):
            table.add_column(heading, no_wrap=True)
    table.add_column("runs")
    for measure in shown:
        table.add_column(HEADINGS.get(measure, measure.replace("_", " ")), justify="right")
    if several["remark"]:
        table.add_column("remark")
    for row in summary.to_dict("records"):
        name = f"{row['filter']} (reference)" if (row["case"], row["filter"]) in references else str(row["filter"])
        count = f"{row['runs']} ({row['failed']} failed)" if row["failed"] else str(row["runs"])
        cells = [row["case"]] * bool(several["case"]) + [name] + [figure_text(row["time"])] * bool(several["t"])
        cells += [count, *(_median_and_worst(row, measure) for measure in shown)]
        table.add_row(*cells, *[row["remark"]] * bool(several["remark"]))
    return table


def _median_and_worst(row: dict[Any, Any], measure: str) -> str:
    text = figure_text(row[f"{measure}_median"])
    several = row["runs"] - row["failed"] > 1 and not math.isnan(row[f"{measure}_median"])
    return f"{text} ({figure_text(row[f'{measure}_worst'])})" if several and measure in _WITH_WORST else text


def speeds(runs: pd.DataFrame) -> list[str]:
    """How much faster the first filter of the only case is than each other one; nothing of several cases.

    Args:
        runs: of ``run_table``, in the order of the rows.
    """
    good = runs[(runs["status"] == "ok") & (runs["role"] == "filter")]
    seconds = good.groupby("filter", sort=False)["seconds"].median()
    if runs["case"].nunique() > 1 or len(seconds) < 2:
        return []
    first, *others = (str(name) for name in seconds.index)
    ratios = [f"{seconds[name] / seconds[first]:.3g} times as fast as {name}" for name in others]
    return [f"{first} is {', '.join(ratios)} (medians)."]
