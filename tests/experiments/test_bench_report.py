"""The report of a sweep: tables against figures worked out by hand, and a page that needs nothing else."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import jkofilter as jf
from jkofilter.cli.app import main
from jkofilter.experiments.report.page import write_report
from jkofilter.experiments.report.tables import (
    accuracy_table,
    figure_text,
    judged,
    leads,
    paired_table,
    published_table,
    run_table,
    summary_table,
)
from jkofilter.experiments.sweep.folder import write_sweep
from jkofilter.experiments.sweep.records import RecordFile

SEEDS = range(7)
TABLES = ("runs", "summary", "paired", "accuracy", "published")
ERROR = {"a": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], "b": [2.0, 2.0, 9.0, 12.0, 10.0, 6.0, 21.0]}


def record(filter: str, seed: int, **more: Any) -> dict[str, Any]:
    error = ERROR.get(filter)
    figures = {"time": 5.0, "log_evidence": -3.0}
    figures |= {"kl_filter": error[seed], "log_evidence_error": -error[seed]} if error else {}
    base = {"format": 1, "scenario": "s", "case": "", "dim": 1, "filter": filter, "reference": "exact", "seed": seed}
    role = {"role": "reference" if filter == "exact" else "filter", "status": "ok", "seconds": 0.5 + seed}
    machine = {"machine": {"system": "Linux", "processor": "<fast>", "cores": 2, "memory": 8.0}}
    return base | role | {"figures": [figures], "threads": 1, "versions": {"python": "3"}} | machine | more


def sweep() -> list[dict[str, Any]]:
    records = [record(name, seed) for seed in SEEDS for name in ("exact", "b", "a")]
    failed = record("c", 0, status="does not converge <b>", figures=[], seconds=None)
    return [*records, failed]


def flow(method: str, case: str, dim: int, seed: int, error: float) -> dict[str, Any]:
    figures = [{"time": t, "kl_exact": error, "kl_method": error, "symmetric_kl": 2 * error} for t in (0.5, 0.9)]
    return record(method, seed) | {
        "scenario": "flow", "case": case, "dim": dim, "role": "method", "reference": "", "figures": figures
    }  # fmt: skip


FIGURES = [
    jf.PublishedFigure("A. Author 2020", "theirs", "a", "kl_filter", 8.0),
    jf.PublishedFigure("A. Author 2020", "theirs", "b", "kl_filter", 7.0, statistic="worst"),
    jf.PublishedFigure("A. Author 2020", "theirs", "c", "kl_filter", 7.0),
    jf.PublishedFigure("A. Author 2020", "theirs", "a", "log_evidence_error", 2.0, statistic="least"),
]


def described(name: str, filters: list[str], cases: list[tuple[str, int]], published: list[Any]) -> dict[str, Any]:
    return {
        "name": name,
        "path": f"{name}.py",
        "digest": "0",
        "kind": "",
        "description": "what it is & more",
        "filters": filters,
        "cases": [{"name": case, "dim": dim, "reference": "", "note": "a floor"} for case, dim in cases],
        "published": [vars(figure) for figure in published],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    file = RecordFile(tmp_path / "records.jsonl")
    flows = [flow(m, f"d = {d}", d, seed, d * e) for d in (2, 4) for seed in (0, 1) for m, e in (("JKO", 1), ("EM", 9))]
    family = [one | {"scenario": "family", "case": f"d = {d}", "dim": d} for one in sweep()[:9] for d in (2, 4)]
    for one in [*sweep(), *flows, *family]:
        file.append(one)
    file.close()
    ours = jf.PublishedFigure("A. Author 2020", "theirs", "JKO", "symmetric_kl", 3.0, "d = 4", 0.9)
    command = {"command": "jkofilter bench s.py", "started": "now", "threads": 1, "workers": 2, "commit": None}
    scenarios = [
        described("s", ["a", "b", "c", "exact"], [("", 1)], FIGURES),
        described("flow", ["JKO", "EM"], [("d = 2", 2), ("d = 4", 4)], [ours]),
        described("family", ["a", "b", "exact"], [("d = 2", 2), ("d = 4", 4)], []),
    ]
    write_sweep(tmp_path, scenarios, command)
    return tmp_path


def test_a_summary_has_medians_intervals_and_failures() -> None:
    rows = summary_table(run_table(sweep())).set_index("filter")
    # Of seven runs the smallest and the largest hold the median with probability 1 - 2/128; the second ones do not.
    assert tuple(rows.loc["a", ["kl_filter_median", "kl_filter_low", "kl_filter_high"]]) == (4.0, 1.0, 7.0)
    assert rows.loc["a", "log_evidence_error_median"] == 4.0
    assert (rows.loc["c", "runs"], rows.loc["c", "failed"]) == (1, 1)
    assert np.isnan(rows.loc["c", "kl_filter_median"])
    assert np.isnan(rows.loc["exact", "kl_filter_median"])
    assert rows.loc["exact", "seconds_median"] == 3.5


def test_the_worst_is_the_largest_size_of_a_run_that_did_not_fail() -> None:
    runs = [(-4.0, 2.0), (1.0, 5.0), (2.0, 3.0)]
    records = [
        record("a", seed, seconds=seconds, figures=[{"time": 5.0, "log_evidence_error": error, "ess": -error}])
        | {"processor_seconds": 2 * seconds}
        for seed, (error, seconds) in enumerate(runs)
    ]
    records.append(
        record("a", 3, status="stumbled.", seconds=99.0, figures=[{"time": 5.0, "log_evidence_error": 50.0}])
    )
    (row,) = summary_table(run_table(records)).to_dict("records")
    assert (row["runs"], row["failed"]) == (4, 1)
    assert (row["log_evidence_error_median"], row["log_evidence_error_worst"]) == (2.0, 4.0)
    assert (row["seconds_median"], row["seconds_worst"]) == (3.0, 5.0)
    assert (row["processor_seconds_median"], row["processor_seconds_worst"]) == (6.0, 10.0)
    # More of the effective share is better: the least is the worst.
    assert row["ess_worst"] == -2.0


def test_comparisons_are_paired_by_seed_against_the_lead() -> None:
    table = run_table(sweep())
    assert leads(judged(table), {"s": ["c", "a", "b", "exact"]}) == {("s", ""): "a"}
    paired = paired_table(table, {("s", ""): "a"}).set_index(["filter", "measure"])
    # Seed by seed the ratios are 2, 1, 3, 3, 2, 1, 3; the ratio of the medians would be 9/4.
    row = paired.loc["b", "kl_filter"]
    assert (row["ratio"], row["low"], row["high"]) == (2.0, 1.0, 3.0)
    assert (row["lead_better"], row["pairs"]) == (5, 7)
    assert paired.loc["exact", "seconds"]["ratio"] == 1.0
    assert ("exact", "kl_filter") not in paired.index


def test_a_seed_that_failed_on_one_side_is_no_pair() -> None:
    records = [one for one in sweep() if not (one["filter"] == "b" and one["seed"] in (2, 6))]
    row = paired_table(run_table(records), {("s", ""): "a"}).set_index(["filter", "measure"]).loc["b", "kl_filter"]
    assert (row["pairs"], row["ratio"], row["lead_better"]) == (5, 2.0, 3)


def test_time_to_accuracy_leaves_out_what_another_filter_beats_in_both_and_the_reference() -> None:
    # In seconds and error a is (5, 4), b (3, 9), c (9, 2), and d (6, 5), which a beats in both.
    made = {"a": (5.0, 4.0), "b": (3.0, 9.0), "c": (9.0, 2.0), "d": (6.0, 5.0)}
    records = [
        record("exact", 0, seconds=0.1, figures=[{"time": 5.0, "kl_filter": 0.0}]),
        *(
            record(name, seed, seconds=seconds, figures=[{"time": 5.0, "kl_filter": error + seed}])
            for name, (seconds, error) in made.items()
            for seed in (-1, 0, 1)
        ),
    ]
    table = accuracy_table(run_table(records), ("kl_filter", "mean_error"))
    assert set(table["measure"]) == {"kl_filter"}
    assert table[["filter", "error", "seconds"]].values.tolist() == [["b", 9.0, 3.0], ["a", 4.0, 5.0], ["c", 2.0, 9.0]]


def test_published_figures_stand_beside_ours_with_the_ratio() -> None:
    table = published_table(run_table(sweep()), {"s": [vars(figure) for figure in FIGURES]})
    assert table["ours"].tolist()[:2] == [4.0, 21.0]
    assert table["ratio"].tolist()[:2] == [0.5, 3.0]
    assert (table["runs"].tolist(), table["ours"].tolist()[3]) == ([7, 7, 0, 7], 1.0)
    assert np.isnan(table["ours"][2])


def test_a_published_figure_must_be_of_something_that_exists() -> None:
    with pytest.raises(jf.InputError, match="measure 'speed'"):
        jf.PublishedFigure("x", "y", "a", "speed", 1.0)
    with pytest.raises(jf.InputError, match="statistic"):
        jf.PublishedFigure("x", "y", "a", "seconds", 1.0, statistic="mode")
    scenario = jf.Scenario.load(Path(__file__).parents[2] / "scenarios" / "sine_1d.py")
    for wrong, says in ((("nobody", ""), "nobody"), (("jko", "d = 2"), "no case 'd = 2'")):
        figure = jf.PublishedFigure("x", "y", wrong[0], "seconds", 1.0, wrong[1])
        settings = {"model": scenario.model, "filters": scenario.filters, "reference": "grid", "times": [1.0]}
        with pytest.raises(jf.InputError, match=says):
            jf.Scenario(name="x", published=[figure], **settings)


class Page(HTMLParser):
    """Tags that are opened and closed in order, and what they refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br"):
            self.stack.append(tag)
        found = dict(attrs)
        self.links += [found[name] or "" for name in ("src", "href") if name in found]
        self.ids |= {found["id"] or ""} if "id" in found else set()
        assert tag != "img" or found["alt"]

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data.split()


