"""Running the methods of a flow study over its cases, and measuring what they carry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from jkofilter.errors import InputError
from jkofilter.experiments.flow_study import Carried, FlowStudy
from jkofilter.experiments.runs import run_method

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
        records: one row per (case, method, seed, time) with COLUMNS, then the measures of the cases. kl_exact is
            KL(exact law, method), kl_method KL(method, exact law), kl_stationary KL(method, stationary law), nats; ess
            is the effective share of draws of the method weighted to exp(-beta V), between 0 and 1; seconds are of the
            whole run. NaN where a case or a law does not give a figure.
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
        names: method names; the first of them, in the study's order, sets the others' wall time.
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
                common = {"study": study.name, "case": case.name, "dim": case.dim, "method": name, "seed": seed}
                run = run_method(case, method, seed, budget)
                common |= {"status": run.status, "seconds": run.seconds}
                if run.carried is None:
                    rows.append(common)
                else:
                    budget = run.seconds if number == 0 else budget
                    rows += [common | {"remark": run.carried.remark} | dict(row) for row in run.figures]
                    if seed == seed_list[0]:
                        carried[name, case.name] = run.carried
                on_run(f"{name}, {case.name}", seed)
    return StudyRecords(study, pd.DataFrame(rows).reindex(columns=[*COLUMNS, *study.measures]), carried)
