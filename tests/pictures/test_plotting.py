"""Pictures: what they show, their labels and scales, and that nothing global is touched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.figure import Figure

import jkofilter as jf
from jkofilter.pictures.comparison import final_densities
from jkofilter.pictures.over_time import density_heatmap
from jkofilter.pictures.style import Labels

Run = tuple[jf.FilterResult, torch.Tensor, jf.ObservationSeries]
LABELS = Labels("time, kyr", "state, mm", "reading, V", "a title")


@pytest.fixture
def run(ou_model: jf.StateSpaceModel) -> Run:
    path, series = jf.simulate(ou_model, torch.tensor([0.2, 0.5, 1.4, 1.6]).double(), substep=1e-2)
    return jf.run_filter(jf.KalmanFilter(ou_model), series, keep_beliefs=True), path, series


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
