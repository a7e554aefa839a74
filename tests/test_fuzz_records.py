"""Records, scenarios and tables damaged in ways nobody thought of: read as they stand, or an InputError says so.

Quick and always the same by default; with ``--slow`` thousands of cases (``-k many``).
"""

from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fuzzing import ODD, many, places, quick, read_or_refused, refused, spoiled
from hypothesis import given
from hypothesis import strategies as st

import jkofilter as jf
from jkofilter.experiments.load import load as load_scenario
from jkofilter.experiments.sweep.folder import prepare, write_sweep
from jkofilter.experiments.sweep.records import DAMAGED, RECORDS, RecordFile, mend, read_records


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


# --- records of sweeps -----------------------------------------------------------------------------------------------


def record(seed: int) -> dict[str, Any]:
    base = {"format": 1, "scenario": "s", "case": "", "dim": 1, "filter": "ünd", "role": "filter", "reference": "r"}
    return base | {"seed": seed, "status": "ok", "seconds": 0.25, "figures": [{"kl_filter": 0.1 + seed}]}


def hurt_records(examples: int, folder: Path) -> None:
    file = folder / "sweep" / RECORDS
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    writer = RecordFile(file)
    for seed in range(4):
        writer.append(record(seed))
    writer.close()
    content = file.read_bytes()

    @quick(examples)
    @given(st.integers(0, len(content)), st.binary(max_size=30) | st.text(max_size=20).map(str.encode), st.booleans())
    def check(at: int, junk: bytes, cut: bool) -> None:
        damaged = content[:at] + junk + (b"" if cut else content[at:])
        file.write_bytes(damaged)
        aside = file.with_name(DAMAGED)
        aside.unlink(missing_ok=True)
        failed, found = refused(lambda: prepare(file.parent, resume=True)[0])
        if failed:
            # Not a byte of it has been touched.
            assert file.read_bytes() == damaged
            assert not aside.exists()
            return
        # Whole before the damage, hence there; and nothing is lost, neither what was mended nor what was put aside.
        whole = content[:at].count(b"\n")
        assert found[:whole] == [record(seed) for seed in range(whole)]
        kept = file.read_bytes() + (aside.read_bytes() if aside.exists() else b"")
        assert kept in (damaged, damaged + b"\n")
        writer = RecordFile(file)
        writer.append(record(9))
        writer.close()
        assert read_records(file) == ([*found, record(9)], b"")
        assert mend(file) == ""

    check()


def test_records_before_damage_survive_it(folder: Path) -> None:
    hurt_records(20, folder)


@many
def test_many_damaged_records(folder: Path) -> None:
    hurt_records(4000, folder)


def hurt_sweeps(examples: int, folder: Path) -> None:
    place = folder / "known"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    write_sweep(place, [{"name": "s", "digest": "d", "filters": {"f": {"type": "F"}}}], {"command": "bench"})
    file = place / "bench.json"
    document = json.loads(file.read_text())

    @quick(examples)
    @given(st.sampled_from(places(document)), st.sampled_from(ODD[:17]), st.booleans(), st.floats(0, 1))
    def check(path: tuple[Any, ...], value: Any, remove: bool, share: float) -> None:
        text = json.dumps(spoiled(document, path, value, remove))
        hurt = text if share > 0.3 else text[: int(len(text) * share / 0.3)]
        file.write_text(hurt)
        if refused(lambda: write_sweep(place, [{"name": "s", "digest": "d"}], {"command": "again"}))[0]:
            assert file.read_text() == hurt
        else:
            assert json.loads(file.read_text())["commands"][-1] == {"command": "again"}

    check()


def test_a_damaged_account_of_a_sweep_is_refused_and_kept(folder: Path) -> None:
    hurt_sweeps(30, folder)


@many
def test_many_damaged_accounts(folder: Path) -> None:
    hurt_sweeps(3000, folder)


# --- scenarios and readings ------------------------------------------------------------------------------------------


def hurt_scenarios(examples: int, folder: Path, sound: str) -> None:
    file = folder / "hurt.py"

    @quick(examples)
    @given(st.integers(0, len(sound)), st.text(max_size=12) | st.binary(max_size=6), st.booleans())
    def check(at: int, junk: str | bytes, cut: bool) -> None:
        middle = junk.encode() if isinstance(junk, str) else junk
        file.write_bytes(sound[:at].encode() + middle + (b"" if cut else sound[at:].encode()))
        read_or_refused(load_scenario, file)

    check()


SCENARIO = """
import jkofilter as jf
import torch

PRIOR = torch.distributions.Normal(0.0, 1.0)
MODEL = jf.StateSpaceModel(PRIOR, jf.LangevinSDE(jf.Quadratic(0.0, 1.0)), jf.LinearGaussian(1.0, 0.5))
SCENARIO = jf.Scenario("small", "a walk", MODEL, [0.5, 1.0], {"kalman": jf.KalmanFilter}, seeds=1)
"""


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_scenario_loads_or_is_refused(folder: Path) -> None:
    hurt_scenarios(12, folder, SCENARIO)


@many
@pytest.mark.filterwarnings("ignore")
def test_many_damaged_scenarios(folder: Path) -> None:
    hurt_scenarios(1500, folder, SCENARIO)


CELLS = (
    st.floats(-1e6, 1e6).map(repr)
    | st.sampled_from(
        [
            "",
            "NA",
            "nan",
            "None",
            "-",
            "1,5",
            "1e400",
            "-inf",
            "inf",
            "abc",
            "\u2212" + "1",
            " 3 ",
            '"4"',
            "1_000",
            "True",
        ]
        + ["2024-01-01", "2024-13-45", "01.02.2024", "1e-400", "0x1F", "9" * 400, "\u0663", "<NA>", "#N/A", "?", "\x00"]
    )
    | st.text(max_size=4).map(lambda text: text.replace("\n", "").replace("\r", "").replace(",", ""))
)


def dirty_tables(examples: int) -> None:
    @quick(examples)
    @given(st.lists(st.tuples(CELLS, CELLS), max_size=5), st.sampled_from([None, "s", "day", "year"]), st.booleans())
    def check(rows: list[tuple[str, str]], unit: str | None, ordered: bool) -> None:
        lines = [f"{k}.5,{y}" if ordered else f"{t},{y}" for k, (t, y) in enumerate(rows)]
        try:
            frame = pd.read_csv(StringIO("t,y\n" + "\n".join(lines)), dtype=None)
        except (ValueError, OverflowError):
            return  # not for pandas either
        start = None if ordered else -1e300
        failed, series = refused(lambda: jf.ObservationSeries.from_frame(frame, "t", ["y"], unit, start=start))
        if failed:
            return
        # What is taken is what stands there: numbers as they are, gaps as NaN.
        wanted = pd.to_numeric(frame["y"], errors="coerce").to_numpy(dtype=float)
        np.testing.assert_array_equal(series.values[:, 0].numpy(), wanted)
        assert (series.times.diff() > 0).all()

    check()


@pytest.mark.filterwarnings("ignore")
def test_a_dirty_table_is_read_as_it_stands_or_refused() -> None:
    dirty_tables(50)


@many
@pytest.mark.filterwarnings("ignore")
def test_many_dirty_tables() -> None:
    dirty_tables(6000)
