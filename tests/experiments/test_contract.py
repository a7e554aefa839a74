"""The contract of experiments: what the package's own kinds keep, and that nothing else is asked of a stranger."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from bench_scenarios import FAMILY, FLOW, LINE, MATCHED, write
from matplotlib.figure import Figure

import jkofilter as jf
from jkofilter.experiments.command.run import write_files
from jkofilter.experiments.contract import Calibrated, Experiment, Left, Measured, Run
from jkofilter.experiments.report.tables import noted
from jkofilter.experiments.sweep.runner import run_here

KINDS = {"line": LINE, "family": FAMILY, "flow": FLOW, "matched": MATCHED}


@pytest.mark.parametrize("kind", KINDS)
def test_every_run_is_planned_once_after_those_it_needs_and_can_be_sent(kind: str, tmp_path: Path) -> None:
    experiment = jf.Scenario.load(write(tmp_path, **{kind: KINDS[kind]})[0])
    runs = experiment.planned()
    done: set[tuple[str, str, int]] = set()
    for run in runs:
        assert all((run.case, name, run.seed) in done for name in run.needs)
        assert (run.case, run.method, run.seed) not in done
        done.add((run.case, run.method, run.seed))
    assert {run.method for run in runs} == set(experiment.methods)
    assert {(run.case, run.dim) for run in runs} == {(case.name, case.dim) for case in experiment.cases}
    assert {run.seed for run in runs} == set(range(experiment.seeds))
    assert pickle.loads(pickle.dumps(runs)) == runs
    assert experiment.planned(["nobody"]) == []
    assert {run.seed for run in experiment.planned(None, [7])} == {7}


@dataclass(frozen=True)
class Die:
    name: str = "die"
    dim: int = 1
    reference: str = "fair"
    note: str = ""


class Dice:
    """An experiment that inherits nothing: eyes of a die that is off by one, against a fair one."""

    name, description, seeds = "dice", "a stranger", 2
    published: Sequence[jf.PublishedFigure] = ()
    cases, methods, measures = (Die(),), ("loaded", "fair"), ("mean_error",)

    def planned(self, names: Collection[str] | None = None, seeds: Sequence[int] | None = None) -> list[Run]:
        roles = (("fair", "reference"), ("loaded", "filter"))
        return [Run("die", m, k, role, 1, "fair") for k in seeds or range(2) for m, role in roles]  # type: ignore[arg-type]

    def warm_up(self, run: Run) -> None:
        pass

    def perform(self, run: Run, needs: Mapping[str, Left], keep: bool = False) -> Measured:
        if run.role == "reference":
            return Measured("ok", 1.0, 0.5, [{"time": 1.0}], left=Left(3.5, 0.5), kept="fair")
        off = run.seed + 4.5 - needs["fair"].yardstick
        return Measured("ok", 1.0, 0.5, [{"time": 1.0, "mean_error": off}], note=f"off by {off}")

    def exhibits(self, kept: Mapping[tuple[str, str], Any], seed: int) -> dict[str, Figure]:
        assert (dict(kept), seed) == ({("die", "fair"): "fair"}, 0)
        return {"own": Figure()}

    def calibrated(self, method: str, case: str | None = None) -> Calibrated:
        raise jf.InputError("dice are not calibrated.")


def test_a_stranger_is_run_tabulated_and_drawn_like_the_others(tmp_path: Path) -> None:
    dice = Dice()
    assert isinstance(dice, Experiment)
    written = write_files(dice, run_here(dice), tmp_path)
    assert {path.name for path in written} == {"runs.csv", "summary.csv", "own.png", "error.png"}
    runs = pd.read_csv(tmp_path / "runs.csv").set_index(["filter", "seed"])
    assert runs.loc["loaded", "mean_error"].tolist() == [1.0, 2.0]
    assert runs["processor_seconds"].tolist() == [0.5] * 4
    assert runs.loc["loaded", "note"].tolist() == ["off by 1.0", "off by 2.0"]


def test_what_a_run_cannot_vouch_for_is_told_once_a_filter() -> None:
    ran = run_here(Dice())
    assert noted(ran.records) == ["dice, die: loaded, seed 0: off by 1.0 (and of other seeds: 1)"]
    assert noted([{name: value for name, value in one.items() if name != "note"} for one in ran.records]) == []
