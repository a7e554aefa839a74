"""Range and bearing: angles the short way round, missing components, samples; and pictures on the plane."""

import math

import numpy as np
import pytest
import torch
from matplotlib.patches import Arc
from scipy import stats

import jkofilter as jf
from jkofilter.models.range_bearing import short_way
from jkofilter.pictures.plane import posterior_panels

STATION = [0.5, -0.25]
SENSOR = jf.RangeBearing(STATION, range_deviation=0.2, bearing_deviation=0.3, boresight=0.7)
DRAWS = 100_000


def at(distance: float, bearing: float, boresight: float = 0.7) -> torch.Tensor:
    angle = boresight + bearing
    where = [STATION[0] + distance * math.cos(angle), STATION[1] + distance * math.sin(angle)]
    return torch.tensor([where], dtype=torch.float64)


@pytest.mark.parametrize("bearing", [-3.0, -1.0, 0.0, 0.4, 2.9])
@pytest.mark.parametrize("read", [-3.1, 0.0, 3.1])
def test_the_likelihood_is_that_of_both_errors_with_the_angle_taken_the_short_way(bearing: float, read: float) -> None:
    turn = min(abs(read - bearing), 2 * math.pi - abs(read - bearing))
    expected = stats.norm.logpdf(2.3 - 2.0, scale=0.2) + stats.norm.logpdf(turn, scale=0.3)
    value = SENSOR.log_likelihood(torch.tensor([2.3, read], dtype=torch.float64), at(2.0, bearing))
    assert value.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("read", [0.3, 3.0, -3.0])
def test_a_full_turn_of_the_reading_changes_nothing(read: float) -> None:
    x = at(2.0, 1.0)
    one, other = (
        SENSOR.log_likelihood(torch.tensor([2.0, read + k * 2 * math.pi], dtype=torch.float64), x) for k in (0, 1)
    )
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_missing_components_are_left_out() -> None:
    x, nan = at(2.0, 0.5), math.nan
    only_range = SENSOR.log_likelihood(torch.tensor([2.1, nan], dtype=torch.float64), x).item()
    only_bearing = SENSOR.log_likelihood(torch.tensor([nan, 0.1], dtype=torch.float64), x).item()
    assert only_range == pytest.approx(stats.norm.logpdf(0.1, scale=0.2))
    assert only_bearing == pytest.approx(stats.norm.logpdf(0.4, scale=0.3))


def test_samples_scatter_around_distance_and_bearing_and_stay_within_half_a_turn() -> None:
    y = SENSOR.sample(at(5.0, 3.0).expand(DRAWS, 2), torch.Generator().manual_seed(0))
    assert y[:, 1].abs().max() <= math.pi
    assert y[:, 0].mean().item() == pytest.approx(5.0, abs=5 * 0.2 / DRAWS**0.5)
    turned = short_way(y[:, 1] - 3.0)
    assert turned.mean().item() == pytest.approx(0.0, abs=5 * 0.3 / DRAWS**0.5)
    assert turned.std().item() == pytest.approx(0.3, rel=5 / (2 * DRAWS) ** 0.5)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"station": [0.0]}, "station"),
        ({"range_deviation": 0.0}, "range_deviation"),
        ({"bearing_deviation": 1.5}, "bearing_deviation"),
        ({"boresight": math.inf}, "boresight"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, object], named: str) -> None:
    good = {"station": STATION, "range_deviation": 0.1, "bearing_deviation": 0.1}
    with pytest.raises(jf.InputError, match=named):
        jf.RangeBearing(**(good | changes))  # type: ignore[arg-type]


def test_states_off_the_plane_and_readings_of_another_length_are_refused() -> None:
    with pytest.raises(jf.InputError, match="state dimension is 3"):
        SENSOR.sample(torch.zeros(4, 3).double(), torch.Generator())
    with pytest.raises(jf.InputError, match="2 components"):
        SENSOR.log_likelihood(torch.zeros(3).double(), at(1.0, 0.0))


# --- pictures --------------------------------------------------------------------------------------------------------

