"""The JKO filter: a density carried by Wasserstein gradient flow between readings, and by Bayes at each of them."""

from __future__ import annotations

import math
import time as clock
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, cast

import numpy as np
import torch
from torch import Generator, Tensor

from jkofilter._typing import Array
from jkofilter.assimilation.assimilate import assimilate
from jkofilter.assimilation.settings import UpdateSettings
from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.info import StepInfo
from jkofilter.beliefs.quantile import QuantileBelief
from jkofilter.errors import FilterError, InputError
from jkofilter.filters.base import Runnable
from jkofilter.filters.checks import (
    checked_belief,
    checked_duration,
    checked_log_likelihood,
    checked_reading,
    log_likelihood_without_nan,
    occasion,
)
from jkofilter.models.sde import require_finite_potential
from jkofilter.models.state_space import StateSpaceModel, prior_log_prob, prior_support, sample_prior
from jkofilter.numerics.arrays import as_array
from jkofilter.numerics.draws import stream
from jkofilter.numerics.mesh import adapt
from jkofilter.transport.laws.belief import TransportBelief
from jkofilter.transport.laws.prior_pool import check_pool, prior_draws, prior_pool
from jkofilter.transport.line.quantile_flow import (
    MAX_MASS_DEFECT,
    FlowSettings,
    FlowStats,
    QuantileDensity,
    flow,
    normalised,
)
from jkofilter.transport.schemes import LINE_SCHEMES, POOL_SCHEMES, LineScheme, PoolScheme
from jkofilter.transport.steps.engine import Engine
from jkofilter.transport.steps.engines import engine_of
from jkofilter.transport.steps.stepping import Stepper
from jkofilter.transport.time_steps import CarriedPool, carry

PRIOR_REACH = 40.0
PRIOR_CORE = 15.0


