"""The schedule of a sweep: each run as soon as what it needs is there, a few ahead of the workers and no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from typing import Any, TypeAlias

from jkofilter.errors import InputError
from jkofilter.experiments.contract import Left, Measured
from jkofilter.experiments.sweep.environment import machine, versions
from jkofilter.experiments.sweep.executors import RunExecutor
from jkofilter.experiments.sweep.plan import Task
from jkofilter.experiments.sweep.records import Key
from jkofilter.experiments.sweep.worker import Outcome

Perform: TypeAlias = Callable[[Task, Sequence[Left], int], Outcome]
"""Given a task, what the runs it comes after left, and the threads of the run."""


def schedule(
    tasks: Sequence[Task],
    known: Mapping[Key, Left],
    executor: RunExecutor,
    perform: Perform,
    threads: int,
    on_done: Callable[[Task, Outcome], None],
) -> None:
    """Run all tasks, and report each as soon as it is done.

    When a worker dies, which may take its fellows with it, the runs that were handed out are repeated one by one: that
    which kills its worker alone is reported as failed, and the others go on.

    Args:
        tasks: in an order in which each comes after those it needs.
        known: what runs that are done already left.
        executor: computes them.
        perform: one task; a function of a module where the executor is elsewhere.
        threads: of each run.
        on_done: called in this process.

    Raises:
        InputError: the executor has gone for good.
    """
    results = dict(known)
    users = Counter(key for task in tasks for key in task.after)
    waiting, suspects = list(tasks), list[Task]()
    running: dict[Future[Any], Task] = {}
    while waiting or suspects or running:
        room = (1 if suspects else executor.room) - len(running)
        for task in _ready(suspects or waiting, results, room):
            needs = tuple(results[key] for key in task.after)
            running[executor.submit(perform, task, needs, threads)] = task
        assert running, "tasks wait for what no task gives"
        finished = wait(running, return_when=FIRST_COMPLETED).done
        if any(isinstance(_error(future), BrokenExecutor) for future in finished):
            wait(running)
            broken = [future for future in running if isinstance(_error(future), BrokenExecutor)]
            finished = running.keys() - set(broken) if len(running) > 1 else set(running)
            if len(running) > 1:
                suspects += [running.pop(future) for future in broken]
            executor.restart()
        for future in finished:
            task = running.pop(future)
            outcome = _outcome(task, future, executor, threads)
            on_done(task, outcome)
            results[task.key] = outcome.left
            for key in task.after:
                users[key] -= 1
            # Beliefs can be large: none is kept longer than somebody needs it.
            for key in {task.key, *task.after}:
                if not users[key]:
                    results.pop(key, None)


def _ready(queue: list[Task], results: Mapping[Key, Left], room: int) -> list[Task]:
    """Takes the first few tasks out of the queue that have all they need."""
    chosen: list[Task] = []
    for task in queue:
        if len(chosen) >= room:
            break
        if all(key in results for key in task.after):
            chosen.append(task)
    for task in chosen:
        queue.remove(task)
    return chosen


def _error(future: Future[Any]) -> BaseException | None:
    try:
        return future.exception() if future.done() else None
    except CancelledError as error:
        return error


def _outcome(task: Task, future: Future[Any], executor: RunExecutor, threads: int) -> Outcome:
    error = _error(future)
    if error is None:
        outcome: Outcome = future.result()
        return outcome
    if reason := executor.gone(error):
        raise InputError(f"{reason}; finished records are kept, go on with --resume.")
    status = "its worker process died, perhaps for want of memory."
    if not isinstance(error, BrokenExecutor):
        status = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    where = {"threads": threads, "versions": versions(), "machine": machine()}
    return Outcome(task.record(Measured(status)) | where)
