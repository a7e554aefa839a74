"""A flow study: laws carried forward without readings, by several methods, against what is known exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from torch.distributions import Distribution

from jkofilter._typing import Density, Sampled
from jkofilter.baselines.dual_jko import DualSettings, solve_dual_jko
from jkofilter.baselines.particle_flow import affordable_particles, solve_particles
from jkofilter.baselines.proximal import ProximalSettings, solve_proximal
from jkofilter.errors import FilterError, InputError
from jkofilter.experiments.measures import PublishedFigure, check_published
from jkofilter.models.sde import LangevinSDE
from jkofilter.transport.schemes import PoolScheme
from jkofilter.transport.solve import solve_jko
from jkofilter.transport.steps.engine import Engine

MAX_PARTICLES = 100_000
MIN_PARTICLES = 200


@dataclass(frozen=True, eq=False)
class FlowCase:
    """One problem of a study.

    Attributes:
        name: short, for example "d = 8".
        prior: law at time zero.
        sde: the diffusion.
        times: when the methods are judged, increasing, in the SDE's unit.
        exact: the law at a time, where it is known.
        stationary: the normalised law exp(-beta V)/Z, where convergence to it is the question.
        note: what a reader of the figures must know, for example a floor no method can pass.
        measures: figures of this case's own, of the law at the last time, by the name of their column. NaN says that
            a law cannot tell, as one without a density cannot of the evidence.
        samples: draws of a law that its divergences and its effective share are told from.

    Raises:
        InputError: ``samples`` is not a positive integer.
    """

    name: str
    prior: Distribution
    sde: LangevinSDE
    times: tuple[float, ...]
    exact: Callable[[float], Density] | None = None
    stationary: Density | None = None
    note: str = ""
    measures: Mapping[str, Callable[[Sampled], float]] = field(default_factory=dict)
    samples: int = 4000

    def __post_init__(self) -> None:
        if not isinstance(self.samples, int) or self.samples < 1:
            raise InputError(f"samples must be a positive integer, got {self.samples!r}.")

    @property
    def dim(self) -> int:
        """State dimension d."""
        return self.sde.dim


@dataclass(frozen=True, eq=False)
class Carried:
    """What a method made of a case.

    Attributes:
        at: the law at any of the case's times. A law that can only be sampled is not held against densities.
        remark: settings worth a column: steps, particles.
    """

    at: Callable[[float], Sampled]
    remark: str = ""


Method: TypeAlias = Callable[[FlowCase, int, float], Carried]
"""Given a case, a seed, and the seconds the first method of the study took (zero for the first itself)."""


@dataclass(frozen=True, eq=False)
class FlowStudy:
    """Cases and methods, and how to draw them.

    Attributes:
        name: used for the output folder.
        cases: in the order of the pictures.
        methods: by name; the first one sets the wall time the particle simulations get.
        skip: (method, case name) pairs that are not run, because they would take too long.
        seeds: of the cases that repeat; seed 0 is the one drawn.
        published: figures that others report, drawn beside ours.
        projections: names of cases with a stationary law to draw on two principal components.
        description: one sentence.

    Raises:
        InputError: no cases, no methods, a name used twice, or a pair to skip, a projection or a published figure of
            what is not there.
    """

    name: str
    cases: Sequence[FlowCase]
    methods: Mapping[str, Method]
    skip: frozenset[tuple[str, str]] = frozenset()
    seeds: int = 1
    published: Sequence[PublishedFigure] = ()
    projections: Sequence[str] = ()
    description: str = ""

    def __post_init__(self) -> None:
        if not self.cases or not self.methods:
            raise InputError("a flow study needs at least one case and one method.")
        names = [case.name for case in self.cases]
        if len(set(names)) != len(names):
            raise InputError(f"cases must have different names, got {', '.join(names)}.")
        if not isinstance(self.seeds, int) or self.seeds < 1:
            raise InputError(f"seeds must be a positive integer, got {self.seeds!r}.")
        for method, name in self.skip:
            if method not in self.methods or name not in names:
                raise InputError(f"skip names no method and case {method!r}, {name!r} of this study.")
        drawn = {case.name for case in self.cases if case.stationary is not None}
        for name in self.projections:
            if name not in drawn:
                raise InputError(f"projections names no case with a stationary law {name!r}.")
        check_published(self.published, set(self.methods), set(names))

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures of all cases, each once."""
        return tuple(dict.fromkeys(name for case in self.cases for name in case.measures))

    def select(self, names: Sequence[str] | None) -> Mapping[str, Method]:
        """The named methods; all when ``names`` is None.

        Raises:
            InputError: a name is unknown.
        """
        for name in names or ():
            if name not in self.methods:
                raise InputError(f"filters names no method {name!r}; this study has {', '.join(self.methods)}.")
        return {name: method for name, method in self.methods.items() if names is None or name in names}

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """Run this study from its own file, with the options of ``jkofilter run``."""
        # The command line sits above; imported here so that module imports keep pointing downwards.
        from jkofilter.cli.app import main_for_scenario

        main_for_scenario(self, arguments)


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


def particles(substep: float = 1e-3, count: int | None = None) -> Method:
    """Euler-Maruyama particles with a Gaussian kernel estimate, as a method.

    Args:
        substep: in the SDE's unit of time.
        count: how many; None takes as many as the first method's wall time allows, at most MAX_PARTICLES, which
            keeps the evaluation of the kernel estimate affordable. It fails where that time is not known.
    """

    def carry(case: FlowCase, seed: int, seconds: float) -> Carried:
        if count is None and not seconds:
            raise FilterError("not run: it takes the wall time of the first method, which did not run or failed.")
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
