"""A second solution of every gap, by another method on other points: Chang-Cooper on a few hundred equal cells.

It shares nothing with the flow but the law it starts from and the potential, costs a tenth of it, and is asked only
whether both agree. Where they do not it is asked again on more cells and shorter steps before it is believed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from jkofilter._typing import Array
from jkofilter.numerics.chang_cooper import ChangCooper, Progress, evolve
from jkofilter.numerics.log_spline import LogSpline
from jkofilter.transport.line.landscape import Landscape

LEVELS = ((300, 6, 0.4), (1200, 24, 0.2), (4800, 100, 0.1), (19200, 200, 0.05))
"""(cells, least steps in the gap, longest step as a share of the law's age), from a glance to a solution."""

AGREED = 0.02
"""Distance of distribution functions, or a tenth of a log ratio of tails, up to which two laws count as one."""

_REACH = 35.0
"""Nats below its maximum to which a law is covered."""

_BULK = 12.0
_TAIL = 1e-4
_FELT = 1e-4
_FEWEST = 6.0
"""Cells that the law has to have in a standard deviation."""


@dataclass(frozen=True)
class Testimony:
    """What the second solution says.

    Attributes:
        distance: between the two laws at the end, in the units of AGREED; NaN where it cannot tell.
        settled: whether the second solution agrees with itself on fewer cells.
        mean: of the second solution.
        deviation: standard deviation of it.
    """

    distance: float
    settled: bool
    mean: float = math.nan
    deviation: float = math.nan

    @property
    def agrees(self) -> bool:
        """Whether both solutions are one."""
        return self.distance <= AGREED

    @property
    def contradicts(self) -> bool:
        """Whether the second solution is to be believed, and is another."""
        return self.settled and self.distance > AGREED


def examined(before: LogSpline, after: LogSpline, duration: float, landscape: Landscape) -> Testimony:
    """How ``after`` compares with a second solution ``duration`` after ``before``.

    Args:
        before: the law at the start.
        after: the law at the end as the flow has it.
        duration: time.
        landscape: V and beta.
    """
    low, high = _span(before, after)
    earlier: tuple[Array, Array] | None = None
    for cells, steps, grading in LEVELS:
        edges = np.linspace(low, high, cells + 1)
        cumulative = _later(before, edges, duration, landscape, steps, grading)
        if cumulative is None:
            return Testimony(math.nan, False)
        distance = _distance(after.cdf(edges), cumulative)
        mean, deviation = _moments(edges, cumulative)
        if edges[1] - edges[0] > math.sqrt(after.variance) / _FEWEST:
            distance = math.nan
        elif distance <= AGREED:
            return Testimony(distance, True, mean, deviation)
        settled = earlier is not None and _distance(np.interp(edges, *earlier), cumulative) <= 0.5 * AGREED
        if settled and distance > AGREED:
            return Testimony(distance, True, mean, deviation)
        earlier = (edges, cumulative)
    return Testimony(distance, False, mean, deviation)


def solves(before: LogSpline, duration: float, landscape: Landscape) -> bool:
    """Whether the second solution by itself comes to an answer: one on two levels, and away from the ends."""
    low, high = _span(before, before)
    reach = 6.0 * math.sqrt(2.0 * duration / landscape.beta)
    earlier: tuple[Array, Array] | None = None
    for cells, steps, grading in LEVELS:
        edges = np.linspace(low - reach, high + reach, cells + 1)
        cumulative = _later(before, edges, duration, landscape, steps, grading)
        if cumulative is None or max(np.diff(cumulative)[[0, -1]]) > _FELT * np.diff(cumulative).max():
            return False
        if earlier is not None and _distance(np.interp(edges, *earlier), cumulative) <= AGREED:
            return True
        earlier = (edges, cumulative)
    return False


def _span(before: LogSpline, after: LogSpline) -> tuple[float, float]:
    """An interval that holds both laws."""
    ends = [law.x[law.log_density > law.log_density.max() - _REACH][[0, -1]] for law in (before, after)]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    return float(low), float(high)


def _later(
    before: LogSpline, edges: Array, duration: float, landscape: Landscape, steps: int, grading: float
) -> Array | None:
    """The distribution function at ``edges`` after ``duration``; None where the potential is not finite."""
    width, centres = edges[1] - edges[0], 0.5 * (edges[1:] + edges[:-1])
    energy = landscape.energy(centres)
    if not np.isfinite(energy).all():
        return None
    masses = np.maximum(np.diff(before.cdf(edges)), 0.0)
    bulk = np.flatnonzero(before(centres) > before.log_density.max() - _BULK)
    scale = math.sqrt(before.variance)
    bend = np.abs(np.diff(energy, 2))[np.clip(bulk - 1, 0, energy.size - 3)] / width**2 if bulk.size else np.zeros(1)
    age = min(0.5 * landscape.beta * max(scale, width) ** 2, 1.0 / max(float(bend.max()), 1e-300))
    progress = Progress.start(duration, duration / steps, age, grading)
    after = evolve(ChangCooper(energy, float(width), landscape.beta), masses, progress, progress.total)
    cumulative = np.append(0.0, np.cumsum(after))
    return np.asarray(cumulative / cumulative[-1])


def _distance(one: Array, other: Array) -> float:
    """Of two distribution functions at the same points: the largest difference, or a tenth of a log ratio of tails."""
    largest = float(np.abs(one - other).max())
    for a, b in ((one, other), (1.0 - one, 1.0 - other)):
        tail = (np.maximum(a, b) < 0.05) & (np.maximum(a, b) > _TAIL)
        if tail.any():
            ratio = np.abs(np.log(np.maximum(a[tail], 1e-300) / np.maximum(b[tail], 1e-300)))
            largest = max(largest, 0.1 * float(ratio.max()))
    return largest


def _moments(edges: Array, cumulative: Array) -> tuple[float, float]:
    masses, centres = np.diff(cumulative), 0.5 * (edges[1:] + edges[:-1])
    mean = float(masses @ centres)
    return mean, math.sqrt(float(masses @ (centres - mean) ** 2))
