"""What the flow of the line needs of a potential, and what there is to find out about it before the first step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import erf

from jkofilter._typing import Array
from jkofilter.errors import FilterError
from jkofilter.transport.line.density import QuantileDensity, relevance

SUSPECT = 1e-3
"""Nats per node spacing, weighted by relevance, left unexplained by the curvature from which a kink is looked for."""

MOST_KINKS = 32
_HALVINGS = 44
_PER_DECADE = 8
_ROUNDING = 1e-14
_REMAINS = 0.3
"""Share of what is unexplained that a kink or a jump still holds when its interval has been halved so often."""

MAX_JUMP = 0.1
"""Nats by which beta V may jump."""

KINK_WIDTH = 3.0
"""Over which a kink is rounded, in node spacings."""


@dataclass(frozen=True)
class Kink:
    """A place where the slope of a potential jumps.

    Attributes:
        at: state.
        jump: of the slope, from left to right.
        width: over which it is rounded, in units of the state.
    """

    at: float
    jump: float
    width: float


@dataclass(frozen=True, eq=False)
class Landscape:
    """A potential on the line, its kinks rounded.

    Attributes:
        energy: maps states (n,) to V, (n,).
        steepness: maps states (n,) to (V', V''), (n,) each, as the user's potential has them.
        beta: inverse temperature.
        kinks: those that ``slopes`` rounds.
    """

    energy: Callable[[Array], Array]
    steepness: Callable[[Array], tuple[Array, Array]]
    beta: float
    kinks: tuple[Kink, ...] = ()

    def slopes(self, x: Array) -> tuple[Array, Array]:
        """(V', V'') at states (n,), (n,) each.

        The jump of V' becomes a ramp whose derivative is a kernel without second moment, which leaves expectations
        right to the third order of the width.
        """
        slope, curvature = self.steepness(x)
        for kink in self.kinks:
            z = (x - kink.at) / kink.width
            bell = np.exp(-z * z) / np.sqrt(np.pi)
            slope = slope + kink.jump * (0.5 * erf(z) + 0.5 * z * bell - np.where(z < 0.0, -0.5, 0.5))
            curvature = curvature + kink.jump * bell * (1.5 - z * z) / kink.width
        return slope, curvature

    def blur(self, density: QuantileDensity) -> float:
        """Nats of beta V that the nodes miss between them, weighted by relevance: V' against its trapezoid rule."""
        x, weight = density.x, self.beta * relevance(density.log_density)
        return float((weight * np.diff(x) * _unexplained(x, *self.slopes(x))).max())


def surveyed(landscape: Landscape, density: QuantileDensity, duration: float) -> Landscape:
    """The landscape with those kinks rounded that the law can feel in ``duration``.

    Raises:
        FilterError: the potential is not finite where the law is, jumps there, or lets it run off to infinity.
    """
    x = density.x
    value, (slope, curvature) = landscape.energy(x), landscape.steepness(x)
    for what, seen in (("", value), ("the slope of ", slope), ("the curvature of ", curvature)):
        if not np.isfinite(seen).all():
            raise FilterError(
                f"{what}the potential is not finite at x = {x[~np.isfinite(seen)][0]:g}, which the law reaches"
            )
    for upper in (False, True):
        if _escape(landscape, x, slope, upper) < duration:
            raise FilterError("the potential falls so steeply that the law runs off to infinity in that time")
    weight = landscape.beta * relevance(density.log_density)
    rises = weight * _unexplained(x, value, slope)
    if (steep := rises > MAX_JUMP).any():
        _refuse_jumps(landscape, x, np.flatnonzero(steep))
    turns = weight * np.diff(x) * _unexplained(x, slope, curvature)
    suspects = np.flatnonzero(turns > SUSPECT)
    if suspects.size:
        return replace(landscape, kinks=_kinks(landscape, x, suspects[np.argsort(-turns[suspects])][:MOST_KINKS]))
    return landscape


def _escape(landscape: Landscape, x: Array, slope: Array, upper: bool) -> float:
    """Time in which the drift alone takes the last node to infinity; infinite where it turns back or slows down."""
    edge, outward = (x[-1], -slope[-1]) if upper else (x[0], slope[0])
    if outward <= 0.0:
        return math.inf
    distance = (x[-1] - x[0]) * np.append(0.0, np.geomspace(1e-3, 1e6, 9 * _PER_DECADE + 1))
    sign = 1.0 if upper else -1.0
    speed = -sign * landscape.steepness(edge + sign * distance)[0]
    # Beyond where numbers end the drift has long been infinite.
    speed = np.where(np.isnan(speed), np.inf, speed)
    if (speed <= 0.0).any():
        return math.inf
    times = np.diff(distance) / np.sqrt(speed[1:] * speed[:-1])
    runs_away = times[-_PER_DECADE:].sum() < 0.5 * times[-2 * _PER_DECADE : -_PER_DECADE].sum()
    return float(times.sum()) if runs_away else math.inf


def _unexplained(x: Array, value: Array, slope: Array) -> Array:
    """By how much the change of a function from node to node differs from the trapezoid rule on its slope, (n - 1,)."""
    defect = np.abs(np.diff(value) - 0.5 * np.diff(x) * (slope[1:] + slope[:-1]))
    # Far out the values themselves are rounded by more than they should differ.
    return np.asarray(np.maximum(defect - _ROUNDING * np.maximum(np.abs(value[1:]), np.abs(value[:-1])), 0.0))


def _closing_in(
    x: Array, cells: Array, function: Callable[[Array], tuple[Array, Array]]
) -> tuple[Array, Array, Array, Array]:
    """Intervals (low, high) within cells of ``x``, halved towards what ``function``'s slope leaves unexplained.

    Args:
        x: nodes.
        cells: the indices of the left nodes, (k,).
        function: maps states to values and slopes.

    Returns:
        Ends of the intervals, the change of the value over each, and the share of what was unexplained at first that
        is left in it, (k,) each.
    """
    low, high = x[cells], x[cells + 1]
    (left, left_slope), (right, right_slope) = function(low), function(high)

    def defect(a: Array, b: Array, va: Array, vb: Array, sa: Array, sb: Array) -> Array:
        return np.asarray(np.abs(vb - va - 0.5 * (b - a) * (sa + sb)))

    first = defect(low, high, left, right, left_slope, right_slope)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        value, slope = function(middle)
        above = defect(middle, high, value, right, slope, right_slope)
        below = defect(low, middle, left, value, left_slope, slope)
        upper = above > below
        low, left, left_slope = (np.where(upper, a, b) for a, b in ((middle, low), (value, left), (slope, left_slope)))
        high, right, right_slope = (
            np.where(upper, b, a) for a, b in ((middle, high), (value, right), (slope, right_slope))
        )
        # A smooth function explains itself after a few halvings.
        left_over = np.maximum(above, below) / first
        if (left_over < 0.01).all():
            break
    return low, high, right - left, left_over


def _kinks(landscape: Landscape, x: Array, cells: Array) -> tuple[Kink, ...]:
    low, high, change, left_over = _closing_in(x, cells, landscape.steepness)
    sharp = left_over > _REMAINS
    widths = KINK_WIDTH * np.gradient(x)[cells]
    found = zip(0.5 * (low + high)[sharp], change[sharp], widths[sharp], strict=True)
    return tuple(Kink(float(at), float(jump), float(width)) for at, jump, width in found)


def _refuse_jumps(landscape: Landscape, x: Array, cells: Array) -> None:
    """Raise FilterError if V jumps in one of the cells."""
    low, _, change, left_over = _closing_in(x, cells, lambda at: (landscape.energy(at), landscape.steepness(at)[0]))
    sharp = left_over > _REMAINS
    if sharp.any():
        raise FilterError(f"the potential jumps by {change[sharp][0]:.3g} at x = {low[sharp][0]:g}")
