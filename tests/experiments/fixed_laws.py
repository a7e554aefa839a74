"""Filters whose answers are written down by hand, for tests of the figures that are made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import jkofilter as jf
from jkofilter.filters.base import Runnable

ONE = torch.eye(1, dtype=torch.float64)
NORMAL = torch.distributions.MultivariateNormal(torch.zeros(1, dtype=torch.float64), ONE)
MODEL = jf.StateSpaceModel(NORMAL, jf.LangevinSDE(jf.Quadratic([0.0], [[1.0]])), jf.LinearGaussian(ONE, ONE))


@dataclass(frozen=True, eq=False)
class Fixed(Runnable):
    """Says N(mean, variance) after every reading, and what is written down.

    Attributes:
        mean: of the law.
        variance: of the law.
        gains: of the log evidence at the readings.
        ess: reported at the readings.
        status: reported at the last reading.
        cost: called at every reading, for what it takes.
    """

    mean: float
    variance: float
    gains: Sequence[float] = (-1.0, -1.0)
    ess: Sequence[float | None] = (None, None)
    status: str = "ok"
    cost: Callable[[], Any] = lambda: None
    particles: int = 0

    @property
    def model(self) -> jf.StateSpaceModel:
        return MODEL

    def law(self, time: float, log_evidence: float) -> jf.GaussianBelief:
        return jf.GaussianBelief(time, self.mean * ONE[0], self.variance * ONE, log_evidence)

    def init(self, generator: torch.Generator) -> jf.Belief:
        return self.law(0.0, 0.0)

    def predict(self, belief: jf.Belief, duration: float, generator: torch.Generator) -> tuple[jf.Belief, jf.StepInfo]:
        return self.law(belief.time + duration, belief.log_evidence), jf.StepInfo()

    def update(self, belief: jf.Belief, y: torch.Tensor, generator: torch.Generator) -> tuple[jf.Belief, jf.StepInfo]:
        k = round(belief.time) - 1
        self.cost()
        info = jf.StepInfo(status=self.status if k == 1 else "ok", ess=self.ess[k])
        return self.law(belief.time, belief.log_evidence + self.gains[k]), info


def scenario(filters: dict[str, Any], **more: Any) -> jf.Scenario:
    """Readings at times 1 and 2, the last filter the reference."""
    series = jf.ObservationSeries([1.0, 2.0], [0.0, 0.0])
    made = {name: (lambda model, one=one: one) if isinstance(one, Fixed) else one for name, one in filters.items()}
    return jf.Scenario("fixed", MODEL, made, list(filters)[-1], series=series, **more)
