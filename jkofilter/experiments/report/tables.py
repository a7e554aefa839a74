"""Tables made of the records of a sweep: every run, medians, comparisons paired by seed, published figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jkofilter._typing import Array
from jkofilter.experiments.measures import ERRORS, FLOW_MEASURES, MEASURES, TIMES
from jkofilter.experiments.sweep.records import key_of
from jkofilter.numerics.intervals import median_interval

RUN = ("scenario", "case", "dim", "filter", "role", "reference", "seed", "status", *TIMES)
FIGURES = ("time", *(name for name in MEASURES if name not in TIMES))
ASIDE = ("remark", "note", "threads", "started")
GROUP = ["scenario", "case", "filter", "time"]
COMPARED = (*ERRORS, *FLOW_MEASURES, *TIMES)
MORE_IS_BETTER = ("ess", "least_ess")


def run_table(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per run and judged time: RUN, FIGURES, measures of the cases' own, ASIDE; NaN for what there is not."""
    records = list(records)
    own = dict.fromkeys(name for record in records for figures in record["figures"] for name in figures)
    names = [*FIGURES, *(name for name in own if name not in (*FIGURES, *RUN))]
    rows: list[dict[str, Any]] = []
    for record in records:
        # Records of earlier versions have no processor time.
        common = {name: record.get(name) for name in RUN}
        common |= {name: record.get(name, "") for name in ASIDE}
        for figures in record["figures"] or [{}]:
            rows.append(common | {name: figures.get(name) for name in names})
    table = pd.DataFrame(rows, columns=[*RUN, *names, *ASIDE])
    # Infinities are text in the records, None is NaN.
    return table.astype(dict.fromkeys((*TIMES, *names), float))


