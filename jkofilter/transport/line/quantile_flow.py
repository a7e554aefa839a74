"""The Wasserstein gradient flow of a one-dimensional density: JKO steps put together.

JKO is implicit Euler for the nodes X(s), so that higher-order integrators apply, each stage a JKO proximal step with a
shifted centre: SDIRK2, SDIRK4, variable-step BDF2, and implicit Euler, the classical JKO step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from jkofilter._typing import Array
from jkofilter.errors import FilterError
from jkofilter.numerics.mesh import coarseness, kink, roughness
from jkofilter.numerics.newton import is_increasing
from jkofilter.numerics.splines import spline
from jkofilter.transport.line.density import MAX_BLUR, MOST_NODES, QuantileDensity, normalised, remeshed
from jkofilter.transport.line.landscape import Landscape, surveyed
from jkofilter.transport.line.quantile_step import LabelledMass, Proximal, StepFailedError, proximal_step
from jkofilter.transport.line.slope_table import TabulatedSlopes
from jkofilter.transport.schemes import SDIRK, SDIRK2, SDIRK4, LineScheme

MAX_COARSENESS = 1.8
MAX_ROUGHNESS = 1.7
"""Ratio of neighbouring node spacings from which finite differences need fresh nodes."""

TORN = 2.5
"""Ratio of neighbouring node spacings at which a step is taken back, since a remesh could no longer mend it."""

MAX_KINK = 0.015
_INSPECTIONS = tuple(4**k for k in range(1, 12))
_FORGETTING = (2, 4, 8, 16, 32, 64)
"""Steps after which a density gets more nodes if it needs them, and after which a kinked one gets fresh ones."""

MAX_GROWTH = 2.5
MIN_STEP = 1e-13
"""Shortest step tried, relative to the time that has passed."""

PATIENCE = 200
"""Attempts after which steps have to have grown, or to have gone PROGRESS times the longest step."""

PROGRESS = 1e-3

MOST_WORK = 1e6
WORK_PER_STEP = 1.5e4
"""Newton iterations times nodes that a flow may take: so many, and so many more for each of the longest steps in it.
A second or so: what gets nowhere may be carried on cells instead, and is tried for longer only where it cannot."""

OVERHEAD = 1000
"""Nodes that an iteration's calls count for, beside its own."""

FUTILE_ITERATIONS = 10
REMESH_ITERATIONS = 8
"""What a step that fails, and a remesh, count for."""

USUAL_TOLERANCE = 3e-4
"""At which the longest step is the one asked for; a looser tolerance stretches it."""


def _needs_remesh(x: Array, log_density: Array) -> bool:
    return coarseness(x, log_density) > MAX_COARSENESS or roughness(x) > MAX_ROUGHNESS


@dataclass(frozen=True)
class FlowSettings:
    """How a flow is stepped.

    Attributes:
        step: longest time step, at a tolerance of USUAL_TOLERANCE or less, or without one.
        scheme: integrator.
        tolerance: bound on the estimated change of log density (rms, nats) that one step gets wrong; None for fixed
            steps, which are then halved only where a stage fails.
        nodes: how many.
    """

    step: float
    scheme: LineScheme
    tolerance: float | None
    nodes: int

    @property
    def looseness(self) -> float:
        """How many times the usual tolerance is allowed, at least 1."""
        return 1.0 if self.tolerance is None else max(1.0, self.tolerance / USUAL_TOLERANCE)

    @property
    def longest(self) -> float:
        """Longest time step."""
        return self.step * self.looseness ** (1.0 / _ERROR_ORDERS[self.scheme])


@dataclass(frozen=True)
class FlowStats:
    """Counts over one flow, the most nodes among them."""

    nodes: int = 0
    steps: int = 0
    halvings: int = 0
    newton_iterations: int = 0
    remeshes: int = 0
    shortest_step: float = math.inf

    def after(self, iterations: int, tau: float) -> FlowStats:
        """With one more step, of length ``tau``."""
        return replace(
            self,
            steps=self.steps + 1,
            newton_iterations=self.newton_iterations + iterations,
            shortest_step=min(self.shortest_step, tau),
        )