@dataclass(frozen=True)
class JKOFilter(Runnable):
    """Filter of a hidden Langevin diffusion whose belief is a density, in any dimension.

    In one dimension ("quantile") monotone maps of the line carry nodes and masses, and Bayes multiplies masses. In
    more ("ridge", "icnn", "soft-maximum") Brenier maps carry a pool of particles with their density; readings are taken
    in by tempered sequential Monte Carlo in the base space of the maps, and a law fitted to the posterior keeps the
    cost of every reading the same.

    Attributes:
        model: what is tracked.
        step: longest time step, in the SDE's unit of time; shorter ones are taken where ``tolerance`` asks, or where
            one fails.
        scheme: "sdirk2" (second order, L-stable), "sdirk4" (fourth order, L-stable, "quantile" only), "bdf2" (second
            order), or "implicit-euler" (the classical JKO step).
        transport: "quantile", "ridge" (convex ridge splines), "icnn" (input-convex networks), "soft-maximum" (soft
            maxima of quadratics, for potentials of several modes), or an engine with settings of its own; "auto" is
            "quantile" in one dimension and "ridge" in more.
        nodes: how many nodes carry the density ("quantile" only).
        tolerance: bound on the local error of one step (rms change of log density, nats), kept by shortening steps
            after sharp readings; None takes steps of ``step`` throughout. "quantile" only; the others take fixed steps.
        pool: how many particles carry the density (not "quantile").
        assimilation: how readings are taken in (not "quantile").
        on_failure: "raise" a FilterError when a step fails, or "report" it in StepInfo.status and keep the belief.

    Raises:
        InputError: a setting cannot be used, or is another transport's and not at its default.
    """

    model: StateSpaceModel
    step: float = 0.05
    scheme: LineScheme = "sdirk2"
    transport: Literal["auto", "quantile", "ridge", "icnn", "soft-maximum"] | Engine = "auto"
    nodes: int = 400
    tolerance: float | None = 3e-4
    pool: int = 4096
    assimilation: UpdateSettings = UpdateSettings()
    on_failure: Literal["raise", "report"] = "raise"

    def __post_init__(self) -> None:
        if not isinstance(self.model, StateSpaceModel):
            raise InputError("model must be a StateSpaceModel(prior, sde, observation).")
        if self.transport == "quantile" and self.model.dim != 1:
            raise InputError(f"transport 'quantile' handles dim 1, but model has dim {self.model.dim}; use 'ridge'.")
        if not self._on_the_line:
            self._check_transport()
        if not 0 < self.step < math.inf:
            raise InputError(f"step must be positive and finite, got {self.step!r}.")
        if self.scheme not in LINE_SCHEMES:
            raise InputError(f"scheme must be one of {', '.join(LINE_SCHEMES)}, got {self.scheme!r}.")
        if not isinstance(self.nodes, int) or self.nodes < 64:
            raise InputError(f"nodes must be an integer of at least 64, got {self.nodes!r}.")
        if self.tolerance is not None and not 0 < self.tolerance < math.inf:
            raise InputError(f"tolerance must be positive, or None for fixed steps, got {self.tolerance!r}.")
        if self.on_failure not in ("raise", "report"):
            raise InputError(f"on_failure must be 'raise' or 'report', got {self.on_failure!r}.")
        self._refuse_settings_without_effect()

    def _refuse_settings_without_effect(self) -> None:
        if self._on_the_line:
            unused, why = ("pool", "assimilation"), "it is for the transports of particles, such as 'ridge'"
        else:
            unused, why = ("nodes", "tolerance"), "it is for the quantile transport of one dimension"
        for name in unused:
            if getattr(self, name) != getattr(JKOFilter, name):
                raise InputError(f"{name} has no effect here and must be left at its default: {why}.")

    @property
    def _on_the_line(self) -> bool:
        return self.transport == "quantile" or (self.transport == "auto" and self.model.dim == 1)

    def _check_transport(self) -> None:
        if isinstance(self.transport, str) and self.transport not in ("auto", "ridge", "icnn", "soft-maximum"):
            raise InputError(
                "transport must be 'auto', 'quantile', 'ridge', 'icnn', 'soft-maximum' or an engine, got "
                f"{self.transport!r}."
            )
        if self.scheme not in POOL_SCHEMES:
            raise InputError(f"scheme {self.scheme!r} is for the quantile transport; use {', '.join(POOL_SCHEMES)}.")
        engine_of(self.transport)
        check_pool(self.pool, self.model.dim)
        if not isinstance(self.assimilation, UpdateSettings):
            raise InputError("assimilation must be an UpdateSettings.")

    def init(self, generator: Generator) -> QuantileBelief | TransportBelief:
        """The prior: on adapted nodes in one dimension, as a pool of particles in more.

        Raises:
            InputError: the prior cannot be carried: its log density is NaN, not differentiable or, on the line, zero
                all around its mean; or the potential is not finite where it has mass.
        """
        if self._on_the_line:
            return self._init_on_the_line()
        x = prior_draws(self.model.prior, self.pool, generator)
        require_finite_potential(self.model.sde, x)
        return TransportBelief(0.0, self.model.prior, (), prior_pool(self.model.prior, x), x)

    def predict(
        self, belief: Belief, duration: float, generator: Generator
    ) -> tuple[QuantileBelief | TransportBelief, StepInfo]:
        """The law ``duration`` later, by JKO steps.

        Raises:
            InputError: another filter's belief, or a bad duration.
            FilterError: no step converges (``on_failure="raise"``); names the time.
        """
        if self._on_the_line:
            return self._predict_on_the_line(belief, duration)
        now, duration = checked_belief(belief, TransportBelief), checked_duration(duration)
        if duration == 0.0:
            return now, StepInfo(status="skipped")
        start = clock.perf_counter()
        stepper = Stepper(self.model.sde, engine_of(self.transport), cast(PoolScheme, self.scheme))
        try:
            carried = carry(stepper, now.pool, duration, self.step, None, generator, now.time)
        except FilterError as error:
            if self.on_failure == "raise":
                raise FilterError(f"predicting from time {now.time:g}: {error}") from error
            return now, StepInfo(status=str(error), seconds=clock.perf_counter() - start)
        after = replace(now, time=now.time + duration, maps=(*now.maps, *carried.maps), pool=carried.pool)
        if not carried.maps:
            return after, StepInfo(status="skipped")
        worst = max(carried.infos, key=lambda info: info.details["kl_rate"] * info.details["step"])
        return after, StepInfo(seconds=clock.perf_counter() - start, details=_summary(carried), note=worst.note)

    def update(
        self, belief: Belief, y: Tensor, generator: Generator
    ) -> tuple[QuantileBelief | TransportBelief, StepInfo]:
        """The law given a reading.

        Raises:
            InputError: another filter's belief, or a bad reading.
            FilterError: the likelihood is NaN, or zero everywhere, or the posterior too sharp
                (``on_failure="raise"``); names the time and the reading. ``belief`` itself stays usable.
        """
        if self._on_the_line:
            return self._update_on_the_line(belief, y)
        now, reading = checked_belief(belief, TransportBelief), checked_reading(y, self.model)
        if reading is None:
            return now, StepInfo(status="skipped")
        start = clock.perf_counter()

        def log_likelihood(x: Tensor) -> Tensor:
            return log_likelihood_without_nan(self.model, reading, x, now.time)

        try:
            found = assimilate(now, log_likelihood, self.assimilation, generator)
        except FilterError as error:
            message = (
                str(error) if occasion(reading, now.time) in str(error) else f"{error} {occasion(reading, now.time)}"
            )
            if self.on_failure == "raise":
                raise FilterError(message) from error
            return now, StepInfo(status=message, seconds=clock.perf_counter() - start)
        seconds = clock.perf_counter() - start
        info = StepInfo("ok", found.log_evidence, seconds, found.ess, found.details, found.note, found.history)
        return found.belief, info

    def _init_on_the_line(self) -> QuantileBelief:
        """The prior on adapted nodes.

        Raises:
            InputError: the prior's log density is NaN, zero all around its mean, or not for these nodes to carry.
        """
        centre, scale = _location(self.model)
        start = centre + scale * PRIOR_REACH * np.sinh(np.linspace(-6, 6, 1601)) / math.sinh(6)
        try:
            density, log_total = normalised(*adapt(self._log_prior, start, self.nodes, passes=3))
        except FloatingPointError as error:
            raise InputError(f"prior cannot be carried by nodes around its mean, since {error}.") from error
        if not abs(log_total) < MAX_MASS_DEFECT:
            raise InputError(
                f"prior comes out with log mass {log_total:.3g}, not 0, on {self.nodes} nodes; give more nodes, or a "
                "normalised prior without such sharp edges, singularities or long tails."
            )
        core = density.x[density.log_density > density.log_density.max() - PRIOR_CORE]
        require_finite_potential(self.model.sde, self._points(core))
        return self._belief(density, 0.0, 0.0)

    def _predict_on_the_line(self, belief: Belief, duration: float) -> tuple[QuantileBelief, StepInfo]:
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
            message = f"predicting from time {now.time:g}: {error}"
            if self.on_failure == "raise":
                raise FilterError(message) from error
            return now, StepInfo(status=message, seconds=clock.perf_counter() - start)
        after = self._belief(density, now.time + duration, now.log_evidence)
        return after, StepInfo(seconds=clock.perf_counter() - start, details=_details(stats))

    def _update_on_the_line(self, belief: Belief, y: Tensor) -> tuple[QuantileBelief, StepInfo]:
        """The law given a reading, on nodes adapted to it.

        Raises:
            FilterError: the likelihood is NaN, zero everywhere, or too sharp (``on_failure="raise"``).
        """
        now = checked_belief(belief, QuantileBelief)
        reading = checked_reading(y, self.model)
        if reading is None:
            return now, StepInfo(status="skipped")
        start = clock.perf_counter()
        before = _density(now)
        prior = before.evaluator()

        def log_posterior(x: Array) -> Array:
            return prior(x) + as_array(log_likelihood_without_nan(self.model, reading, self._points(x), now.time))

        try:
            # Asked once of the whole belief: adapting asks for a few points at a time, all of which may be zero.
            checked_log_likelihood(self.model, reading, self._points(before.x), now.time)
            density, increment = _bayes(log_posterior, before.x, self.nodes, occasion(reading, now.time))
        except FilterError as error:
            if self.on_failure == "raise":
                raise
            return now, StepInfo(status=str(error), seconds=clock.perf_counter() - start)
        after = self._belief(density, now.time, now.log_evidence + increment)
        return after, StepInfo(log_evidence=increment, seconds=clock.perf_counter() - start)

    def _log_prior(self, x: Array) -> Array:
        """Log density of the prior, minus infinity outside its support."""
        if prior_support(self.model.prior) is None:
            raise InputError("prior must have a support; set that property of the distribution.")
        value = prior_log_prob(self.model.prior, self._points(x))
        if torch.isnan(value).any():
            raise InputError("prior.log_prob returns NaN; give a prior that can be evaluated.")
        return as_array(value)

    def _points(self, x: Array) -> Tensor:
        return torch.from_numpy(x).to(device=self.model.device, dtype=self.model.dtype).unsqueeze(-1)

    def _slopes(self, x: Array) -> tuple[Array, Array]:
        points, potential = self._points(x), self.model.sde.potential
        return as_array(potential.gradient(points))[:, 0], as_array(potential.hessian(points))[:, 0, 0]

    def _belief(self, density: QuantileDensity, time: float, log_evidence: float) -> QuantileBelief:
        nodes, log_density = self._points(density.x)[:, 0], self._points(density.log_density)[:, 0]
        return QuantileBelief(time, nodes, log_density, log_evidence)


