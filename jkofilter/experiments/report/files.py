"""Tables and files made of a benchmark."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from jkofilter.experiments.benchmark import Benchmark, StudyBenchmark
from jkofilter.experiments.pictures.boxes import box_plots
from jkofilter.experiments.pictures.studies import error_figure, filter_error_figure, measures_figure, projection_figure
from jkofilter.experiments.study_run import StudyRecords
from jkofilter.files import written_whole
from jkofilter.pictures.comparison import final_densities
from jkofilter.pictures.over_time import density_heatmap
from jkofilter.pictures.plane import posterior_panels
from jkofilter.pictures.style import Labels


def summarise(benchmark: Benchmark) -> pd.DataFrame:
    """One row per filter: median and worst figures over the seeds that did not fail, the reference last.

    Columns: runs, failed, KL(ref, filter) median and worst, KL(filter, ref) median and worst, mean error in reference
    sd, absolute log evidence error median and worst, log evidence median, seconds median and worst.
    """
    rows = {}
    reference = benchmark.scenario.reference
    groups = dict(list(benchmark.records.groupby("filter", sort=False)))
    for name in [*(n for n in groups if n != reference), *(n for n in groups if n == reference)]:
        records = groups[name]
        good = records[records["status"] == "ok"]
        evidence = good["log_evidence_error"].abs()
        rows[name] = {
            "runs": len(records),
            "failed": len(records) - len(good),
            "kl_reference_median": good["kl_reference"].median(),
            "kl_reference_worst": good["kl_reference"].max(),
            "kl_filter_median": good["kl_filter"].median(),
            "kl_filter_worst": good["kl_filter"].max(),
            "mean_error_median": good["mean_error"].median(),
            "log_evidence_error_median": evidence.median(),
            "log_evidence_error_worst": evidence.max(),
            "log_evidence_median": good["log_evidence"].median(),
            "seconds_median": good["seconds"].median(),
            "seconds_worst": good["seconds"].max(),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("filter")


def write_files(benchmark: Benchmark, folder: Path, plots: bool = True) -> list[Path]:
    """Write every run, the summary and the pictures; each file appears whole or not at all.

    Returns:
        What was written.
    """
    written = [
        written_whole(folder / "runs.csv", lambda path: benchmark.records.to_csv(path, index=False)),
        written_whole(folder / "summary.csv", summarise(benchmark).to_csv),
    ]
    if plots:
        for name, figure in figures(benchmark).items():
            written.append(written_whole(folder / f"{name}.png", partial(figure.savefig, format="png")))
    return written


def figures(benchmark: Benchmark) -> dict[str, Figure]:
    """The pictures of a benchmark by file name: beliefs of the first filter, final densities, box plots."""
    scenario, first = benchmark.scenario, benchmark.first
    labels = Labels(scenario.time_label, scenario.state_label, scenario.reading_label, scenario.description)
    pictures: dict[str, Figure] = {}
    name = next((n for n in first.results if n != scenario.reference), scenario.reference)
    result = first.results.get(name)
    if first.film and first.film[0].dim == 1:
        pictures["density_over_time"] = density_heatmap(
            first.film,
            path_times=first.series.times,
            path=None if first.path is None else first.path[:, 0],
            series=first.series,
            labels=labels,
            readings_on_state_axis=scenario.readings_on_state_axis,
        )
    elif result is not None:
        pictures["state_over_time"] = result.plot(first.path, first.series, labels=labels)
    if first.film and first.film[0].dim == 2:
        titled = Labels(labels.time, labels.state, labels.reading, f"{labels.title}: {name}")
        pictures["posterior_over_time"] = posterior_panels(
            first.film, scenario.model, first.path, first.series, titled
        )  # fmt: skip
    if scenario.reference in first.results and first.results[scenario.reference].final.dim == 1:
        finals = {n: r.final for n, r in first.results.items()}
        pictures["final_densities"] = final_densities(finals, scenario.reference, labels)
    pictures["box_plots"] = box_plots(benchmark.records, scenario.reference)
    return pictures


def write_study(outcome: StudyRecords, folder: Path, plots: bool = True) -> list[Path]:
    """Write every run of a flow study and its pictures; each file appears whole or not at all.

    Returns:
        What was written.
    """
    study, records = outcome.study, outcome.records
    written = [written_whole(folder / "runs.csv", lambda path: records.to_csv(path, index=False))]
    if not plots:
        return written
    good = records[records["status"] == "ok"]
    pictures = {
        f"error_{measure}": error_figure(good, measure, study.published)
        for measure in ("symmetric_kl", "kl_stationary", "ess")
        if good[measure].notna().any()
    }
    if study.measures:
        pictures["measures"] = measures_figure(good, study.measures)
    method = next(iter(study.methods))
    for case in study.cases:
        if case.name in study.projections and (method, case.name) in outcome.carried:
            law = outcome.carried[method, case.name].at(case.times[-1])
            pictures[f"projection_{case.dim}"] = projection_figure(case, method, law)
    for name, figure in pictures.items():
        written.append(written_whole(folder / f"{name}.png", partial(figure.savefig, format="png")))
    return written


def summarise_study(records: pd.DataFrame) -> pd.DataFrame:
    """One row per scenario and filter: runs, failures, and medians of the figures over the seeds that did not fail."""
    keys = ["scenario", "dim", "filter"]
    good = records[records["status"] == "ok"].assign(
        log_evidence_error=lambda frame: frame["log_evidence_error"].astype(float).abs()
    )
    figures = [
        "kl_reference",
        "kl_filter",
        "log_density_error",
        "mean_error",
        "sd_ratio",
        "log_evidence_error",
        "seconds",
    ]
    runs = records.groupby(keys, sort=False).size().rename("runs")
    medians = good.groupby(keys, sort=False)[figures].median()
    failed = (runs - good.groupby(keys, sort=False).size().reindex(runs.index, fill_value=0)).rename("failed")
    return pd.concat([runs, failed, medians], axis=1).reset_index()


def write_filter_study(outcome: StudyBenchmark, folder: Path, plots: bool = True) -> list[Path]:
    """Write every run, the summary and the picture of errors over the scenarios.

    Returns:
        What was written.
    """
    written = [
        written_whole(folder / "runs.csv", lambda path: outcome.records.to_csv(path, index=False)),
        written_whole(folder / "summary.csv", lambda path: summarise_study(outcome.records).to_csv(path, index=False)),
    ]
    if plots:
        picture = filter_error_figure(summarise_study(outcome.records), outcome.study.filters)
        written.append(written_whole(folder / "error.png", partial(picture.savefig, format="png")))
    return written
