"""Methods of flow studies: JKO flows, particles, and the published baselines."""

from __future__ import annotations

from jkofilter.baselines.dual_jko import DualSettings, solve_dual_jko
from jkofilter.baselines.particle_flow import affordable_particles, solve_particles
from jkofilter.baselines.proximal import ProximalSettings, solve_proximal
from jkofilter.errors import FilterError
from jkofilter.experiments.flow_study import Carried, FlowCase, Method
from jkofilter.transport.schemes import PoolScheme
from jkofilter.transport.solve import solve_jko
from jkofilter.transport.steps.engine import Engine

MAX_PARTICLES = 100_000
MIN_PARTICLES = 200


def jko(
    step: float,
    scheme: PoolScheme = "sdirk2",
    transport: str | Engine = "ridge",
    tolerance: float | None = None,
    pool: int = 4096,
) -> Method:
    """The JKO flow with these settings, as a method."""

    def carry(case: FlowCase, seed: int, seconds: float) -> Carried:
        flow = solve_jko(case.prior, case.sde, case.times[-1], step, scheme, transport, tolerance, pool, seed)  # type: ignore[arg-type]
        return Carried(flow.at, f"{len(flow.maps)} steps")

    return carry


def particles(substep: float | None = None, count: int | None = None) -> Method:
    """Particles with a Gaussian kernel estimate, as a method.

    Args:
        substep: longest step, in the SDE's unit of time; None chooses steps from the curvature.
        count: how many; None takes as many as the first method's processor time allows, at most MAX_PARTICLES, which
            keeps the evaluation of the kernel estimate affordable. It fails where that time is not known.
    """

    def carry(case: FlowCase, seed: int, seconds: float) -> Carried:
        if count is None and not seconds:
            raise FilterError("not run: it takes the processor time of the first method, which did not run or failed.")
        wanted = count or affordable_particles(case.prior, case.sde, case.times[-1], substep, seconds)
        n = count or int(min(max(wanted, MIN_PARTICLES), MAX_PARTICLES))
        flow = solve_particles(case.prior, case.sde, case.times, substep, n, seed)
        return Carried(flow.at, f"{n} particles")

    return carry


def dual_jko(step: float = 0.05, settings: DualSettings = DualSettings()) -> Method:  # noqa: B008
    """The dual JKO flow (Frogner & Poggio 2020) with these settings, as a method."""

    def carry(case: FlowCase, seed: int, seconds: float) -> Carried:
        flow = solve_dual_jko(case.prior, case.sde, case.times[-1], step, settings, seed)
        return Carried(flow.at, f"{len(flow.steps)} steps, {settings.points} points")

    return carry


def proximal(step: float = 0.05, settings: ProximalSettings = ProximalSettings()) -> Method:  # noqa: B008
    """Proximal recursion (Caluya & Halder 2019) with these settings, as a method."""

    def carry(case: FlowCase, seed: int, seconds: float) -> Carried:
        flow = solve_proximal(case.prior, case.sde, case.times[-1], step, settings, seed)
        return Carried(flow.at, f"{len(flow.steps)} steps, {settings.points} points")

    return carry
