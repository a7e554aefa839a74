"""One JKO proximal step in one dimension, in Lagrangian coordinates.

A density is carried by increasing nodes X(s), s = 0..n-1, with a fixed log mass l(s) per unit of s:
log rho(X(s)) = l(s) - log X'(s). In these coordinates the Wasserstein gradient flow of
F(rho) = E[V] + E[log rho]/beta is the ordinary evolution

    dX/dt = v(X) = -V'(X) + (1/beta) (X''/X'^2 - l'/X'),

and the optimality condition of the JKO step (Jordan, Kinderlehrer & Otto 1998) from the centre Z is
X - Z = h v(X): an implicit Euler step, since optimal maps of the line are the monotone ones. Working with log masses
keeps the tails to relative accuracy however small the mass there, and affine maps (Gaussian laws) are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jkofilter._typing import Array
from jkofilter.numerics.differences import first_difference, second_difference, smooth_first_difference
from jkofilter.numerics.newton import PentadiagonalLU, is_increasing, newton_move
from jkofilter.transport.line.density import relevance

MAX_NEWTON = 16
TOLERANCE = 5e-4
"""Relative change of the node spacings at which Newton stops; its square, 3e-7 nats, is left in the log density."""

MAX_COMPRESSION = 0.8
"""Largest part of a node spacing that one iteration may close."""

END_SLOPE = 0.1
"""Least growth of the log mass inwards from either end, per node."""


class StepFailedError(Exception):
    """The proximal step did not converge, or its centre is not an increasing map; a shorter step is needed."""


@dataclass(frozen=True, eq=False)
class LabelledMass:
    """What stays fixed while nodes move: log mass per unit label, and the force law.

    Attributes:
        log_mass: l(s), (n,).
        slopes: maps states (n,) to (V', V''), each (n,).
        beta: inverse temperature.
        looseness: factor on the tolerance of Newton's iteration.
    """

    log_mass: Array
    slopes: Callable[[Array], tuple[Array, Array]]
    beta: float
    looseness: float = 1.0

    @cached_property
    def mass(self) -> Array:
        """exp(l), (n,)."""
        return np.exp(self.log_mass)

    @cached_property
    def log_mass_slope(self) -> Array:
        """dl/ds, (n,)."""
        slope = smooth_first_difference(self.log_mass)
        # At the two ends mass has to grow inwards, so that nothing but outflow happens there and the open ends need no
        # boundary condition; a rough tail, coarsely sampled, can hide that from the one-sided stencil.
        log_mass = self.log_mass
        slope[:2] = np.maximum(slope[:2], np.maximum(log_mass[1:3] - log_mass[:2], END_SLOPE))
        slope[-2:] = np.minimum(slope[-2:], np.minimum(log_mass[-2:] - log_mass[-3:-1], -END_SLOPE))
        return slope

    @cached_property
    def relevance(self) -> Array:
        """Weight of each node spacing when convergence is judged, (n - 1,)."""
        return relevance(self.log_mass)

    def velocity(self, x: Array) -> Array:
        """v(X), state per time, (n,)."""
        stretch = first_difference(x)
        pressure = (second_difference(x) / stretch - self.log_mass_slope) / stretch
        return pressure / self.beta - self.slopes(x)[0]

    def log_density(self, x: Array) -> Array:
        """log rho at the nodes, (n,)."""
        return self.log_mass - np.log(first_difference(x))

    def strain_norm(self, displacement: Array, x: Array) -> float:
        """Root mean square change of the log density under a small displacement of the nodes."""
        strain = first_difference(displacement) / first_difference(x)
        return float(np.sqrt(np.sum(self.mass * strain * strain)))


@dataclass(frozen=True, eq=False)
class Proximal:
    """A solved step: nodes, velocity there, factors of the last Newton matrix, and iterations taken."""

    x: Array
    velocity: Array
    factors: PentadiagonalLU
    iterations: int


def proximal_step(law: LabelledMass, centre: Array, h: float, guess: Array) -> Proximal:
    """The nodes with X - centre = h v(X), by Newton's method capped short of node collision.

    Args:
        law: masses and forces.
        centre: Z, an increasing map, (n,).
        h: proximal length, time.
        guess: increasing start of the iteration, (n,); the centre is taken where it is not.

    Raises:
        StepFailedError: the centre is not increasing, or Newton does not converge.
    """
    if not is_increasing(centre):
        raise StepFailedError("the shifted centre is not an increasing map")
    x = guess if is_increasing(guess) else centre
    for iteration in range(1, MAX_NEWTON + 1):
        solved = newton_move(x, centre, law.slopes(x), law.log_mass_slope, law.relevance, h, law.beta)
        if solved is None:
            raise StepFailedError("the Newton system is singular or not finite")
        x, whole = _capped(x, solved.move, solved.compression)
        # Newton converges quadratically: the last move's square is what is left.
        if whole and solved.size < law.looseness * TOLERANCE:
            return Proximal(x, (x - centre) / h, solved.factors, iteration)
    raise StepFailedError(f"Newton did not converge in {MAX_NEWTON} iterations")


def _capped(x: Array, move: Array, compression: float) -> tuple[Array, bool]:
    """``x`` plus as much of ``move`` as keeps the nodes apart, and whether that was all of it."""
    damping = 1.0 if compression <= MAX_COMPRESSION else MAX_COMPRESSION / compression
    trial = x + damping * move
    while not is_increasing(trial):
        damping *= 0.5
        if damping < 1e-6:
            raise StepFailedError("nodes collide")
        trial = x + damping * move
    return trial, damping == 1.0
