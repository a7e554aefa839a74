"""The runner of sweeps: one record a run, whatever fails; what is done is never repeated. All in this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_scenarios import FAMILY, FLOW, LINE, MATCHED, MODEL, TROUBLE, lines, steady, write

import jkofilter as jf
from jkofilter.cli.app import main
from jkofilter.experiments.runs import settings_of
from jkofilter.experiments.sweep.executors import AHEAD, RunExecutor
from jkofilter.experiments.sweep.plan import load_all, tasks_of
from jkofilter.experiments.sweep.records import key_of
from jkofilter.experiments.sweep.runner import Sweep, Watch, run_here, run_sweep


@dataclass
class Here:
    """An executor of this process: a run is computed as soon as it is handed out."""

    room: int = 2 * AHEAD
    out: int = 0
    most: int = 0
    calls: list[str] = field(default_factory=list)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        self.calls.append(str(arguments[0].key))
        future: Future[Any] = Future()
        future.set_result(function(*arguments))
        return future

    def restart(self) -> None:
        self.calls.append("restart")

    def gone(self, error: BaseException) -> str:
        return "the cluster has gone" if isinstance(error, OSError) else ""


@dataclass(frozen=True)
class InHere(Sweep):
    hands: Here = field(default_factory=Here)

    @contextmanager
    def executor(self) -> Iterator[RunExecutor]:
        yield self.hands


def sweep(folder: Path, *paths: str, hands: Here | None = None, **more: Any) -> InHere:
    return InHere(load_all(paths), out=str(folder / "out"), hands=hands or Here(), **more)


@pytest.fixture
def all_kinds(tmp_path: Path) -> list[str]:
    return write(tmp_path, line=LINE, family=FAMILY, flow=FLOW)


def test_every_filter_of_every_case_on_every_seed_leaves_one_record(tmp_path: Path, all_kinds: list[str]) -> None:
    told: list[dict[str, Any]] = []
    sizes: list[tuple[int, int]] = []
    made = run_sweep(sweep(tmp_path, *all_kinds), Watch(begin=lambda *n: sizes.append(n), done=told.append))
    # line: 4 filters x 2 seeds; family: the same for 2 cases; flow: 3 pairs of case and method that are not skipped.
    assert len(made) == 8 + 16 + 6
    assert sizes == [(30, 0)]
    assert lines(tmp_path / "out") == json.loads(json.dumps(made)) == json.loads(json.dumps(told))
    assert len({key_of(one) for one in made}) == 30
    assert {one["status"] for one in made} == {"ok"}
    assert {one["filter"] for one in made if one["role"] == "reference"} == {"exact"}
    assert {(one["case"], one["filter"]) for one in made if one["scenario"] == "flow"} == {
        ("t = 0.25", "200"), ("t = 0.5", "200"), ("t = 0.5", "400")
    }  # fmt: skip
    assert all(one["versions"]["jkofilter"] == jf.__version__ and one["machine"]["cores"] for one in made)


def test_a_run_in_this_process_gives_the_records_of_a_sweep(tmp_path: Path, all_kinds: list[str]) -> None:
    """What is packed, sent and unpacked on the way to a worker changes nothing; what the figures are, others test."""
    made = run_sweep(sweep(tmp_path, *all_kinds))
    here = [one for path in all_kinds for one in run_here(jf.Scenario.load(path)).records]
    assert len(here) == 30
    assert steady({**one, "path": ""} for one in here) == steady({**one, "path": ""} for one in made)


def test_one_failing_run_is_recorded_with_its_error_and_the_rest_go_on(tmp_path: Path) -> None:
    broken = TROUBLE.replace('"kills": kills, ', "")
    made = run_sweep(sweep(tmp_path, *write(tmp_path, trouble=broken)))
    failed = [one for one in made if one["status"] != "ok"]
    assert len(made) == 10
    assert {one["filter"] for one in failed} == {"raises"}
    assert failed[0]["status"].startswith("RuntimeError: a mistake of the user (trouble.py, line ")
    assert failed[0]["figures"] == []


def test_without_its_reference_a_filter_runs_but_is_not_compared(tmp_path: Path) -> None:
    text = TROUBLE.replace('"kills": kills, ', "").replace("{**FILTERS", "FILTERS").replace(
        'scenario("trouble",', 'scenario("trouble", reference="raises",'
    )  # fmt: skip
    made = run_sweep(sweep(tmp_path, *write(tmp_path, trouble=text)))
    exact = next(one for one in made if one["filter"] == "exact")
    assert exact["status"].startswith("not compared: the run of its reference, raises, failed")
    assert "log_evidence" in exact["figures"][0]
    assert "kl_filter" not in exact["figures"][0]


@pytest.mark.parametrize("kept", [0, 1, 5, 13, 29, 30])
def test_resumed_after_any_record_it_repeats_none_and_loses_none(
    kept: int, tmp_path: Path, all_kinds: list[str]
) -> None:
    whole = steady(run_sweep(sweep(tmp_path, *all_kinds)))
    file = tmp_path / "out" / "records.jsonl"
    before = file.read_bytes().splitlines(keepends=True)
    # The next line is cut short: that run has to be repeated, and no other.
    file.write_bytes(b"".join(before[:kept]) + b"".join(before[kept : kept + 1])[:-30])
    warnings: list[str] = []
    made = run_sweep(sweep(tmp_path, *all_kinds, resume=True), Watch(warn=warnings.append))
    assert len(made) == 30 - kept
    assert file.read_bytes().splitlines(keepends=True)[:kept] == before[:kept]
    assert steady(lines(tmp_path / "out")) == whole
    assert len(warnings) == (kept < 30)


def test_a_finished_sweep_computes_nothing_when_resumed(tmp_path: Path) -> None:
    paths = write(tmp_path, line=LINE)
    run_sweep(sweep(tmp_path, *paths))
    hands = Here()
    assert run_sweep(sweep(tmp_path, *paths, hands=hands, resume=True)) == []
    assert hands.calls == []


def test_a_filter_added_later_is_measured_against_the_reference_run_again_but_not_recorded(tmp_path: Path) -> None:
    paths = write(tmp_path, line=LINE)
    run_sweep(sweep(tmp_path, *paths, filters=["ensemble"], seeds=[0]))
    hands = Here()
    made = run_sweep(sweep(tmp_path, *paths, hands=hands, filters=["unscented"], seeds=[0], resume=True))
    assert [one["filter"] for one in made] == ["unscented"]
    assert hands.calls == ["line: exact, seed 0", "line: unscented, seed 0"]
    assert made[0]["figures"][0]["kl_filter"] < 1e-6
    assert [one["filter"] for one in lines(tmp_path / "out")] == ["exact", "ensemble", "unscented"]


def test_failed_runs_are_kept_unless_asked_to_be_tried_again(tmp_path: Path) -> None:
    paths = write(tmp_path, trouble=TROUBLE.replace('"kills": kills, ', ""))
    run_sweep(sweep(tmp_path, *paths, seeds=[0]))
    assert run_sweep(sweep(tmp_path, *paths, seeds=[0], resume=True)) == []
    again = run_sweep(sweep(tmp_path, *paths, seeds=[0], resume=True, retry_failed=True))
    assert [one["filter"] for one in again] == ["raises"]


def test_a_matched_filter_takes_the_processor_time_of_the_lead(tmp_path: Path) -> None:
    made = run_sweep(sweep(tmp_path, *write(tmp_path, matched=MATCHED), seeds=[3]))
    assert made[-1]["role"] == "matched"
    assert made[-1]["settings"]["particles"] >= 100
    assert made[-1]["remark"] == f"{made[-1]['settings']['particles']} particles"
    file = tmp_path / "out" / "records.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    hands = Here()
    run_sweep(sweep(tmp_path, str(tmp_path / "matched.py"), hands=hands, seeds=[3], resume=True))
    # The lead's processor time is in its record; the reference's belief is not.
    assert hands.calls == ["matched: exact, seed 3", "matched: same time, seed 3"]


def test_a_matched_filter_whose_lead_failed_says_so(tmp_path: Path) -> None:
    text = MODEL + 'def broken(model):\n    raise ValueError("no")\n\n' + (
        'SCENARIO = scenario("m", filters={"broken": broken, **FILTERS}, matched={"same time": particles}, seeds=1)\n'
    )  # fmt: skip
    made = {one["filter"]: one for one in run_sweep(sweep(tmp_path, *write(tmp_path, m=text)))}
    assert made["same time"]["status"].startswith("not run: ")
    assert made["ensemble"]["status"] == "ok"


class Waiting(Here):
    """Takes its time over every run; counts how many it holds."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.out += 1
        self.most = max(self.most, self.out)

        def compute() -> None:
            self.out -= 1
            future.set_result(function(*arguments))

        threading.Timer(0.02, compute).start()
        return future


