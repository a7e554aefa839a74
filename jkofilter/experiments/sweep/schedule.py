"""Keeping a crew busy: each run as soon as what it needs is there, a few ahead of the workers and no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from typing import Any

from jkofilter.errors import InputError
from jkofilter.experiments.sweep.environment import machine, versions
from jkofilter.experiments.sweep.executors import Crew
from jkofilter.experiments.sweep.plan import Result, Task
from jkofilter.experiments.sweep.records import Key
from jkofilter.experiments.sweep.worker import Outcome, perform

AHEAD = 2
"""Runs handed out for every one that is being computed: none waits for this process, few are lost with it."""


def drive(
    tasks: Sequence[Task],
    known: Mapping[Key, Result],
    crew: Crew,
    threads: int,
    on_done: Callable[[Task, Outcome], None],
) -> None:
    """Run all tasks, and report each as soon as it is done.

    When a worker dies, which may take its fellows with it, the runs that were handed out are repeated one by one: that
    which kills its worker alone is reported as failed, and the others go on.

    Args:
        tasks: in an order in which each comes after those it needs.
        known: results of runs that are done already.
        crew: computes them.
        threads: for each run.
        on_done: called in this process.

    Raises:
        InputError: the crew has gone for good.
    """
    results = dict(known)
    users = Counter(key for task in tasks for key in task.after)
    waiting, suspects = list(tasks), list[Task]()
    running: dict[Future[Any], Task] = {}
    while waiting or suspects or running:
        room = (1 if suspects else AHEAD * crew.slots) - len(running)
        for task in _ready(suspects or waiting, results, room):
            needs = tuple(results[key] for key in task.after)
            running[crew.submit(perform, task, needs, threads)] = task
        assert running, "tasks wait for what no task gives"
        finished = wait(running, return_when=FIRST_COMPLETED).done
        if any(isinstance(_error(future), BrokenExecutor) for future in finished):
            wait(running)
            broken = [future for future in running if isinstance(_error(future), BrokenExecutor)]
            finished = running.keys() - set(broken) if len(running) > 1 else set(running)
            if len(running) > 1:
                suspects += [running.pop(future) for future in broken]
            crew.restart()
        for future in finished:
            task = running.pop(future)
            outcome = _outcome(task, future, crew, threads)
            on_done(task, outcome)
            results[task.key] = outcome.result
            for key in task.after:
                users[key] -= 1
            # Beliefs can be large: none is kept longer than somebody needs it.
            for key in {task.key, *task.after}:
                if not users[key]:
                    results.pop(key, None)


def _ready(queue: list[Task], results: Mapping[Key, Result], room: int) -> list[Task]:
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


def _outcome(task: Task, future: Future[Any], crew: Crew, threads: int) -> Outcome:
    error = _error(future)
    if error is None:
        outcome: Outcome = future.result()
        return outcome
    if reason := crew.gone(error):
        raise InputError(f"{reason}; finished records are kept, go on with --resume.")
    status = "its worker process died, perhaps for want of memory."
    if not isinstance(error, BrokenExecutor):
        status = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    where = {"threads": threads, "versions": versions(), "machine": machine()}
    return Outcome(task.record(status, None, ()) | where, Result())