@dataclass(frozen=True, eq=False)
class _Point:
    """Where the flow is: nodes, velocity, a guess at its rate of change; one step earlier (BDF2)."""

    x: Array
    velocity: Array
    acceleration: Array | None = None
    earlier_x: Array | None = None
    earlier_velocity: Array | None = None
    earlier_step: float = 0.0

    def relabelled(self, x: Array) -> _Point:
        """The same histories at other nodes."""

        inside = np.clip(x, self.x[0], self.x[-1])

        def moved(values: Array) -> Array:
            return spline(self.x, values, inside)

        if self.earlier_x is None or self.earlier_velocity is None:
            return _Point(x, moved(self.velocity))
        # Nodes beyond the old ends move with the end, which keeps the earlier map increasing there.
        earlier = moved(self.earlier_x) + (x - inside)
        if not is_increasing(earlier):
            return _Point(x, moved(self.velocity))
        earlier_velocity = moved(self.earlier_velocity)
        return _Point(x, moved(self.velocity), None, earlier, earlier_velocity, self.earlier_step)


@dataclass(frozen=True, eq=False)
class _Attempt:
    """A candidate step: the new point, its local error (nats), Newton iterations."""

    point: _Point
    error: float
    iterations: int


def _ahead(point: _Point, h: float) -> Array:
    """Taylor guess of the nodes ``h`` later."""
    guess = point.x + h * point.velocity
    return guess if point.acceleration is None else guess + (0.5 * h * h) * point.acceleration


def _implicit_euler(law: LabelledMass, point: _Point, tau: float) -> _Attempt:
    solved = proximal_step(law, point.x, tau, _ahead(point, tau))
    change = solved.velocity - point.velocity
    error = law.strain_norm(solved.factors.solve(0.5 * tau * change), solved.x)
    return _Attempt(_Point(solved.x, solved.velocity, change / tau), error, solved.iterations)


def _sdirk(tableau: SDIRK, law: LabelledMass, point: _Point, tau: float) -> _Attempt:
    """One step of a stiffly accurate diagonally implicit method: every stage is a JKO step from a shifted centre."""
    h = tau * tableau.diagonal
    velocities: list[Array] = []
    iterations = 0
    solved: Proximal | None = None
    for row, node in zip(tableau.lower, tableau.nodes, strict=True):
        centre = point.x + tau * _combined(row, velocities)
        solved = proximal_step(law, centre, h, _stage_guess(point, tau, node, tableau.nodes, velocities))
        velocities.append(solved.velocity)
        iterations += solved.iterations
    assert solved is not None
    defect = tau * (tableau.gap[0] * point.velocity + _combined(tableau.gap[1:], velocities))
    # Solving with the step matrix damps the stiff part of the estimate, which the L-stable step damps as well.
    error = law.strain_norm(solved.factors.solve(defect), solved.x)
    slope = (velocities[-1] - velocities[-2]) / (tau * (tableau.nodes[-1] - tableau.nodes[-2]))
    return _Attempt(_Point(solved.x, solved.velocity, slope), error, iterations)


def _combined(weights: tuple[float, ...], velocities: list[Array]) -> Array | float:
    return sum((w * v for w, v in zip(weights, velocities, strict=False) if w != 0.0), 0.0)


def _stage_guess(point: _Point, tau: float, node: float, nodes: tuple[float, ...], velocities: list[Array]) -> Array:
    """Nodes at a stage from the velocities known so far: their linear interpolant integrated from the step's start."""
    h = node * tau
    if not velocities:
        return _ahead(point, h)
    if point.acceleration is None:
        return point.x + h * velocities[-1]
    bend = (velocities[-1] - point.velocity) / (nodes[len(velocities) - 1] * tau)
    return point.x + h * point.velocity + (0.5 * h * h) * bend


