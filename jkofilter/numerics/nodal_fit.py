"""Laws on elements fitted to a log density that can be evaluated anywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jkofilter._typing import Array
from jkofilter.numerics.elements import ANALYSIS, Elements

_DEPTH = 40.0
"""Nats below its maximum to which a law is carried."""
_RESOLVED = 1e-5
_PASSES = 200
_GROWN = 60
_STEEP = 3.0
_SHORTEST = 1e-12
_FIRST = 12


class Law(NamedTuple):
    """Masses (N,) at the nodes of elements."""

    elements: Elements
    masses: Array


def fitted(
    log_density: Callable[[Array], Array], low: float, high: float, walls: tuple[float, float], most: int
) -> tuple[Law, float]:
    """Elements that cover a law and resolve it, its masses there, and the log of the mass it had.

    Args:
        log_density: at increasing points (n,) of the walls' interval, any constant; minus infinity where there is none.
        low: where to begin looking,
        high: and where to end.
        walls: beyond which the elements do not go, on either side; infinite where there are none.
        most: elements not to be exceeded.

    Returns:
        The law, and minus infinity where the search found no mass.
    """
    low, high = max(low, walls[0]), min(high, walls[1])
    edges = np.linspace(low, high, _FIRST + 1)
    for _ in range(_PASSES):
        elements = Elements(edges)
        value = log_density(elements.nodes)
        top = float(value.max())
        if not np.isfinite(top):
            return Law(elements, np.zeros(elements.size)), -np.inf
        grown = _grown(edges, value, top, walls)
        if grown is not None and edges.size <= _GROWN:
            edges = grown
            continue
        chosen = _rough(elements, value - top) & (elements.halves > _SHORTEST * np.abs(edges[1:]) + 1e-300)
        if not chosen.any() or edges.size - 1 + int(chosen.sum()) > most:
            break
        edges = _trimmed(elements, value - top, chosen)
    masses = elements.weights * np.exp(value - top)
    total = float(masses.sum())
    return Law(elements, masses / total), top + float(np.log(total))


def _grown(edges: Array, value: Array, top: float, walls: tuple[float, float]) -> Array | None:
    """More elements beyond ends where there still is mass; None where there is none."""
    added = [edges]
    if value[0] > top - _DEPTH and edges[0] > walls[0]:
        start = max(edges[0] - 0.5 * (edges[-1] - edges[0]), walls[0])
        added.insert(0, np.linspace(start, edges[0], _FIRST // 2 + 1)[:-1])
    if value[-1] > top - _DEPTH and edges[-1] < walls[1]:
        end = min(edges[-1] + 0.5 * (edges[-1] - edges[0]), walls[1])
        added.append(np.linspace(edges[-1], end, _FIRST // 2 + 1)[1:])
    return None if len(added) == 1 else np.concatenate(added)


def _rough(elements: Elements, depth: Array) -> Array:
    """Elements on which the density is no polynomial yet, or may hide a peak between its nodes, (k,)."""
    parts = depth[elements.by_element]
    highest = np.abs(np.exp(parts) @ ANALYSIS[-2:].T).sum(-1)
    with np.errstate(invalid="ignore"):
        jumps = np.nan_to_num(np.abs(np.diff(parts, axis=-1)), nan=0.0, posinf=0.0)
    # A parabola that falls this much from node to node may rise as much between them.
    near = np.argmax(parts, axis=-1)
    rows = np.arange(len(parts))
    beside = np.maximum(jumps[rows, np.maximum(near - 1, 0)], jumps[rows, np.minimum(near, jumps.shape[1] - 1)])
    hiding = (beside > _STEEP) & (parts.max(-1) + beside > -_DEPTH)
    return np.asarray((highest > _RESOLVED) | hiding)


def _trimmed(elements: Elements, depth: Array, chosen: Array) -> Array:
    """Edges after halving the chosen elements, without empty elements at both ends."""
    edges = elements.edges
    held = np.flatnonzero((depth[elements.by_element].max(-1) > -2.0 * _DEPTH) | chosen)
    first, last = int(held[0]), int(held[-1]) + 1
    middles = 0.5 * (edges[:-1] + edges[1:])[chosen]
    return np.asarray(np.sort(np.append(edges[first : last + 1], middles)))
