"""Cubic splines of a few hundred nodes, compiled: building one takes a twentieth of SciPy's time, all of it overhead.

Not-a-knot at both ends (de Boor, A Practical Guide to Splines, chapter IV).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from jkofilter._typing import Array


@njit(cache=True)
def cubics(x: Array, y: Array) -> Array:
    """The not-a-knot spline through (x, y), at least four nodes.

    Args:
        x: increasing, (n,).
        y: (n,).

    Returns:
        (4, n - 1): on every interval, coefficients of the distance from its left end, highest power first.
    """
    n = x.shape[0]
    h = np.diff(x)
    chord = np.diff(y) / h
    # Slopes s solve h_i s_{i-1} + 2 (h_{i-1} + h_i) s_i + h_{i-1} s_{i+1} = 3 (h_i chord_{i-1} + h_{i-1} chord_i).
    diagonal, above, right = np.empty(n), np.empty(n), np.empty(n)
    span = h[0] + h[1]
    diagonal[0], above[0] = h[1], span
    right[0] = ((h[0] + 2.0 * span) * h[1] * chord[0] + h[0] * h[0] * chord[1]) / span
    for i in range(1, n - 1):
        factor = h[i] / diagonal[i - 1]
        diagonal[i] = 2.0 * (h[i - 1] + h[i]) - factor * above[i - 1]
        above[i] = h[i - 1]
        right[i] = 3.0 * (h[i] * chord[i - 1] + h[i - 1] * chord[i]) - factor * right[i - 1]
    span = h[n - 2] + h[n - 3]
    factor = span / diagonal[n - 2]
    last = h[n - 3] - factor * above[n - 2]
    end = (h[n - 2] * h[n - 2] * chord[n - 3] + (2.0 * span + h[n - 2]) * h[n - 3] * chord[n - 2]) / span
    slopes = np.empty(n)
    slopes[n - 1] = (end - factor * right[n - 2]) / last
    for i in range(n - 2, -1, -1):
        slopes[i] = (right[i] - above[i] * slopes[i + 1]) / diagonal[i]
    found = np.empty((4, n - 1))
    for i in range(n - 1):
        excess = (slopes[i] + slopes[i + 1] - 2.0 * chord[i]) / h[i]
        found[0, i] = excess / h[i]
        found[1, i] = (chord[i] - slopes[i]) / h[i] - excess
        found[2, i] = slopes[i]
        found[3, i] = y[i]
    return found


@njit(cache=True)
def value_at(edges: Array, coefficients: Array, points: Array) -> Array:
    """Values at ``points`` (n,) of the cubics between ``edges`` (k + 1,); the first and last hold beyond them."""
    cells = edges.shape[0] - 1
    found = np.empty(points.shape[0])
    cell = 0
    for i in range(points.shape[0]):
        at = points[i]
        # Points mostly come in order, so that the cell is near the one before.
        if not (edges[cell] <= at < edges[cell + 1]):
            if cell + 1 < cells and edges[cell + 1] <= at < edges[cell + 2]:
                cell += 1
            else:
                cell = min(max(np.searchsorted(edges, at, side="right") - 1, 0), cells - 1)
        t = at - edges[cell]
        found[i] = ((coefficients[0, cell] * t + coefficients[1, cell]) * t + coefficients[2, cell]) * t + coefficients[
            3, cell
        ]
    return found


@njit(cache=True)
def hermite_at(low: float, width: float, value: Array, slope: Array, points: Array) -> tuple[Array, Array]:
    """Values and slopes at ``points`` (n,) of the cubics with these values and slopes at equally spaced nodes.

    Args:
        low: the first node.
        width: between nodes.
        value: at the nodes, (k,).
        slope: there, (k,).
        points: the first and last cubic hold beyond the nodes.
    """
    n = points.shape[0]
    found, derivative = np.empty(n), np.empty(n)
    last = value.shape[0] - 2
    for i in range(n):
        at = (points[i] - low) / width
        cell = min(max(int(at), 0), last)
        t = at - cell
        rise = value[cell + 1] - value[cell]
        left, right = width * slope[cell] - rise, rise - width * slope[cell + 1]
        found[i] = value[cell] + t * (rise + (1.0 - t) * (left * (1.0 - t) + right * t))
        derivative[i] = (rise + left * (1.0 - t) * (1.0 - 3.0 * t) + right * t * (2.0 - 3.0 * t)) / width
    return found, derivative


def spline(x: Array, y: Array, points: Array) -> Array:
    """Values at ``points`` (k,) of the not-a-knot spline through (x, y), (n,) each; its end pieces hold beyond."""
    return np.asarray(value_at(x, cubics(x, y), points))
