"""Pictures of experiments: what they show, and that names and numbers do not overlap."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from jkofilter.experiments.measures import MEASURES
from jkofilter.experiments.pictures.boxes import box_plots
from jkofilter.experiments.pictures.studies import error_figure, filter_error_figure, measures_figure
from jkofilter.experiments.pictures.sweeps import time_to_accuracy


def records(seeds: int) -> pd.DataFrame:
    rows = []
    for seed in range(seeds):
        for name, error in (("grid", np.nan), ("jko", 1e-8), ("particle", 1e-2)):
            errors = dict.fromkeys(("kl_reference", "kl_filter", "log_density_error", "mean_error"), error * (1 + seed))
            signed = {"log_evidence_error": -error, "seconds": 0.1 * (1 + seed), "status": "ok"}
            rows.append({"filter": name, "seed": seed} | errors | signed)
    return pd.DataFrame(rows)


def names_in(table: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(table["filter"]))


def axis_of(figure: Figure, measure: str) -> Axes:
    return next(axis for axis in figure.axes if axis.get_ylabel() == MEASURES[measure])


def marks(axis: Axes) -> np.ndarray:
    points = [np.asarray(c.get_offsets()) for c in axis.collections if isinstance(c, PathCollection)]
    return np.concatenate(points) if points else np.empty((0, 2))


@pytest.mark.parametrize("seeds", [1, 5])
def test_box_plots(seeds: int) -> None:
    figure = box_plots(records(seeds), ["grid", "jko", "particle"], "grid")
    figure.draw_without_rendering()
    assert [axis.get_yscale() for axis in figure.axes] == ["log"] * 6
    axis = axis_of(figure, "kl_reference")
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["jko", "particle"]
    assert len(marks(axis)) == 2 * seeds
    np.testing.assert_allclose(marks(axis_of(figure, "log_evidence_error"))[0, 1], 1e-8)
    assert len(marks(axis_of(figure, "seconds"))) == 3 * seeds


def test_box_plots_leave_out_and_count_what_they_cannot_show() -> None:
    table = records(3)
    table.loc[1, ["status", "seconds"]] = ["stopped", 99.0]
    table.loc[5, ["kl_reference", "kl_filter"]] = [np.inf, 0.0]
    figure = box_plots(table, names_in(table), "grid")
    assert "1 failed" in figure.get_suptitle()
    for measure in ("kl_reference", "kl_filter"):
        axis = axis_of(figure, measure)
        assert len(marks(axis)) == 4
        assert axis.get_title(loc="right") == "1 not shown (zero or infinite)"
    assert marks(axis_of(figure, "seconds"))[:, 1].max() < 1


def test_box_plots_say_where_there_is_nothing_to_show() -> None:
    table = records(1).assign(kl_filter=0.0)
    axis = axis_of(box_plots(table, names_in(table), "grid"), "kl_filter")
    assert axis.texts[0].get_text() == "nothing to show"
    alone = table[table["filter"] == "grid"].assign(**dict.fromkeys(("kl_filter", "log_evidence_error"), np.nan))
    assert [one.get_ylabel() for one in box_plots(alone, ["grid"], "grid").axes] == [MEASURES["seconds"]]


LONG = ["grid", "JKO", "particles, 100000", "ensemble Kalman", "unscented Kalman", "particles, same time"]


def test_names_under_box_plots_do_not_overlap() -> None:
    table = pd.concat([records(2).query("filter == 'jko'").assign(filter=name) for name in LONG])
    figure = box_plots(table, LONG, "grid")
    figure.draw_without_rendering()
    for axis in figure.axes:
        boxes = [tick.get_window_extent() for tick in axis.get_xticklabels()]
        assert len(boxes) >= 5
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_seven_filters_of_a_study_look_different() -> None:
    names = [*LONG[1:], "grid", "exact"]
    rows = [
        {"case": f"d = {d}", "dim": d, "filter": name, "mean_error": 0.1, "log_evidence_error": 0.1, "seconds": 1.0}
        for name in names
        for d in (2, 4)
    ]
    for axis in filter_error_figure(pd.DataFrame(rows), names).axes:
        assert len({line.get_color() for line in axis.lines}) == 7
        assert len({line.get_marker() for line in axis.lines}) == 7


@pytest.mark.parametrize("factor", [12.0, 50.0, 250.0, 1e4])
def test_numbers_along_an_axis_of_seconds_do_not_overlap(factor: float) -> None:
    rows = [{"filter": "jko", "seconds": 0.2 * s, "kl_filter": 0.1 * s, "mean_error": 1.0} for s in (1.0, factor)]
    runs = pd.DataFrame(rows)
    figure = time_to_accuracy({name: (runs, "kl_filter") for name in "abc"}, ["jko"])
    figure.draw_without_rendering()
    for axis in figure.axes:
        low, high = axis.get_xlim()
        shown = [tick for tick in axis.get_xticklabels(which="both") if low <= tick.get_position()[0] <= high]
        boxes = sorted((tick.get_window_extent() for tick in shown if tick.get_text()), key=lambda box: box.x0)
        assert len(boxes) >= 2
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_a_method_looks_the_same_where_another_has_no_figure() -> None:
    rows = [
        {"filter": method, "case": f"d = {d}", "dim": d, "time": time, "seconds": 1.0, "symmetric_kl": error}
        for d in (2, 4)
        for time, error in ((0.5, None if d == 2 else 0.1), (0.9, 0.1))
        for method in ("first", "second")
        if not (method == "first" and time == 0.5)
    ]
    looks = [
        {line.get_label(): (line.get_color(), line.get_marker()) for line in axis.lines}
        for axis in error_figure(pd.DataFrame(rows), "symmetric_kl").axes
    ]
    assert looks[0]["second"] == looks[1]["second"] == looks[2]["second"] != looks[1]["first"]


def test_the_same_data_give_the_same_picture() -> None:
    first, second = (box_plots(records(4), ["grid", "jko", "particle"], "grid") for _ in range(2))
    np.testing.assert_array_equal(marks(first.axes[0]), marks(second.axes[0]))


def test_pictures_of_studies_show_medians() -> None:
    """Of 1, 2 and 9 the median is 2 and the mean 4."""
    names = ("mean_error", "log_evidence_error", "symmetric_kl", "hit_rate", "ess", "seconds")
    rows = [
        {"case": f"d = {d}", "dim": d, "filter": "it", "time": 1.0} | dict.fromkeys(names, d * value)
        for d in (1, 4)
        for value in (1.0, 9.0, 2.0)
    ]
    table = pd.DataFrame(rows)
    for axis in filter_error_figure(table, ["it"]).axes:
        assert axis.lines[0].get_ydata().tolist() == [2.0, 8.0]
        assert axis.lines[0].get_xdata().tolist() == [1, 4]
    against_dimension, against_seconds = error_figure(table, "symmetric_kl").axes
    assert against_dimension.lines[0].get_ydata().tolist() == [2.0, 8.0]
    assert sorted(against_seconds.lines[0].get_ydata()) == [1.0, 2.0, 4.0, 8.0, 9.0, 36.0]
    figure = measures_figure(table, ["hit_rate"])
    assert [axis.get_title().split()[0] for axis in figure.axes] == ["hit", "effective", "wall"]
    assert all(axis.lines[0].get_ydata().tolist() == [2.0, 8.0] for axis in figure.axes)
