"""Files that were damaged in ways nobody thought of: what is read is what was written, or an InputError says so.

Quick and always the same by default; with ``--slow`` thousands of cases (``-k many``).
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import ODD, many, places, quick, read_or_refused, spoiled
from hypothesis import given
from hypothesis import strategies as st

import jkofilter as jf
from jkofilter.experiments.load import load as load_scenario

FILES = Path(__file__).parent / "filters" / "files"
SOUND: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "maps": ("jko_0.1.0.pt", jf.FilterResult.load),
    "gaussian": ("kalman_0.1.0.pt", jf.FilterResult.load),
    "flow": ("flow_0.1.0.pt", jf.JKOFlow.load),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def same(one: Any, other: Any) -> bool:
    """Whether two documents hold the same, NaN included."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one.nan_to_num(1.25), other.nan_to_num(1.25))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or (one != one and other != other)


def written(thing: Any, path: Path) -> Any:
    """The document of what ``thing`` saves."""
    thing.save(path)
    return torch.load(path, weights_only=True)


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
