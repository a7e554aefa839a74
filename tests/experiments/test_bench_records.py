"""The file of records: whole lines or nothing, whatever happens to the process or the disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import jkofilter as jf
from jkofilter.experiments.sweep.folder import locked, prepare, read_sweep
from jkofilter.experiments.sweep.records import DAMAGED, RecordFile, key_of, latest, mend, read_records


def record(seed: int, **more: object) -> dict[str, object]:
    base = {"format": 1, "scenario": "s", "case": "", "dim": 1, "filter": "f", "role": "filter", "reference": "r"}
    return base | {"seed": seed, "status": "ok", "seconds": 0.25, "figures": [{"kl_filter": 0.1 + seed}]} | more


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "records.jsonl"
    writer = RecordFile(path)
    for seed in range(3):
        writer.append(record(seed))
    writer.close()
    return path


def test_records_come_back_as_they_were_written(file: Path) -> None:
    assert read_records(file) == ([record(seed) for seed in range(3)], b"")
    assert read_records(file.with_name("absent")) == ([], b"")


def test_numbers_that_json_lacks_are_written_as_json(tmp_path: Path) -> None:
    writer = RecordFile(tmp_path / "records.jsonl")
    writer.append(record(0, figures=[{"kl_filter": float("nan"), "kl_reference": float("inf")}]))
    writer.close()

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    line = json.loads((tmp_path / "records.jsonl").read_text(), parse_constant=refuse)
    assert line["figures"] == [{"kl_filter": None, "kl_reference": "inf"}]


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_a_last_line_cut_short_is_put_aside_and_nothing_else_is_lost(file: Path, cut: int) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-cut])
    told = mend(file)
    if cut == 1:
        # Only the end of the line was missing: the record is whole.
        assert (told, file.read_bytes()) == ("", content)
        return
    assert "cut short" in told
    assert file.read_bytes() == b"".join(content.splitlines(keepends=True)[:2])
    assert file.with_name(DAMAGED).read_bytes() == content.splitlines()[2][: -cut + 1] + b"\n"
    assert mend(file) == ""


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (json.dumps(record(9) | {"format": 0}), "another version"),
        (json.dumps({"scenario": "s"}), "another version"),
        (json.dumps({"format": 1}), "lacks scenario"),
        (json.dumps(record(9) | {"seed": [9]}), "lacks seed"),
        (json.dumps(record(9, figures=None)), "lacks figures"),
        ("not json", "not a record"),
        ("[1]", "not a record"),
    ],
)
def test_what_is_no_record_of_this_version_is_named_and_left_alone(file: Path, line: str, says: str) -> None:
    content = file.read_text() + line + "\n" + json.dumps(record(3)) + "\n"
    file.write_text(content)
    with pytest.raises(jf.InputError, match=f"line 4 .*{says}"):
        prepare(file.parent, resume=True)
    assert file.read_text() == content


def test_a_run_that_was_tried_again_counts_once_by_its_last_record(file: Path) -> None:
    records = [record(0, status="failed"), record(1), record(0)]
    assert [(key.seed, one["status"]) for key, one in latest(records).items()] == [(0, "ok"), (1, "ok")]
    assert str(key_of(records[0])) == "s: f, seed 0"


FULL = """
import sys
from pathlib import Path
import resource
from jkofilter.experiments.sweep.records import RecordFile
from jkofilter.errors import InputError
path = Path(sys.argv[1])
writer = RecordFile(path)
record = {"format": 1, "note": "x" * 300}
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    for k in range(9):
        writer.append(record)
except InputError as error:
    print(k, error)
"""


def test_a_disk_that_takes_half_a_line_keeps_none_of_it(tmp_path: Path) -> None:
    """The limit on the size of files makes the system take a part of a write, then refuse, as a full disk does."""
    path = tmp_path / "records.jsonl"
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    number, sentence = done.stdout.split(" ", 1)
    assert number == "3"
    assert "takes no more records (File too large)" in sentence
    assert "--resume" in sentence
    assert len(path.read_bytes().splitlines()) == 3
    assert path.read_bytes().endswith(b"\n")


def test_a_folder_takes_one_bench_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(jf.InputError, match="another bench"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_records_that_are_there_are_not_added_to_unasked(file: Path) -> None:
    with pytest.raises(jf.InputError, match="3 records; go on with --resume"):
        prepare(file.parent, resume=False)
    assert len(prepare(file.parent, resume=True)[0]) == 3


@pytest.mark.parametrize("text", ["{", '{"format": 2}', "[]"])
def test_a_sweep_file_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "bench.json").write_text(text)
    with pytest.raises(jf.InputError, match="bench.json"):
        read_sweep(tmp_path)


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    os.mkdir(tmp_path / "records.jsonl")
    with pytest.raises(jf.InputError, match="cannot be written"):
        RecordFile(tmp_path / "records.jsonl")
