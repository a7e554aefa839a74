"""One run: a filter on the readings of one seed, or a method on one case of a flow study, measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter

from jkofilter._typing import Density
from jkofilter.beliefs.base import Belief
from jkofilter.errors import FilterError, InputError
from jkofilter.experiments.flow_study import Carried, FlowCase, Method
from jkofilter.experiments.scenario import Scenario
from jkofilter.filters.contract import Filter
from jkofilter.filters.driver import run_filter
from jkofilter.filters.result import FilterResult
from jkofilter.models.series import ObservationSeries
from jkofilter.numerics import metrics
from jkofilter.numerics.draws import stream
from jkofilter.numerics.threads import one_thread

TRIAL, MIN_MATCHED, MAX_MATCHED = 2000, 100, 1_000_000
"""Particles of the run that tells what one costs, and bounds on how many are taken at equal time."""
SAMPLES = 4000
"""Draws that divergences are estimated from in more than one dimension."""


@dataclass(frozen=True, eq=False)
class Reference:
    """What the other filters of a seed are measured against.

    Attributes:
        final: the reference's belief at the end.
        log_evidence: log p(y_1..y_m) by the reference.
    """

    final: Belief
    log_evidence: float


@dataclass(frozen=True, eq=False)
class FilterRun:
    """A filter's run over a series.

    Attributes:
        status: "ok", or what went wrong.
        seconds: wall clock of the filter alone.
        figures: log_evidence, least_ess (the fewest effective particles at a reading, of a filter that has particles)
            and, against a reference, kl_reference (KL(reference, filter) of the final laws) and
            kl_filter (KL(filter, reference)), nats; log_density_error, root mean square over draws of the reference,
            nats; mean_error, in standard deviations of the reference; sd_ratio;
            log_evidence_error.
        result: None where the run failed.
    """

    status: str
    seconds: float
    figures: Mapping[str, float] = field(default_factory=dict)
    result: FilterResult | None = None

    @property
    def reference(self) -> Reference | None:
        """This run as what others are measured against, where it did not fail."""
        return None if self.result is None else Reference(self.result.final, self.figures["log_evidence"])


@one_thread()
def run_one(
    scenario: Scenario,
    item: Filter,
    series: ObservationSeries,
    seed: int,
    reference: Reference | None = None,
    keep_beliefs: bool = False,
) -> FilterRun:
    """Run a filter on the readings of a seed, and compare it with the reference, if there is one.

    A run that fails with one of the toolkit's errors says so in its status.
    """
    start = perf_counter()
    try:
        result = run_filter(item, series, until=scenario.until, seed=seed, keep_beliefs=keep_beliefs)
    except (FilterError, InputError) as error:
        return FilterRun(str(error), perf_counter() - start)
    seconds = perf_counter() - start
    figures = {"log_evidence": result.log_evidence[-1].item()}
    if effective := [info.ess for info in result.infos if info.ess is not None]:
        figures["least_ess"] = min(effective)
    try:
        figures |= {} if reference is None else _compared(result, reference, scenario.kl)
    except (FilterError, InputError) as error:
        return FilterRun(f"cannot be compared with the reference: {error}", seconds, figures, result)
    return FilterRun(result.status, seconds, figures, result)


def _compared(result: FilterResult, reference: Reference, kl: bool) -> dict[str, float]:
    ours, exact = result.final, reference.final
    deviation = exact.covariance.diagonal().sqrt()
    return (_densities_compared(ours, exact) if kl else {}) | {
        "mean_error": ((ours.mean - exact.mean) / deviation).square().mean().sqrt().item(),
        "sd_ratio": math.sqrt((ours.covariance.diagonal() / exact.covariance.diagonal()).mean().item()),
        "log_evidence_error": result.log_evidence[-1].item() - reference.log_evidence,
    }


def _densities_compared(ours: Belief, exact: Belief) -> dict[str, float]:
    draws = exact.sample(SAMPLES, stream(0, "judging", exact.mean.device))
    return {
        "kl_reference": metrics.kl(exact, ours, SAMPLES),
        "kl_filter": metrics.kl(ours, exact, SAMPLES),
        "log_density_error": (ours.log_prob(draws) - exact.log_prob(draws)).square().mean().sqrt().item(),
    }


def warm_up(item: Filter, series: ObservationSeries) -> None:
    """Run a filter on the first reading alone, so that libraries load outside of the time that is measured."""
    try:
        run_filter(item, ObservationSeries(series.times[:1], series.values[:1]))
    except (FilterError, InputError):
        return


def matched_filter(scenario: Scenario, name: str, series: ObservationSeries, seed: int, seconds: float) -> Filter:
    """A matched filter of as many particles as fit into the seconds given, judged by a run with TRIAL of them."""
    make = scenario.matched[name]
    trial = run_one(scenario, make(scenario.model, TRIAL), series, seed)
    return make(scenario.model, int(min(max(seconds / trial.seconds * TRIAL, MIN_MATCHED), MAX_MATCHED)))


@dataclass(frozen=True, eq=False)
class MethodRun:
    """A method's run on a case.

    Attributes:
        status: "ok", or what went wrong.
        seconds: wall clock of the method alone.
        figures: one row a judged time: time; where the exact law is known kl_exact = KL(exact, method), kl_method =
            KL(method, exact) and their sum symmetric_kl; kl_stationary = KL(method, stationary law), nats; ess, the
            effective share of draws weighted to exp(-beta V), between 0 and 1.
        carried: None where the run failed.
    """

    status: str
    seconds: float
    figures: tuple[Mapping[str, float], ...] = ()
    carried: Carried | None = None


@one_thread()
def run_method(case: FlowCase, method: Method, seed: int, budget: float) -> MethodRun:
    """Run a method on a case and measure the laws it carried to the judged times.

    A run that fails with one of the toolkit's errors says so in its status.

    Args:
        case: the problem.
        method: of the study.
        seed: of the method.
        budget: seconds that the first method of the study took; zero for the first itself.
    """
    start = perf_counter()
    try:
        carried = method(case, seed, budget)
        seconds = perf_counter() - start
        figures = tuple(_judged(case, carried, time) for time in case.times)
    except (FilterError, InputError) as error:
        return MethodRun(str(error), perf_counter() - start)
    return MethodRun("ok", seconds, figures, carried)


def _judged(case: FlowCase, carried: Carried, time: float) -> dict[str, float]:
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
