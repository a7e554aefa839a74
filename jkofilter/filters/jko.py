"""The JKO filter: a density carried by Wasserstein gradient flow between readings, and by Bayes at each of them."""

from __future__ import annotations

import math
import time as clock
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor

from jkofilter._typing import Array
from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.quantile import QuantileBelief
from jkofilter.errors import FilterError, InputError
from jkofilter.filters.base import (
    Runnable,
    StepInfo,
    checked_belief,
    checked_duration,
    checked_log_likelihood,
    checked_reading,
    require_finite_potential,
)
from jkofilter.models.state_space import StateSpaceModel
from jkofilter.numerics.mesh import adapt
from jkofilter.transport.quantile_flow import (
    SCHEMES,
    FlowSettings,
    FlowStats,
    QuantileDensity,
    Scheme,
    flow,
    normalised,
)

PRIOR_REACH = 40.0
PRIOR_CORE = 15.0


@dataclass(frozen=True)
class JKOFilter(Runnable):
    """Filter of a hidden Langevin diffusion whose belief is a density (d = 1: monotone maps of the line).

    Attributes:
        model: what is tracked.
        step: longest time step, in the SDE's unit of time; shorter ones are taken where ``tolerance`` asks.
        scheme: "sdirk2" (second order, L-stable), "bdf2" (second order), or "implicit-euler" (the classical JKO step).
        transport: "auto" or "quantile".
        nodes: how many nodes carry the density.
        tolerance: bound on the local error of one step (rms change of log density, nats), kept by shortening steps
            after sharp readings; None takes steps of ``step`` throughout.
        on_failure: "raise" a FilterError when a step fails, or "report" it in StepInfo.status and keep the belief.

    Raises:
        InputError: a setting cannot be used.
    """

    model: StateSpaceModel
    step: float = 0.05
    scheme: Scheme = "sdirk2"
    transport: Literal["auto", "quantile"] = "auto"
    nodes: int = 400
    tolerance: float | None = 3e-4
    on_failure: Literal["raise", "report"] = "raise"

    def __post_init__(self) -> None:
        if not isinstance(self.model, StateSpaceModel):
            raise InputError("model must be a StateSpaceModel(prior, sde, observation).")
        if self.transport not in ("auto", "quantile"):
            raise InputError(f"transport must be 'auto' or 'quantile', got {self.transport!r}.")
        if self.model.dim != 1:
            raise InputError(
                f"model has dim {self.model.dim}, but the quantile transport handles dim 1; use a ParticleFilter."
            )
        if not 0 < self.step < math.inf:
            raise InputError(f"step must be positive and finite, got {self.step!r}.")
        if self.scheme not in SCHEMES:
            raise InputError(f"scheme must be one of {', '.join(SCHEMES)}, got {self.scheme!r}.")
        if not isinstance(self.nodes, int) or self.nodes < 64:
            raise InputError(f"nodes must be an integer of at least 64, got {self.nodes!r}.")
        if self.tolerance is not None and not 0 < self.tolerance < math.inf:
            raise InputError(f"tolerance must be positive, or None for fixed steps, got {self.tolerance!r}.")
        if self.on_failure not in ("raise", "report"):
            raise InputError(f"on_failure must be 'raise' or 'report', got {self.on_failure!r}.")

    def init(self, generator: Generator) -> QuantileBelief:
        """The prior on adapted nodes.

        Raises:
            InputError: the prior's log density is NaN, or zero all around its mean.
        """
        prior, support = self.model.prior, self.model.prior.support
        if support is None:
            raise InputError("prior must have a support; set that property of the distribution.")
        centre, scale = _location(self.model)
        start = centre + scale * PRIOR_REACH * np.sinh(np.linspace(-6, 6, 1601)) / math.sinh(6)

        def log_density(x: Array) -> Array:
            points = self._points(x)
            inside = support.check(points)
            value = torch.full((x.size,), -torch.inf, dtype=points.dtype, device=points.device)
            if inside.any():
                value[inside] = prior.log_prob(points[inside])
            if torch.isnan(value).any():
                raise InputError("prior.log_prob returns NaN; give a prior that can be evaluated.")
            return _array(value)

        try:
            density, _ = normalised(*adapt(log_density, start, self.nodes, passes=3))
        except FloatingPointError as error:
            raise InputError("prior has zero density all around its mean; give one that can be evaluated.") from error
        core = density.x[density.log_density > density.log_density.max() - PRIOR_CORE]
        require_finite_potential(self.model, self._points(core))
        return self._belief(density, 0.0, 0.0)

    def predict(self, belief: Belief, duration: float, generator: Generator) -> tuple[QuantileBelief, StepInfo]:
        """The law ``duration`` later, by JKO steps.

        Raises:
            FilterError: no step converges (``on_failure="raise"``).
        """
        now = checked_belief(belief, QuantileBelief)
        duration = checked_duration(duration)
        if duration == 0.0:
            return now, StepInfo(status="skipped")
        start = clock.perf_counter()
        settings = FlowSettings(self.step, self.scheme, self.tolerance, self.nodes)
        try:
            density, stats = flow(_density(now), duration, self._slopes, float(self.model.sde.beta), settings)
        except FilterError as error:
            if self.on_failure == "raise":
                raise
            return now, StepInfo(status=str(error), seconds=clock.perf_counter() - start)
        after = self._belief(density, now.time + duration, now.log_evidence)
        return after, StepInfo(seconds=clock.perf_counter() - start, details=_details(stats))

    def update(self, belief: Belief, y: Tensor, generator: Generator) -> tuple[QuantileBelief, StepInfo]:
        """The law given a reading, on nodes adapted to it.

        Raises:
            FilterError: the likelihood is NaN, or zero everywhere (``on_failure="raise"``).
        """
        now = checked_belief(belief, QuantileBelief)
        reading = checked_reading(y, self.model)
        if reading is None:
            return now, StepInfo(status="skipped")
        start = clock.perf_counter()
        before = _density(now)
        prior = before.evaluator()

        def log_posterior(x: Array) -> Array:
            likelihood = checked_log_likelihood(self.model, reading, self._points(x), now.time)
            return prior(x) + _array(likelihood)

        try:
            density, increment = normalised(*adapt(log_posterior, before.x, self.nodes, passes=2))
        except FilterError as error:
            if self.on_failure == "raise":
                raise
            return now, StepInfo(status=str(error), seconds=clock.perf_counter() - start)
        after = self._belief(density, now.time, now.log_evidence + increment)
        return after, StepInfo(log_evidence=increment, seconds=clock.perf_counter() - start)

    def _points(self, x: Array) -> Tensor:
        return torch.from_numpy(x).to(device=self.model.device, dtype=self.model.dtype).unsqueeze(-1)

    def _slopes(self, x: Array) -> tuple[Array, Array]:
        points, potential = self._points(x), self.model.sde.potential
        return _array(potential.gradient(points))[:, 0], _array(potential.hessian(points))[:, 0, 0]

    def _belief(self, density: QuantileDensity, time: float, log_evidence: float) -> QuantileBelief:
        nodes, log_density = self._points(density.x)[:, 0], self._points(density.log_density)[:, 0]
        return QuantileBelief(time, nodes, log_density, log_evidence)


def _array(tensor: Tensor) -> Array:
    return tensor.detach().to(device="cpu", dtype=torch.float64).numpy()


def _density(belief: QuantileBelief) -> QuantileDensity:
    return QuantileDensity(_array(belief.nodes), _array(belief.log_density))


def _location(model: StateSpaceModel) -> tuple[float, float]:
    """Mean and standard deviation of the prior."""
    centre, scale = float(model.prior.mean), float(model.prior.stddev)
    if not (math.isfinite(centre) and math.isfinite(scale)):
        raise InputError("prior must have a finite mean and variance for the quantile transport; cut off its tails.")
    return centre, scale


def _details(stats: FlowStats) -> dict[str, float]:
    return {
        "steps": stats.steps,
        "halvings": stats.halvings,
        "newton_iterations": stats.newton_iterations,
        "remeshes": stats.remeshes,
        "shortest_step": stats.shortest_step,
    }
