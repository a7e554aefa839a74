"""The command line: what a user types, what a user mistypes, and what comes of it."""

import queue
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
from bench_scenarios import FAMILY, FLOW, MATCHED, MODEL, SMALL, write

import jkofilter as jf
from jkofilter.cli.app import main
from jkofilter.experiments.command.options import parse_names, parse_seeds

ROOT = Path(__file__).parents[2]


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
    "no threads": (["run", "SMALL", "--threads", "0"], "threads"),
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


def test_version_and_list(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert run(capsys, "--version")[1].strip() == jf.__version__
    text = run(capsys, "list")[1]
    assert all(name in text for name in ("sine_1d", "volatility_1d", "glacial_1d", "particle-kde"))


def test_seeds_are_a_number_or_a_range() -> None:
    assert parse_seeds(None) is None
    assert parse_seeds("2") == [0, 1]
    assert parse_seeds("4:6") == [4, 5]


def test_names_that_hold_commas_are_told_from_lists_of_names() -> None:
    known = ["JKO", "particles, 100000", "particles, same time"]
    assert parse_names("JKO, particles, 100000,nobody", known) == ["JKO", "particles, 100000", "nobody"]
    assert parse_names(None, known) is None


PICTURES = {
    "line": {"density_over_time.png", "final_densities.png", "box_plots.png"},
    "family": {"error.png"},
    "flow": {"error_symmetric_kl.png"},
}
KINDS = {"line": SMALL, "family": FAMILY, "flow": FLOW}


@pytest.mark.parametrize("plots", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_writes_its_tables_and_draws_unless_told_not_to(
    kind: str, plots: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = write(tmp_path, **{kind: KINDS[kind]})
    out = tmp_path / "out"
    code, text, _ = run(capsys, "run", path, "--seeds", "1", "--out", str(out), *([] if plots else ["--no-plots"]))
    assert code == 0
    assert {file.name for file in out.iterdir()} == {"runs.csv", "summary.csv"} | (PICTURES[kind] if plots else set())
    assert "CPU" in text


def test_the_screen_tells_medians_of_all_runs_and_worst_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = write(tmp_path, flow=FLOW)
    _, text, _ = run(capsys, "run", path, "--no-plots", "--out", str(tmp_path / "out"))
    summary = pd.read_csv(tmp_path / "out" / "summary.csv")
    row = next(line for line in text.splitlines() if "t = 0.5" in line and " 400 " in line and " 0.5 " in line)
    own = summary[(summary["case"] == "t = 0.5") & (summary["filter"] == 400) & (summary["time"] == 0.5)].iloc[0]
    assert f"{own['symmetric_kl_median']:.3g}"[:4] in row
    assert "symmetric KL" in text
    assert "400 particles" in text


def test_a_lead_that_fails_is_no_reason_to_be_silent_about_what_was_matched_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = "def broken(model):\n    raise ValueError('no')\n\n"
    (path,) = write(tmp_path, m=MODEL + broken + MATCHED.replace(MODEL, "").replace(
        "matched=", 'filters={"broken": broken, "exact": jf.KalmanFilter}, seeds=1, matched='
    ))  # fmt: skip
    code, _, said = run(capsys, "run", path, "--no-plots", "--out", str(tmp_path / "out"))
    assert code == 1
    assert "error: matched: broken, seed 0: ValueError: no (m.py, line " in said
    assert "error: matched: same time, seed 0: not run: the filter that sets its processor time failed" in said
    assert len(pd.read_csv(tmp_path / "out" / "runs.csv")) == 3


WAITING = (
    MODEL
    + """
import time
from pathlib import Path


def waiting(model):
    while not (Path(__file__).parent / "go").exists():
        time.sleep(0.01)
    return ensemble(model)


SCENARIO = scenario("line", filters={"waiting": waiting, "exact": jf.KalmanFilter}, seeds=1)
"""
)


def test_progress_is_told_while_runs_go_on_where_there_is_no_terminal(tmp_path: Path) -> None:
    (path,) = write(tmp_path, waiting=WAITING)
    command = [sys.executable, "-c", "from jkofilter.cli.app import main; main()", "run", path, "--no-plots"]
    told: queue.Queue[str] = queue.Queue()
    with subprocess.Popen([*command, "--out", str(tmp_path / "o")], stdout=subprocess.PIPE, text=True) as process:
        reader = threading.Thread(target=lambda: [told.put(line) for line in process.stdout or ()])
        reader.start()
        assert told.get(timeout=120) == "2 runs\n"
        first = told.get(timeout=120)
        (tmp_path / "go").touch()
        assert first.startswith("done: line: exact, seed 0, ")
        assert first.endswith(" s\n")
        assert told.get(timeout=120).startswith("done: line: waiting, seed 0, ")
        reader.join(120)
    assert process.returncode == 0
