"""Nodes for a density on the line, placed by its own logarithm.

Everything here works on log densities, so that tails of mass 1e-80 keep their shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.special import log_ndtr, ndtr

from jkofilter._typing import Array
from jkofilter.numerics.differences import first_difference
from jkofilter.numerics.splines import spline

DEPTH = 100.0
"""Nats below its maximum to which a density is carried: 14 standard deviations of a Gaussian."""

TROUGH = 60.0
"""Nats below the lower of two modes to which the trough between them is followed: the kink in a deeper one rings."""

_TROUGH_SOFTNESS = 2.5

_CORE = 5.0
"""Nats below the maximum that hold nearly all mass: where a kink is looked for, and what an edge is narrow against."""

_SHARES = ((0.45, 0.25), (0.25, 0.04), (0.30, 0.0))
"""(share of the nodes, power of the density they follow): the core, the tails to 1e-40, the rest evenly."""

_MAX_REACH = 1e4
"""How many times its first length a mesh may grow: the tails of a heavy-tailed prior are cut there."""

_ROUNDING = 1024.0
"""Least node spacing in units of the last place: second differences of the nodes need three digits."""

_TOO_NARROW = "the density is too narrow for nodes in double precision"

_EDGE_FRACTION = 0.005
"""Width over which a hard edge is smoothed, as a fraction of the core of the law."""


def node_density(log_density: Array, widths: Array) -> Array:
    """Wanted nodes per unit length at every node, integrating to one against ``widths``.

    Args:
        log_density: (n,), any additive constant.
        widths: length each node stands for, (n,).
    """
    depth = log_density - log_density.max()
    wanted = np.zeros_like(depth)
    for share, power in _SHARES:
        weight = np.exp(power * depth)
        wanted += (share / np.dot(weight, widths)) * weight
    return wanted


def kink(log_mass: Array) -> float:
    """Largest fourth difference of the log mass per node where it matters: near zero on smooth data, h^2 at a kink."""
    core = log_mass[2:-2] > log_mass.max() - _CORE
    return float((np.abs(np.diff(log_mass, 4)) * core).max())


def coarseness(x: Array, log_density: Array) -> float:
    """Largest node spacing relative to the wanted one; 1 on a fresh mesh."""
    widths = first_difference(x)
    return float((node_density(log_density, widths) * widths).max() * x.shape[0])


def roughness(x: Array) -> float:
    """Largest ratio of neighbouring node spacings; near 1 on a fresh mesh."""
    gaps = x[1:] - x[:-1]
    ratios = gaps[1:] / gaps[:-1]
    return float(max(ratios.max(), 1.0 / ratios.min()))


def edge_parabola(x: Array, log_density: Array, upper: bool) -> tuple[float, float, float, float]:
    """Quadratic continuation of a log density beyond its last node, in the outward distance from it.

    The parabola goes through the last node and two further ones an eighth of the nodes apart: wide enough to see
    past the waves of a rough potential, exact for a Gaussian.

    Returns:
        Edge position, log density there, outward slope, and curvature (never positive; zero for a growing slope).
    """
    reach = max(2, x.shape[0] // 16)
    sign, picks = (1.0, [-1, -1 - reach, -1 - 2 * reach]) if upper else (-1.0, [0, reach, 2 * reach])
    (d0, d1, d2), (l0, l1, l2) = sign * (x[picks] - x[picks[0]]), log_density[picks]
    first, second = (l1 - l0) / (d1 - d0), (l2 - l1) / (d2 - d1)
    curvature = 2.0 * (second - first) / (d2 - d0)
    slope = first - 0.5 * curvature * (d1 - d0)
    if curvature > 0.0:
        curvature, slope = 0.0, (l1 - l0) / (d1 - d0)
    return float(x[picks[0]]), float(l0), float(slope), float(curvature)


def falling(x: Array, slope: float, upper: bool) -> float:
    """The outward ``slope`` of a tail beyond the last of ``x``, made to fall if it does not.

    A tail has to fall to be a density: at worst by one nat per edge spacing.
    """
    return slope if slope < 0.0 else -1.0 / float(x[-1] - x[-2] if upper else x[1] - x[0])


def continue_log_density(x: Array, log_density: Array, points: Array, inside: Array) -> Array:
    """``inside`` (the log density at ``points`` between the nodes), replaced by the tails beyond the last nodes."""
    value = inside
    for upper in (False, True):
        edge, level, slope, curvature = edge_parabola(x, log_density, upper)
        distance = points - edge if upper else edge - points
        beyond = distance > 0
        if beyond.any():
            slope, out = falling(x, slope, upper), distance[beyond]
            value[beyond] = level + slope * out + 0.5 * curvature * out * out
    return value


def fill_zeros(x: Array, log_density: Array) -> Array:
    """``log_density`` with its minus infinities replaced by a narrow Gaussian shoulder off the nearest finite node.

    A hard edge has no log density to differentiate; the shoulder is a two-hundredth of the support wide.
    """
    finite = np.isfinite(log_density)
    if finite.all():
        return log_density
    known = x[finite]
    right = np.clip(np.searchsorted(known, x), 1, known.size - 1) if known.size > 1 else np.zeros(x.size, dtype=int)
    left = np.maximum(right - 1, 0)
    nearest = np.where(np.abs(x - known[left]) <= np.abs(x - known[right]), left, right)
    width = _EDGE_FRACTION * max(known[-1] - known[0], x[1] - x[0])
    shoulder = log_density[finite][nearest] - 0.5 * ((x - known[nearest]) / width) ** 2
    return np.where(finite, log_density, shoulder)


class _Piece(NamedTuple):
    """An interval on which a density is positive.

    Attributes:
        low: its lower edge, or minus infinity where there is none.
        high: its upper edge, or infinity.
        width: over which the edges are smoothed.
    """

    low: float
    high: float
    width: float

    def into(self, points: Array) -> tuple[Array, Array]:
        """An increasing map of the whole line into the piece, and the log of its derivative."""
        image, log_slope = points, np.zeros_like(points)
        for edge, sign in ((self.low, 1.0), (self.high, -1.0)):
            if np.isfinite(edge):
                beyond = sign * (edge - points) / self.width
                # The integral of the normal distribution function: zero far inside, ``beyond`` far outside.
                ramp = beyond * ndtr(beyond) + np.exp(-0.5 * beyond * beyond) / np.sqrt(2.0 * np.pi)
                image, log_slope = image + sign * self.width * ramp, log_slope + log_ndtr(-beyond)
        # Rounding may put an image beyond the edge.
        return np.clip(image, self.low, self.high), log_slope


def _edge(log_density: Callable[[Array], Array], inside: float, outside: float) -> float:
    """The last point with a finite log density on the way from ``inside`` to ``outside``, by bisection."""
    for _ in range(60):
        middle = 0.5 * (inside + outside)
        if np.isfinite(log_density(np.array([middle]))[0]):
            inside = middle
        else:
            outside = middle
    return inside


def _pieces(log_density: Callable[[Array], Array], x: Array) -> list[_Piece]:
    """The intervals on which the density is positive, as far as ``x`` can tell."""
    value = log_density(x)
    flips = np.diff(np.isfinite(value).astype(int), prepend=0, append=0)
    pieces = []
    for start, stop in zip(np.flatnonzero(flips > 0), np.flatnonzero(flips < 0), strict=True):
        low = -np.inf if start == 0 else _edge(log_density, x[start], x[start - 1])
        high = np.inf if stop == x.size else _edge(log_density, x[stop - 1], x[stop])
        core = start + np.flatnonzero(value[start:stop] >= value[start:stop].max() - _CORE)
        # One node further on either side, so that a single one has a length.
        first, last = x[max(core[0] - 1, 0)], x[min(core[-1] + 1, x.size - 1)]
        width = _EDGE_FRACTION * float(min(high, last) - max(low, first))
        # A single point has no mass.
        if width > 0.0:
            pieces.append(_Piece(low, high, width))
    return pieces


def without_edges(log_density: Callable[[Array], Array], x: Array) -> Callable[[Array], Array]:
    """``log_density`` with the hard edges of its support, where it falls to zero between two of ``x``, made soft.

    A hard edge has no log density to differentiate. Its law is carried over the edge by the inverse of a smooth map of
    the line into the support, which is the identity but for a neighbourhood of the edge a two-hundredth of the core of
    the law wide. That makes no mass and loses none, whether the density jumps, vanishes or is infinite at the edge.
    """
    finite = np.isfinite(log_density(x))
    if finite.all() or not finite.any():
        return log_density
    pieces = _pieces(log_density, x)

    def softened(points: Array) -> Array:
        total = np.full_like(points, -np.inf)
        for piece in pieces:
            image, log_slope = piece.into(points)
            total = np.logaddexp(total, log_density(image) + log_slope)
        return total

    return softened


def shallow(log_density: Array) -> Array:
    """``log_density`` with the troughs between modes filled, smoothly, to TROUGH nats below the lower mode.

    Between two sharp modes the logarithm falls without bound to a kink that no mesh resolves; the mass put there, e^-60
    of the lower mode, is far below rounding. Tails are left alone.
    """
    left = np.maximum.accumulate(log_density)
    right = np.maximum.accumulate(log_density[::-1])[::-1]
    floor = np.minimum(left, right) - TROUGH
    if not (log_density < floor + 4.0 * _TROUGH_SOFTNESS).any():
        return log_density
    return floor + _TROUGH_SOFTNESS * np.logaddexp(0.0, (log_density - floor) / _TROUGH_SOFTNESS)


def _extended(x: Array, log_density: Array, upper: bool) -> tuple[Array, Array]:
    """Points and log densities appended beyond one edge, as far as the density is still within DEPTH."""
    floor = log_density.max() - DEPTH
    edge, level, slope, curvature = edge_parabola(x, log_density, upper)
    if level <= floor + 1.0:
        return x, log_density
    span = x[-1] - x[0]
    if curvature < 0.0:
        peak = max(0.0, slope) ** 2 / (-2.0 * curvature)
        reach = (slope + np.sqrt(slope * slope - 2.0 * curvature * (level - floor + peak))) / -curvature
    else:
        reach = (level - floor) / -slope if slope < 0.0 else span
    distance = min(reach, 4.0 * span) * np.arange(1, 33) / 32.0
    tail = level + slope * distance + 0.5 * curvature * distance * distance
    if upper:
        return np.append(x, edge + distance), np.append(log_density, tail)
    return np.append(edge - distance[::-1], x), np.append(tail[::-1], log_density)


def place_nodes(x: Array, log_density: Array, n: int, limit: float = np.inf) -> Array:
    """``n`` nodes for the density known at ``x``, covering it to DEPTH and dense where it is high.

    Args:
        x: increasing, (k,).
        log_density: finite, (k,).
        n: how many nodes.
        limit: length beyond which the nodes are not spread out further.

    Returns:
        Increasing nodes, (n,), smooth in their index.

    Raises:
        FloatingPointError: the density is too narrow for nodes in double precision.
    """
    keep = np.flatnonzero(log_density >= log_density.max() - DEPTH)
    window = slice(max(keep[0] - 4, 0), min(keep[-1] + 5, x.shape[0]))
    if window.stop - window.start >= 16:
        x, log_density = x[window], log_density[window]
    # Zooming in on a narrow peak can leave nodes closer than rounding lets a spline tell apart.
    apart = np.append(True, np.diff(x) > 1e-12 * (x[-1] - x[0]))
    x, log_density = x[apart], log_density[apart]
    for upper in (False, True):
        if x[-1] - x[0] < limit:
            x, log_density = _extended(x, log_density, upper)
    if not np.all(np.diff(x) > 0):
        raise FloatingPointError(_TOO_NARROW)
    widths = np.gradient(x)
    density = node_density(log_density, widths)
    cumulative = np.append(0.0, np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(x)))
    if not np.all(np.diff(cumulative) > 0):
        raise FloatingPointError(_TOO_NARROW)
    targets = np.linspace(cumulative[0], cumulative[-1], n)
    nodes = spline(cumulative, x, targets)
    if not np.all(np.diff(nodes) > 0) or not np.all(first_difference(nodes) > 0):
        nodes = PchipInterpolator(cumulative, x)(targets)
    return np.asarray(nodes)


def adapt(log_density: Callable[[Array], Array], x: Array, n: int, passes: int) -> tuple[Array, Array]:
    """Nodes adapted to a log density that can be evaluated anywhere, by repeated placing.

    Starting nodes that miss a narrow peak see its flanks in the logarithm, and each pass closes in on it; passes go
    on until the density is resolved, at most 60.

    Args:
        log_density: maps (k,) to (k,), minus infinity allowed.
        x: starting nodes.
        n: how many nodes.
        passes: at least this many.

    Returns:
        Nodes and log density there, (n,) each.

    Raises:
        FloatingPointError: the density is zero at every node tried, or too narrow for nodes in double precision.
    """
    before, edged = np.inf, False
    limit = _MAX_REACH * (x[-1] - x[0])
    for done in range(61):
        value = log_density(x)
        if not edged and not np.isfinite(value).all():
            log_density, edged = without_edges(log_density, x), True
            value = log_density(x)
        if not np.isfinite(value).any():
            raise FloatingPointError("the density is zero at every node")
        value = shallow(fill_zeros(x, value))
        settled = done >= passes and abs(value.max() - before) < 0.05 and coarseness(x, value) < 2.0
        if settled and max(value[0], value[-1]) < value.max() - 0.5 * DEPTH:
            break
        before = value.max()
        x = place_nodes(x, value, n, limit)
    if not (first_difference(x) > 0.0).all() or not (np.diff(x) > _ROUNDING * np.spacing(np.abs(x[1:]))).all():
        raise FloatingPointError(_TOO_NARROW)
    return x, value
