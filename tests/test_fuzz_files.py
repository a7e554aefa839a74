"""Files that were damaged in ways nobody thought of: what is read is what was written, or an InputError says so.

Quick and always the same by default; with ``--slow`` thousands of cases (``-k many``).
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jkofilter as jf
from jkofilter.experiments.load import load as load_scenario
from jkofilter.experiments.sweep.folder import prepare, write_sweep
from jkofilter.experiments.sweep.records import DAMAGED, RECORDS, RecordFile, mend, read_records

FILES = Path(__file__).parent / "filters" / "files"
SOUND: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "maps": ("jko_0.1.0.pt", jf.FilterResult.load),
    "gaussian": ("kalman_0.1.0.pt", jf.FilterResult.load),
    "flow": ("flow_0.1.0.pt", jf.JKOFlow.load),
}


def quick(examples: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def many(test: Callable[[], None]) -> Callable[[], None]:
    return pytest.mark.slow(test)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


# --- what is done to a file ------------------------------------------------------------------------------------------

ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    10**30,
    -0.5,
    float("nan"),
    float("inf"),
    1e308,
    "",
    "hünch \u2603 \x00",
    "x" * 5000,
    [],
    [None],
    [[1.0, 2.0]],
    {},
    {"a": 1},
    (),
    torch.empty(0, dtype=torch.float64),
    torch.zeros(2, dtype=torch.float64),
    torch.zeros(3, 2, dtype=torch.float64),
    torch.zeros(2, 2, 2, dtype=torch.float64),
    torch.zeros(2, dtype=torch.int64),
    torch.tensor(1.5, dtype=torch.float64),
    torch.tensor([1.0 + 2.0j]),
]
"""What may stand where something else should."""


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in a document of tables and lists an entry stands."""
    if isinstance(document, dict):
        entries: Any = document.items()
    elif isinstance(document, list | tuple):
        entries = enumerate(document)
    else:
        return []
    found: list[tuple[Any, ...]] = []
    for key, value in entries:
        found += [(*path, key), *places(value, (*path, key))]
    return found


def spoiled(document: Any, path: tuple[Any, ...], value: Any, remove: bool) -> Any:
    """A copy with the entry at ``path`` removed or replaced."""
    key, rest = path[0], path[1:]
    copy = dict(document) if isinstance(document, dict) else list(document)
    if rest:
        copy[key] = spoiled(copy[key], rest, value, remove)
    elif remove:
        del copy[key]
    else:
        copy[key] = value
    return copy if isinstance(document, dict | list) else type(document)(copy)


