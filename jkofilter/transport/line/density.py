"""A density on the line at nodes that can be moved, counted anew and placed afresh."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jkofilter._typing import Array
from jkofilter.errors import FilterError
from jkofilter.numerics.differences import first_difference
from jkofilter.numerics.log_spline import LogSpline
from jkofilter.numerics.mesh import adapt, without_edges

MAX_MASS_DEFECT = 1e-3

MOST_NODES = 8
"""How many times the nodes asked for a rough density may take."""

MAX_BLUR = 0.02
"""Nats by which log densities between the nodes may be off, in tails more by e every TAIL_SCALE nats."""

TAIL_SCALE = 20.0
"""Nats of depth below the maximum over which a tolerance grows by e: far tails need no eight digits."""

MAX_WRONG_MASS = 1e-7

_LOOKED_AT = 50.0

Blur = Callable[["QuantileDensity"], float]


@dataclass(frozen=True, eq=False)
class QuantileDensity:
    """A density on the line, known at increasing nodes.

    Attributes:
        x: nodes, (n,).
        log_density: normalised, at the nodes, (n,).
    """

    x: Array
    log_density: Array

    @property
    def log_mass(self) -> Array:
        """Log mass per unit of the node index, (n,)."""
        return self.log_density + np.log(first_difference(self.x))

    @cached_property
    def law(self) -> LogSpline:
        """The density as a function: cubic spline inside, quadratic tails beyond the last nodes."""
        return LogSpline(self.x, self.log_density)


def normalised(density: QuantileDensity) -> tuple[QuantileDensity, float]:
    """The density scaled to mass one, and the log of the mass that the function which is evaluated had."""
    log_total = density.law.log_mass
    return QuantileDensity(density.x, density.log_density - log_total), log_total


def relevance(log_density: Array) -> Array:
    """Weight of an error between neighbouring nodes, (n - 1,): 1 at the maximum, less with depth."""
    depth = log_density - log_density.max()
    return np.asarray(np.exp(np.maximum(depth[1:], depth[:-1]) / TAIL_SCALE))


def adapted(
    log_density: Callable[[Array], Array],
    x: Array,
    nodes: int,
    passes: int,
    blur: Blur | None = None,
    likely: int = 0,
) -> QuantileDensity:
    """An unnormalised density on adapted nodes: as many as asked for, or more until ``blur`` is small.

    Args:
        log_density: maps (k,) to (k,), minus infinity allowed.
        x: starting nodes.
        nodes: at least this many, and MOST_NODES times as many at most.
        passes: of placing nodes, at least.
        blur: nats by which a density is off between its nodes, falling with the fourth power of their spacing; None
            compares with ``log_density`` itself.
        likely: how many nodes to try first, if more than ``nodes``.

    Raises:
        FloatingPointError: the density is zero at every node tried, or too narrow for nodes in double precision.
    """
    log_density = without_edges(log_density, x)
    blur = misfit(log_density) if blur is None else blur
    most = MOST_NODES * nodes
    count = min(max(nodes, likely), most)
    while True:
        density = QuantileDensity(*adapt(log_density, x, count, passes))
        error = blur(density)
        if error <= MAX_BLUR or count >= most:
            return density
        growth = (error / MAX_BLUR) ** 0.25 if math.isfinite(error) else math.inf
        count = most if growth > most / count else count * 2 ** math.ceil(math.log2(growth))


def misfit(log_density: Callable[[Array], Array]) -> Blur:
    """A blur: how far a density at nodes is from ``log_density`` half way between them, in nats and in mass."""

    def between(density: QuantileDensity) -> float:
        middles = 0.5 * (density.x[1:] + density.x[:-1])
        known, found, top = log_density(middles), density.law(middles), density.log_density.max()
        # Further down troughs are filled on purpose, and a likelihood may be zero.
        error = (np.abs(found - known) * relevance(density.log_density))[known > top - _LOOKED_AT].max(initial=0.0)
        # Between two nodes the error of a cubic spline is a quartic that vanishes, with its slope, at both.
        wrong = np.diff(density.x) @ (np.exp(known - density.law.log_mass) - np.exp(found - density.law.log_mass))
        return float(max(error, MAX_BLUR * abs(wrong) * (8.0 / 15.0) / MAX_WRONG_MASS))

    return between


def remeshed(density: QuantileDensity, nodes: int, blur: Blur) -> QuantileDensity:
    """The same density on fresh nodes, normalised; as many as ``blur`` and its own shape ask for, ``nodes`` at least.

    Raises:
        FilterError: the nodes no longer resolve the density, so that mass would be lost.
    """
    lost = f"{nodes} nodes cannot carry this density, since moving it to fresh ones would change its mass"
    own = misfit(density.law)
    try:
        found = adapted(
            density.law, density.x, nodes, 2, lambda fresh: max(blur(fresh), own(fresh)), density.x.size // 2
        )
    except FloatingPointError as error:
        raise FilterError(lost) from error
    fresh, log_total = normalised(found)
    if not abs(log_total) < MAX_MASS_DEFECT:
        raise FilterError(lost)
    return fresh


UNSURE_TROUGH = 40.0
"""Nats below the lower of two modes from which the trough between them is not relied on."""

UNSURE_MASS = 1e-3


def beyond(before: QuantileDensity, after: QuantileDensity) -> str:
    """What to note where a posterior lies beyond what the nodes of the law before resolve; empty where it does not."""
    outside = 1.0 - float(np.diff(after.law.cdf(before.x[[0, -1]]))[0])
    peak = after.x[[int(after.log_density.argmax())]]
    level, log_density = float(before.law(peak)[0]), before.log_density
    left, right = log_density[before.x <= peak], log_density[before.x >= peak]
    lower_mode = min(left.max(), right.max()) if left.size and right.size else -math.inf
    if outside < UNSURE_MASS and level > lower_mode - UNSURE_TROUGH:
        return ""
    return (
        f"the reading lies beyond what the belief resolves: the posterior sits {log_density.max() - level:.3g} nats "
        "below the peak of the predicted law, so that its shape and the evidence are extrapolated"
    )