def _bdf2(law: LabelledMass, point: _Point, tau: float) -> _Attempt:
    if point.earlier_x is None or point.earlier_velocity is None:
        start = _sdirk(SDIRK2, law, point, tau)
        after = replace(start.point, earlier_x=point.x, earlier_velocity=point.velocity, earlier_step=tau)
        return replace(start, point=after)
    ratio = tau / point.earlier_step
    scale = 1.0 + 2.0 * ratio
    centre = point.x + (ratio * ratio / scale) * (point.x - point.earlier_x)
    solved = proximal_step(law, centre, tau * (1.0 + ratio) / scale, _ahead(point, tau))
    change = (solved.velocity - point.velocity) / tau
    earlier_change = (point.velocity - point.earlier_velocity) / point.earlier_step
    span = tau + point.earlier_step
    # The local error is tau h span / 6 times the third derivative of X, which is twice the divided difference of the
    # velocity, (change - earlier_change) / span; what one step adds to the global error is tau / h of that.
    defect = (change - earlier_change) * (tau * tau / 3.0)
    error = law.strain_norm(solved.factors.solve(defect), solved.x)
    acceleration = change + (change - earlier_change) * (tau / span)
    after = _Point(solved.x, solved.velocity, acceleration, point.x, point.velocity, tau)
    return _Attempt(after, error, solved.iterations)


_STEPS: dict[str, Callable[[LabelledMass, _Point, float], _Attempt]] = {
    "implicit-euler": _implicit_euler,
    "sdirk2": partial(_sdirk, SDIRK2),
    "sdirk4": partial(_sdirk, SDIRK4),
    "bdf2": _bdf2,
}
_ERROR_ORDERS = {"implicit-euler": 2, "sdirk2": 3, "sdirk4": 4, "bdf2": 3}


@dataclass
class _Watch:
    """Notices a flow that gets nowhere, as where the law runs off to infinity in a finite time.

    After a sharp reading steps are short as well, but grow.

    Attributes:
        least: time that has to pass within PATIENCE attempts, unless steps have grown.
        most: work altogether, in Newton iterations times nodes (see MOST_WORK).
    """

    least: float
    most: float
    attempts: int = 0
    work: float = 0.0
    clock: float = 0.0
    tau: float = 0.0

    @classmethod
    def over(cls, duration: float, longest: float, work: float) -> _Watch:
        """Of a flow over ``duration`` in steps of at most ``longest``; so much ``work`` and more for each of them."""
        return cls(PROGRESS * min(longest, duration), work + WORK_PER_STEP * duration / longest)

    def stalled(self, clock: float, tau: float) -> bool:
        """To be asked before every attempt."""
        stalled = self.work > self.most or tau < MIN_STEP * clock
        if self.attempts % PATIENCE == 0:
            stalled |= self.attempts > 0 and tau <= self.tau and clock - self.clock < self.least
            self.clock, self.tau = clock, tau
        self.attempts += 1
        return stalled


