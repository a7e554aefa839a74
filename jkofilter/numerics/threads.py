"""Blocks of work shared out among threads, each of which leaves torch's own alone.

Torch's threads divide one operation at a time and wait in between by spinning, which pays for large operations. A long
row of small ones is better divided as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")

BLOCK = 256
"""Points of a block: enough to pay for a thread, few enough that torch's operations on them stay within it."""


def blocks(x: Tensor) -> list[slice]:
    """Blocks of the rows of ``x``, whatever the number of threads; all in one on an accelerator, and for no rows."""
    n = max(len(x), 1)
    size = BLOCK if x.device.type == "cpu" else n
    return [slice(start, start + size) for start in range(0, n, size)]


def in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Results of ``work`` on every item, in order, on as many threads as torch would use.

    Gradients are recorded in ``work`` if they are here.
    """
    workers = min(torch.get_num_threads(), len(items))
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
