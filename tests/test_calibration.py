"""Calibration: exact filters are, overconfident ones are not, and the picture shows which is which."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import jkofilter as jf
from jkofilter.calibration_plotting import calibration_figure
from jkofilter.cli import main

TIMES = [0.3, 0.7]
RUNS = 400


def ou(noise: float = 0.5, d: int = 2) -> jf.StateSpaceModel:
    eye = torch.eye(d, dtype=torch.float64)
    prior = torch.distributions.MultivariateNormal(torch.zeros(d, dtype=torch.float64), eye)
    sde = jf.LangevinSDE(jf.Quadratic(torch.ones(d, dtype=torch.float64), 2 * eye))
    return jf.StateSpaceModel(prior, sde, jf.LinearGaussian(eye[:1], [[noise**2]]))


class Overconfident:
    """A Kalman filter that trusts its sensor ten times too much: simulated from one model, filtered by another."""

    def __init__(self) -> None:
        self.model, self._filter = ou(), jf.KalmanFilter(ou(noise=0.05))
        self.init, self.predict, self.update = self._filter.init, self._filter.predict, self._filter.update


@pytest.fixture(scope="module")
def honest() -> jf.Calibration:
    return jf.calibrate(jf.KalmanFilter(ou()), TIMES, RUNS, substep=0.01)


def test_truths_are_uniform_within_the_beliefs_of_an_exact_filter(honest: jf.Calibration) -> None:
    assert honest.levels.shape == (RUNS, 2, 2)
    for column in honest.levels.reshape(RUNS, -1).mT.numpy():
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    assert honest.coverage(0.9) == pytest.approx(0.9, abs=3.5 * honest.coverage_error(0.9))


def test_the_standard_error_of_coverage_is_that_of_independent_runs(honest: jf.Calibration) -> None:
    # Four truths a run, correlated in part: between one and four independent ones.
    one = (0.9 * 0.1 / RUNS) ** 0.5
    assert 0.8 * one / 2 < honest.coverage_error(0.9) < 1.2 * one


def test_an_overconfident_filter_covers_too_little() -> None:
    found = jf.calibrate(Overconfident(), TIMES, 100, substep=0.01)  # type: ignore[arg-type]
    assert (found.levels[..., 0] - 0.5).abs().mul(2).le(0.9).double().mean() < 0.6


def test_the_frame_holds_every_rank(honest: jf.Calibration) -> None:
    frame = honest.to_frame()
    assert list(frame.columns) == ["run", "time", "coordinate", "level"]
    row = frame[(frame["run"] == 7) & (frame["time"] == 0.7) & (frame["coordinate"] == 1)]
    assert row["level"].item() == honest.levels[7, 1, 1].item()


def test_another_seed_gives_other_simulations_and_the_same_seed_the_same() -> None:
    first, again, other = (jf.calibrate(jf.KalmanFilter(ou()), TIMES, 3, seed, 0.01).levels for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_picture_counts_runs_and_shows_coverage(honest: jf.Calibration) -> None:
    figure = calibration_figure(honest, "Kalman")
    left, right = figure.axes
    (first, _) = left.patches[-2:]
    assert first.get_data().values.sum() == RUNS
    line = next(line for line in right.lines if line.get_label() == "coordinate 1")
    inside = ((honest.levels[:, -1, 1] - 0.5).abs() <= 0.25).double().mean().item()
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    assert y[np.isclose(x, 0.5)].item() == pytest.approx(inside - 0.5, abs=1e-9)


@pytest.mark.parametrize("runs", [1, 2.5])
def test_too_few_runs_are_refused(runs: float) -> None:
    with pytest.raises(jf.InputError, match="runs must be an integer"):
        jf.calibrate(jf.KalmanFilter(ou()), TIMES, runs)  # type: ignore[arg-type]


def test_a_probability_outside_the_unit_interval_is_refused(honest: jf.Calibration) -> None:
    with pytest.raises(jf.InputError, match="probability must be between"):
        honest.coverage(1.0)


# --- command line ----------------------------------------------------------------------------------------------------

SCENARIO = """
import torch, jkofilter as jf
EYE = torch.eye(1).double()
NORMAL = torch.distributions.MultivariateNormal(torch.zeros(1).double(), EYE)
SDE = jf.LangevinSDE(jf.Quadratic(torch.zeros(1).double(), EYE))
MODEL = jf.StateSpaceModel(NORMAL, SDE, jf.LinearGaussian(EYE, EYE))
ONE = jf.Scenario("small", MODEL, {"kalman": jf.KalmanFilter}, "kalman", times=[0.5], substep=0.05)
SCENARIO = jf.FilterStudy("study", [ONE]) if STUDY else ONE
"""


@pytest.mark.parametrize("study", [False, True])
def test_the_command_tells_coverage_and_writes_ranks_and_picture(
    study: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.py").write_text(f"STUDY = {study}\n{SCENARIO}")
    case = ["--case", "small"] if study else []
    arguments = [str(tmp_path / "one.py"), "--filter", "kalman", "--runs", "40", "--out", str(tmp_path), *case]
    with pytest.raises(SystemExit, match="^0$"):
        main(["calibrate", *arguments])
    said = capsys.readouterr().out
    found = pd.read_csv(tmp_path / "levels.csv")["level"]
    assert f"cover {((found - 0.5).abs() <= 0.45).mean():.1%} +- " in said
    assert len(found) == 40
    assert (tmp_path / "calibration.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--filter", "none"], "has kalman"), (["--filter", "kalman", "--case", "x"], "stands alone")],
)
def test_unknown_filters_and_cases_are_named(
    arguments: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.py").write_text(f"STUDY = False\n{SCENARIO}")
    with pytest.raises(SystemExit):
        main(["calibrate", str(tmp_path / "one.py"), *arguments])
    assert named in capsys.readouterr().err
