"""The report of a sweep: one HTML page that needs nothing else, and the tables behind it as CSV."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from jkofilter.errors import InputError
from jkofilter.experiments.measures import FILTER_MEASURES, FLOW_MEASURES
from jkofilter.experiments.published import PublishedFigure
from jkofilter.experiments.report.exhibits import MAIN, accuracy_exhibit, exhibits
from jkofilter.experiments.report.tables import (
    accuracy_table,
    figure_text,
    judged,
    leads,
    measures_of,
    noted,
    ordered,
    own_measures,
    paired_table,
    published_table,
    run_table,
    shown_measures,
    summary_table,
)
from jkofilter.experiments.sweep.folder import read_sweep
from jkofilter.experiments.sweep.records import RECORDS, key_of, latest, read_records
from jkofilter.files import require_writable, written_whole

TOLD = (*MAIN, "symmetric_kl", "kl_stationary")
"""Errors of which the page tells the time to accuracy."""
SORTED: Mapping[str, Sequence[str]] = {"accuracy": ["case"], "published": []}
"""What tables are sorted by that are not by case and filter."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """What a folder holds.

    Attributes:
        scenarios: what is known of each, by name.
        commands: that made the records.
        records: the last of each run.
        warnings: sentences.
    """

    scenarios: Mapping[str, Mapping[str, Any]]
    commands: Sequence[Mapping[str, Any]]
    records: Sequence[Mapping[str, Any]]
    warnings: Sequence[str]


def read_folder(folder: Path) -> Recorded:
    """What ``run_sweep`` left; nothing is written, and a sweep may be going on there.

    Raises:
        InputError: no such folder, no records, or records of another format.
    """
    if not folder.is_dir():
        raise InputError(f"folder {str(folder)!r} does not exist; give the --out of a bench.")
    records, rest = read_records(folder / RECORDS)
    if not records:
        raise InputError(f"folder {str(folder)!r} holds no records; run 'jkofilter bench' with --out {folder}.")
    sweep = read_sweep(folder)
    warnings = [f"The last line of {RECORDS} was cut short and is left out."] if rest else []
    return Recorded(sweep["scenarios"], sweep["commands"], list(latest(records).values()), warnings)


def write_report(folder: Path, out: Path | None = None) -> list[Path]:
    """Write the page, and runs.csv, summary.csv, paired.csv, accuracy.csv and published.csv beside it.

    Args:
        folder: of a sweep.
        out: the page; report.html in ``folder`` by default.

    Returns:
        What was written.

    Raises:
        InputError: as of ``read_folder``, or ``out`` cannot be written.
    """
    sweep = read_folder(folder)
    page = out or folder / "report.html"
    home = require_writable(page.parent)
    runs = run_table(sweep.records)
    lead = leads(judged(runs), {name: one["filters"] for name, one in sweep.scenarios.items()})
    tables = {
        "runs": runs,
        "summary": summary_table(runs),
        "paired": paired_table(runs, lead),
        "accuracy": accuracy_table(runs, TOLD),
        "published": published_table(runs, {name: one["published"] for name, one in sweep.scenarios.items()}),
    }
    text = _page(sweep, tables)
    try:
        written = [written_whole(page, lambda path: path.write_text(text, encoding="utf-8"))]
        for name, table in tables.items():
            written.append(written_whole(home / f"{name}.csv", _csv(table)))
    except OSError as error:
        raise InputError(f"out {str(page)!r} cannot be written ({error.strerror}).") from error
    return written


def _csv(table: pd.DataFrame) -> Any:
    return lambda path: table.to_csv(path, index=False)


def _page(sweep: Recorded, tables: Mapping[str, pd.DataFrame]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jkofilter.experiments.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = figure_text
    present = dict.fromkeys(record["scenario"] for record in sweep.records)
    unknown = {"description": "", "path": "", "filters": [], "cases": [], "published": []}
    sections = [_section(name, sweep.scenarios.get(name, unknown), tables) for name in present]
    failures = [{"run": str(key_of(one)), "status": one["status"]} for one in sweep.records if one["status"] != "ok"]
    return environment.get_template("report.html").render(
        sections=sections,
        failures=failures,
        notes=noted(sweep.records),
        warnings=sweep.warnings,
        commands=sweep.commands,
        environments=_environments(sweep.records),
        runs=len(sweep.records),
        measures=measures_of(tables["runs"]),
    )


def _section(name: str, known: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    cases, filters = [case["name"] for case in known["cases"]], known["filters"]
    own = {
        title: ordered(table[table["scenario"] == name], cases, filters, SORTED.get(title, ("case", "filter")))
        for title, table in tables.items()
    }
    # What earlier versions wrote does not say which measures.
    measures = known.get("measures", (*FILTER_MEASURES, *FLOW_MEASURES, *own_measures(own["runs"])))
    return {
        "name": name,
        "known": known,
        "notes": [f"{case['name']}: {case['note']}" for case in known["cases"] if case["note"]],
        "shown": shown_measures(judged(own["runs"]), measures),
        "with_case": bool(own["summary"]["case"].any()),
        "with_remark": bool(own["summary"]["remark"].any()),
        "with_time": own["summary"]["time"].nunique() > 1,
        "reference": sorted(set(own["runs"]["reference"]) - {""}),
        "summary": _rows(own["summary"]),
        "paired": _rows(own["paired"]),
        "accuracy": _rows(own["accuracy"]),
        "lead": sorted(set(own["paired"]["lead"])),
        "published": _rows(own["published"]),
        "pictures": _pictures(known, own["runs"]),
    }


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _pictures(known: Mapping[str, Any], runs: pd.DataFrame) -> dict[str, str]:
    published = [PublishedFigure(**figure) for figure in known["published"]]
    found = exhibits(runs, known["filters"], published) | accuracy_exhibit(runs, known["filters"])
    return {one.title: _embedded(one.figure) for one in found.values()}


def _embedded(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _environments(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every combination of versions, machine, threads and commit, with how many runs it made."""
    names = ("versions", "machine", "threads", "commit")
    found = Counter(json.dumps({name: one.get(name) for name in names}, sort_keys=True) for one in records)
    return [json.loads(text) | {"runs": runs} for text, runs in found.most_common()]
