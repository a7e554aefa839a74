"""Fokker-Planck equation on a line of cells: p_t = (V' p)_x + p_xx / beta, by Chang-Cooper and TR-BDF2.

Sources: Chang & Cooper (1970), J. Comput. Phys. 6, 1-16 (exponentially fitted face weights); Bank, Coughran, Fichtner,
Grosse, Rose & Smith (1985), IEEE Trans. CAD 4, 436-451 (TR-BDF2); Hosea & Shampine (1996), Appl. Numer. Math. 20,
21-37 (its error estimate).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from jkofilter._typing import Array
from jkofilter.numerics.tridiagonal import (
    factorised,
    factorised_lines,
    solved,
    solved_lines,
    two_stages,
    two_stages_of_lines,
)

GAMMA = 2.0 - math.sqrt(2.0)
_NEWER = 1.0 / (GAMMA * (2.0 - GAMMA))
_OLDER = (1.0 - GAMMA) ** 2 / (GAMMA * (2.0 - GAMMA))
_ESTIMATE = (-3.0 * GAMMA**2 + 4.0 * GAMMA - 2.0) / (12.0 * (2.0 - GAMMA))

_SERIES_BELOW = 1e-2
_NEGLIGIBLE_MASS = 1e-20
_UNDERFLOW = 1e-280
_GUARD_SUBSTEPS = 8
_CHECK_EVERY = 8
_FINEST_LEVEL = 60
_FACTORS_KEPT = 8


class _Kernels(NamedTuple):
    """What is compiled for one line, or for many."""

    factorised: Callable[..., tuple[Array, Array, Array]]
    solved: Callable[..., Array]
    two_stages: Callable[..., tuple[Array, Array]]


_ONE = _Kernels(factorised, solved, two_stages)
_MANY = _Kernels(factorised_lines, solved_lines, two_stages_of_lines)


def bernoulli(z: Array) -> Array:
    """z / (exp(z) - 1) for z >= 0: 1 at zero by its series, 0 without overflow at infinity."""
    z = np.asarray(z, dtype=np.float64)
    small = z < _SERIES_BELOW
    series = 1.0 - z / 2.0 + z**2 / 12.0 * (1.0 - z**2 / 60.0 * (1.0 - z**2 / 42.0)) if small.any() else z
    with np.errstate(over="ignore"):
        quotient = z / np.where(small, 1.0, np.expm1(z))
    return np.where(small, series, quotient)


def face_weights(rise: Array) -> tuple[Array, Array]:
    """Chang and Cooper's weights of a step up by ``rise`` = beta (V(after) - V(before)) and of the step back, (n,)."""
    downhill = bernoulli(np.abs(rise))
    # B(-z) = B(z) + z; adding |z| to the smaller weight loses no digits on either side.
    uphill = downhill + np.abs(rise)
    return np.where(rise > 0, downhill, uphill), np.where(rise > 0, uphill, downhill)


def backward_step(u: Array, duration: float, rightward: Array, leftward: Array, exits: Array | None = None) -> Array:
    """One TR-BDF2 step of the backward equation u' = G'u, (n,); constants are kept where there is no exit.

    Args:
        u: a function of the cells, (n,).
        duration: time.
        rightward: rate from each cell to the one on its right, (n - 1,).
        leftward: rate from each cell's right neighbour to it, (n - 1,).
        exits: rate from each cell out of the interval for good, (n,); None where both ends are closed.
    """
    c = 0.5 * GAMMA * duration
    lost = np.zeros_like(u) if exits is None else exits
    outflow = np.append(rightward, 0.0) + np.append(0.0, leftward) + lost
    factors = factorised(-c * leftward, 1.0 + c * outflow, -c * rightward)
    rise = np.diff(u)
    change = np.append(rightward * rise, 0.0) - lost * u
    change[1:] -= leftward * rise
    stage = np.asarray(solved(*factors, u + c * change))
    return np.asarray(solved(*factors, _NEWER * stage - _OLDER * u))


