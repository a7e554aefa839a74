"""Folders that an earlier version left (records of format 1 without processor time) go on and are reported."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from bench_scenarios import lines

import jkofilter as jf
from jkofilter.experiments.report.page import write_report
from jkofilter.experiments.sweep.executors import InProcess
from jkofilter.experiments.sweep.plan import load_all
from jkofilter.experiments.sweep.runner import Sweep, Watch, run_sweep

OLD = Path(__file__).parent / "old_folder"


class Here(Sweep):
    @contextmanager
    def executor(self) -> Iterator[InProcess]:
        yield InProcess()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of it; its scenario files are kept as text, so that nobody tidies them and changes their digest."""
    copied = shutil.copytree(OLD, tmp_path / "old")
    for name in ("matched", "flow"):
        (copied / f"{name}.py.txt").rename(copied / f"{name}.py")
    return copied


def again(folder: Path, **more: object) -> tuple[list[str], list[str]]:
    """Names of the filters that were run, and warnings."""
    loaded = load_all([str(folder / f"{name}.py") for name in ("matched", "flow")])
    warnings: list[str] = []
    asked = Here(loaded, seeds=[0], out=str(folder), resume=True, **more)  # type: ignore[arg-type]
    return [one["filter"] for one in run_sweep(asked, Watch(warn=warnings.append))], warnings


def test_what_is_done_is_not_repeated(folder: Path) -> None:
    before = (folder / "records.jsonl").read_bytes()
    assert again(folder) == ([], [])
    assert (folder / "records.jsonl").read_bytes() == before


def test_what_is_missing_is_run_by_what_the_old_records_know(folder: Path) -> None:
    """The wall time of the lead stands for the processor time that was not recorded."""
    file = folder / "records.jsonl"
    kept = [line for line in file.read_text().splitlines(keepends=True) if '"same time"' not in line]
    file.write_text("".join(kept))
    assert again(folder) == (["same time"], [])
    record = lines(folder)[-1]
    assert record["status"] == "ok"
    assert record["processor_seconds"] > 0
    assert record["settings"]["particles"] >= 100


def test_the_report_tells_of_old_and_new_runs(folder: Path) -> None:
    file = folder / "records.jsonl"
    file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if '"same time"' not in line))
    page = write_report(folder)[0].read_text()
    assert "processor time" not in page
    assert "KL(filter, reference), nats" in page
    assert "symmetric KL, nats" in page
    again(folder)
    assert "processor time" in write_report(folder)[0].read_text()
    runs = pd.read_csv(folder / "runs.csv", keep_default_na=False).set_index("filter")["processor_seconds"]
    assert runs["exact"] == ""
    assert float(runs["same time"]) > 0


def test_the_experiments_of_the_folder_satisfy_the_contract(folder: Path) -> None:
    assert [jf.Scenario.load(folder / f"{name}.py").name for name in ("matched", "flow")] == ["matched", "flow"]
