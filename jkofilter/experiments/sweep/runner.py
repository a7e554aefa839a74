"""Running a sweep: into a folder, where what is done stays done, or in this process, where runs leave more."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch

from jkofilter.errors import InputError
from jkofilter.experiments.contract import Experiment, Left
from jkofilter.experiments.sweep.environment import commit
from jkofilter.experiments.sweep.executors import InProcess, RunExecutor, dask_cluster, local_processes
from jkofilter.experiments.sweep.folder import locked, prepare, write_sweep
from jkofilter.experiments.sweep.plan import Loaded, Task, described, remaining, tasks_of
from jkofilter.experiments.sweep.records import RECORDS, RecordFile, latest
from jkofilter.experiments.sweep.schedule import schedule
from jkofilter.experiments.sweep.worker import Outcome, Workplace, perform_elsewhere


@dataclass(frozen=True)
class Sweep:
    """What to run and where.

    Attributes:
        scenarios: of ``load_all``.
        filters: names of filters and methods; None for all.
        seeds: None for those of each scenario.
        workers: processes of this machine.
        dask: address of a Dask scheduler whose workers to take instead.
        threads: of each run. One by default, whatever the number of workers: they do not fight, and the figures of
            seeded filters are the same for any number of them.
        out: folder of the records.
        resume: go on with the records that are there.
        retry_failed: run again what failed before.
        command: as typed, for those who want to repeat it.
    """

    scenarios: Sequence[Loaded]
    filters: Sequence[str] | None = None
    seeds: Sequence[int] | None = None
    workers: int = 1
    dask: str | None = None
    threads: int = 1
    out: str = os.path.join("out", "bench")
    resume: bool = False
    retry_failed: bool = False
    command: str = ""

    def executor(self) -> AbstractContextManager[RunExecutor]:
        """Who computes it."""
        return local_processes(self.workers, self.threads) if self.dask is None else dask_cluster(self.dask)


@dataclass(frozen=True)
class Watch:
    """Who is told how it goes.

    Attributes:
        warn: of what is odd but does not stop the sweep.
        begin: of how many runs there are in all, and how many of them are done already.
        done: of each record; of a sweep into a folder once it is on disk.
    """

    warn: Callable[[str], None] = lambda sentence: None
    begin: Callable[[int, int], None] = lambda total, kept: None
    done: Callable[[dict[str, Any]], None] = field(default=lambda record: None)


def run_sweep(sweep: Sweep, watch: Watch | None = None) -> list[dict[str, Any]]:
    """Run what is left of a sweep.

    Returns:
        The records of this call, in the order in which they came.

    Raises:
        InputError: an argument cannot be used, the folder holds records and ``resume`` is not asked for, the cluster
            cannot be reached or goes away, or the disk takes no more.
    """
    told = watch or Watch()
    tasks = tasks_of(sweep.scenarios, sweep.filters, sweep.seeds)
    if sweep.workers < 1 or sweep.threads < 1:
        raise InputError(f"workers and threads must be at least one, got {sweep.workers} and {sweep.threads}.")
    with locked(sweep.out) as folder:
        records, warnings = prepare(folder, sweep.resume)
        left, known = remaining(tasks, latest(records), sweep.retry_failed)
        where = {"workers": sweep.workers} if sweep.dask is None else {"dask": sweep.dask}
        now, stand = datetime.now(UTC).isoformat(timespec="seconds"), commit()
        command = {"command": sweep.command, "started": now, "threads": sweep.threads, "commit": stand} | where
        new = sum(task.recorded for task in left)
        made: list[dict[str, Any]] = []
        # Before anything is written: a cluster that does not answer leaves no trace.
        with sweep.executor() as executor:
            for sentence in (*warnings, *write_sweep(folder, [described(one) for one in sweep.scenarios], command)):
                told.warn(sentence)
            told.begin(len(tasks), len(tasks) - new)
            file = RecordFile(folder / RECORDS)

            def done(task: Task, outcome: Outcome) -> None:
                if task.recorded:
                    record = outcome.record | {"commit": stand}
                    file.append(record)
                    made.append(record)
                    told.done(record)

            try:
                # References are run again for others alone: not where all is done.
                schedule(left if new else [], known, executor, perform_elsewhere, sweep.threads, done)
            finally:
                file.close()
    return made


@dataclass(frozen=True, eq=False)
class Ran:
    """What runs in this process made.

    Attributes:
        records: in the order in which they came.
        seed: the first, of which what pictures are made of is kept.
        kept: by case and method, of the runs that did not fail.
    """

    records: Sequence[dict[str, Any]]
    seed: int
    kept: Mapping[tuple[str, str], Any]


def require_threads(threads: int) -> None:
    """Raise InputError unless there is at least one."""
    if threads < 1:
        raise InputError(f"threads must be at least one, got {threads}.")


def run_here(
    experiment: Experiment,
    filters: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    threads: int = 1,
    keep: bool = True,
    watch: Watch | None = None,
) -> Ran:
    """Run an experiment in this process, without a folder.

    Args:
        experiment: what is run.
        filters: names of filters and methods; None for all.
        seeds: None for its own.
        threads: of each run.
        keep: keep of the first seed what pictures are made of.
        watch: who is told how it goes.

    Raises:
        InputError: an argument cannot be used; nothing was run then.
    """
    told = watch or Watch()
    tasks = tasks_of([Loaded(experiment)], filters, seeds)
    require_threads(threads)
    first, place = tasks[0].run.seed, Workplace(experiment)
    records: list[dict[str, Any]] = []
    kept: dict[tuple[str, str], Any] = {}

    def perform(task: Task, needs: Sequence[Left], threads: int) -> Outcome:
        return place.perform(task, needs, keep and task.run.seed == first)

    def done(task: Task, outcome: Outcome) -> None:
        records.append(outcome.record)
        if outcome.kept is not None:
            kept[task.run.case, task.run.method] = outcome.kept
        told.done(outcome.record)

    told.begin(len(tasks), 0)
    with _threads(threads):
        schedule(tasks, {}, InProcess(), perform, threads, done)
    return Ran(records, first, kept)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