def test_the_page_needs_nothing_else_and_says_everything(folder: Path) -> None:
    written = write_report(folder)
    assert [path.name for path in written] == ["report.html", *(f"{name}.csv" for name in TABLES)]
    text = written[0].read_text()
    page = Page(text)
    assert page.stack == []
    pictures = [link for link in page.links if link.startswith("data:image/png;base64,")]
    # Boxes and time to accuracy; error of the flow; error against dimension and time to accuracy of the family.
    assert len(pictures) == 5
    assert all(base64.b64decode(one.partition(",")[2]).startswith(b"\x89PNG") for one in pictures)
    anchors = {link[1:] for link in page.links if not link.startswith("data:")}
    assert anchors <= page.ids
    assert "does not converge &lt;b&gt;" in text
    assert "jkofilter bench s.py" in text
    assert "&lt;fast&gt;" in text
    assert "A. Author 2020" in text
    assert "log evidence, nats" not in text
    assert "nan" not in (word.lower() for word in page.words)


def test_the_tables_behind_the_page_are_all_runs(folder: Path) -> None:
    write_report(folder)
    runs = pd.read_csv(folder / "runs.csv", keep_default_na=False)
    assert len(runs) == 22 + 16 + 18
    published = pd.read_csv(folder / "published.csv")
    assert published.set_index("scenario").loc["flow", "ratio"] == pytest.approx(8 / 3)


