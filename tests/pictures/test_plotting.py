"""Pictures: what they show, their labels and scales, and that nothing global is touched."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.figure import Figure

import jkofilter as jf
from jkofilter.experiments.pictures.boxes import box_plots
from jkofilter.experiments.pictures.studies import error_figure, filter_error_figure
from jkofilter.experiments.pictures.sweeps import time_to_accuracy
from jkofilter.pictures.comparison import final_densities
from jkofilter.pictures.over_time import density_heatmap
from jkofilter.pictures.style import Labels

Run = tuple[jf.FilterResult, torch.Tensor, jf.ObservationSeries]
LABELS = Labels("time, kyr", "state, mm", "reading, V", "a title")


@pytest.fixture
def run(ou_model: jf.StateSpaceModel) -> Run:
    path, series = jf.simulate(ou_model, torch.tensor([0.2, 0.5, 1.4, 1.6]).double(), substep=1e-2)
    return jf.run_filter(jf.KalmanFilter(ou_model), series, keep_beliefs=True), path, series


def records(seeds: int) -> pd.DataFrame:
    rows = []
    for seed in range(seeds):
        for name, error in (("grid", np.nan), ("jko", 1e-8), ("particle", 1e-2)):
            errors = dict.fromkeys(("kl_reference", "kl_filter", "mean_error"), error * (1 + seed))
            signed = {"log_evidence_error": -error, "seconds": 0.1 * (1 + seed), "status": "ok"}
            rows.append({"filter": name, "seed": seed} | errors | signed)
    return pd.DataFrame(rows)


def axis_with(figure: Figure, label: str) -> Axes:
    return next(axis for axis in figure.axes if axis.get_ylabel() == label)


def legend_of(axis: Axes) -> list[str]:
    legend = axis.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def marks(axis: Axes) -> np.ndarray:
    points = [np.asarray(c.get_offsets()) for c in axis.collections if isinstance(c, PathCollection)]
    return np.concatenate(points) if points else np.empty((0, 2))


def test_heat_map_shows_density_truth_and_readings(run: Run) -> None:
    result, path, series = run
    figure = density_heatmap(result.beliefs, series.times, path[:, 0], series, LABELS)
    axis = axis_with(figure, "state, mm")
    assert axis.get_xlabel() == "time, kyr"
    assert axis.get_title() == "a title"
    assert axis_with(figure, "density") is not None
    assert legend_of(axis) == ["truth", "readings"]
    np.testing.assert_allclose(np.asarray(axis.lines[0].get_ydata()), path[:, 0])
    np.testing.assert_allclose(marks(axis), np.column_stack([series.times, series.values[:, 0]]))
    (mesh,) = (c for c in axis.collections if isinstance(c, QuadMesh))
    corners = np.asarray(mesh.get_coordinates())
    np.testing.assert_allclose(corners[0, :, 0], [0.05, 0.35, 0.95, 1.5, 1.7])
    mass = np.asarray(mesh.get_array()).sum(0) * np.diff(corners[:2, 0, 1])
    assert np.all((mass > 0.99) & (mass < 1.001))


def test_readings_off_the_state_axis_get_a_panel_below(run: Run) -> None:
    result, path, series = run
    figure = density_heatmap(result.beliefs, series.times, path[:, 0], series, LABELS, False)
    top, bottom = axis_with(figure, "state, mm"), axis_with(figure, "reading, V")
    figure.draw_without_rendering()
    assert top.get_position().y0 > bottom.get_position().y1
    assert top.get_position().x1 == pytest.approx(bottom.get_position().x1)
    assert bottom.get_shared_x_axes().joined(top, bottom)
    assert bottom.get_xlabel() == "time, kyr"
    assert marks(top).size == 0
    np.testing.assert_allclose(np.asarray(bottom.lines[0].get_ydata()), series.values[:, 0])


def test_plot_of_a_result(run: Run, ou_model: jf.StateSpaceModel) -> None:
    result, path, series = run
    assert any(isinstance(c, QuadMesh) for c in result.plot(path, series).axes[0].collections)
    bands = jf.run_filter(jf.KalmanFilter(ou_model), series).plot(path, series)
    assert legend_of(bands.axes[0]) == ["90 % band", "filter mean", "truth"]
    assert [axis.get_ylabel() for axis in bands.axes] == ["state", "reading"]
    (band,) = bands.axes[0].collections
    reach = 1.645 * result.covariances[0, 0, 0].sqrt()
    at_first = np.asarray(band.get_paths()[0].vertices)
    at_first = at_first[np.isclose(at_first[:, 0], 0.2), 1]
    np.testing.assert_allclose([at_first.min(), at_first.max()], result.means[0, 0] + reach * torch.tensor([-1, 1]))


def test_one_reading_and_several_coordinates_are_drawn(tmp_path: Path) -> None:
    prior = torch.distributions.MultivariateNormal(torch.zeros(6).double(), torch.eye(6).double())
    sde = jf.LangevinSDE(jf.Quadratic(torch.zeros(6).double(), torch.eye(6).double()))
    model = jf.StateSpaceModel(prior, sde, jf.LinearGaussian(torch.eye(6)[:2].double(), torch.eye(2).double()))
    path, series = jf.simulate(model, torch.tensor([0.5]).double(), substep=0.1)
    figure = jf.run_filter(jf.KalmanFilter(model), series, keep_beliefs=True).plot(path, series)
    names = [axis.get_ylabel() for axis in figure.axes]
    assert names == [f"state, coordinate {i}" for i in range(4)] + ["reading"]
    figure.savefig(tmp_path / "bands.png")
    assert (tmp_path / "bands.png").stat().st_size > 1000


def test_final_densities_are_compared_where_the_reference_has_mass() -> None:
    wide = jf.GaussianBelief(2.5, torch.zeros(1).double(), 4 * torch.eye(1).double())
    exact = jf.GaussianBelief(2.5, torch.zeros(1).double(), torch.eye(1).double())
    figure = final_densities({"exact": exact, "wide": wide}, "exact", LABELS, truth=0.3)
    top, bottom = figure.axes
    assert legend_of(top) == ["wide", "exact (reference)", "truth"]
    assert (top.get_ylabel(), bottom.get_xlabel(), bottom.get_yscale()) == ("density at t = 2.5", "state, mm", "log")
    assert len({line.get_linestyle() for line in top.lines[:2]}) == 2
    x, error = np.asarray(bottom.lines[0].get_data())
    seen = np.isfinite(error)
    np.testing.assert_allclose(error[seen], np.abs(0.375 * x[seen] ** 2 - np.log(2)), rtol=1e-9)
    assert np.abs(x[seen]).max() == pytest.approx(np.sqrt(2 * np.log(1e6)), abs=0.05)


@pytest.mark.parametrize("seeds", [1, 5])
def test_box_plots(seeds: int) -> None:
    figure = box_plots(records(seeds), "grid")
    figure.draw_without_rendering()
    assert [axis.get_yscale() for axis in figure.axes] == ["log"] * 4
    axis = axis_with(figure, "KL(grid \u2016 filter), nats")
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["jko", "particle"]
    assert len(marks(axis)) == 2 * seeds
    np.testing.assert_allclose(marks(axis_with(figure, "|log evidence error|, nats"))[0, 1], 1e-8)
    assert len(marks(axis_with(figure, "seconds per run"))) == 3 * seeds


def test_box_plots_leave_out_and_count_what_they_cannot_show() -> None:
    table = records(3)
    table.loc[1, ["status", "seconds"]] = ["stopped", 99.0]
    table.loc[5, ["kl_reference", "kl_filter"]] = [np.inf, 0.0]
    figure = box_plots(table, "grid")
    assert "1 failed" in figure.get_suptitle()
    for label in ("KL(grid \u2016 filter), nats", "KL(filter \u2016 grid), nats"):
        axis = axis_with(figure, label)
        assert len(marks(axis)) == 4
        assert axis.get_title(loc="right") == "1 not shown (zero or infinite)"
    assert marks(axis_with(figure, "seconds per run"))[:, 1].max() < 1


def test_box_plots_without_any_comparison_still_draw() -> None:
    table = records(1)
    axis = axis_with(box_plots(table[table["filter"] == "grid"], "grid"), "KL(grid \u2016 filter), nats")
    assert axis.texts[0].get_text() == "nothing to show"


LONG = ["grid", "JKO", "particles, 100000", "ensemble Kalman", "unscented Kalman", "particles, same time"]


def test_names_under_box_plots_do_not_overlap() -> None:
    table = pd.concat([records(2).query("filter == 'jko'").assign(filter=name) for name in LONG])
    figure = box_plots(table, "grid")
    figure.draw_without_rendering()
    for axis in figure.axes:
        boxes = [tick.get_window_extent() for tick in axis.get_xticklabels()]
        assert len(boxes) >= 5
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_seven_filters_of_a_study_look_different() -> None:
    names = [*LONG[1:], "grid", "exact"]
    rows = [
        {"scenario": f"d = {d}", "dim": d, "filter": name, "mean_error": 0.1, "log_evidence_error": 0.1, "seconds": 1.0}
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
        {"method": method, "case": f"d = {d}", "dim": d, "time": time, "seconds": 1.0, "symmetric_kl": error}
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


def test_the_same_data_give_the_same_picture(run: Run) -> None:
    first, second = (box_plots(records(4), "grid") for _ in range(2))
    np.testing.assert_array_equal(marks(first.axes[0]), marks(second.axes[0]))


def test_bad_arguments_are_named(run: Run) -> None:
    result, path, _ = run
    with pytest.raises(jf.InputError, match="path must"):
        result.plot(path[:2])
    with pytest.raises(jf.InputError, match="beliefs must"):
        density_heatmap(())
    with pytest.raises(jf.InputError, match="reference 'none'"):
        final_densities({"exact": result.final}, "none")


def test_no_global_state_is_touched() -> None:
    # In a process of its own; filterpy imports pyplot, so what counts is that no figure and no backend is opened.
    code = (
        "import torch, jkofilter as jf, matplotlib; before = dict(matplotlib.rcParams)\n"
        "from jkofilter.pictures.over_time import density_heatmap; "
        "from jkofilter.pictures.comparison import final_densities\n"
        "b = jf.GaussianBelief(0.0, torch.zeros(1), torch.eye(1))\n"
        "density_heatmap([b]).savefig('/dev/null', format='png'); final_densities({'a': b}, 'a')\n"
        "from matplotlib._pylab_helpers import Gcf; assert not Gcf.get_all_fig_managers()\n"
        "assert dict(matplotlib.rcParams) == before"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
