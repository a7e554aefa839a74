"""A filter that predicts by dual JKO steps: a published method to compare with."""

from __future__ import annotations

from dataclasses import dataclass, field

from jkofilter.baselines.dual_jko import DualSettings, stepper
from jkofilter.baselines.stepped import ParticleStepper
from jkofilter.filters.proximal_recursion import ProximalRecursionFilter


@dataclass(frozen=True)
class DualJKOFilter(ProximalRecursionFilter):
    """Filter on the line or the plane by dual JKO steps (Frogner & Poggio, AISTATS 2020).

    Between readings the law is carried by ``jkofilter.baselines.dual_jko.dual_step``, of first order in the step.

    Attributes:
        model: what is tracked, d = 1 or 2.
        step: longest time step, in the SDE's unit.
        cells: of the grid along each coordinate, at least; None takes 1000 on the line, 100 by 100 on the plane.
        settings: how a step is solved.

    Raises:
        InputError: a setting cannot be used.
    """

    settings: DualSettings = field(default_factory=DualSettings)

    @property
    def points(self) -> int:
        """How many carry the law."""
        return self.settings.points

    @property
    def stepper(self) -> ParticleStepper:
        """A dual JKO step."""
        return stepper(self.model.sde, self.settings)
