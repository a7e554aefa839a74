"""Solving a flow: a prior carried through a diffusion, as a density in many dimensions."""

from __future__ import annotations

import math
from typing import Literal

from torch.distributions import Distribution

from jkofilter.errors import InputError
from jkofilter.models.checks import require_non_negative, require_positive
from jkofilter.models.potential_checks import check_potential
from jkofilter.models.sde import LangevinSDE, refuse_walls, require_finite_potential
from jkofilter.models.state_space import require_prior_and_sde
from jkofilter.numerics.draws import stream
from jkofilter.numerics.threads import one_thread
from jkofilter.transport.flow import JKOFlow
from jkofilter.transport.laws.prior_pool import check_pool, prior_draws, prior_pool
from jkofilter.transport.maps.convex import pushed_through
from jkofilter.transport.schemes import POOL_SCHEMES, PoolScheme
from jkofilter.transport.steps.engine import Engine
from jkofilter.transport.steps.engines import engine_of
from jkofilter.transport.steps.stepping import JKOStepper
from jkofilter.transport.time_steps import MAX_STEPS, carry

PROBES = 64
"""Particles at which a potential is tried out: where the law is now, which may be far from the prior."""


@one_thread()
def solve_jko(
    prior: Distribution | JKOFlow,
    sde: LangevinSDE,
    duration: float,
    step: float = 0.05,
    scheme: PoolScheme = "sdirk2",
    transport: Literal["auto", "ridge", "icnn", "soft-maximum"] | Engine = "auto",
    tolerance: float | None = None,
    pool: int = 4096,
    seed: int = 0,
) -> JKOFlow:
    """Carry a prior through a Langevin diffusion by JKO steps, as a density in d dimensions.

    Args:
        prior: event_shape (d,), with sample and a differentiable log_prob; or a flow, which is carried on from its
            end, be it with other settings or with a pool of another size.
        sde: the diffusion; sets dtype and device together with the prior.
        duration: in the SDE's unit of time.
        step: longest time step. A step that is too long for the potential or does not converge is halved, which its
            StepInfo reports; later steps grow back.
        scheme: "sdirk2" (second order, L-stable), "bdf2" (second order) or "implicit-euler" (the classical JKO step).
        transport: "ridge" (convex ridge splines, also "auto"), "icnn" (input-convex networks), "soft-maximum" (soft
            maxima of quadratics, for potentials of several modes), or an engine with settings of its own.
        tolerance: bound on the root mean square difference, in standard deviations of the law, between one step and
            two half steps; steps shorten and lengthen to keep it, down to where the residual of the fit moves
            particles by as much, which shorter steps do not mend. None takes steps of ``step`` at most.
        pool: particles that the maps are fitted on.
        seed: draws the pool, and the network's batches.

    Returns:
        The flow, with all of the one that it carries on; ``flow.at(time)`` is a belief.

    Raises:
        InputError: an argument cannot be used.
        FilterError: a step fails however short; names the time.
    """
    engine = engine_of(transport)
    _check_times(scheme, duration, step, tolerance)
    past = prior if isinstance(prior, JKOFlow) else None
    law = prior.prior if isinstance(prior, JKOFlow) else prior
    law = require_prior_and_sde(law, sde)
    refuse_walls(sde, "solve_jko")
    check_pool(pool, sde.dim)
    draws = prior_draws(law, pool, stream(seed, "pool"))
    base = prior_pool(law, draws)
    generator = stream(seed, "fit", draws.device, 0 if past is None else len(past.maps))
    now = base if past is None else pushed_through(past.maps, base)
    check_potential(sde.potential, now.x[:PROBES])
    require_finite_potential(sde, now.x)
    start = 0.0 if past is None else past.times[-1]
    carried = carry(JKOStepper(sde, engine, scheme), now, duration, step, tolerance, generator, start)
    if past is None:
        return JKOFlow(law, carried.times, carried.maps, carried.infos, base)
    times = past.times + tuple(start + time for time in carried.times[1:])
    return JKOFlow(law, times, past.maps + carried.maps, past.infos + carried.infos, base)


def _check_times(scheme: str, duration: float, step: float, tolerance: float | None) -> None:
    if scheme not in POOL_SCHEMES:
        raise InputError(f"scheme must be one of {', '.join(POOL_SCHEMES)}, got {scheme!r}.")
    require_non_negative("duration", duration)
    require_positive("step", step)
    if duration > MAX_STEPS * step:
        raise InputError(f"step must be at least duration / {MAX_STEPS}, or the flow has too many maps, got {step!r}.")
    if tolerance is not None and not 0 < tolerance < math.inf:
        raise InputError(f"tolerance must be positive, or None for fixed steps, got {tolerance!r}.")
