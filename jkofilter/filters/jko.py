"""The JKO filter: a density carried by Wasserstein gradient flow between readings, and by Bayes at each of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, TypeVar, cast

import torch
from torch import Generator, Tensor

from jkofilter.assimilation.settings import UpdateSettings
from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.info import StepInfo
from jkofilter.beliefs.quantile import QuantileBelief
from jkofilter.errors import FilterError, InputError
from jkofilter.filters.base import Runnable
from jkofilter.filters.checks import (
    checked_belief,
    on_occasion,
    predicting,
    predicting_from,
    require_countable,
    require_model,
    updating,
)
from jkofilter.filters.jko_line import LineCarrier
from jkofilter.filters.jko_pool import PoolCarrier
from jkofilter.models.checks import require_count, require_positive
from jkofilter.models.sde import refuse_walls
from jkofilter.models.state_space import StateSpaceModel
from jkofilter.smoothing.contract import PathDraws, Record, Smoothed, positions
from jkofilter.transport.laws.belief import TransportBelief
from jkofilter.transport.laws.prior_pool import check_pool
from jkofilter.transport.line.quantile_flow import FlowSettings
from jkofilter.transport.schemes import LINE_SCHEMES, POOL_SCHEMES, LineScheme, PoolScheme
from jkofilter.transport.steps.engine import Engine
from jkofilter.transport.steps.engines import engine_of

B = TypeVar("B", bound=Belief)


class Carrier(Protocol[B]):
    """One way to carry a belief: takes what has been checked, and raises FilterError where a step fails."""

    @property
    def kind(self) -> type[B]:
        """Of its beliefs."""
        ...

    def init(self, generator: Generator) -> B:
        """The prior."""
        ...

    def predict(self, now: B, duration: float, generator: Generator) -> tuple[B, StepInfo]:
        """The law ``duration`` above zero later."""
        ...

    def update(self, now: B, reading: Tensor, generator: Generator) -> tuple[B, StepInfo]:
        """The law given a reading (p,) that is not all NaN."""
        ...


MOST_JKO_STEPS = 1e5
"""Steps of one prediction from which on its duration is questioned: each is a convex problem."""


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
            one fails, and longer ones, in proportion to its root of the order of the scheme's error, where a
            ``tolerance`` above 3e-4 allows them.
        scheme: "sdirk2" (second order, L-stable), "sdirk4" (fourth order, L-stable, "quantile" only), "bdf2" (second
            order), or "implicit-euler" (the classical JKO step).
        transport: "quantile", "ridge" (convex ridge splines), "icnn" (input-convex networks), "soft-maximum" (soft
            maxima of quadratics, for potentials of several modes), or an engine with settings of its own; "auto" is
            "quantile" in one dimension and "ridge" in more.
        nodes: how many nodes carry the density, up to eight times as many where it or the potential is rough
            ("quantile" only).
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
        require_model(self.model)
        refuse_walls(self.model.sde, "JKOFilter")
        if self.transport == "quantile" and self.model.dim != 1:
            raise InputError(f"transport 'quantile' handles dim 1, but model has dim {self.model.dim}; use 'ridge'.")
        if not self._on_the_line:
            self._check_transport()
        require_positive("step", self.step)
        if self.scheme not in LINE_SCHEMES:
            raise InputError(f"scheme must be one of {', '.join(LINE_SCHEMES)}, got {self.scheme!r}.")
        require_count("nodes", self.nodes, 64)
        if self.tolerance is not None:
            require_positive("tolerance", self.tolerance)
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
        if self.scheme in LINE_SCHEMES and self.scheme not in POOL_SCHEMES:
            raise InputError(f"scheme {self.scheme!r} is for the quantile transport; use {', '.join(POOL_SCHEMES)}.")
        engine_of(self.transport)
        check_pool(self.pool, self.model.dim)
        if not isinstance(self.assimilation, UpdateSettings):
            raise InputError("assimilation must be an UpdateSettings.")

    @cached_property
    def _carrier(self) -> Carrier[Any]:
        if self._on_the_line:
            return LineCarrier(self.model, FlowSettings(self.step, self.scheme, self.tolerance, self.nodes))
        scheme, engine = cast(PoolScheme, self.scheme), engine_of(self.transport)
        return PoolCarrier(self.model, self.step, scheme, engine, self.pool, self.assimilation)

    def init(self, generator: Generator) -> QuantileBelief | TransportBelief:
        """The prior: on adapted nodes in one dimension, as a pool of particles in more.

        Raises:
            InputError: the prior cannot be carried: its log density is NaN, not differentiable or, on the line, zero
                all around its mean; or the potential is not finite where it has mass.
        """
        return self._carrier.init(generator)

    def predict(
        self, belief: Belief, duration: float, generator: Generator
    ) -> tuple[QuantileBelief | TransportBelief, StepInfo]:
        """The law ``duration`` later, by JKO steps.

        Raises:
            InputError: another filter's belief, or a bad duration.
            FilterError: no step converges (``on_failure="raise"``); names the time.
        """

        def step(now: Any, duration: float) -> tuple[Any, StepInfo]:
            require_countable(duration, self.step, "step", MOST_JKO_STEPS)
            try:
                return self._carrier.predict(now, duration, generator)
            except FilterError as error:
                return self._failed(now, predicting_from(now.time, error), error)

        return predicting(belief, self._carrier.kind, duration, step)

    def update(
        self, belief: Belief, y: Tensor, generator: Generator
    ) -> tuple[QuantileBelief | TransportBelief, StepInfo]:
        """The law given a reading.

        Raises:
            InputError: another filter's belief, or a bad reading.
            FilterError: the likelihood is NaN, or zero everywhere, or the posterior too sharp
                (``on_failure="raise"``); names the time and the reading. ``belief`` itself stays usable.
        """

        def step(now: Any, reading: Tensor) -> tuple[Any, StepInfo]:
            try:
                return self._carrier.update(now, reading, generator)
            except FilterError as error:
                return self._failed(now, on_occasion(error, reading, now.time), error)

        return updating(belief, self._carrier.kind, y, self.model, step)

    def smoothed(self, record: Record, generator: Generator) -> Smoothed:
        """The laws of a record given all its readings: the flow itself, over the reversed readings from exp(-beta V).

        Raises:
            InputError: another filter's beliefs, or more than one dimension.
            FilterError: a step of the backward pass failed.
        """
        return self._line_carrier().smoothed(
            [checked_belief(law, QuantileBelief) for law in record.laws], record.readings
        )

    def paths(self, record: Record, n: int, times: list[float], generator: Generator) -> PathDraws:
        """``n`` independent paths given all readings: backwards through the laws, by exact transition densities.

        Raises:
            InputError: another filter's beliefs, or more than one dimension.
            FilterError: a law between two readings cannot be had.
        """
        carrier = self._line_carrier()
        laws = record.laws_with(times, lambda law, duration: self.predict(law, duration, generator)[0])
        states = carrier.paths([checked_belief(law, QuantileBelief) for law in laws], n, generator)
        chosen = torch.from_numpy(states[:, positions(laws, times)]).to(self.model.device, self.model.dtype)
        return PathDraws(chosen.unsqueeze(-1))

    def _line_carrier(self) -> LineCarrier:
        carrier = self._carrier
        if not isinstance(carrier, LineCarrier):
            raise InputError(
                "JKOFilter smooths in one dimension, by its quantile transport; use GridFilter on the plane, or "
                "ParticleFilter in any dimension."
            )
        return carrier

    def _failed(self, now: B, message: str, error: FilterError) -> tuple[B, StepInfo]:
        """The belief as it was and what went wrong, or the error: the policy in one place."""
        if self.on_failure == "raise":
            raise FilterError(message) from error
        return now, StepInfo(status=message)