class ChangCooper:
    """The generator on equal cells with closed ends, and its time steps.

    The face weights come from the differences of beta V between neighbouring cell centres, so that exp(-beta V) at the
    centres makes every flux vanish: it is stationary exactly, not to the order of the scheme.

    Many lines of as many cells are taken at once, a column each: then (n,) below is (n, lines).

    Args:
        potential: V at the cell centres, finite, (n,).
        width: of a cell, in units of the state.
        beta: inverse temperature.
        diffusivity: at the faces between the cells, (n - 1,), for noise that depends on the state; then exp(-beta V) is
            the speed density, and the noise is not 1 / beta.
    """

    growth_tolerance = 1e-9

    def __init__(self, potential: Array, width: float, beta: float, diffusivity: Array | None = None) -> None:
        right, left = face_weights(beta * np.diff(potential, axis=0))
        scale = (1.0 / beta if diffusivity is None else diffusivity) / (width * width)
        self.rightward, self.leftward = scale * right, scale * left
        self.outflow = np.zeros(potential.shape)
        self.outflow[:-1] += self.rightward
        self.outflow[1:] += self.leftward
        self._kernels = _ONE if potential.ndim == 1 else _MANY
        self._factors: dict[float, tuple[Array, Array, Array]] = {}

    def rate(self, p: Array) -> Array:
        """dp/dt, (n,); sums to zero but for rounding."""
        flux = self.rightward * p[:-1] - self.leftward * p[1:]
        change = np.empty_like(p)
        change[0] = -flux[0]
        change[-1] = flux[-1]
        np.subtract(flux[:-1], flux[1:], out=change[1:-1])
        return change

    def solve(self, p: Array, duration: float) -> Array:
        """(1 - duration * generator)^-1 p, (n,): one backward Euler step; non-negative for p >= 0."""
        return np.asarray(self._kernels.solved(*self._factorised(duration), p))

    def _factorised(self, duration: float) -> tuple[Array, Array, Array]:
        """LU factors of 1 - duration * generator."""
        factors = self._factors.get(duration)
        if factors is None:
            factors = self._kernels.factorised(
                -duration * self.rightward, 1.0 + duration * self.outflow, -duration * self.leftward
            )
            if not np.isfinite(factors[1]).all():
                raise np.linalg.LinAlgError("the Chang-Cooper matrix is singular")
            if len(self._factors) == _FACTORS_KEPT:
                # Those of the many lines of a plane take megabytes; graded steps seldom return to a length.
                self._factors.pop(next(iter(self._factors)))
            self._factors[duration] = factors
        return factors

    def backward_euler(self, p: Array, duration: float, substeps: int) -> Array:
        """``p`` after ``duration`` in equal backward Euler substeps: first order, positive whatever the step."""
        for _ in range(substeps):
            p = self.solve(p, duration / substeps)
        return p

    def tr_bdf2(self, p: Array, duration: float) -> tuple[Array, Array]:
        """One TR-BDF2 step, unguarded: trapezoid to GAMMA * duration, then BDF2; both stages share one matrix.

        Returns:
            The density after the step and at the inner stage, (n,) each.
        """
        c = 0.5 * GAMMA * duration
        factors = self._factorised(c)
        after, stage = self._kernels.two_stages(p, c, _NEWER, _OLDER, self.rightward, self.leftward, *factors)
        return after, stage

    def local_error(self, p: Array, stage: Array, after: Array, duration: float) -> float:
        """Largest error of one TR-BDF2 step relative to the density of its cell (Hosea & Shampine 1996)."""
        divided = self.rate(p) / GAMMA - self.rate(stage) / (GAMMA * (1.0 - GAMMA)) + self.rate(after) / (1.0 - GAMMA)
        held = after > _UNDERFLOW * after.max()
        return float(np.max(np.abs(2.0 * _ESTIMATE * duration * divided[held]) / after[held]))

    def step(self, p: Array, duration: float, total: float | None = None) -> tuple[Array, Array | None, int]:
        """One TR-BDF2 step made positive, its sum kept at ``total`` (by default that of ``p``).

        Where TR-BDF2 leaves negative values in a far tail, that tail is taken from backward Euler; where it leaves
        them among the mass, the whole step is.

        Returns:
            The density after the step, the TR-BDF2 stage (None where a guard acted), and 0 (no guard), 1 (tail) or
            2 (whole step).
        """
        after, stage = self.tr_bdf2(p, duration)
        guard = 0
        if after.min() < 0.0:
            guard = 1
            positive = self.backward_euler(p, duration, 2)
            # Cells next to a negative one are small for the same reason, so they go with it.
            replaced = after < 0.1 * positive
            if np.abs(after[replaced]).sum() + positive[replaced].sum() <= _NEGLIGIBLE_MASS * p.sum():
                after = np.where(replaced, positive, after)
            else:
                guard = 2
                after = self.backward_euler(p, duration, _GUARD_SUBSTEPS)
        # The matrices conserve mass exactly; this takes out what the rounding of thousands of solves adds up to.
        after *= (p.sum() if total is None else total) / after.sum()
        return after, None if guard else stage, guard


