"""Fourth-order finite differences on a uniform index."""

from __future__ import annotations

import numpy as np

from jkofilter._typing import Array

_ONE_SIDED = np.array([[-25.0, 48.0, -36.0, 16.0, -3.0], [-3.0, -10.0, 18.0, -6.0, 1.0]]) / 12.0


def first_difference(x: Array) -> Array:
    """dx/ds at every index s = 0, 1, ..., n - 1: five-point centred, lower order in the last two nodes of each end.

    The end stencils are the shortest ones on purpose: they keep a monotone ``x`` monotone and are exact for an
    affine ``x``, and the nodes they serve carry a mass far below rounding.
    """
    d = np.empty_like(x)
    d[2:-2] = (8.0 * (x[3:-1] - x[1:-3]) - (x[4:] - x[:-4])) / 12.0
    d[1] = 0.5 * (x[2] - x[0])
    d[-2] = 0.5 * (x[-1] - x[-3])
    d[0] = x[1] - x[0]
    d[-1] = x[-1] - x[-2]
    return d


def second_difference(x: Array) -> Array:
    """d2x/ds2 at every index; zero at the two ends, three-point next to them, five-point inside."""
    d = np.empty_like(x)
    d[2:-2] = (16.0 * (x[3:-1] + x[1:-3]) - (x[4:] + x[:-4]) - 30.0 * x[2:-2]) / 12.0
    d[1] = x[2] - 2.0 * x[1] + x[0]
    d[-2] = x[-1] - 2.0 * x[-2] + x[-3]
    d[0] = d[-1] = 0.0
    return d


def smooth_first_difference(x: Array) -> Array:
    """dx/ds to fourth order at every index, one-sided at the ends: for data that need not stay monotone."""
    d = first_difference(x)
    d[:2] = _ONE_SIDED @ x[:5]
    d[-2:] = (-_ONE_SIDED @ x[:-6:-1])[::-1]
    return d
