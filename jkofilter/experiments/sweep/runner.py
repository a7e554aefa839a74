"""Running a sweep into a folder: what is done stays done, what is left is run, each run one record."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from jkofilter.errors import InputError
from jkofilter.experiments.sweep.environment import commit
from jkofilter.experiments.sweep.executors import Crew, dask_crew, local_crew
from jkofilter.experiments.sweep.folder import locked, prepare, write_sweep
from jkofilter.experiments.sweep.plan import Loaded, Task, described, remaining, tasks_of
from jkofilter.experiments.sweep.records import RECORDS, RecordFile, latest
from jkofilter.experiments.sweep.schedule import drive
from jkofilter.experiments.sweep.worker import Outcome


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

    def crew(self) -> AbstractContextManager[Crew]:
        """Who computes it."""
        return local_crew(self.workers, self.threads) if self.dask is None else dask_crew(self.dask)


@dataclass(frozen=True)
class Watch:
    """Who is told how it goes.

    Attributes:
        warn: of what is odd but does not stop the sweep.
        begin: of how many runs there are in all, and how many of them are done already.
        done: of each record, once it is on disk.
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
    if not tasks:
        raise InputError("seeds must hold at least one seed.")
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
        with sweep.crew() as crew:
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
                drive(left if new else [], known, crew, sweep.threads, done)
            finally:
                file.close()
    return made