def noted(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """What runs cannot vouch for, a line per case and filter: the note of the first seed that has one."""
    found: dict[tuple[str, str], list[str]] = {}
    for record in records:
        # Records of earlier versions have no notes.
        if record.get("note"):
            found.setdefault((record["case"], record["filter"]), []).append(f"{key_of(record)}: {record['note']}")
    return [first + (f" (and of other seeds: {len(others)})" if others else "") for first, *others in found.values()]


def own_measures(table: pd.DataFrame) -> list[str]:
    """Names of the measures that cases of flow studies bring themselves, as far as there are figures of them.

    Args:
        table: of ``run_table``.
    """
    flows = table[table["role"] == "method"]
    of_every_flow = (*RUN, "time", *FLOW_MEASURES, *ASIDE)
    return [str(name) for name in flows if name not in of_every_flow and flows[name].notna().any()]


def measures_of(table: pd.DataFrame) -> dict[str, str]:
    """MEASURES and the cases' own, by name and in words."""
    return dict(MEASURES) | {name: name.replace("_", " ") for name in own_measures(table) if name not in MEASURES}


def shown_measures(table: pd.DataFrame, measures: Sequence[str]) -> list[str]:
    """Those of the measures that some run of a ``run_table`` has, and the times that runs took."""
    return [name for name in dict.fromkeys((*measures, *TIMES)) if name in table and table[name].notna().any()]


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """The runs that did not fail, errors without their sign."""
    good = table[table["status"] == "ok"]
    return good.assign(log_evidence_error=good["log_evidence_error"].abs())


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per scenario, case, filter and judged time: runs, failed, remark, of every measure median and range.

    Low and high are those of ``median_interval`` at 0.95, worst is the largest of the runs that did not fail (the
    smallest, where more is better). A filter all of whose runs failed has a row without a time.
    """
    keys = ["scenario", "case", "filter"]
    good, rows = judged(table), []
    for names, group in table.groupby(keys, sort=False):
        runs = group.drop_duplicates("seed")
        common = dict(zip(keys, names, strict=True)) | {"dim": group["dim"].iloc[0]}
        common |= {"runs": len(runs), "failed": int((runs["status"] != "ok").sum())}
        remarks = [text for text in dict.fromkeys(runs["remark"]) if text]
        common |= {"remark": " / ".join(remarks[:2]) + (" / ..." if len(remarks) > 2 else "")}
        own = good.loc[good.index.intersection(group.index)]
        for time, at_time in own.groupby("time", dropna=False) if len(own) else [(np.nan, own)]:
            row = common | {"time": time}
            for measure in measures_of(table):
                interval = median_interval(at_time[measure].to_numpy())
                row |= {f"{measure}_{part}": value for part, value in interval._asdict().items()}
                row[f"{measure}_worst"] = at_time[measure].agg("min" if measure in MORE_IS_BETTER else "max")
            rows.append(row)
    return pd.DataFrame(rows)


def leads(table: pd.DataFrame, order: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], str]:
    """By scenario and case, the filter that the others are compared with: the first that ran and is no reference.

    Args:
        table: of ``judged``.
        order: names of filters by scenario.
    """
    found = {}
    for (scenario, case), group in table[table["role"].isin(("filter", "method"))].groupby(["scenario", "case"]):
        present = list(dict.fromkeys(group["filter"]))
        ranked = [name for name in order.get(str(scenario), ()) if name in present] or present
        found[str(scenario), str(case)] = ranked[0]
    return found


def paired_table(table: pd.DataFrame, lead: Mapping[tuple[str, str], str]) -> pd.DataFrame:
    """Every filter against the lead, run by run of the same seed.

    One row per scenario, case, time, filter and measure, with lead, pairs (seeds on which both have the figure), the
    median ratio filter / lead with the low and high of ``median_interval``, and on how many of the pairs the lead is
    the better one.
    """
    rows: list[dict[str, Any]] = []
    for (scenario, case, time), group in judged(table).groupby(["scenario", "case", "time"], sort=False):
        name = lead.get((scenario, case))
        own = group[group["filter"] == name]
        for other, theirs in group[group["filter"] != name].groupby("filter", sort=False):
            pairs = theirs.merge(own, on="seed", suffixes=("_other", "_lead"))
            common = {"scenario": scenario, "case": case, "time": time, "filter": other, "lead": name}
            rows += [common | row for row in _ratios(pairs)]
    columns = ["scenario", "case", "time", "filter", "lead", "measure", "pairs", "ratio", "low", "high", "lead_better"]
    return pd.DataFrame(rows, columns=columns)


def accuracy_table(table: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Time to accuracy: the filters that no other one beats in both the median error and the median wall time.

    One row per scenario, case, measure and such filter, from the quickest to the most accurate, at the last judged
    time: error, seconds. Whoever asks for an error between two rows needs the filter of the second.

    Args:
        table: of ``run_table``.
        measures: errors to tell it of.
    """
    good, rows = judged(table), []
    good = good[good["role"] != "reference"]
    for (scenario, case), group in good.groupby(["scenario", "case"], sort=False):
        last = group[group["time"] == group["time"].max()]
        medians = last.groupby("filter", sort=False)[[*measures, "seconds"]].median()
        for measure in measures:
            least = np.inf
            for name, row in medians.dropna(subset=[measure]).sort_values(["seconds", measure]).iterrows():
                if row[measure] < least:
                    least = row[measure]
                    common = {"scenario": scenario, "case": case, "measure": measure, "filter": name}
                    rows.append(common | {"error": least, "seconds": row["seconds"]})
    return pd.DataFrame(rows, columns=["scenario", "case", "measure", "filter", "error", "seconds"])


def _ratios(pairs: pd.DataFrame) -> Iterable[dict[str, Any]]:
    for measure in COMPARED:
        both = pairs[[f"{measure}_other", f"{measure}_lead"]].dropna()
        if both.empty:
            continue
        theirs, ours = both.to_numpy().T
        with np.errstate(divide="ignore", invalid="ignore"):
            interval = median_interval(theirs / ours)
        better = ours > theirs if measure in MORE_IS_BETTER else ours < theirs
        yield {"measure": measure, "pairs": len(both), "lead_better": int(better.sum())} | {
            "ratio": interval.median,
            "low": interval.low,
            "high": interval.high,
        }


def published_table(table: pd.DataFrame, published: Mapping[str, Sequence[Mapping[str, Any]]]) -> pd.DataFrame:
    """Every published figure with ours and the ratio ours / published; NaN where ours has not been run.

    Args:
        table: of ``run_table``.
        published: by scenario, figures as the fields of PublishedFigure.
    """
    statistics: dict[str, Callable[[Array], Any]] = {
        "median": np.median,
        "mean": np.mean,
        "least": np.min,
        "worst": np.max,
    }
    good, rows = judged(table), []
    for scenario, figures in published.items():
        for figure in figures:
            named = (good["scenario"] == scenario) & (good["case"] == figure["case"])
            own = good[named & (good["filter"] == figure["filter"])]
            time = own["time"].max() if figure["time"] is None else figure["time"]
            values = own.loc[np.isclose(own["time"], time), figure["measure"]].dropna().to_numpy()
            ours = float(statistics[figure["statistic"]](values)) if values.size else np.nan
            rows.append(
                {"scenario": scenario, "case": figure["case"], "time": time, "measure": figure["measure"]}
                | {"statistic": figure["statistic"], "source": figure["source"], "method": figure["method"]}
                | {"published": figure["value"], "filter": figure["filter"], "ours": ours, "runs": values.size}
                | {"ratio": ours / figure["value"]}
            )
    columns = ["scenario", "case", "time", "measure", "statistic", "source", "method", "published", "filter", "ours"]
    return pd.DataFrame(rows, columns=[*columns, "runs", "ratio"])


def ordered(
    table: pd.DataFrame, cases: Sequence[str], methods: Sequence[str], by: Sequence[str] = ("case", "filter")
) -> pd.DataFrame:
    """In the order of the experiment, as far as the table has none of its own."""
    places = {name: k for k, name in enumerate([*cases, *methods])}
    return table.sort_values(list(by), key=lambda names: names.map(places), kind="stable") if by else table


def figure_text(value: Any) -> str:
    """A figure to two or three digits; a dash for what there is not."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "\u2013"
    if isinstance(value, str):
        return value
    magnitude = abs(value)
    if magnitude == 0 or 0.01 <= magnitude < 10_000:
        return f"{value:.3g}" if magnitude < 1000 else f"{value:.0f}"
    return f"{value:.1e}"
