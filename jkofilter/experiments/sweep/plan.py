"""What a sweep runs: every filter of every case on every seed, and which runs need the outcome of which."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from jkofilter.errors import InputError
from jkofilter.experiments.flow_study import FlowStudy
from jkofilter.experiments.scenario import FilterStudy, Scenario
from jkofilter.experiments.sweep.records import FORMAT, Key

AnyScenario: TypeAlias = Scenario | FilterStudy | FlowStudy


@dataclass(frozen=True, eq=False)
class Loaded:
    """A scenario file.

    Attributes:
        path: as given.
        digest: of its text; tells whether it has changed.
        content: its SCENARIO.
    """

    path: str
    digest: str
    content: AnyScenario


@dataclass(frozen=True)
class Task:
    """One run; plain data, so that it can be sent anywhere.

    Attributes:
        path: absolute path of the scenario file.
        shown: the path as given, for the record.
        digest: of the file's text.
        key: scenario, case, filter and seed.
        dim: state dimension d.
        role: "reference", "filter", "matched" (to the wall time of another) or "method" (of a flow study).
        reference: name of the filter this one is measured against; empty for a method.
        after: runs whose outcome this one needs: the reference, and for "matched" and "method" the one that sets its
            wall time, last.
        recorded: False for a run that is repeated only because others need its outcome.
    """

    path: str
    shown: str
    digest: str
    key: Key
    dim: int
    role: str
    reference: str = ""
    after: tuple[Key, ...] = ()
    recorded: bool = True

    def record(self, status: str, seconds: float | None, figures: Sequence[Mapping[str, float]]) -> dict[str, Any]:
        """The beginning of the record of this run."""
        where = {"format": FORMAT, "scenario": self.key.scenario, "path": self.shown, "case": self.key.case}
        who = {"dim": self.dim, "filter": self.key.filter, "role": self.role, "reference": self.reference}
        return where | who | {"seed": self.key.seed, "status": status, "seconds": seconds, "figures": list(figures)}


@dataclass(frozen=True)
class Result:
    """What a run leaves to those that need it.

    Attributes:
        reference: its belief and evidence, packed; None where it failed or has none to give.
        seconds: its wall time; None where it failed.
    """

    reference: bytes | None = None
    seconds: float | None = None


def load_all(paths: Sequence[str]) -> list[Loaded]:
    """The scenarios of the files.

    Raises:
        InputError: none, a file that is no scenario, or two of the same name.
    """
    if not paths:
        raise InputError("give at least one scenario file, such as scenarios/sine_1d.py.")
    found = [Loaded(path=path, content=Scenario.load(path), digest=digest_of(path)) for path in paths]
    names = [one.content.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two of the scenario files are named {name!r}; records could not be told apart.")
    return found


def digest_of(path: str) -> str:
    """Of the text of a scenario file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def cases_of(content: Scenario | FilterStudy) -> dict[str, Scenario]:
    """The filtering problems of a scenario or study by case; a scenario is its own only case, without a name."""
    if isinstance(content, Scenario):
        return {"": content}
    return {scenario.name: scenario for scenario in content.scenarios}


def filters_of(content: AnyScenario) -> list[str]:
    """Names of all filters or methods; the references last."""
    if isinstance(content, FlowStudy):
        return list(content.methods)
    if isinstance(content, FilterStudy):
        return content.filters
    names = [name for name in (*content.filters, *content.matched) if name != content.reference]
    return [*names, content.reference]


def tasks_of(loaded: Sequence[Loaded], names: Sequence[str] | None, seeds: Sequence[int] | None) -> list[Task]:
    """All runs, those that others need before them.

    Args:
        loaded: the scenarios.
        names: of filters and methods; a scenario that has none of them is left out. None takes all.
        seeds: None takes those of each scenario.

    Raises:
        InputError: a name is in none of the scenarios.
    """
    known = dict.fromkeys(name for one in loaded for name in filters_of(one.content))
    for name in names or ():
        if name not in known:
            raise InputError(f"filters names no filter or method {name!r}; there are {', '.join(known)}.")
    tasks: list[Task] = []
    for one in loaded:
        if isinstance(one.content, FlowStudy):
            tasks += _flow_tasks(one, one.content, names, seeds)
        else:
            for case, scenario in cases_of(one.content).items():
                tasks += _filter_tasks(one, case, scenario, names, seeds)
    return tasks


def _filter_tasks(
    loaded: Loaded, case: str, scenario: Scenario, names: Sequence[str] | None, seeds: Sequence[int] | None
) -> Iterable[Task]:
    own = None if names is None else [n for n in names if n in scenario.filters or n in scenario.matched]
    if own is not None and not own:
        return
    chosen = [name for name in scenario.select(own) if name != scenario.reference]
    matched = [name for name in scenario.matched if own is None or name in own]
    source = (str(Path(loaded.path).resolve()), loaded.path, loaded.digest)
    for seed in range(scenario.seeds) if seeds is None else seeds:

        def task(name: str, role: str, *after: str, seed: int = seed) -> Task:
            first, *others = (Key(loaded.content.name, case, one, seed) for one in (name, *after))
            return Task(*source, first, scenario.model.dim, role, scenario.reference, tuple(others))

        yield task(scenario.reference, "reference")
        yield from (task(name, "filter", scenario.reference) for name in chosen)
        yield from (task(name, "matched", scenario.reference, *chosen[:1]) for name in matched)


def _flow_tasks(
    loaded: Loaded, study: FlowStudy, names: Sequence[str] | None, seeds: Sequence[int] | None
) -> Iterable[Task]:
    methods = list(study.select(None if names is None else [name for name in names if name in study.methods]))
    source = (str(Path(loaded.path).resolve()), loaded.path, loaded.digest)
    for case in study.cases:
        for seed in range(study.seeds) if seeds is None else seeds:
            keys = [Key(study.name, case.name, name, seed) for name in methods if (name, case.name) not in study.skip]
            leads = keys[:1] if methods and keys and keys[0].filter == methods[0] else []
            for key in keys:
                yield Task(*source, key, case.dim, "method", after=tuple(leads if key not in leads else ()))


def remaining(
    tasks: Sequence[Task], done: Mapping[Key, Mapping[str, Any]], retry_failed: bool
) -> tuple[list[Task], dict[Key, Result]]:
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
    known: dict[Key, Result] = {}
    for task in tasks:
        record = finished.get(task.key)
        if record is None:
            left.append(task)
        elif task.key in needed:
            good = record["status"] == "ok"
            if good and task.role == "reference":
                left.append(replace(task, recorded=False))
            else:
                known[task.key] = Result(None, record["seconds"] if good else None)
    return left, known


def described(one: Loaded) -> dict[str, Any]:
    """What a report must know of a scenario, as plain data."""
    content = one.content
    if isinstance(content, FlowStudy):
        cases = [{"name": case.name, "dim": case.dim, "reference": "", "note": case.note} for case in content.cases]
    else:
        cases = [
            {"name": name, "dim": case.model.dim, "reference": case.reference, "note": ""}
            for name, case in cases_of(content).items()
        ]
    return {
        "name": content.name,
        "path": one.path,
        "digest": one.digest,
        "kind": type(content).__name__,
        "description": content.description,
        "filters": filters_of(content),
        "cases": cases,
        "published": [asdict(figure) for figure in content.published],
    }