def test_a_last_line_cut_short_is_left_out_and_left_alone(folder: Path) -> None:
    file = folder / "records.jsonl"
    content = file.read_bytes()[:-20]
    file.write_bytes(content)
    assert "cut short" in write_report(folder)[0].read_text()
    assert file.read_bytes() == content


def test_the_command_writes_where_it_is_told_and_names_what_it_cannot_find(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            main(["report", *arguments])
        return int(stop.value.code or 0), capsys.readouterr().err

    assert call(str(folder), "--out", str(folder / "new" / "page.html")) == (0, "")
    assert (folder / "new" / "page.html").is_file()
    assert (folder / "new" / "paired.csv").is_file()
    for wrong, says in (("nowhere", "does not exist"), (str(folder / "new"), "holds no records")):
        code, said = call(wrong)
        assert code == 2
        assert says in said
        assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (8.21e-3, "8.2e-03"), (0.0257, "0.0257"), (10753.0, "1.1e+04"), (None, "\u2013")]
)
def test_figures_are_short(value: float | None, text: str) -> None:
    assert figure_text(value) == text


def test_every_figure_of_the_scenarios_is_of_a_filter_that_runs() -> None:
    """Loading checks that filter and case exist; the figures that must be reproduced are all there."""
    folder = Path(__file__).parents[2] / "scenarios"
    found = [figure for file in folder.glob("*.py") for figure in jf.Scenario.load(file).published]
    values = {figure.value for figure in found}
    assert {0.0082, 0.0088, 10_753.0, 0.0095, 0.0257, 6883.0, 0.0022, 0.0021, 2e-7} <= values
    assert {0.0007, 0.0263, 0.0191, 3.8, 0.025, 0.281, 7.4, 5e-4, 3e-3, 0.019, 277.0} <= values
    assert all(re.search(r"\d{4}|prototype|closed form", figure.source) for figure in found)


def test_measures_of_a_case_of_its_own_are_in_the_tables_and_on_the_page(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "records.jsonl")
    for seed, accuracy in enumerate((0.9, 0.8, 0.7)):
        one = flow("JKO", "twonorm", 21, seed, 1.0)
        file.append(
            one
            | {
                "figures": [{"time": 8.0, "ess": 0.5, "hit_rate": accuracy, "log_evidence": -9.0}],
                "remark": f"{seed + 5} steps",
            }
        )
    file.close()
    command = {"command": "jkofilter bench s.py", "started": "now", "threads": 1, "workers": 1, "commit": None}
    write_sweep(tmp_path, [described("flow", ["JKO"], [("twonorm", 21)], [])], command)
    write_report(tmp_path)
    assert pd.read_csv(tmp_path / "runs.csv")["hit_rate"].tolist() == [0.9, 0.8, 0.7]
    assert pd.read_csv(tmp_path / "summary.csv")["hit_rate_median"].tolist() == [0.8]
    page = (tmp_path / "report.html").read_text()
    assert "<td>5 steps / 6 steps / ...</td>" in page
    assert '<th class="n">hit rate</th>' in page
    # A name that filters have, too; of theirs only the error is on the page.
    assert '<th class="n">log evidence, nats</th>' in page
    assert "Medians over seeds, case by case" in page