class ImplicitOperator(Protocol):
    """What ``evolve`` needs of a generator, on a line or a plane.

    Attributes:
        growth_tolerance: steps may grow while ``local_error`` is below this.
    """

    growth_tolerance: float

    def step(self, p: Array, duration: float, total: float | None = None) -> tuple[Array, Array | None, int]:
        """The density after a step, what ``local_error`` needs beyond it (None where a guard acted), the guard."""
        ...

    def local_error(self, p: Array, stage: Array, after: Array, duration: float) -> float:
        """Error of that step as a share of the law."""
        ...


@dataclass
class Progress:
    """How far an evolution has come, and what it took. Time is counted in integers, so that it ends where it should.

    Attributes:
        step: longest step while the law changes, time.
        total: whole duration, in units of step / 2**60.
        scale: time in which the first law changes by its own width; inf where steps need no grading.
        grading: longest step as a fraction of the law's age, ``scale`` plus the time passed.
        position: what has passed, in units of step / 2**60.
        level: the next step is step * 2**level.
        steps: steps taken.
        tail_guards: steps with a far tail taken from backward Euler.
        euler_steps: steps taken by backward Euler altogether.
    """

    step: float
    total: int
    scale: float
    grading: float
    position: int = 0
    level: int = 0
    steps: int = 0
    tail_guards: int = 0
    euler_steps: int = 0

    @classmethod
    def start(cls, duration: float, step: float, scale: float = math.inf, grading: float = 0.05) -> Progress:
        """An evolution over ``duration`` with steps of at most ``step``, and of ``grading`` times the law's age."""
        # The slack keeps rounding of duration / step from adding a step.
        count = max(1, math.ceil(duration / step * (1.0 - 1e-12)))
        step = duration / count
        wanted = min(max(grading * scale / step, 2.0**-_FINEST_LEVEL), 1.0)
        return cls(step, count << _FINEST_LEVEL, scale, grading, level=math.floor(math.log2(wanted)))

    @property
    def done(self) -> bool:
        """Whether the whole duration has passed."""
        return self.position >= self.total

    @property
    def check_is_due(self) -> bool:
        """Whether to see if steps may grow: every few steps once they are ungraded, where they could double."""
        return self.level >= 0 and self.position % (_CHECK_EVERY * self._units(self.level)) == 0

    def _units(self, level: int) -> int:
        return 1 << (_FINEST_LEVEL + level)

    def _can_double(self) -> bool:
        units = self._units(self.level + 1)
        return self.position % units == 0 and self.position + units <= self.total

    def next_size(self) -> float:
        """Length of the next step, time: graded at the start, cut to what is left at the end."""
        elapsed = math.ldexp(self.position * self.step, -_FINEST_LEVEL)
        while self.level < 0 and math.ldexp(self.step, self.level + 1) <= self.grading * (self.scale + elapsed):
            if not self._can_double():
                break
            self.level += 1
        while self.position + self._units(self.level) > self.total:
            self.level -= 1
        return math.ldexp(self.step, self.level)

    def advance(self, guard: int) -> None:
        """Count the step just taken."""
        self.position += self._units(self.level)
        self.steps += 1
        self.tail_guards += guard == 1
        self.euler_steps += guard == 2

    def adapt(self, error: float, tolerance: float) -> None:
        """Lengthen steps beyond ``step`` once the law hardly changes (long gaps), shorten them again when it does."""
        if error < tolerance and self.level >= 0 and self._can_double():
            self.level += 1
        elif error > 100.0 * tolerance and self.level > 0:
            self.level -= 1


def evolve(operator: ImplicitOperator, p: Array, progress: Progress, steps: int) -> Array:
    """``p`` after at most ``steps`` further steps of ``progress``, which is updated in place.

    Args:
        operator: the generator on the cells of ``p``.
        p: non-negative cell densities, (n,) or (n1, n2).
        progress: how far the evolution has come.
        steps: how many steps to take before returning.

    Returns:
        Non-negative cell densities with the same sum, of the same shape.
    """
    # One total for all steps: its own rounding then cannot add up.
    total = float(p.sum())
    for _ in range(steps):
        if progress.done:
            break
        size = progress.next_size()
        before = p
        p, stage, guard = operator.step(p, size, total)
        progress.advance(guard)
        if stage is not None and progress.check_is_due:
            progress.adapt(operator.local_error(before, stage, p, size), operator.growth_tolerance)
    return p
