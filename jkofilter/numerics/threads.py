"""How many threads work on what: torch's own on large operations only, blocks of work on all that the caller allows.

Torch's threads divide one operation at a time and wait for each other by spinning. Beside other work on the same cores
the wait is for the scheduler, some 20 ms an operation however small, so a long row of small operations is left to one
thread, or divided as a whole into blocks, whose threads wait asleep.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")

BLOCK = 256
"""Points of a block: enough to pay for a thread, few enough that torch's operations on them stay within it."""

LARGE = 2**22
"""Numbers in the arrays of an operation from which torch's threads may share it. On two cores with four others waiting
for each, products and factors of so many numbers took a fifth more processor time on two threads than on one; sines of
a twentieth of them six times as much."""


class _Here(threading.local):
    """Of this thread: how many threads the caller allows, or None outside of every block."""

    allowed: int | None = None


_here = _Here()


@contextmanager
def threads_for(size: int) -> Iterator[None]:
    """Torch on one thread, or on as many as the caller allows where ``size`` is at least ``LARGE``; then as before.

    Blocks may stand within each other: all go by the number found by the outermost. Other threads keep their own
    numbers; only one that first uses torch meanwhile starts out with the number in force here.

    Args:
        size: numbers in the largest arrays of the work.
    """
    before, outside = torch.get_num_threads(), _here.allowed
    _here.allowed = before if outside is None else outside
    _set(_here.allowed if size >= LARGE else 1)
    try:
        yield
    finally:
        _here.allowed = outside
        _set(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread, be the work as large as it may; ``in_threads`` still takes all that the caller allows."""
    with threads_for(0):
        yield


def _set(number: int) -> None:
    # Every call also sets the number of threads yet to start, which is not ours to touch without need.
    if torch.get_num_threads() != number:
        torch.set_num_threads(number)


def blocks(x: Tensor) -> list[slice]:
    """Blocks of the rows of ``x``, whatever the number of threads; all in one on an accelerator, and for no rows."""
    n = max(len(x), 1)
    size = BLOCK if x.device.type == "cpu" else n
    return [slice(start, start + size) for start in range(0, n, size)]


def in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Results of ``work`` on every item, in order, on as many threads as the caller allows torch.

    Gradients are recorded in ``work`` if they are here.
    """
    workers = min(_here.allowed or torch.get_num_threads(), len(items))
    if workers <= 1:
        return [work(item) for item in items]
    recording = torch.is_grad_enabled()

    def elsewhere(item: Item) -> Result:
        with torch.set_grad_enabled(recording):
            return work(item)

    return list(_pool(workers).map(elsewhere, items))


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "jkofilter", initializer=torch.set_num_threads, initargs=(1,))
    # Threads that others start later take the last number set by anyone.
    list(pool.map(lambda _: None, range(workers)))
    torch.set_num_threads(before)
    return pool


# A forked process has no threads but the one that forked.
os.register_at_fork(after_in_child=_pool.cache_clear)
