"""Scenario files, real data, and the command line: what a user types, and what a user mistypes."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from jkofilter.cli.options import parse_names, parse_seeds
from jkofilter.experiments.benchmark import run_scenario
from jkofilter.experiments.report.files import summarise

import jkofilter as jf
from jkofilter.beliefs.base import Belief
from jkofilter.cli.app import main
from jkofilter.filters.base import Runnable

ROOT = Path(__file__).parents[2]
SMALL = """
import torch
import jkofilter as jf
MODEL = jf.StateSpaceModel(
    torch.distributions.MultivariateNormal(torch.zeros(1).double(), torch.eye(1).double()),
    jf.LangevinSDE(jf.Quadratic([0.0], [[1.0]])), jf.LinearGaussian([[1.0]], [[0.25]]))
SCENARIO = jf.Scenario(
    name="small", model=MODEL, times=[0.5, 1.0], until=1.2, seeds=2, substep=0.05, description="a small one",
    filters={"jko": jf.JKOFilter, "particle": lambda m: jf.ParticleFilter(m, particles=200, substep=0.05),
             "kalman": jf.KalmanFilter}, reference="kalman")
if __name__ == "__main__":
    SCENARIO.main()
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    file = tmp_path / "small.py"
    file.write_text(SMALL)
    return file


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_run_writes_tables_and_pictures(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    code, text, _ = run(capsys, "run", str(small), "--out", str(out))
    assert code == 0
    assert {f.name for f in out.iterdir()} == {
        "runs.csv", "summary.csv", "density_over_time.png", "final_densities.png", "box_plots.png"
    }  # fmt: skip
    records = pd.read_csv(out / "runs.csv")
    assert len(records) == 6
    jko = records[records["filter"] == "jko"]
    assert (jko["kl_reference"] < 1e-6).all()
    assert (jko["log_evidence_error"].abs() < 1e-3).all()
    assert all(name in text for name in ("jko", "particle", "kalman (reference)", "times as fast"))


def test_the_file_is_a_script_of_its_own(small: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(small),
        "--filters",
        "jko",
        "--seeds",
        "1",
        "--out",
        str(tmp_path / "o"),
        "--no-plots",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o" / "runs.csv").is_file()
    assert not list((tmp_path / "o").glob("*.png"))


BAD = {
    "unknown filter": (["run", "SMALL", "--filters", "jko,nonsense"], "nonsense"),
    "no filter": (["run", "SMALL", "--filters", ","], "filters"),
    "word for seeds": (["run", "SMALL", "--seeds", "many"], "seeds"),
    "empty seeds": (["run", "SMALL", "--seeds", "3:3"], "seeds"),
    "negative seeds": (["run", "SMALL", "--seeds", "-2"], "seeds"),
    "no such file": (["run", "nowhere.py"], "'nowhere.py' does not exist"),
    "no Python file": (["run", "."], "'.' is not a Python file"),
    "no such folder": (["list", "nowhere"], "nowhere"),
    "unwritable": (["run", "SMALL", "--out", "/proc/jkofilter"], "out"),
    "out is a file": (["run", "SMALL", "--out", "SMALL"], "out"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_exit_2_with_one_sentence(
    case: str, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, named = BAD[case]
    code, out, err = run(capsys, *[str(small) if a == "SMALL" else a for a in arguments])
    assert code == 2
    assert named in err
    assert err.count("\n") == 1
    assert "Traceback" not in out + err
    assert [f.name for f in tmp_path.iterdir()] == ["small.py"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("SCENARIO = 3", "defines no SCENARIO"),
        ("1 / 0", "ZeroDivisionError"),
        ("def", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_broken_scenario_files(text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "broken.py"
    file.write_text(text)
    code, _, err = run(capsys, "run", str(file))
    assert code == 2
    assert says in err
    assert err.count("\n") == 1


NEIGHBOURLY = """
from __future__ import annotations
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar
from neighbour_of_a_scenario import READINGS

@dataclass
class Settings:
    count: ClassVar[int] = 1
    _: KW_ONLY
    times: tuple[float, ...] = READINGS
"""


def test_loading_by_path_is_like_running_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours are imported, and dataclasses with annotations of the new kind find the module they are in."""
    monkeypatch.delitem(sys.modules, "neighbour_of_a_scenario", raising=False)
    (tmp_path / "neighbour_of_a_scenario.py").write_text("READINGS = (0.5, 1.0)")
    file, before = tmp_path / "neighbourly.py", list(sys.path)
    file.write_text(NEIGHBOURLY + SMALL.replace("times=[0.5, 1.0]", "times=Settings().times"))
    assert jf.Scenario.load(file).times.tolist() == [0.5, 1.0]
    assert sys.modules.pop("scenario_neighbourly").Settings.count == 1
    assert sys.path == before


@pytest.mark.parametrize("text", ["1 / 0", "raise KeyboardInterrupt"])
def test_a_file_that_fails_leaves_nothing_behind(text: str, tmp_path: Path) -> None:
    file, before = tmp_path / "failing.py", list(sys.path)
    file.write_text(text)
    with pytest.raises((jf.InputError, KeyboardInterrupt)):
        jf.Scenario.load(file)
    assert "scenario_failing" not in sys.modules
    assert sys.path == before


def test_version_and_list(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert run(capsys, "--version")[1].strip() == jf.__version__
    text = run(capsys, "list")[1]
    assert all(name in text for name in ("sine_1d", "volatility_1d", "glacial_1d", "particle-kde"))


def test_seeds_are_a_number_or_a_range() -> None:
    assert parse_seeds(None, 3) == [0, 1, 2]
    assert parse_seeds("2", 9) == [0, 1]
    assert parse_seeds("4:6", 9) == [4, 5]


def test_names_that_hold_commas_are_told_from_lists_of_names() -> None:
    known = ["JKO", "particles, 100000", "particles, same time"]
    assert parse_names("JKO, particles, 100000,nobody", known) == ["JKO", "particles, 100000", "nobody"]
    assert parse_names(None, known) is None


def test_a_failing_filter_is_recorded_and_the_rest_go_on(small: Path) -> None:
    class Nowhere:
        def log_likelihood(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return torch.full((x.shape[0],), -torch.inf, dtype=x.dtype)

        def sample(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
            return x

    good = jf.Scenario.load(small)
    blind = jf.StateSpaceModel(good.model.prior, good.model.sde, Nowhere())
    scenario = jf.Scenario(
        name="half",
        model=good.model,
        times=[0.5],
        substep=0.05,
        filters={"blind": lambda model: jf.JKOFilter(blind), "jko": jf.JKOFilter, "kalman": jf.KalmanFilter},
        reference="kalman",
    )
    records = run_scenario(scenario).records.set_index("filter")
    assert records.loc["jko", "status"] == "ok"
    assert "likelihood is zero" in records.loc["blind", "status"]
    assert summarise(run_scenario(scenario)).loc["blind", "failed"] == 1


def _scenario_of(filter: object, small: Path) -> jf.Scenario:
    return jf.Scenario(
        name="shaky",
        model=jf.Scenario.load(small).model,
        times=[0.5, 1.0],
        substep=0.05,
        filters={"shaky": lambda model: filter, "kalman": jf.KalmanFilter},
        reference="kalman",
    )


def test_a_filter_that_refuses_its_input_while_running_is_recorded(small: Path) -> None:
    good = jf.Scenario.load(small).model
    spiky = torch.distributions.Independent(torch.distributions.Gamma(torch.tensor([0.1]).double(), 1.0), 1)
    filter = jf.JKOFilter(jf.StateSpaceModel(spiky, good.sde, good.observation))
    benchmark = run_scenario(_scenario_of(filter, small))
    records = benchmark.records.set_index("filter")
    assert records.loc["shaky", "status"].startswith("prior ")
    assert records.loc["kalman", "status"] == "ok"
    assert benchmark.first.film == ()


@dataclass(frozen=True)
class Shaky(Runnable):
    """A Kalman filter that fails in predictions of just over a half at ``run``, and in short ones at ``film``."""

    inner: jf.KalmanFilter
    fails: str
    reports: bool

    @property
    def model(self) -> jf.StateSpaceModel:
        return self.inner.model

    def init(self, generator: torch.Generator) -> Belief:
        return self.inner.init(generator)

    def predict(self, belief: Belief, duration: float, generator: torch.Generator) -> tuple[Belief, jf.StepInfo]:
        if (duration > 0.4) == (self.fails == "run"):
            if self.reports:
                return belief, jf.StepInfo(status="stumbled.")
            raise jf.FilterError("stumbled.")
        return self.inner.predict(belief, duration, generator)

    def update(self, belief: Belief, y: torch.Tensor, generator: torch.Generator) -> tuple[Belief, jf.StepInfo]:
        return self.inner.update(belief, y, generator)


@pytest.mark.parametrize("reports", [True, False])
@pytest.mark.parametrize("fails", ["run", "film"])
def test_steps_that_fail_are_recorded_and_leave_no_film(fails: str, reports: bool, small: Path) -> None:
    filter = Shaky(jf.KalmanFilter(jf.Scenario.load(small).model), fails, reports)
    benchmark = run_scenario(_scenario_of(filter, small))
    assert benchmark.records.set_index("filter").loc["shaky", "status"] == ("stumbled." if fails == "run" else "ok")
    if fails == "film" or not reports:
        assert benchmark.first.film == ()


def test_scenario_refuses_what_does_not_fit(small: Path) -> None:
    model = jf.Scenario.load(small).model
    kalman = {"kalman": jf.KalmanFilter}
    with pytest.raises(jf.InputError, match="reference"):
        jf.Scenario(name="x", model=model, filters=kalman, reference="grid", times=[1.0])
    with pytest.raises(jf.InputError, match="times"):
        jf.Scenario(name="x", model=model, filters=kalman, reference="kalman")
    with pytest.raises(jf.InputError, match="seeds"):
        jf.Scenario(name="x", model=model, filters=kalman, reference="kalman", times=[1.0], seeds=0)


@pytest.mark.parametrize(("name", "readings"), [("volatility_1d", 5030), ("glacial_1d", 507)])
def test_real_data_against_the_grid_on_the_first_forty_readings(name: str, readings: int) -> None:
    scenario = jf.Scenario.load(ROOT / "scenarios" / f"{name}.py")
    assert scenario.series is not None
    assert len(scenario.series) == readings
    start = jf.ObservationSeries(scenario.series.times[:40], scenario.series.values[:40])
    jko, grid = (scenario.filters[n](scenario.model).run(start) for n in ("jko", "grid"))
    assert abs(jko.log_evidence[-1] - grid.log_evidence[-1]) < 0.004  # 0.05 per 500 readings
    deviation = grid.covariances[:, 0, 0].sqrt()
    assert ((jko.means - grid.means)[:, 0].abs() / deviation).max() < 1e-2


def test_sine_scenario_meets_its_figures_on_two_seeds() -> None:
    scenario = jf.Scenario.load(ROOT / "scenarios" / "sine_1d.py")
    records = run_scenario(scenario, names=["jko"], seeds=[0, 14]).records
    jko = records[records["filter"] == "jko"]
    assert (jko[["kl_reference", "kl_filter"]] < 1e-6).all(axis=None)
    assert (jko["log_evidence_error"].abs() < 1e-4).all()


@pytest.mark.slow
def test_volatility_whole_series_stays_with_the_grid() -> None:
    scenario = jf.Scenario.load(ROOT / "scenarios" / "volatility_1d.py")
    assert scenario.series is not None
    jko, grid = (scenario.filters[n](scenario.model).run(scenario.series) for n in ("jko", "grid"))
    difference = (jko.log_evidence - grid.log_evidence).numpy()
    assert np.abs(difference[500:] - difference[:-500]).max() < 0.05
    assert not jko.beliefs


@pytest.mark.slow
@pytest.mark.parametrize("case", [0, 1])
def test_benes_beliefs_are_the_exact_law_after_every_reading(case: int) -> None:
    study = jf.Scenario.load(ROOT / "scenarios" / "benes_nd.py")
    assert isinstance(study, jf.FilterStudy)
    scenario = study.scenarios[case]
    _, series = scenario.data(0)
    names = ("exact", "JKO")
    exact, ours = (scenario.filters[n](scenario.model).run(series, keep_beliefs=True) for n in names)
    for truth, belief in zip(exact.beliefs, ours.beliefs, strict=True):
        draws = truth.sample(4000, torch.Generator().manual_seed(1))
        assert (truth.log_prob(draws) - belief.log_prob(draws)).square().mean().sqrt() < 0.05
    gained = torch.diff(ours.log_evidence - exact.log_evidence, prepend=torch.zeros(1).double())
    assert gained.abs().max() < 0.02
