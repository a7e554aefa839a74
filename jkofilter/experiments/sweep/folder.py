"""The folder of a sweep: its records, what the sweep is, and a lock so that only one writes to it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jkofilter.errors import InputError
from jkofilter.experiments.sweep.records import FORMAT, RECORDS, mend, read_records
from jkofilter.files import require_writable, written_whole

SWEEP, LOCK = "bench.json", ".lock"


@contextmanager
def locked(out: str | os.PathLike[str]) -> Iterator[Path]:
    """The folder, made if it is not there, and this process the only one to write to it.

    Raises:
        InputError: it cannot be written to, or another process holds it.
    """
    folder = require_writable(out)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            # The system gives it up with the process, however that ends.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"out {str(out)!r} is being written to by another bench; give another --out.") from error
        yield folder
    finally:
        os.close(descriptor)


def prepare(folder: Path, resume: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """The records that are there, mended where the last one was cut short, and warnings.

    Raises:
        InputError: there are records but resume is not asked for, or they cannot be read.
    """
    file = folder / RECORDS
    records, rest = read_records(file)
    if (records or rest) and not resume:
        raise InputError(
            f"out {str(folder)!r} holds {len(records)} records; go on with --resume, or give another --out."
        )
    warning = mend(file)
    return records, [warning] if warning else []


def read_sweep(folder: Path) -> dict[str, Any]:
    """What ``write_sweep`` wrote; an empty sweep where there is none.

    Raises:
        InputError: the file is damaged or of another format.
    """
    file = folder / SWEEP
    try:
        sweep = json.loads(file.read_text(), parse_constant=_no_number)
    except FileNotFoundError:
        return {"format": FORMAT, "scenarios": {}, "commands": []}
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read; remove it and run the bench again with --resume.") from error
    if not isinstance(sweep, dict) or sweep.get("format") != FORMAT:
        raise InputError(
            f"{file} was written by another version of jkofilter; this one reads format {FORMAT}: give another --out."
        )
    scenarios, commands = sweep.get("scenarios"), sweep.get("commands")
    if not (isinstance(scenarios, dict) and isinstance(commands, list)) or not all(
        isinstance(one, dict) and isinstance(one.get("digest"), str) for one in scenarios.values()
    ):
        raise InputError(f"{file} is damaged; remove it and run the bench again with --resume.")
    return sweep


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def write_sweep(folder: Path, scenarios: Sequence[Mapping[str, Any]], command: Mapping[str, Any]) -> list[str]:
    """Add scenarios and the command that runs them to what the folder knows of its sweep.

    Returns:
        Warnings, of scenarios that have changed since.

    Raises:
        InputError: as of ``read_sweep``, or the file cannot be written.
    """
    sweep = read_sweep(folder)
    known: dict[str, Any] = sweep["scenarios"]
    changed = [one["name"] for one in scenarios if known.get(one["name"], one)["digest"] != one["digest"]]
    known |= {one["name"]: dict(one) for one in scenarios}
    sweep["commands"].append(dict(command))
    text = json.dumps(sweep, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    try:
        written_whole(folder / SWEEP, lambda path: path.write_text(text))
    except OSError as error:
        raise InputError(f"{folder / SWEEP} cannot be written ({error.strerror}).") from error
    return [f"scenario {name} has changed since its first records; the old ones are kept." for name in changed]
