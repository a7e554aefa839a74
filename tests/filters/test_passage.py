"""First passage against closed forms and a dense absorbing chain."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.linalg import expm
from scipy.special import ndtr

import jkofilter as jf
from jkofilter.numerics.first_passage import Stay, survival

SERIES = jf.ObservationSeries([1.0], [float("nan")])


def well(d: int = 1) -> jf.StateSpaceModel:
    prior = torch.distributions.MultivariateNormal(-torch.ones(d).double(), 0.05 * torch.eye(d).double())
    eye = torch.eye(d).double()
    return jf.StateSpaceModel(prior, jf.LangevinSDE(jf.DoubleWell(d), 2.0), jf.LinearGaussian(eye, eye))


def test_brownian_motion_reaches_a_level_by_the_reflection_principle() -> None:
    x, times = np.array([-3.0, -1.0, -0.2]), [0.05, 1.0, 3.0]
    found = survival(lambda at: 0.0 * at, 1.0, Stay(-25.0, 0.0, False, True), x, times)
    exact = [1 - 2 * ndtr(-np.abs(x) / math.sqrt(2 * t)) for t in times]
    assert np.abs(found - exact).max() < 2e-5


def dense_chain(level: float, durations: list[float], law: jf.Belief) -> list[float]:
    """Equal cells, midpoint rates exp(-(V_j - V_i) beta / 2) / (beta h^2), those beyond ``level`` absorbing."""
    potential, beta, found = jf.DoubleWell(1), 2.0, []
    for cells in (400, 800):
        edges = np.linspace(-4.0, level, cells + 1)
        x = 0.5 * (edges[1:] + edges[:-1])
        h = x[1] - x[0]
        V = potential(torch.from_numpy(np.append(x, level))[:, None]).numpy()
        step = np.exp(-0.5 * beta * np.diff(V)) / (beta * h * h)
        back = np.exp(0.5 * beta * np.diff(V[:-1])) / (beta * h * h)
        Q = np.diag(step[:-1], 1) + np.diag(back, -1)
        Q -= np.diag(Q.sum(1))
        Q[-1, -1] -= 2 * step[-1]
        p = law.log_prob(torch.from_numpy(x)[:, None]).exp().numpy() * h
        found.append(np.array([1 - (p @ expm(Q * t)).sum() for t in durations]))
    return (found[1] + (found[1] - found[0]) / 3).tolist()


@pytest.mark.parametrize("kind", [jf.SpectralFilter, jf.GridFilter, jf.JKOFilter])
def test_passage_over_a_barrier_is_that_of_the_absorbing_chain(kind: type) -> None:
    result = kind(well()).run(SERIES)
    times = [1.0, 1.1, 2.0, 6.0]
    found = result.passage((0.5, None), times)
    exact = dense_chain(0.5, [t - 1.0 for t in times], result.final)
    assert np.abs(found - exact).max() < 1e-4
    assert result.passage((0.5, None), 2.0) == pytest.approx(found[2], abs=1e-6)


def test_an_interval_is_entered_from_both_sides() -> None:
    result = jf.SpectralFilter(well()).run(jf.ObservationSeries([8.0], [float("nan")]))
    both = result.passage((-0.1, 0.1), 8.5)
    # From the left as if the whole half-line from -.1 on were wanted, and from the right likewise.
    left, right = result.passage((-0.1, None), 8.5), result.passage((None, 0.1), 8.5)
    here = result.final.probability((-0.1, None)), result.final.probability((None, 0.1))
    assert both == pytest.approx(left + right - here[0] - here[1] + result.final.probability((-0.1, 0.1)), abs=1e-4)


def test_paths_in_the_plane_agree_with_the_line() -> None:
    line = jf.SpectralFilter(well()).run(SERIES).passage((0.5, None), 3.0)
    plane = jf.GridFilter(well(2), cells=80).run(jf.ObservationSeries([1.0], [[float("nan")] * 2]))
    found = plane.passage([(0.5, None), None], 3.0)
    # The grid's own cells and the bridges between looks leave .01 beside the noise of 10,000 paths.
    assert found == pytest.approx(line, abs=0.01 + 4.5 * (line * (1 - line) / 10_000) ** 0.5)


@pytest.mark.parametrize(("region", "by"), [((0.5, None), 0.5), ((0.5, 0.2), 2.0), ((0.5, None), []), (5, 2.0)])
def test_what_cannot_be_asked_is_refused(region: object, by: object) -> None:
    result = jf.SpectralFilter(well()).run(SERIES)
    with pytest.raises(jf.InputError, match="by must|region must"):
        result.passage(region, by)


def test_times_of_pandas_are_several_and_a_single_tensor_is_one() -> None:
    result = jf.SpectralFilter(well()).run(SERIES)
    assert len(result.passage((0.5, None), pd.Index([1.5, 2.0]))) == 2
    assert isinstance(result.passage((0.5, None), torch.tensor(1.5)), float)


def test_a_region_beyond_the_walls_and_paths_too_far_ahead_are_refused() -> None:
    prior = torch.distributions.Uniform(torch.zeros(1).double(), 1.0)
    boxed = jf.StateSpaceModel(
        prior, jf.LangevinSDE(jf.Potential(lambda x: x[..., 0] ** 2, 1, domain=(0.0, 1.0))), jf.LinearGaussian(1.0, 1.0)
    )
    with pytest.raises(jf.InputError, match="outside the domain"):
        jf.SpectralFilter(boxed).run(SERIES).passage((2.0, None), 3.0)
    plane = jf.KalmanFilter(
        jf.StateSpaceModel(
            torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double()),
            jf.LangevinSDE(jf.Quadratic(torch.zeros(2).double(), torch.eye(2).double())),
            jf.LinearGaussian(torch.eye(2).double(), torch.eye(2).double()),
        )
    ).run(jf.ObservationSeries([1.0], [[0.0, 0.0]]))
    with pytest.raises(jf.InputError, match="relaxation times ahead"):
        plane.passage([(5.0, None), None], 1001.0)
