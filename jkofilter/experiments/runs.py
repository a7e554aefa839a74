"""One run, whatever is run: its time, what it is measured against, what it may cost, its settings as plain data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from time import perf_counter, process_time
from typing import Any, Generic, TypeVar

from torch import Tensor

from jkofilter.beliefs.base import Belief
from jkofilter.errors import FilterError, InputError
from jkofilter.experiments.contract import Left, Measured
from jkofilter.experiments.failures import sentence
from jkofilter.filters.contract import Filter
from jkofilter.filters.driver import run_filter
from jkofilter.filters.result import FilterResult
from jkofilter.models.series import ObservationSeries
from jkofilter.models.state_space import StateSpaceModel
from jkofilter.numerics import metrics
from jkofilter.numerics.draws import stream

TRIAL, MIN_MATCHED, MAX_MATCHED = 2000, 100, 1_000_000
"""Particles of the run that tells what one costs, and bounds on how many are taken at equal time."""
SAMPLES = 4000
"""Draws that divergences are estimated from in more than one dimension."""

Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class Timed(Generic[Made]):
    """What was computed, and how long it took.

    Attributes:
        made: None where it failed.
        status: "ok", or what went wrong.
        seconds: wall time.
        processor_seconds: processor time of all threads of this process.
    """

    made: Made | None
    status: str
    seconds: float
    processor_seconds: float


def timed(compute: Callable[[], Made]) -> Timed[Made]:
    """Compute, whatever goes wrong."""
    start, used = perf_counter(), process_time()
    made, status = None, "ok"
    try:
        made = compute()
    except Exception as error:
        status = sentence(error)
    return Timed(made, status, perf_counter() - start, process_time() - used)


@dataclass(frozen=True, eq=False)
class Yardstick:
    """What the filters of a seed are measured against.

    Attributes:
        final: the reference's belief at the end.
        log_evidence: log p(y_1..y_m) by the reference.
    """

    final: Belief
    log_evidence: float


@dataclass(frozen=True)
class Against:
    """How a filter is measured.

    Attributes:
        reference: name of the reference; empty for the reference itself.
        yardstick: what it left; None where it failed.
        kl: whether the final densities are compared too.
    """

    reference: str = ""
    yardstick: Yardstick | None = None
    kl: bool = True


def filtered(
    item: Filter, series: ObservationSeries, until: float | None, seed: int, keep_beliefs: bool = False
) -> Timed[FilterResult]:
    """Run a filter over a series; a step that failed and was reported is a failure of the run, too."""
    run = timed(lambda: run_filter(item, series, until=until, seed=seed, keep_beliefs=keep_beliefs))
    status = run.status if run.made is None else run.made.status
    return Timed(run.made, status, run.seconds, run.processor_seconds)


def measured(run: Timed[FilterResult], against: Against, settings: Mapping[str, Any], remark: str = "") -> Measured:
    """What a filter's run is, held against the reference.

    The figures are time (of the final law), log_evidence, least_ess (the fewest effective particles at a reading, of a
    filter that has particles) and, against a reference, kl_reference (KL(reference, filter) of the final laws) and
    kl_filter (KL(filter, reference)), nats; log_density_error, root mean square over draws of the reference, nats;
    mean_error, in standard deviations of the reference; sd_ratio; log_evidence_error.
    """
    result, figures, status = run.made, dict[str, float](), run.status
    if result is not None:
        figures = {"time": result.final.time, "log_evidence": result.log_evidence[-1].item()}
        if effective := [info.ess for info in result.infos if info.ess is not None]:
            figures["least_ess"] = min(effective)
    if result is not None and status == "ok" and against.reference:
        status, compared = _compared_or_why_not(result, against)
        figures |= compared
    left = Left()
    # A belief kept after a step that failed is no yardstick, and its time not that of a run.
    if result is not None and status == "ok":
        left = Left(Yardstick(result.final, figures["log_evidence"]), run.processor_seconds)
    rows = (figures,) if figures else ()
    note = "" if result is None else result.note
    return Measured(status, run.seconds, run.processor_seconds, rows, remark, note, settings, left, result)


def _compared_or_why_not(result: FilterResult, against: Against) -> tuple[str, dict[str, float]]:
    if against.yardstick is None:
        return f"not compared: the run of its reference, {against.reference}, failed or could not be sent.", {}
    try:
        return "ok", _compared(result, against.yardstick, against.kl)
    except Exception as error:
        return f"cannot be compared with the reference: {sentence(error)}", {}


def _compared(result: FilterResult, yardstick: Yardstick, kl: bool) -> dict[str, float]:
    ours, exact = result.final, yardstick.final
    deviation = exact.covariance.diagonal().sqrt()
    return (_densities_compared(ours, exact) if kl else {}) | {
        "mean_error": ((ours.mean - exact.mean) / deviation).square().mean().sqrt().item(),
        "sd_ratio": math.sqrt((ours.covariance.diagonal() / exact.covariance.diagonal()).mean().item()),
        "log_evidence_error": result.log_evidence[-1].item() - yardstick.log_evidence,
    }


def _densities_compared(ours: Belief, exact: Belief) -> dict[str, float]:
    draws = exact.sample(SAMPLES, stream(0, "judging", exact.mean.device))
    return {
        "kl_reference": metrics.kl(exact, ours, SAMPLES),
        "kl_filter": metrics.kl(ours, exact, SAMPLES),
        "log_density_error": (ours.log_prob(draws) - exact.log_prob(draws)).square().mean().sqrt().item(),
    }


def warmed_up(item: Filter, series: ObservationSeries) -> None:
    """Run a filter on the first reading alone, so that libraries load outside of the time that is measured."""
    try:
        run_filter(item, ObservationSeries(series.times[:1], series.values[:1], start=series.start))
    except (FilterError, InputError):
        return


def affordable(seconds: float, trial: Timed[FilterResult]) -> int:
    """How many particles fit into so much processor time, by a run with TRIAL of them; costs grow with their number.

    Raises:
        FilterError: the trial failed, and says nothing of what a particle costs.
    """
    if trial.status != "ok":
        raise FilterError(f"not run: its trial with {TRIAL} particles failed: {trial.status}")
    return int(min(max(seconds / max(trial.processor_seconds, 1e-9) * TRIAL, MIN_MATCHED), MAX_MATCHED))


def settings_of(item: Filter) -> dict[str, Any]:
    """The settings of a filter as plain data, its model left out."""
    return {"type": type(item).__name__} | _plain_fields(item)


def _plain_fields(item: object) -> dict[str, Any]:
    if not is_dataclass(item):
        return {}
    values = {field.name: getattr(item, field.name, None) for field in fields(item)}
    return {name: _plain(value) for name, value in values.items() if not isinstance(value, StateSpaceModel)}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return value.tolist() if value.numel() <= 16 else f"tensor {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value[:16]]
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__} | _plain_fields(value)
    # The name alone: a default repr holds an address that differs from run to run.
    return getattr(value, "__qualname__", type(value).__name__)