def same(one: Any, other: Any) -> bool:
    """Whether two documents hold the same, NaN included."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one.nan_to_num(1.25), other.nan_to_num(1.25))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or (one != one and other != other)


def refused(act: Callable[[], Any]) -> tuple[bool, Any]:
    """Whether ``act`` is refused, in one sentence; and what it gives if it is not."""
    try:
        return False, act()
    except jf.InputError as error:
        message = str(error)
    assert message.endswith("."), message
    assert "\n" not in message, message
    return True, None


def written(thing: Any, path: Path) -> Any:
    """The document of what ``thing`` saves."""
    thing.save(path)
    return torch.load(path, weights_only=True)


def read_or_refused(load: Callable[[Any], Any], path: Path) -> Any:
    """What is read, or None where that is refused."""
    return refused(lambda: load(path))[1]


def used(thing: Any) -> None:
    """Whatever was read can be used."""
    if isinstance(thing, jf.FilterResult):
        assert len(thing.to_frame()) == len(thing)
        assert isinstance(thing.status, str)
        assert isinstance(thing.note, str)
        law = thing.final
    else:
        law = thing.final
    assert law.mean.shape == (law.dim,)
    assert law.covariance.shape == (law.dim, law.dim)
    assert law.log_prob(torch.zeros(2, law.dim, dtype=torch.float64)).shape == (2,)
    assert isinstance(law.time + law.log_evidence, float)


# --- results and flows -----------------------------------------------------------------------------------------------


def sound(name: str, folder: Path) -> tuple[Path, Callable[[Any], Any]]:
    """A file as it is written today."""
    source, load = SOUND[name]
    file = folder / f"{name}.pt"
    if not file.exists():
        load(FILES / source).save(file)
    return file, load


def flip_bits(examples: int, folder: Path) -> None:
    @quick(examples)
    @given(st.sampled_from(list(SOUND)), st.data())
    def check(name: str, data: st.DataObject) -> None:
        file, load = sound(name, folder)
        content = bytearray(file.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        hurt = folder / "hurt.pt"
        hurt.write_bytes(content)
        found = read_or_refused(load, hurt)
        if found is not None:
            assert same(written(found, folder / "a.pt"), written(load(file), folder / "b.pt"))

    check()


def cut_short(examples: int, folder: Path) -> None:
    @quick(examples)
    @given(st.sampled_from(list(SOUND)), st.floats(0, 1), st.binary(max_size=40))
    def check(name: str, share: float, more: bytes) -> None:
        file, load = sound(name, folder)
        content = file.read_bytes()
        hurt = folder / "hurt.pt"
        kept = content[: int(share * len(content))] + more
        hurt.write_bytes(kept)
        found = read_or_refused(load, hurt)
        if found is not None:
            assert same(written(found, folder / "a.pt"), written(load(file), folder / "b.pt"))

    check()


def swap_entries(examples: int, folder: Path) -> None:
    documents = {name: torch.load(sound(name, folder)[0], weights_only=True) for name in SOUND}

    @quick(examples)
    @given(st.sampled_from(list(SOUND)), st.data())
    def check(name: str, data: st.DataObject) -> None:
        file, load = sound(name, folder)
        path = data.draw(st.sampled_from(places(documents[name])))
        value, remove = data.draw(st.sampled_from(ODD)), data.draw(st.booleans())
        hurt = folder / "hurt.pt"
        torch.save(spoiled(documents[name], path, value, remove), hurt)
        found = read_or_refused(load, hurt)
        if found is not None:
            used(found)

    check()


def test_a_result_or_flow_with_bits_flipped_is_what_it_was_or_is_refused(folder: Path) -> None:
    flip_bits(25, folder)


def test_a_result_or_flow_cut_short_is_refused(folder: Path) -> None:
    cut_short(20, folder)


def test_a_result_or_flow_with_an_entry_gone_or_another_in_its_place_is_refused_or_can_be_used(folder: Path) -> None:
    swap_entries(40, folder)


@many
def test_many_results_and_flows_with_bits_flipped(folder: Path) -> None:
    flip_bits(3000, folder)
    cut_short(1000, folder)


@many
def test_many_results_and_flows_with_entries_swapped(folder: Path) -> None:
    swap_entries(6000, folder)


class Bomb:
    """Writes a file where it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("name", list(SOUND))
@pytest.mark.parametrize("how", ["bare", "entry", "format", "zip", "old"])
def test_no_code_in_a_file_runs(name: str, how: str, tmp_path: Path, folder: Path) -> None:
    sound_file, load = sound(name, folder)
    bomb, file = Bomb(tmp_path / "went-off"), tmp_path / "file.pt"
    document = torch.load(sound_file, weights_only=True)
    if how == "bare":
        file.write_bytes(pickle.dumps(bomb))
    elif how == "entry":
        torch.save(document | {"infos": [bomb]}, file)
    elif how == "format":
        torch.save(document | {"format": bomb}, file)
    elif how == "zip":
        torch.save(bomb, file)
    else:
        torch.save(document | {"infos": bomb}, file, _use_new_zipfile_serialization=False)
    assert read_or_refused(load, file) is None
    assert not bomb.target.exists()
    # It would have gone off.
    pickle.loads(pickle.dumps(bomb))
    assert bomb.target.exists()


@pytest.mark.parametrize("load", [jf.FilterResult.load, jf.JKOFlow.load, load_scenario])
def test_folders_missing_and_empty_files_are_refused(load: Callable[[Any], Any], tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_bytes(b"")
    (tmp_path / "folder.py").mkdir()
    for name in ("empty.py", "folder.py", "absent.py", "näme \u2603.py", "empty.py/within.py"):
        assert read_or_refused(load, tmp_path / name) is None


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
