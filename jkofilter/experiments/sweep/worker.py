"""What a worker does with a task: load the scenario, run, measure, and hand back a record. It writes no file."""

from __future__ import annotations

import pickle
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from jkofilter.errors import InputError
from jkofilter.experiments.flow_study import FlowStudy
from jkofilter.experiments.runs import MethodRun, Reference, matched_filter, run_method, run_one, warm_up
from jkofilter.experiments.scenario import Scenario
from jkofilter.experiments.sweep.environment import machine, versions
from jkofilter.experiments.sweep.plan import AnyScenario, Result, Task, cases_of, digest_of
from jkofilter.filters.contract import Filter
from jkofilter.models.state_space import StateSpaceModel

# Threads of one process would share its processor time, and the seconds of both would mean nothing.
_ALONE = threading.Lock()


@dataclass(frozen=True)
class Outcome:
    """A record without the commit, and what the run leaves to others."""

    record: dict[str, Any]
    result: Result


def perform(task: Task, needs: tuple[Result, ...], threads: int) -> Outcome:
    """Run a task; whatever goes wrong in it becomes the record's status.

    Args:
        task: what to run.
        needs: of the runs it comes after, in their order.
        threads: of torch, within this run.
    """
    with _ALONE:
        torch.set_num_threads(threads)
        started, start = datetime.now(UTC), perf_counter()
        try:
            record, result = _run(task, needs)
        except Exception as error:
            record, result = task.record(_sentence(error), perf_counter() - start, ()), Result()
    where = {"threads": threads, "started": started.isoformat(timespec="milliseconds")}
    return Outcome(record | where | {"versions": versions(), "machine": machine()}, result)


@lru_cache(maxsize=8)
def _scenario(path: str, digest: str) -> AnyScenario:
    content = Scenario.load(path)
    # Edited since the sweep began, or another file on a worker elsewhere: its figures would pass for those asked.
    if digest_of(path) != digest:
        raise InputError(f"scenario {path!r} is not the file that the sweep began with; run the bench again.")
    return content


def _run(task: Task, needs: tuple[Result, ...]) -> tuple[dict[str, Any], Result]:
    content = _scenario(task.path, task.digest)
    if isinstance(content, FlowStudy):
        run = _run_method(task, content, needs)
        done = Result(None, run.seconds if run.status == "ok" else None)
        remark = "" if run.carried is None else run.carried.remark
        return task.record(run.status, run.seconds, run.figures) | {"remark": remark, "settings": {}}, done
    return _run_filter(task, cases_of(content)[task.key.case], needs)


def _run_method(task: Task, study: FlowStudy, needs: tuple[Result, ...]) -> MethodRun:
    case = next(case for case in study.cases if case.name == task.key.case)
    budget = needs[0].seconds if needs else None
    return run_method(case, study.methods[task.key.filter], task.key.seed, budget or 0.0)


def _run_filter(task: Task, scenario: Scenario, needs: tuple[Result, ...]) -> tuple[dict[str, Any], Result]:
    seed, name = task.key.seed, task.key.filter
    series = scenario.data(seed)[1]
    reference: Reference | None = None
    if needs and needs[0].reference is not None:
        reference = pickle.loads(needs[0].reference)
    if task.role == "matched":
        budget = needs[1].seconds if len(needs) > 1 else None
        if budget is None:
            return task.record("not run: the filter that sets its wall time failed.", None, ()), Result()
        item = matched_filter(scenario, name, series, seed, budget)
    else:
        item = scenario.filters[name](scenario.model)
        _warmed_up(task.path, task.digest, task.key.case, name)
    run = run_one(scenario, item, series, seed, reference)
    figures = {} if run.result is None else {"time": run.result.final.time} | dict(run.figures)
    packed, remark = _packed(run.reference) if task.role == "reference" else (None, "")
    if task.role == "matched":
        remark = f"{getattr(item, 'particles', 'unknown')} particles"
    record = task.record(run.status, run.seconds, [figures] if figures else [])
    done = Result(packed, run.seconds if run.status == "ok" else None)
    return record | {"remark": remark, "settings": settings_of(item)}, done


@lru_cache(maxsize=256)
def _warmed_up(path: str, digest: str, case: str, name: str) -> None:
    """Once a process: the first run of a filter loads and compiles what it needs."""
    content = _scenario(path, digest)
    assert not isinstance(content, FlowStudy)
    scenario = cases_of(content)[case]
    warm_up(scenario.filters[name](scenario.model), scenario.data(0)[1])


def _packed(reference: Reference | None) -> tuple[bytes | None, str]:
    try:
        return (None if reference is None else pickle.dumps(reference)), ""
    except Exception as error:
        return None, f"its belief cannot be sent to the other filters, which are not compared: {_sentence(error)}"


def settings_of(item: Filter) -> dict[str, Any]:
    """The settings of a filter as plain data, its model left out."""
    return {"type": type(item).__name__} | _plain_fields(item)


def _plain_fields(item: object) -> dict[str, Any]:
    if not is_dataclass(item):
        return {}
    values = {field.name: getattr(item, field.name, None) for field in fields(item)}
    return {name: _plain(value) for name, value in values.items() if not isinstance(value, StateSpaceModel)}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return value.tolist() if value.numel() <= 16 else f"tensor {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value[:16]]
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__} | _plain_fields(value)
    # The name alone: a default repr holds an address that differs from run to run.
    return getattr(value, "__qualname__", type(value).__name__)


def _sentence(error: Exception) -> str:
    """Type, first line and place of an error, in one line."""
    first = (str(error).splitlines() or [""])[0]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {first}{place}"
