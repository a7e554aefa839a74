"""What the fuzz tests share: odd values, places in documents, refusals in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

import jkofilter as jf


def quick(examples: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def many(test: Callable[[], None]) -> Callable[[], None]:
    return pytest.mark.slow(test)


ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    10**30,
    -0.5,
    float("nan"),
    float("inf"),
    1e308,
    "",
    "hünch \u2603 \x00",
    "x" * 5000,
    [],
    [None],
    [[1.0, 2.0]],
    {},
    {"a": 1},
    (),
    torch.empty(0, dtype=torch.float64),
    torch.zeros(2, dtype=torch.float64),
    torch.zeros(3, 2, dtype=torch.float64),
    torch.zeros(2, 2, 2, dtype=torch.float64),
    torch.zeros(2, dtype=torch.int64),
    torch.tensor(1.5, dtype=torch.float64),
    torch.tensor([1.0 + 2.0j]),
]
"""What may stand where something else should."""


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in a document of tables and lists an entry stands."""
    if isinstance(document, dict):
        entries: Any = document.items()
    elif isinstance(document, list | tuple):
        entries = enumerate(document)
    else:
        return []
    found: list[tuple[Any, ...]] = []
    for key, value in entries:
        found += [(*path, key), *places(value, (*path, key))]
    return found


def spoiled(document: Any, path: tuple[Any, ...], value: Any, remove: bool) -> Any:
    """A copy with the entry at ``path`` removed or replaced."""
    key, rest = path[0], path[1:]
    copy = dict(document) if isinstance(document, dict) else list(document)
    if rest:
        copy[key] = spoiled(copy[key], rest, value, remove)
    elif remove:
        del copy[key]
    else:
        copy[key] = value
    return copy if isinstance(document, dict | list) else type(document)(copy)


def refused(act: Callable[[], Any]) -> tuple[bool, Any]:
    """Whether ``act`` is refused, in one sentence; and what it gives if it is not."""
    try:
        return False, act()
    except jf.InputError as error:
        message = str(error)
    assert message.endswith("."), message
    assert "\n" not in message, message
    return True, None


def read_or_refused(load: Callable[[Any], Any], path: Path) -> Any:
    """What is read, or None where that is refused."""
    return refused(lambda: load(path))[1]
