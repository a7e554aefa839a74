"""Pictures of the figures of an experiment, made of its table of runs alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from jkofilter.experiments.measures import MEASURES
from jkofilter.experiments.pictures.boxes import box_plots
from jkofilter.experiments.pictures.studies import (
    error_figure,
    filter_error_figure,
    measures_figure,
    one_dim_a_case,
)
from jkofilter.experiments.pictures.sweeps import time_to_accuracy
from jkofilter.experiments.published import PublishedFigure
from jkofilter.experiments.report.tables import judged, own_measures

MAIN = ("kl_filter", "mean_error", "log_evidence_error")
"""Errors of filters that are drawn against wall time."""
DRAWN = ("symmetric_kl", "kl_stationary", "ess")
"""Figures of flows that have a picture of their own."""


@dataclass(frozen=True, eq=False)
class Exhibit:
    """A picture and what it shows."""

    title: str
    figure: Figure


def exhibits(runs: pd.DataFrame, methods: Iterable[str], published: Sequence[PublishedFigure]) -> dict[str, Exhibit]:
    """The pictures by file name.

    Args:
        runs: of one experiment, as of ``run_table``.
        methods: in the order of legends; methods that they lack come in the order of the runs.
        published: figures that others report.
    """
    names = list(dict.fromkeys((*methods, *runs["filter"])))
    flows = runs["role"] == "method"
    return _of_flows(judged(runs[flows]), published) | _of_filters(runs[~flows], names)


def _of_flows(good: pd.DataFrame, published: Sequence[PublishedFigure]) -> dict[str, Exhibit]:
    found: dict[str, Exhibit] = {}
    for measure in DRAWN:
        known = good.dropna(subset=measure)
        if len(known):
            against = "dimension" if one_dim_a_case(known) else "case"
            title = f"{MEASURES[measure]}, against {against} and wall time"
            found[f"error_{measure}"] = Exhibit(title, error_figure(good, measure, published))
    if own := own_measures(good):
        found["measures"] = Exhibit("Medians over seeds, case by case", measures_figure(good, own))
    return found


def _of_filters(runs: pd.DataFrame, names: Sequence[str]) -> dict[str, Exhibit]:
    good = judged(runs)
    if good.empty:
        return {}
    present = [name for name in names if name in set(runs["filter"])]
    if set(good["case"]) == {""}:
        figure = box_plots(runs, present, runs["reference"].iloc[0])
        return {"box_plots": Exhibit("Errors and wall time by filter, over seeds", figure)}
    return {"error": Exhibit("Medians over seeds, case by case", filter_error_figure(good, present))}


def accuracy_exhibit(runs: pd.DataFrame, methods: Iterable[str]) -> dict[str, Exhibit]:
    """Error against wall time: the panels are the errors of the only case, or the cases with their first error.

    Args:
        runs: of one experiment, as of ``run_table``.
        methods: in the order of colours.
    """
    good = judged(runs[runs["role"] != "method"])
    errors = [measure for measure in MAIN if good[measure].notna().any()]
    cases = list(dict.fromkeys(good["case"]))
    panels: Mapping[str, tuple[pd.DataFrame, Any]] = {}
    if cases == [""]:
        panels = {MEASURES[measure].rsplit(", ", 1)[0]: (good, measure) for measure in errors}
    elif errors:
        panels = {case: (good[good["case"] == case], errors[0]) for case in cases}
    names = list(dict.fromkeys((*methods, *good["filter"])))
    title = "Time to accuracy: error against wall time"
    return {"time_to_accuracy": Exhibit(title, time_to_accuracy(panels, names))} if panels else {}
