"""A filter that predicts by proximal recursion on weighted samples: a published method to compare with."""

from __future__ import annotations

from dataclasses import dataclass, field

from jkofilter.baselines.proximal import ProximalSettings, stepper
from jkofilter.baselines.stepped import ParticleStepper
from jkofilter.errors import InputError
from jkofilter.filters.proximal_recursion import ProximalRecursionFilter


@dataclass(frozen=True)
class ProximalFilter(ProximalRecursionFilter):
    """Filter on the line or the plane by proximal recursion (Caluya & Halder, ACC 2019).

    Between readings the law is carried by ``jkofilter.baselines.proximal.proximal_step``, of first order in the step.

    Attributes:
        model: what is tracked, d = 1 or 2.
        step: longest time step, in the SDE's unit.
        cells: of the grid along each coordinate, at least; None takes 1000 on the line, 100 by 100 on the plane.
        settings: how a step is solved; its weighting must be "transition".

    Raises:
        InputError: a setting cannot be used.
    """

    settings: ProximalSettings = field(default_factory=ProximalSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.settings.weighting != "transition":
            raise InputError(f"settings must have weighting 'transition', got {self.settings.weighting!r}.")

    @property
    def points(self) -> int:
        """How many carry the law."""
        return self.settings.points

    @property
    def stepper(self) -> ParticleStepper:
        """A proximal step."""
        return stepper(self.model.sde, self.settings)
