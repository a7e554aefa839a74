"""A flow study: laws carried forward without readings, by several methods, against what is known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from matplotlib.figure import Figure
from torch.distributions import Distribution

from jkofilter._typing import Density, Sampled
from jkofilter.errors import InputError
from jkofilter.experiments.command.run import Commanded
from jkofilter.experiments.contract import Calibrated, Left, Measured, Run
from jkofilter.experiments.failures import sentence
from jkofilter.experiments.measures import FLOW_MEASURES
from jkofilter.experiments.pictures.studies import projection_figure
from jkofilter.experiments.published import PublishedFigure, check_published
from jkofilter.experiments.runs import timed
from jkofilter.models.sde import LangevinSDE
from jkofilter.numerics import metrics
from jkofilter.numerics.draws import stream


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

    @property
    def reference(self) -> str:
        """None: laws are held against what is known exactly."""
        return ""


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
"""Given a case, a seed, and the processor seconds that the first method took (zero for the first itself)."""


@dataclass(frozen=True, eq=False)
class FlowStudy(Commanded):
    """Cases and methods, and how to draw them.

    Attributes:
        name: used for the output folder.
        cases: in the order of the pictures.
        methods: by name; the first one sets the processor time the particle simulations get.
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
        """Names of the figures of a method's run, then of the cases' own."""
        return tuple(dict.fromkeys((*FLOW_MEASURES, *(name for case in self.cases for name in case.measures))))

    def planned(self, names: Collection[str] | None = None, seeds: Sequence[int] | None = None) -> list[Run]:
        """The named methods (all by default) on every case, the first of them before those that take its time."""
        methods = [name for name in self.methods if names is None or name in names]
        runs: list[Run] = []
        for case in self.cases:
            chosen = [name for name in methods if (name, case.name) not in self.skip]
            lead = methods[0] if chosen[:1] == methods[:1] and methods else ""
            for seed in range(self.seeds) if seeds is None else seeds:
                for name in chosen:
                    timed_by = "" if name == lead else lead
                    runs.append(Run(case.name, name, seed, "method", case.dim, "", timed_by, name == lead))
        return runs

    def warm_up(self, run: Run) -> None:
        """Nothing: methods of studies take long beside what they load."""

    def perform(self, run: Run, needs: Mapping[str, Left], keep: bool = False) -> Measured:
        """Run a method on a case and judge the laws it carried to the case's times."""
        case = next(case for case in self.cases if case.name == run.case)
        seconds = (needs[run.timed_by].processor_seconds if run.timed_by else None) or 0.0
        ran = timed(lambda: self.methods[run.method](case, run.seed, seconds))
        if ran.made is None:
            return Measured(ran.status, ran.seconds, ran.processor_seconds)
        status, figures, remark = "ok", list[dict[str, float]](), ran.made.remark
        try:
            figures = [judged(case, ran.made, time) for time in case.times]
        except Exception as error:
            status = f"cannot be judged: {sentence(error)}"
        left = Left(None, ran.processor_seconds if status == "ok" else None)
        return Measured(status, ran.seconds, ran.processor_seconds, figures, remark, left=left, kept=ran.made)

    def exhibits(self, kept: Mapping[tuple[str, str], Any], seed: int) -> dict[str, Figure]:
        """What the first method made of the cases to be drawn on principal components, at the end."""
        method, pictures = next(iter(self.methods)), {}
        for case in self.cases:
            if case.name in self.projections and (case.name, method) in kept and case.stationary is not None:
                end = case.times[-1]
                laws = {f"{method}, t = {end:g}": kept[case.name, method].at(end), "stationary law": case.stationary}
                pictures[f"projection_{case.dim}"] = projection_figure(case.name, case.prior, laws)
        return pictures

    def calibrated(self, method: str, case: str | None = None) -> Calibrated:
        """Always refused."""
        raise InputError("scenario must be one of filters: a flow study has no readings to be calibrated with.")


def judged(case: FlowCase, carried: Carried, time: float) -> dict[str, float]:
    """The figures of a law that was carried to a time.

    Where the exact law is known kl_exact = KL(exact, method), kl_method = KL(method, exact) and their sum
    symmetric_kl; kl_stationary = KL(method, stationary law), nats; ess, the effective share of draws weighted to
    exp(-beta V), between 0 and 1; the case's own measures at its last time.
    """
    law = carried.at(time)
    row = {"time": time}
    if time == case.times[-1]:
        row |= {name: float(measure(law)) for name, measure in case.measures.items()}
    if not isinstance(law, Density):
        return row
    if case.exact is not None:
        exact = case.exact(time)
        row["kl_exact"], row["kl_method"] = metrics.kl(exact, law, case.samples), metrics.kl(law, exact, case.samples)
        row["symmetric_kl"] = row["kl_exact"] + row["kl_method"]
    if case.stationary is not None:
        row["kl_stationary"] = metrics.kl(law, case.stationary, case.samples)
    if case.exact is None and time == case.times[-1]:
        row["ess"] = stationary_share(case, law)
    return row


def stationary_share(case: FlowCase, law: Density) -> float:
    """Effective share of fresh draws of a law weighted to exp(-beta V), which needs no normaliser."""
    generator = stream(0, "judging")
    if isinstance(law, metrics.KnowsItsDraws):
        x, log_prob = law.sample_with_log_prob(case.samples, generator)
    else:
        x = law.sample(case.samples, generator)
        log_prob = law.log_prob(x)
    log_weights = -float(case.sde.beta) * case.sde.potential(x) - log_prob
    log_weights = log_weights - log_weights.logsumexp(0)
    share = metrics.effective_sample_size(log_weights) / case.samples
    return share if math.isfinite(share) else 0.0
