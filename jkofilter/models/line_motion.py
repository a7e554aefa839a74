"""How points of the line move under noise that depends on the state: second weak order, inside the walls.

Strang's splitting of dX = b(X) dt + s(X) o dW (Stratonovich, b = a - s s'/2) into the drift, half a step at each end,
and the flow along s by the noise between them (Ninomiya & Victoir 2008, Appl. Math. Finance 15, 107-121). The flow is
the Taylor series in the noise w, with v = s^2,

    x + w s + w^2 v'/4 + w^3 s v''/12 + w^4 (v' v'' + 2 v v''') / 96,

which for square roots comes back from an end where the noise vanishes, as the flow does: for Cox, Ingersoll and Ross it
is Alfonsi's scheme (2010, Math. Comp. 79, 209-237).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator

from jkofilter._typing import Points
from jkofilter.errors import FilterError
from jkofilter.models.line_diffusion import LineDiffusion
from jkofilter.models.motion import Moved
from jkofilter.numerics.draws import standard_normal
from jkofilter.numerics.time_grid import equal_steps

_ACCURATE = 0.2
"""Longest step chosen, in units of the time in which drift or noise change by their own size."""
_PLANNERS = 256
_DIFFERENCE = 1e-5
_MOST_STEPS = 1_000_000


@dataclass(frozen=True, eq=False)
class LineMover:
    """Moves points of a LineDiffusion again and again.

    Attributes:
        sde: the diffusion.
        generator: draws the noise.
    """

    sde: LineDiffusion
    generator: Generator

    def move(self, x: Points, duration: float, substep: float | None = None) -> Moved:
        """``x`` (n, 1) moved ``duration`` ahead, in steps of at most ``substep``; None chooses them.

        Raises:
            FilterError: points leave the finite numbers, or the steps they need are too short.
        """
        remaining, count = duration, 0
        while remaining > 0:
            longest = self._longest(x) if substep is None else substep
            steps, step = equal_steps(remaining, longest)
            if steps > _MOST_STEPS:
                raise FilterError(
                    f"drift or noise change so fast where the law is that {remaining:g} units of time take {steps} "
                    "steps; shorten the gap, or give substep=."
                )
            # A plan serves for so many steps; the law may be elsewhere then.
            now = min(steps, 16) if substep is None else steps
            for _ in range(now):
                x = self._step(x, step)
            if not torch.isfinite(x).all():
                raise FilterError("the law leaves the finite numbers: give a shorter substep, or the domain of X.")
            count += now
            remaining = remaining - now * step if now < steps else 0.0
        return Moved(x, count, 0, 0.0)

    def _step(self, x: Points, step: float) -> Points:
        x = self._drifted(x, 0.5 * step)
        w = math.sqrt(step) * standard_normal(x, self.generator)
        at = self.sde.inside(x)
        v, first, second, third = self.sde.squared_noise(at)
        s = v.sqrt()
        flow = w * (s + w * (first / 4 + w * (s * second / 12 + w * (first * second + 2 * v * third) / 96)))
        return self._drifted(self._walled(x + flow), 0.5 * step)

    def _drifted(self, x: Points, step: float) -> Points:
        """Along b, by Heun's step."""
        slope = self._stratonovich(x)
        ahead = self._walled(x + step * slope)
        return self._walled(x + 0.5 * step * (slope + self._stratonovich(ahead)))

    def _stratonovich(self, x: Points) -> Points:
        at = self.sde.inside(x)
        return self.sde.drift(at).detach() - self.sde.squared_noise(at, 1)[1] / 4

    def _walled(self, x: Points) -> Points:
        return x if self.sde.domain is None else self.sde.domain.reflect(x)

    def _longest(self, x: Points) -> float:
        """A step in which neither drift nor noise change much, for nineteen of twenty points."""
        chosen = self.sde.inside(x if len(x) <= _PLANNERS else x[:: len(x) // _PLANNERS][:_PLANNERS])
        out = _DIFFERENCE * (chosen.abs() + chosen.std() if len(chosen) > 1 else chosen.abs() + 1.0)
        ahead, behind = self.sde.inside(chosen + out), self.sde.inside(chosen - out)
        slope = (self._stratonovich(ahead) - self._stratonovich(behind)) / (ahead - behind).clamp(min=1e-300)
        second = self.sde.squared_noise(chosen, 2)[2]
        rate = torch.nan_to_num(slope.abs() + 0.5 * second.abs(), nan=0.0, posinf=0.0)
        fastest = torch.quantile(rate, 0.95).item()
        return _ACCURATE / fastest if fastest > 0 else math.inf
