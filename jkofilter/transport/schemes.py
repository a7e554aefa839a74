"""Time-stepping schemes: their names, and the diagonally implicit Runge-Kutta methods whose stages are JKO steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

PoolScheme: TypeAlias = Literal["sdirk2", "bdf2", "implicit-euler"]
LineScheme: TypeAlias = Literal["sdirk2", "sdirk4", "bdf2", "implicit-euler"]
POOL_SCHEMES: tuple[PoolScheme, ...] = get_args(PoolScheme)
"""Of maps fitted on a pool, in any dimension."""
LINE_SCHEMES: tuple[LineScheme, ...] = get_args(LineScheme)
"""Of nodes on the line."""


@dataclass(frozen=True)
class SDIRK:
    """A stiffly accurate, singly diagonally implicit method.

    Stage i solves Y_i = prox_{diagonal tau}(X_n + tau sum_j lower[i][j] v_j); the last stage is X_{n+1}.

    Attributes:
        diagonal: the common diagonal coefficient.
        nodes: stage times as fractions of the step.
        lower: strictly lower coefficients, one row a stage.
        gap: weights of (v at the start, v_1, .., v_s) in the estimated local error of a step.
    """

    diagonal: float
    nodes: tuple[float, ...]
    lower: tuple[tuple[float, ...], ...]
    gap: tuple[float, ...]


def _sdirk2() -> SDIRK:
    g = 1.0 - 1.0 / math.sqrt(2.0)
    # Quadrature through the velocities at 0, g, 1 is of third order: weights by integrating the Lagrange polynomials.
    at_g = (1.0 / 3.0 - 0.5) / (g * (g - 1.0))
    at_one = (1.0 / 3.0 - g / 2.0) / (1.0 - g)
    gap = (1.0 - at_g - at_one, at_g - (1.0 - g), at_one - g)
    # On a linear flow the stages' own errors hide most of the step's: its z^3 coefficient is off by
    # 4 g^3 + 3 g^2 (1 - 2 g) - 1/6, of which the quadratures' gap shows at_g g^2 + at_one / 2 less that coefficient.
    step = 4.0 * g**3 + 3.0 * g**2 * (1.0 - 2.0 * g)
    scale = (1.0 / 6.0 - step) / (at_g * g**2 + at_one / 2.0 - step)
    return SDIRK(g, (g, 1.0), ((), (1.0 - g,)), tuple(scale * weight for weight in gap))


SDIRK2 = _sdirk2()
"""Second order, L-stable, diagonal 1 - 1/sqrt(2) (Alexander 1977)."""

SDIRK4 = SDIRK(
    diagonal=1 / 4,
    nodes=(1 / 4, 3 / 4, 11 / 20, 1 / 2, 1.0),
    lower=(
        (),
        (1 / 2,),
        (17 / 50, -1 / 25),
        (371 / 1360, -137 / 2720, 15 / 544),
        (25 / 24, -49 / 48, 125 / 16, -85 / 12),
    ),
    gap=(0.0, 59 / 48 - 25 / 24, -17 / 96 + 49 / 48, 225 / 32 - 125 / 16, 0.0, -1 / 4),
)
"""Fourth order, L-stable, five stages, with an embedded third-order method (Hairer & Wanner, Solving ODEs II, IV.6)."""
