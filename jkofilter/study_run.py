"""Running the methods of a flow study over its cases, and measuring what they carry."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import pandas as pd
import torch

from jkofilter._typing import Density
from jkofilter.errors import FilterError, InputError
from jkofilter.numerics import metrics
from jkofilter.study import Carried, FlowCase, FlowStudy

SAMPLES = 4000

COLUMNS = (
    "study",
    "case",
    "dim",
    "method",
    "seed",
    "time",
    "status",
    "seconds",
    "remark",
    "kl_exact",
    "kl_method",
    "symmetric_kl",
    "kl_stationary",
    "ess",
)


@dataclass(frozen=True, eq=False)
class StudyRecords:
    """All runs of a study.

    Attributes:
        study: what was run.
        records: one row per (case, method, seed, time) with COLUMNS. kl_exact is KL(exact law, method), kl_method
            KL(method, exact law), kl_stationary KL(method, stationary law), nats; ess is the effective share of draws
            of the method weighted to exp(-beta V), between 0 and 1; seconds are of the whole run.
        carried: what the methods made of the cases, for seed 0, by (method, case name).
    """

    study: FlowStudy
    records: pd.DataFrame
    carried: Mapping[tuple[str, str], Carried]


def run_study(
    study: FlowStudy,
    names: Iterable[str] | None = None,
    seeds: Iterable[int] | None = None,
    on_run: Callable[[str, int], None] = lambda name, seed: None,
) -> StudyRecords:
    """Run the named methods (all by default) on every case; a run that fails is recorded, and the others go on.

    Args:
        study: what to run.
        names: method names; the first method of the study sets the others' wall time if it is among them.
        seeds: by default those of the study.
        on_run: called after each run with "method, case" and the seed.

    Raises:
        InputError: an unknown name, or no seeds.
    """
    methods = study.select(None if names is None else list(names))
    seed_list = list(range(study.seeds) if seeds is None else seeds)
    if not seed_list:
        raise InputError("seeds must hold at least one seed.")
    rows: list[dict[str, Any]] = []
    carried: dict[tuple[str, str], Carried] = {}
    for case in study.cases:
        for seed in seed_list:
            budget = 0.0
            for number, (name, method) in enumerate(methods.items()):
                if (name, case.name) in study.skip:
                    continue
                start = perf_counter()
                common = {"study": study.name, "case": case.name, "dim": case.dim, "method": name, "seed": seed}
                try:
                    result = method(case, seed, budget)
                    seconds = perf_counter() - start
                    measured = [_measured(case, result, time) for time in case.times]
                except (FilterError, InputError) as error:
                    rows.append(common | {"status": str(error), "seconds": perf_counter() - start})
                else:
                    budget = seconds if number == 0 else budget
                    shared = common | {"status": "ok", "seconds": seconds, "remark": result.remark}
                    rows += [shared | row for row in measured]
                    if seed == seed_list[0]:
                        carried[name, case.name] = result
                on_run(f"{name}, {case.name}", seed)
    return StudyRecords(study, pd.DataFrame(rows).reindex(columns=list(COLUMNS)), carried)


def _measured(case: FlowCase, result: Carried, time: float) -> dict[str, float]:
    law = result.at(time)
    row = {"time": time}
    if case.exact is not None:
        exact = case.exact(time)
        row["kl_exact"], row["kl_method"] = metrics.kl(exact, law, SAMPLES), metrics.kl(law, exact, SAMPLES)
        row["symmetric_kl"] = row["kl_exact"] + row["kl_method"]
    if case.stationary is not None:
        row["kl_stationary"] = metrics.kl(law, case.stationary, SAMPLES)
    if case.exact is None and time == case.times[-1]:
        row["ess"] = stationary_share(case, law)
    return row


def stationary_share(case: FlowCase, law: Density) -> float:
    """Effective share of fresh draws of a law weighted to exp(-beta V), which needs no normaliser."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(law, metrics.KnowsItsDraws):
        x, log_prob = law.sample_with_log_prob(SAMPLES, generator)
    else:
        x = law.sample(SAMPLES, generator)
        log_prob = law.log_prob(x)
    log_weights = -float(case.sde.beta) * case.sde.potential(x) - log_prob
    log_weights = log_weights - log_weights.logsumexp(0)
    share = metrics.effective_sample_size(log_weights) / SAMPLES
    return share if math.isfinite(share) else 0.0