def _density(belief: QuantileBelief) -> QuantileDensity:
    return QuantileDensity(as_array(belief.nodes), as_array(belief.log_density))


def _bayes(log_posterior: Callable[[Array], Array], x: Array, nodes: int, where: str) -> tuple[QuantileDensity, float]:
    """The normalised posterior and the log evidence.

    Raises:
        FilterError: the posterior is too narrow.
    """
    try:
        density, increment = normalised(*adapt(log_posterior, x, nodes, passes=2))
    except FloatingPointError as error:
        raise FilterError(f"the posterior is narrower than nodes in double precision can resolve {where}.") from error
    if not math.isfinite(increment):
        raise FilterError(f"the posterior has no finite mass {where}; check log_likelihood.")
    return density, increment


def _location(model: StateSpaceModel) -> tuple[float, float]:
    """Mean and standard deviation of the prior; median and quartile range of draws where it does not know them."""
    try:
        centre, scale = float(model.prior.mean), float(model.prior.stddev)
    except NotImplementedError:
        draws = sample_prior(model.prior, 1001, stream(0, "probe")).double().cpu()
        low, middle, high = torch.quantile(draws, draws.new_tensor([0.25, 0.5, 0.75])).tolist()
        centre, scale = middle, max(high - low, 1e-12)
    if not (math.isfinite(centre) and math.isfinite(scale)):
        raise InputError("prior must have a finite mean and variance for the quantile transport; cut off its tails.")
    return centre, scale


def _summary(carried: CarriedPool) -> dict[str, float]:
    infos = carried.infos
    return {
        "steps": float(len(infos)),
        "halvings": sum(info.details["halvings"] for info in infos),
        "iterations": sum(info.details["iterations"] for info in infos),
        "kl_rate": max(info.details["kl_rate"] for info in infos),
        "shortest_step": min(after - before for before, after in pairwise(carried.times)),
    }


def _details(stats: FlowStats) -> dict[str, float]:
    return {
        "steps": stats.steps,
        "halvings": stats.halvings,
        "newton_iterations": stats.newton_iterations,
        "remeshes": stats.remeshes,
        "shortest_step": stats.shortest_step,
    }
