"""Calibration: exact filters are, overconfident ones are not, and the picture shows which is which."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import jkofilter as jf
from jkofilter.cli.app import main
from jkofilter.experiments.pictures.calibration import calibration_figure
from jkofilter.numerics.draws import derived_seed

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


@pytest.mark.slow
def test_truths_are_uniform_within_the_beliefs_of_an_exact_filter(honest: jf.Calibration) -> None:
    assert honest.levels.shape == (RUNS, 2, 2)
    for column in honest.levels.reshape(RUNS, -1).mT.numpy():
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    assert honest.coverage(0.9) == pytest.approx(0.9, abs=3.5 * honest.coverage_error(0.9))


def test_the_standard_error_of_coverage_is_that_of_independent_runs(honest: jf.Calibration) -> None:
    # Four truths a run, correlated in part: between one and four independent ones.
    one = (0.9 * 0.1 / RUNS) ** 0.5
    assert 0.8 * one / 2 < honest.coverage_error(0.9) < 1.2 * one


def test_the_standard_error_of_coverage_counts_runs_and_not_readings() -> None:
    """Both readings of three runs are inside, of the fourth outside: shares 1, 1, 1 and 0, sd 1/2, over sqrt(4)."""
    levels = torch.tensor([0.5, 0.4, 0.6, 0.99]).double()[:, None, None].expand(4, 2, 1)
    found = jf.Calibration(torch.tensor([1.0, 2.0]), levels)
    assert found.coverage(0.9) == 0.75
    assert found.coverage_error(0.9) == pytest.approx(0.25)


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
    figure = calibration_figure(honest.levels[:, -1], "Kalman")
    left, right = figure.axes
    (first, _) = left.patches[-2:]
    assert first.get_data().values.sum() == RUNS
    line = next(line for line in right.lines if line.get_label() == "coordinate 1")
    inside = ((honest.levels[:, -1, 1] - 0.5).abs() <= 0.25).double().mean().item()
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    assert y[np.isclose(x, 0.5)].item() == pytest.approx(inside - 0.5, abs=1e-9)


def test_the_picture_says_how_many_of_many_coordinates_it_shows() -> None:
    drawn = torch.rand(20, 1, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    many, all_of = (calibration_figure(drawn[:, -1, :d], "it") for d in (32, 8))
    assert many.get_suptitle() == "it (20 simulated runs, last reading, first 8 of 32 coordinates)"
    assert all_of.get_suptitle() == "it (20 simulated runs, last reading)"
    for figure in (many, all_of):
        assert sum(str(line.get_label()).startswith("coordinate") for line in figure.axes[1].lines) == 8


@pytest.mark.parametrize("runs", [1, 2.5])
def test_too_few_runs_are_refused(runs: float) -> None:
    with pytest.raises(jf.InputError, match="runs must be an integer"):
        jf.calibrate(jf.KalmanFilter(ou()), TIMES, runs)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, 0.5])
def test_what_is_no_seed_is_refused(seed: float) -> None:
    with pytest.raises(jf.InputError, match="seed must be an integer of zero or more"):
        jf.calibrate(jf.KalmanFilter(ou()), TIMES, 2, seed)  # type: ignore[arg-type]


def test_what_is_no_filter_is_refused() -> None:
    with pytest.raises(jf.InputError, match="filter must be a filter"):
        jf.calibrate("kalman", TIMES, 2)  # type: ignore[arg-type]


class Broken(jf.LinearGaussian):
    """Reads well, but its likelihood is NaN on one side of the line."""

    def log_likelihood(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return super().log_likelihood(y, x) + (torch.nan if y[0] < 0 else 0.0)


@pytest.mark.parametrize("on_failure", ["raise", "report"])
def test_a_run_that_fails_is_named_with_its_seed_and_is_no_belief(on_failure: str) -> None:
    line = ou(d=1)
    broken = jf.StateSpaceModel(line.prior, line.sde, Broken([[1.0]], [[0.25]]))
    filter = jf.JKOFilter(broken, on_failure=on_failure)  # type: ignore[arg-type]
    # The first run with a reading that is negative.
    seeds = [derived_seed(0, "calibration", run) for run in range(20)]
    run = next(k for k, seed in enumerate(seeds) if jf.simulate(line, TIMES, seed, 0.1)[1].values.min() < 0)
    with pytest.raises(jf.FilterError, match=rf"^run {run} \(seed {seeds[run]}\) .* NaN or infinite at time"):
        jf.calibrate(filter, TIMES, 20, substep=0.1)


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
MATCHED = {"particles, same time": jf.ParticleFilter}
ONE = jf.Scenario("small", MODEL, {"kalman": jf.KalmanFilter}, "kalman", MATCHED, times=[0.5], substep=0.05)
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


def test_the_commands_seed_is_that_of_the_simulations(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(f"STUDY = False\n{SCENARIO}")
    arguments = [str(tmp_path / "one.py"), "--filter", "kalman", "--runs", "3", "--seed", "5", "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match="^0$"):
        main(["calibrate", *arguments])
    filter = jf.KalmanFilter(jf.Scenario.load(tmp_path / "one.py").model)
    five, other = (jf.calibrate(filter, [0.5], 3, seed, 0.05).levels.ravel().numpy() for seed in (5, 0))
    found = pd.read_csv(tmp_path / "levels.csv")["level"].to_numpy()
    np.testing.assert_allclose(found, five, rtol=1e-12)
    assert not np.allclose(found, other)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--filter", "none"], "has kalman"),
        (["--filter", "kalman", "--case", "x"], "stands alone"),
        (["--filter", "kalman", "--runs", "0"], "runs must be"),
        (["--filter", "kalman", "--seed", "-1"], "seed must be"),
        (["--filter", "particles, same time"], "size is chosen by the processor time of another filter"),
    ],
)
def test_what_cannot_be_calibrated_is_named_before_a_folder_is_made(
    arguments: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.py").write_text(f"STUDY = False\n{SCENARIO}")
    with pytest.raises(SystemExit, match="^2$"):
        main(["calibrate", str(tmp_path / "one.py"), *arguments, "--out", str(tmp_path / "out")])
    assert named in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_failing_run_ends_the_command_with_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = SCENARIO.replace("jf.LinearGaussian(EYE, EYE)", "jf.NonlinearGaussian(lambda x: x / (len(x) < 2), EYE)")
    (tmp_path / "one.py").write_text("STUDY = False\n" + broken.replace("jf.KalmanFilter", "jf.JKOFilter"))
    with pytest.raises(SystemExit, match="^1$"):
        main(["calibrate", str(tmp_path / "one.py"), "--filter", "kalman", "--out", str(tmp_path)])
    said = capsys.readouterr().err
    assert said.startswith(f"error: run 0 (seed {derived_seed(0, 'calibration')})")
    assert said.count("\n") == 1
