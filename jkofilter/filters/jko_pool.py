"""The JKO filter in N dimensions: Brenier maps carry a pool of particles; readings are taken in behind the maps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import Generator, Tensor

from jkofilter.assimilation.assimilate import LOST, assimilate
from jkofilter.assimilation.base_space import CLOSE
from jkofilter.assimilation.settings import UpdateSettings
from jkofilter.beliefs.info import StepInfo
from jkofilter.filters.checks import log_likelihood_without_nan
from jkofilter.models.sde import require_finite_potential
from jkofilter.models.state_space import StateSpaceModel
from jkofilter.transport.laws.belief import TransportBelief, ridge_directions
from jkofilter.transport.laws.fitted_law import agreement, refit
from jkofilter.transport.laws.prior_pool import prior_draws, prior_pool
from jkofilter.transport.schemes import PoolScheme
from jkofilter.transport.steps.engine import Engine
from jkofilter.transport.steps.stepping import JKOStepper
from jkofilter.transport.time_steps import WORTH_A_NOTE, CarriedPool, carry

MOST_MAPS = 8
"""A longer chain is replaced by a law fitted to it at the next predict: every map costs ``log_prob`` an inversion."""
CURE = "a larger pool, more directions or another transport may fit better"


@dataclass(frozen=True)
class PoolCarrier:
    """Carries a law as a chain of maps and the particles that they were fitted on.

    Attributes:
        model: what is tracked.
        step: longest time step.
        scheme: of the steps.
        engine: solves them.
        pool: how many particles.
        assimilation: how readings are taken in, and laws fitted.
    """

    model: StateSpaceModel
    step: float
    scheme: PoolScheme
    engine: Engine
    pool: int
    assimilation: UpdateSettings

    @property
    def kind(self) -> type[TransportBelief]:
        """Of the beliefs."""
        return TransportBelief

    def init(self, generator: Generator) -> TransportBelief:
        """Draws of the prior.

        Raises:
            InputError: the prior's log density is NaN or not differentiable, or the potential is not finite where it
                has mass.
        """
        x = prior_draws(self.model.prior, self.pool, generator)
        require_finite_potential(self.model.sde, x)
        return TransportBelief(0.0, self.model.prior, (), prior_pool(self.model.prior, x), x)

    def predict(self, now: TransportBelief, duration: float, generator: Generator) -> tuple[TransportBelief, StepInfo]:
        """The law ``duration`` later, by JKO steps from a chain of no more than MOST_MAPS maps.

        Raises:
            FilterError: no step, however short, converges; or no law fits a chain that has grown too long.
        """
        start, fitted = self._shortened(now, generator)
        stepper = JKOStepper(self.model.sde, self.engine, self.scheme)
        carried = carry(stepper, start.pool, duration, self.step, None, generator, start.time)
        after = replace(start, time=start.time + duration, maps=(*start.maps, *carried.maps), pool=carried.pool)
        if not carried.maps:
            return after, StepInfo(status="skipped")
        added = sum(info.details["kl"] for info in carried.infos)
        details = _summary(carried) | {"kl": added - math.log(fitted)}
        if fitted < 1.0:
            details["agreement"] = fitted
        return after, StepInfo(details=details, note=_note(added, fitted, self.assimilation.agreement))

    def update(self, now: TransportBelief, reading: Tensor, generator: Generator) -> tuple[TransportBelief, StepInfo]:
        """The law given a reading, one fitted law deep.

        Raises:
            FilterError: the likelihood is NaN, or zero everywhere, or the posterior too sharp.
        """

        def log_likelihood(x: Tensor) -> Tensor:
            return log_likelihood_without_nan(self.model, reading, x, now.time)

        found = assimilate(now, log_likelihood, self.assimilation, generator)
        info = StepInfo(
            log_evidence=found.log_evidence,
            ess=found.ess,
            details=found.details,
            note=found.note,
            history=found.history,
        )
        return found.belief, info

    def _shortened(self, belief: TransportBelief, generator: Generator) -> tuple[TransportBelief, float]:
        """The belief, its chain replaced by a fitted law where it is long, and how far that law agrees with it.

        Readings do the same to the chain before them; where they are missing it would grow without bound.
        """
        if len(belief.maps) <= MOST_MAPS:
            return belief, 1.0
        settings, pool = self.assimilation, belief.pool
        law = refit(pool, ridge_directions(belief), settings.engine, CLOSE, settings.layers, generator)
        share = agreement(law, pool)
        if not share >= LOST:
            return belief, 1.0
        return replace(belief, prior=law, maps=(), pool=law.pool(pool.x), origin=pool.x), share


def _summary(carried: CarriedPool) -> dict[str, float]:
    infos = carried.infos
    return {
        "steps": float(len(infos)),
        "halvings": sum(info.details["halvings"] for info in infos),
        "iterations": sum(info.details["iterations"] for info in infos),
        "kl_rate": max(info.details["kl_rate"] for info in infos),
        "shortest_step": min(after - before for before, after in pairwise(carried.times)),
    }


def _note(added: float, fitted: float, enough: float) -> str:
    """What a user should know of so many nats that the steps may have added, and of the law fitted to the chain."""
    parts = []
    if added > WORTH_A_NOTE:
        parts.append(f"the fits of the steps may add up to {added:.2g} nats of KL; {CURE}")
    if fitted < enough:
        parts.append(f"the law fitted to the chain of maps agrees with it to {fitted:.0%}")
    return "; ".join(parts)
