"""Records of runs as JSON lines: one run a line, appended whole, never rewritten."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from jkofilter.errors import InputError

FORMAT = 1
RECORDS, DAMAGED = "records.jsonl", "records.damaged"

FIELDS: Mapping[str, Any] = {
    **dict.fromkeys(("scenario", "case", "filter", "role", "reference", "status"), str),
    **dict.fromkeys(("dim", "seed"), int),
    "seconds": float | int | None,
    "figures": list,
}
"""What every record must have to be read, and as what; other fields tell where and how it was made."""


class Key(NamedTuple):
    """What a run is known by; case is empty for a scenario that is not a study."""

    scenario: str
    case: str
    filter: str
    seed: int

    def __str__(self) -> str:
        where = f"{self.scenario}, {self.case}" if self.case else self.scenario
        return f"{where}: {self.filter}, seed {self.seed}"


def key_of(record: Mapping[str, Any]) -> Key:
    """The key of a record."""
    return Key(record["scenario"], record["case"], record["filter"], record["seed"])


def latest(records: Iterable[Mapping[str, Any]]) -> dict[Key, Mapping[str, Any]]:
    """By key, in the order of their first appearance; of a run that was tried again, the last record."""
    return {key_of(record): record for record in records}


def jsonable(value: Any) -> Any:
    """``value`` without the numbers JSON lacks: NaN as None, infinities as text that ``float`` reads."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return value


class RecordFile:
    """Appends records to a file, each as one write of one line, on disk before the next.

    Args:
        path: made if it is not there.

    Raises:
        InputError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise InputError(f"{path} cannot be written to ({error.strerror}); give another --out.") from error

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record; where the disk does not take it whole, nothing of it stays.

        Raises:
            InputError: the disk is full or fails; the records before stay as they are.
        """
        line = (json.dumps(jsonable(record), allow_nan=False, ensure_ascii=False) + "\n").encode()
        before = os.fstat(self._file).st_size
        try:
            # A disk that is filling up takes a part of a write, more than once perhaps, before it refuses.
            while line:
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)
        except OSError as error:
            # What cannot be cut off either is put aside when the sweep is resumed.
            with suppress(OSError):
                os.ftruncate(self._file, before)
            raise InputError(
                f"{self._path} takes no more records ({error.strerror}); those before are kept: make room and go on "
                "with --resume."
            ) from error

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_records(path: Path) -> tuple[list[dict[str, Any]], bytes]:
    """All records of a file, and the bytes of a last line that was cut short (none otherwise).

    Raises:
        InputError: a line other than the last is no record, or a record is of another format.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], b""
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error
    lines = content.split(b"\n")
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        record = _parsed(line)
        if record is None and number == len(lines):
            return records, line
        if record is None:
            raise InputError(f"line {number} of {path} is not a record; mend or remove it. Nothing was changed.")
        if record.get("format") != FORMAT:
            raise InputError(
                f"line {number} of {path} is a record of format {record.get('format')!r}, written by another version "
                f"of jkofilter; this one reads format {FORMAT}: give another --out, or that version. Nothing was "
                "changed."
            )
        if lacking := [name for name, kind in FIELDS.items() if not isinstance(record.get(name, ...), kind)]:
            raise InputError(f"line {number} of {path} lacks {', '.join(lacking)}, or has it wrong; mend or remove it.")
        records.append(record)
    return records, b""


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def mend(path: Path) -> str:
    """Make a file that was cut short end with a whole line; what is cut off goes to records.damaged beside it.

    Returns:
        What was done, in a sentence; empty where there was nothing to do.

    Raises:
        InputError: as of ``read_records``; or the files cannot be written to.
    """
    _, rest = read_records(path)
    try:
        if rest:
            with path.with_name(DAMAGED).open("ab") as aside:
                aside.write(rest + b"\n")
            os.truncate(path, path.stat().st_size - len(rest))
            return f"the last line of {path} was cut short; it is now in {DAMAGED}, and its run is repeated."
        if path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            with path.open("ab") as file:
                file.write(b"\n")
    except OSError as error:
        raise InputError(f"{path} cannot be mended ({error.strerror}).") from error
    return ""
