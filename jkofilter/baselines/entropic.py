"""The entropic regularisation of a JKO step, and the temperature that makes up for it."""

from __future__ import annotations

import math

from jkofilter.errors import InputError
from jkofilter.models.sde import LangevinSDE


def require_regularisation(regularisation: float, corrected: bool) -> None:
    """Raise InputError unless an entropic regularisation, in units of 1/beta, can be used."""
    if not 0 < regularisation < (2.0 if corrected else math.inf):
        bound = "between 0 and 2 when corrected" if corrected else "positive and finite"
        raise InputError(f"regularisation must be {bound}, in units of 1/beta, got {regularisation!r}.")


def entropy_temperature(sde: LangevinSDE, regularisation: float, corrected: bool) -> float:
    """Weight of the entropy in the free energy, energy.

    A step whose coupling carries the entropy gamma adds the variance (2/beta + gamma) tau where 2 tau / beta is due
    (shown in tests by the closed form for Gaussians), that is, it runs at the temperature 1/beta + gamma/2. Asking the
    free energy for 1/beta - gamma/2 gives the temperature back, to first order in the step.
    """
    temperature = 1.0 / float(sde.beta)
    return temperature * (1.0 - 0.5 * regularisation) if corrected else temperature
