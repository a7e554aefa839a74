"""What a worker does with a task: run, measure, and hand back a record. It writes no file."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import torch

from jkofilter.errors import InputError
from jkofilter.experiments.contract import Experiment, Left, Measured
from jkofilter.experiments.failures import sentence
from jkofilter.experiments.load import load
from jkofilter.experiments.sweep.environment import machine, versions
from jkofilter.experiments.sweep.plan import Source, Task, digest_of
from jkofilter.numerics.threads import one_thread

# Threads of one process would share its processor time, and the seconds of both would mean nothing.
_ALONE = threading.Lock()


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a task.

    Attributes:
        record: without the commit.
        left: to the runs that need it.
        kept: for the pictures, where it was asked for.
    """

    record: dict[str, Any]
    left: Left = Left()
    kept: Any = None


@dataclass(frozen=True, eq=False)
class Workplace:
    """An experiment in this process, and what of it has been warmed up."""

    experiment: Experiment
    warm: set[tuple[str, str]] = field(default_factory=set)

    def perform(self, task: Task, needs: Sequence[Left], keep: bool = False) -> Outcome:
        """Run a task; whatever goes wrong in it becomes the record's status.

        Args:
            task: what to run.
            needs: left by the runs it comes after, in their order.
            keep: keep what pictures are made of.
        """
        run, started = task.run, datetime.now(UTC)
        try:
            if (run.case, run.method) not in self.warm:
                self.experiment.warm_up(run)
                self.warm.add((run.case, run.method))
            # Threads spin against each other over small arrays; large work still takes all that are allowed.
            with one_thread():
                made = self.experiment.perform(run, dict(zip(run.needs, needs, strict=True)), keep)
        except Exception as error:
            made = Measured(sentence(error))
        return Outcome(task.record(made) | _circumstances(started), made.left, made.kept if keep else None)


def _circumstances(started: datetime) -> dict[str, Any]:
    where = {"threads": torch.get_num_threads(), "started": started.isoformat(timespec="milliseconds")}
    return where | {"versions": versions(), "machine": machine()}


def perform_elsewhere(task: Task, needs: Sequence[Left], threads: int) -> Outcome:
    """Run a task in a process that knows nothing: load the experiment, unpack what others left, pack what this leaves.

    Args:
        task: what to run.
        needs: left by the runs it comes after, in their order, packed.
        threads: of torch, within this run.
    """
    with _ALONE:
        torch.set_num_threads(threads)
        try:
            workplace = _workplace(task.source)
        except Exception as error:
            return Outcome(task.record(Measured(sentence(error))) | _circumstances(datetime.now(UTC)))
        return _packed(workplace.perform(task, [_unpacked(left) for left in needs]))


@lru_cache(maxsize=8)
def _workplace(source: Source) -> Workplace:
    experiment = load(source.path)
    # Edited since the sweep began, or another file on a worker elsewhere: its figures would pass for those asked.
    if digest_of(source.path) != source.digest:
        raise InputError(f"scenario {source.path!r} is not the file that the sweep began with; run the bench again.")
    return Workplace(experiment)


def _packed(outcome: Outcome) -> Outcome:
    left = outcome.left
    # Only references have one that anybody asks for.
    if left.yardstick is None or outcome.record["role"] != "reference":
        return replace(outcome, left=left._replace(yardstick=None))
    try:
        return replace(outcome, left=left._replace(yardstick=pickle.dumps(left.yardstick)))
    except Exception as error:
        remark = f"its belief cannot be sent to the other filters, which are not compared: {sentence(error)}"
        return replace(outcome, record=outcome.record | {"remark": remark}, left=left._replace(yardstick=None))


def _unpacked(left: Left) -> Left:
    return left if left.yardstick is None else left._replace(yardstick=pickle.loads(left.yardstick))