EYE = torch.eye(2, dtype=torch.float64)
PRIOR = torch.distributions.MultivariateNormal(torch.zeros(2).double(), EYE)
POTENTIAL = jf.LangevinSDE(jf.Quadratic(torch.zeros(2).double(), EYE))
BELIEFS = [jf.GaussianBelief(0.5 * k, torch.full((2,), 0.1 * k).double(), 0.2 * EYE) for k in range(1, 10)]
SERIES = jf.ObservationSeries([0.5 * k for k in range(1, 10)], [[1.0, 0.1 * k] for k in range(1, 10)])


def test_six_of_many_beliefs_are_shown_from_first_to_last_each_with_its_density() -> None:
    model = jf.StateSpaceModel(PRIOR, POTENTIAL, SENSOR)
    figure = posterior_panels(BELIEFS, model, series=SERIES)
    figure.draw_without_rendering()
    panels = [axis for axis in figure.axes if axis.get_title().startswith("t =")]
    assert [panels[0].get_title(), panels[-1].get_title()] == ["t = 0.5", "t = 4.5"]
    assert len(panels) == 6
    for panel in panels:
        mesh = next(c for c in panel.collections if type(c).__name__ == "QuadMesh")
        x, y = np.diff(panel.get_xlim())[0], np.diff(panel.get_ylim())[0]
        assert np.asarray(mesh.get_array()).mean() * x * y == pytest.approx(1.0, abs=0.03)


def test_the_reading_is_drawn_as_arc_and_line_from_the_station() -> None:
    model = jf.StateSpaceModel(PRIOR, POTENTIAL, SENSOR)
    panel = posterior_panels(BELIEFS[:1], model, series=SERIES).axes[0]
    (arc,) = (patch for patch in panel.patches if isinstance(patch, Arc))
    assert (arc.center, arc.width) == (tuple(STATION), 2.0)
    line = next(line for line in panel.lines if line.get_label() == "bearing read")
    (x0, x1), (y0, y1) = line.get_data()
    assert math.atan2(y1 - y0, x1 - x0) == pytest.approx(0.7 + 0.1)


def test_other_sensors_show_their_likelihood_and_missing_readings_nothing() -> None:
    model = jf.StateSpaceModel(PRIOR, POTENTIAL, jf.LinearGaussian(EYE, EYE))
    missing = jf.ObservationSeries([0.5], [[math.nan, math.nan]])
    with_reading, without = (posterior_panels(BELIEFS[:1], model, series=s) for s in (SERIES, missing))
    assert len(with_reading.axes[0].collections) == len(without.axes[0].collections) + 1


class Within(jf.LinearGaussian):
    """Readings beyond a distance from the state are impossible."""

    def log_likelihood(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.where((x - y).abs().amax(-1) < 1, super().log_likelihood(y, x), -math.inf)


def test_a_reading_that_is_impossible_all_over_the_panel_draws_nothing_and_in_part_of_it_the_rest() -> None:
    model = jf.StateSpaceModel(PRIOR, POTENTIAL, Within(EYE, EYE))
    readings = (jf.ObservationSeries([0.5], [[value] * 2]) for value in (math.nan, 50.0, 0.1))
    counts = []
    for series in readings:
        figure = posterior_panels(BELIEFS[:1], model, series=series)
        figure.draw_without_rendering()
        counts.append(len(figure.axes[0].collections))
    assert counts == [counts[0], counts[0], counts[0] + 1]


@pytest.mark.parametrize("shape", [(2, 2), (9, 1), (9,)])
def test_a_path_that_does_not_go_with_the_readings_is_refused(shape: tuple[int, ...]) -> None:
    model = jf.StateSpaceModel(PRIOR, POTENTIAL, SENSOR)
    with pytest.raises(jf.InputError, match=r"path must hold .* with 9 readings"):
        posterior_panels(BELIEFS, model, torch.zeros(shape).double(), SERIES)
    with pytest.raises(jf.InputError, match="with no series"):
        posterior_panels(BELIEFS, model, torch.zeros(9, 2).double())


def test_beliefs_off_the_plane_are_refused() -> None:
    line = jf.GaussianBelief(0.0, torch.zeros(1).double(), torch.eye(1).double())
    model = jf.StateSpaceModel(PRIOR, POTENTIAL, SENSOR)
    for beliefs in ((), (line,)):
        with pytest.raises(jf.InputError, match="dimension 2"):
            posterior_panels(beliefs, model)