def test_only_a_few_runs_are_handed_out_ahead(tmp_path: Path, all_kinds: list[str]) -> None:
    hands = Waiting(room=AHEAD * 3)
    run_sweep(sweep(tmp_path, *all_kinds, hands=hands))
    assert hands.most == AHEAD * 3


class Fragile(Here):
    """Breaks, with all it holds, whenever it holds a run of the filter named."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future = super().submit(function, *arguments)
        if arguments[0].key.filter == "ensemble":
            future = Future()
            future.set_exception(BrokenExecutor("a process died"))
        return future


def test_the_run_that_kills_its_worker_is_found_and_the_others_go_on(tmp_path: Path) -> None:
    hands = Fragile()
    made = run_sweep(sweep(tmp_path, *write(tmp_path, line=LINE), hands=hands))
    assert len(made) == 8
    assert {one["filter"] for one in made if one["status"] != "ok"} == {"ensemble"}
    assert all("worker process died" in one["status"] for one in made if one["filter"] == "ensemble")
    assert "restart" in hands.calls


class Lost(Here):
    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future = super().submit(function, *arguments)
        if len(self.calls) > 3:
            future = Future()
            future.set_exception(ConnectionResetError("gone"))
        return future


def test_a_cluster_that_goes_away_stops_the_sweep_and_keeps_the_records(tmp_path: Path) -> None:
    paths = write(tmp_path, line=LINE)
    with pytest.raises(jf.InputError, match="the cluster has gone; finished records are kept, go on with --resume"):
        run_sweep(sweep(tmp_path, *paths, hands=Lost(room=AHEAD)))
    kept = len(lines(tmp_path / "out"))
    assert 0 < kept < 8
    assert len(run_sweep(sweep(tmp_path, *paths, resume=True))) == 8 - kept


def test_a_scenario_that_has_changed_is_loaded_anew_and_noted(tmp_path: Path) -> None:
    paths = write(tmp_path, line=LINE)
    first = run_sweep(sweep(tmp_path, *paths, filters=["ensemble"], seeds=[0]))
    write(tmp_path, line=LINE.replace("[[0.25]]", "[[0.5]]"))
    warnings: list[str] = []
    asked = sweep(tmp_path, *paths, filters=["ensemble"], seeds=[1], resume=True)
    run_sweep(asked, Watch(warn=warnings.append))
    assert ["line has changed" in warning for warning in warnings] == [True]
    again = run_sweep(replace(asked, seeds=[0], out=str(tmp_path / "other"), resume=False))
    assert again[0]["figures"] != first[0]["figures"]


def test_a_scenario_edited_while_the_sweep_runs_is_not_taken_for_the_one_asked(tmp_path: Path) -> None:
    paths = write(tmp_path, line=LINE)
    asked = sweep(tmp_path, *paths, filters=["ensemble"], seeds=[0])
    write(tmp_path, line=LINE.replace("[[0.25]]", "[[0.125]]"))
    made = run_sweep(asked)
    assert all("is not the file that the sweep began with" in one["status"] for one in made)
    assert [one["figures"] for one in made] == [[], []]


def plane_model() -> jf.StateSpaceModel:
    eye = torch.eye(2, dtype=torch.float64)
    prior = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=torch.float64), eye)
    return jf.StateSpaceModel(prior, jf.LangevinSDE(jf.Quadratic([0.0, 0.0], eye)), jf.LinearGaussian(eye, eye))


def test_settings_are_those_of_the_filter_as_plain_data() -> None:
    settings = settings_of(jf.JKOFilter(plane_model(), transport=jf.RidgeEngine(cells=7)))
    assert settings["type"] == "JKOFilter"
    assert settings["transport"]["cells"] == 7
    assert "model" not in settings
    assert json.loads(json.dumps(settings)) == settings
    assert " at 0x" not in json.dumps(settings)


def test_named_filters_bring_their_reference_and_their_lead(tmp_path: Path) -> None:
    loaded = load_all(write(tmp_path, matched=MATCHED, flow=FLOW))
    tasks = tasks_of(loaded, ["same time"], [0])
    assert [task.key.filter for task in tasks] == ["exact", "particles, 300", "same time"]
    assert [key.filter for key in tasks[-1].after] == ["exact", "particles, 300"]
    flow = tasks_of(loaded, ["200", "400"], [7])
    assert [(task.key.case, task.key.filter, len(task.after)) for task in flow] == [
        ("t = 0.25", "200", 0), ("t = 0.5", "200", 0), ("t = 0.5", "400", 1)
    ]  # fmt: skip


BAD = {
    "unknown filter": (["--filters", "nobody"], "nobody"),
    "what exists": (["--filters", "nobody"], "particles, 300, ensemble, unscented, exact"),
    "no seeds": (["--seeds", "0"], "seeds"),
    "no workers": (["--workers", "0"], "workers"),
    "no threads": (["--threads", "0"], "threads"),
    "no threads on a cluster": (["--threads", "0", "--dask", "tcp://127.0.0.1:1"], "threads"),
    "workers and dask": (["--workers", "2", "--dask", "tcp://127.0.0.1:1"], "not both"),
    "the same twice": (["LINE"], "two of the scenario files"),
    "no file": (["nowhere.py"], "nowhere.py"),
    "unwritable": (["--out", "/proc/jkofilter"], "out"),
    "no address": (["--dask", "nonsense://x"], "no Dask scheduler answers"),
    "nobody there": (["--dask", "tcp://127.0.0.1:1"], "no Dask scheduler answers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_exit_2_with_one_sentence(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "dask" in str(BAD[case]):
        pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)
    (path,) = write(tmp_path, line=LINE)
    arguments, named = BAD[case]
    with pytest.raises(SystemExit) as stop:
        main(["bench", path, *(path if one == "LINE" else one for one in arguments)])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert named in said
    assert said.count("\n") == 1
    assert not list(tmp_path.rglob("records.jsonl"))
