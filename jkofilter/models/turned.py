"""Diffusions whose potential falls apart in turned coordinates, seen in these: no products with matrices are left."""

from __future__ import annotations

import copy

from jkofilter._typing import Matrix
from jkofilter.models.potentials import DoubleWell, Potential, SineQuadratic
from jkofilter.models.sde import LangevinSDE

Cubic = tuple[float, float, float, float]
"""Coefficients c0 to c3 of c0 + c1 u + c2 u^2 + c3 u^3."""


def turned(sde: LangevinSDE) -> tuple[Matrix | None, LangevinSDE]:
    """The rotation R of a potential sum_i v((R x)_i), and the diffusion of u = R x; None and the same for all others.

    Only for potentials that are finite everywhere: what goes wrong elsewhere is told by its place in x.
    """
    potential = sde.potential
    if not isinstance(potential, DoubleWell | SineQuadratic) or sde.domain is not None or potential.rotation is None:
        return None, sde
    if type(potential) not in (DoubleWell, SineQuadratic):
        return None, sde
    plain = copy.copy(potential)
    plain.rotation, plain._function = None, plain._energy
    return potential.rotation, LangevinSDE(plain, sde.beta)


def cubic_slope(potential: Potential) -> Cubic | None:
    """The slope v' of a potential sum_i v(x_i) whose v' is known to be a cubic; None for all others."""
    if isinstance(potential, DoubleWell) and type(potential) is DoubleWell and potential.rotation is None:
        return 0.0, -4.0, 0.0, 4.0
    return None