def flow(
    density: QuantileDensity, duration: float, landscape: Landscape, settings: FlowSettings, work: float = MOST_WORK
) -> tuple[QuantileDensity, FlowStats]:
    """The density ``duration`` later under dX = -V'(X) dt + sqrt(2/beta) dW.

    Args:
        density: where to start.
        duration: positive, time.
        landscape: V and beta.
        settings: step, scheme, tolerance, nodes.
        work: see MOST_WORK.

    Raises:
        FilterError: no step, however short, converges; or the potential cannot be followed where the law goes.
    """
    landscape = surveyed(landscape, density, duration)
    landscape = replace(landscape, steepness=TabulatedSlopes(landscape.steepness, landscape.beta))
    density, stats = _on_enough_nodes(density, landscape, settings.nodes)
    law = LabelledMass(density.log_mass, landscape.slopes, landscape.beta, settings.looseness)
    point = _Point(density.x, law.velocity(density.x))
    tau, clock = _first_step(law, point, settings), 0.0
    longest, watch = settings.longest, _Watch.over(duration, settings.longest, work)
    attempt_step, power = _STEPS[settings.scheme], 1.0 / _ERROR_ORDERS[settings.scheme]
    while clock < duration:
        tau = (duration - clock) / max(1, math.ceil((duration - clock) / tau - 1e-9))
        if watch.stalled(clock, tau):
            raise FilterError(f"JKO steps get nowhere at {clock:g} time units into the prediction")
        try:
            attempt = attempt_step(law, point, tau)
            if roughness(attempt.point.x) > max(TORN, 1.5 * roughness(point.x)):
                raise StepFailedError("the step tears the mesh")
        except StepFailedError:
            watch.work += FUTILE_ITERATIONS * (point.x.size + OVERHEAD)
            stats, tau = replace(stats, halvings=stats.halvings + 1), 0.5 * tau
            point = replace(point, earlier_x=None, earlier_velocity=None)
            continue
        watch.work += attempt.iterations * (point.x.size + OVERHEAD)
        growth = MAX_GROWTH
        if settings.tolerance is not None:
            growth = min(MAX_GROWTH, 0.9 * (settings.tolerance / max(attempt.error, 1e-300)) ** power)
            if attempt.error > settings.tolerance:
                stats, tau = replace(stats, halvings=stats.halvings + 1), max(growth, 0.2) * tau
                continue
        clock, point = (duration if duration - clock <= tau * 1.000001 else clock + tau), attempt.point
        stats = stats.after(attempt.iterations, tau)
        tau = min(longest, tau * growth)
        density = QuantileDensity(point.x, law.log_density(point.x))
        blurred = stats.steps in _INSPECTIONS and _too_blurred(density, landscape, settings.nodes)
        if blurred or _due(density, law, stats.steps):
            density = remeshed(density, settings.nodes, landscape.blur)
            watch.work += REMESH_ITERATIONS * (density.x.size + OVERHEAD)
            law = replace(law, log_mass=density.log_mass)
            # The velocity anew: differences from the old one would pass for an error that no shorter step makes less.
            point = replace(point.relabelled(density.x), velocity=law.velocity(density.x))
            stats = replace(stats, remeshes=stats.remeshes + 1, nodes=max(stats.nodes, density.x.size))
    return normalised(density)[0], stats


def _on_enough_nodes(density: QuantileDensity, landscape: Landscape, nodes: int) -> tuple[QuantileDensity, FlowStats]:
    """The density to start from, and what that took."""
    if not (_needs_remesh(density.x, density.log_density) or _too_blurred(density, landscape, nodes)):
        return density, FlowStats(density.x.size)
    density = remeshed(density, nodes, landscape.blur)
    return density, replace(FlowStats(density.x.size), remeshes=1)


def _due(density: QuantileDensity, law: LabelledMass, steps: int) -> bool:
    """Whether fresh nodes are due after so many steps."""
    # A kink stays frozen in the labels' masses after diffusion has rounded it; fresh labels forget it.
    forget = steps in _FORGETTING and kink(law.log_mass) > MAX_KINK
    return forget or _needs_remesh(density.x, density.log_density)


def _too_blurred(density: QuantileDensity, landscape: Landscape, nodes: int) -> bool:
    """Whether more nodes are wanted, and to be had."""
    return density.x.size < MOST_NODES * nodes and landscape.blur(density) > MAX_BLUR


def _first_step(law: LabelledMass, point: _Point, settings: FlowSettings) -> float:
    """A first step short against the time in which the density changes by its own size."""
    if settings.tolerance is None:
        return settings.step
    rate = law.strain_norm(point.velocity, point.x)
    share = 0.2 * settings.looseness ** (1.0 / _ERROR_ORDERS[settings.scheme])
    return min(0.5 * settings.longest, share / rate) if math.isfinite(rate) and rate > 0 else settings.longest
