"""Scenario files and what is run of them; real data."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_scenarios import SMALL

import jkofilter as jf
from jkofilter.beliefs.base import Belief
from jkofilter.experiments.film import film
from jkofilter.experiments.report.tables import run_table, summary_table
from jkofilter.experiments.sweep.runner import run_here
from jkofilter.filters.base import Runnable

ROOT = Path(__file__).parents[2]


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
    records = run_table(run_here(scenario).records)
    assert records.set_index("filter").loc["jko", "status"] == "ok"
    assert "likelihood is zero" in records.set_index("filter").loc["blind", "status"]
    assert summary_table(records).set_index("filter").loc["blind", "failed"] == 1


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
    ran = run_here(_scenario_of(filter, small))
    records = run_table(ran.records).set_index("filter")
    assert records.loc["shaky", "status"].startswith("prior ")
    assert records.loc["kalman", "status"] == "ok"
    assert ("", "shaky") not in ran.kept


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
    scenario = _scenario_of(filter, small)
    ran = run_here(scenario)
    records = run_table(ran.records).set_index("filter")
    assert records.loc["shaky", "status"] == ("stumbled." if fails == "run" else "ok")
    if fails == "film":
        assert film(filter, scenario.data(0)[1], None, 0) == ()
        assert "state_over_time" in scenario.exhibits(ran.kept, 0)


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
    records = run_table(run_here(scenario, ["jko"], [0, 14]).records)
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
