"""What a sweep runs: every method of every case on every seed, and which runs need the outcome of which."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jkofilter.errors import InputError
from jkofilter.experiments.contract import Experiment, Left, Measured, Run
from jkofilter.experiments.load import load
from jkofilter.experiments.sweep.records import FORMAT, Key


@dataclass(frozen=True)
class Source:
    """The file of an experiment; all is empty where it is run from this process alone.

    Attributes:
        path: absolute.
        shown: the path as given, for the record.
        digest: of its text; tells whether it has changed.
    """

    path: str = ""
    shown: str = ""
    digest: str = ""


@dataclass(frozen=True, eq=False)
class Loaded:
    """An experiment and where it comes from."""

    experiment: Experiment
    source: Source = Source()


@dataclass(frozen=True)
class Task:
    """One run; plain data, so that it can be sent anywhere.

    Attributes:
        source: where the experiment is to be had.
        scenario: name of the experiment.
        run: what is run.
        recorded: False for a run that is repeated only because others need its outcome.
    """

    source: Source
    scenario: str
    run: Run
    recorded: bool = True

    @property
    def key(self) -> Key:
        """What the run is known by."""
        return Key(self.scenario, self.run.case, self.run.method, self.run.seed)

    @property
    def after(self) -> tuple[Key, ...]:
        """Runs whose outcome this one needs, as ``run.needs``."""
        return tuple(self.key._replace(filter=name) for name in self.run.needs)

    def record(self, made: Measured) -> dict[str, Any]:
        """The beginning of the record of this run."""
        run = self.run
        where = {"format": FORMAT, "scenario": self.scenario, "path": self.source.shown, "case": run.case}
        who = {"dim": run.dim, "filter": run.method, "role": run.role, "reference": run.reference, "seed": run.seed}
        times = {"seconds": made.seconds, "processor_seconds": made.processor_seconds}
        said = {"figures": [dict(row) for row in made.figures], "remark": made.remark, "note": made.note}
        return where | who | {"status": made.status} | times | said | {"settings": dict(made.settings)}


def load_all(paths: Sequence[str]) -> list[Loaded]:
    """The experiments of the files.

    Raises:
        InputError: none, a file that is no experiment, or two of the same name.
    """
    if not paths:
        raise InputError("give at least one scenario file, such as scenarios/sine_1d.py.")
    found = [Loaded(load(path), Source(str(Path(path).resolve()), path, digest_of(path))) for path in paths]
    names = [one.experiment.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two of the scenario files are named {name!r}; records could not be told apart.")
    return found


def digest_of(path: str) -> str:
    """Of the text of a scenario file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def tasks_of(loaded: Sequence[Loaded], names: Sequence[str] | None, seeds: Sequence[int] | None) -> list[Task]:
    """All runs, those that others need before them.

    Args:
        loaded: the experiments.
        names: of methods; an experiment that has none of them is left out. None takes all.
        seeds: None takes those of each experiment.

    Raises:
        InputError: a name is in none of the experiments, or there is nothing to run.
    """
    known = dict.fromkeys(name for one in loaded for name in one.experiment.methods)
    for name in names or ():
        if name not in known:
            raise InputError(f"filters names no filter or method {name!r}; there are {', '.join(known)}.")
    tasks = [
        Task(one.source, one.experiment.name, run)
        for one in loaded
        for run in one.experiment.planned(names, seeds)
    ]  # fmt: skip
    if not tasks:
        raise InputError("seeds must hold at least one seed, and filters a method that some case does not skip.")
    return tasks


def remaining(
    tasks: Sequence[Task], done: Mapping[Key, Mapping[str, Any]], retry_failed: bool
) -> tuple[list[Task], dict[Key, Left]]:
    """What is left to run, and what is known of runs that are done.

    A reference that is done but whose belief others still need is run again, unrecorded.

    Args:
        tasks: all of them.
        done: records by key.
        retry_failed: run again what failed.
    """
    finished = {key: one for key, one in done.items() if one["status"] == "ok" or not retry_failed}
    needed = {key for task in tasks if task.key not in finished for key in task.after}
    left: list[Task] = []
    known: dict[Key, Left] = {}
    for task in tasks:
        record = finished.get(task.key)
        if record is None:
            left.append(task)
        elif task.key in needed:
            good = record["status"] == "ok"
            if good and task.run.role == "reference":
                left.append(replace(task, recorded=False))
            else:
                # Records of earlier versions know the wall time alone.
                known[task.key] = Left(None, record.get("processor_seconds", record["seconds"]) if good else None)
    return left, known


def described(one: Loaded) -> dict[str, Any]:
    """What a report must know of an experiment, as plain data."""
    experiment = one.experiment
    return {
        "name": experiment.name,
        "path": one.source.shown,
        "digest": one.source.digest,
        "description": experiment.description,
        "filters": list(experiment.methods),
        "measures": list(experiment.measures),
        "cases": [
            {"name": case.name, "dim": case.dim, "reference": case.reference, "note": case.note}
            for case in experiment.cases
        ],
        "published": [asdict(figure) for figure in experiment.published],
    }
