"""What was silently wrong on the line, tried on the grid of the plane: right values by sums and chains, or notes.

Wells and walls between cells, laws that leave, laws that fall into stiff wells within a few steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from oracles import Chain
from plane_problems import EYE, gen, plane, tensor
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

import jkofilter as jf
from jkofilter.numerics.resolution_2d import unresolved_on_plane

Potential = Callable[[Tensor], Tensor]
CELLS = 80


def predicted(
    v: Potential, duration: float, sd: float = 1.0, mean: float = 0.0, domain: object = None, **options: object
) -> tuple[jf.Belief, jf.StepInfo]:
    prior = MultivariateNormal(tensor([mean, 0.0]), sd**2 * EYE)
    sde = jf.LangevinSDE(jf.Potential(v, 2, domain=domain), 1.0)
    model = jf.StateSpaceModel(prior, sde, jf.LinearGaussian(EYE, EYE))
    filter = jf.GridFilter(model, **{"cells": CELLS, **options})
    return filter.predict(filter.init(gen()), duration, gen())


def bowl(x: Tensor) -> Tensor:
    return 0.5 * (x * x).sum(-1)


def well(width: float, depth: float = 4.0) -> Potential:
    return lambda x: bowl(x) - depth * torch.exp(-((x - 0.5) ** 2).sum(-1) / (2 * width**2))


def wall(width: float, height: float = 4.0) -> Potential:
    """Across the first axis, which stays independent of the second."""
    return lambda x: bowl(x) + height * torch.exp(-((x[..., 0] - 0.5) ** 2) / (2 * width**2))


def by_chain(v: Potential, sd: float, duration: float, box: float, mean: float = 0.0) -> tuple[float, float]:
    """Mean and sd of the first coordinate, V at zero of the second one."""
    edges = np.linspace(-box, box, 6001)
    x = 0.5 * (edges[1:] + edges[:-1])
    energy = v(torch.from_numpy(np.stack([x, 0 * x], -1))).numpy()
    p = np.exp(-0.5 * ((x - mean) / sd) ** 2)
    p = Chain(edges, energy, 1.0).later(p / p.sum(), duration)
    at = p @ x / p.sum()
    return at, math.sqrt(p @ (x - at) ** 2 / p.sum())


def first(belief: jf.Belief) -> tuple[float, float]:
    return belief.mean[0].item(), belief.covariance[0, 0].sqrt().item()


# --- between the cells -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_well_that_falls_between_cells_is_seen_by_narrower_ones() -> None:
    """Its weight in the stationary law, by sums over four million places."""
    v = well(0.2)
    belief, info = predicted(v, 8.0, step=0.05)
    x = np.linspace(-7, 7, 2001)
    points = torch.from_numpy(np.stack(np.meshgrid(x, x, indexing="ij"), -1))
    p = np.exp(-v(points).numpy()).sum(1)
    mean = p @ x / p.sum()
    assert belief.mean.tolist() == pytest.approx([mean, mean], abs=5e-3)
    assert info.details["cells"] >= (2 * CELLS) ** 2
    assert info.note == ""


@pytest.mark.parametrize("v", [well(0.01, 8.0), wall(0.01)])
@pytest.mark.parametrize("bounds", [None, (-6.0, 6.0)])
def test_what_no_cells_see_is_noted(v: Potential, bounds: tuple[float, float] | None) -> None:
    _, info = predicted(v, 0.05, bounds=bounds)
    assert "bends between cells" in info.note


@pytest.mark.slow
def test_a_wall_is_right_once_cells_are_as_narrow_as_the_note_asks() -> None:
    v = wall(0.06)
    mean, sd = by_chain(v, 0.5, 0.5, 6.0)
    coarse, told = predicted(v, 0.5, 0.5, cells=100, bounds=(-5.0, 5.0))
    assert "give at least 200 cells" in told.note
    assert abs(first(coarse)[0] - mean) > 5e-3 * sd
    fine, info = predicted(v, 0.5, 0.5, cells=(400, 50), bounds=(-5.0, 5.0))
    assert info.note == ""
    assert first(fine) == (pytest.approx(mean, abs=3e-3 * sd), pytest.approx(sd, rel=3e-3))


@pytest.mark.parametrize(
    "v",
    [bowl, lambda x: (x**4).sum(-1) / 8, lambda x: 0.5 * x.abs().sum(-1), lambda x: torch.cos(3 * x).sum(-1) + bowl(x)],
)
def test_potentials_that_cells_see_are_left_alone(v: Potential) -> None:
    _, info = predicted(v, 0.05, cells=120)
    assert info.note == ""


def test_what_cells_miss_is_measured() -> None:
    """A well of depth 3 and width .02 between centres .1 apart; a wall of .016, and a peak to go round."""
    grid = plane(-3.0, 3.0, 60, 60)
    law = (-0.5 * (grid.points**2).sum(-1) / 0.25).reshape(grid.shape)
    area, g = 2 * math.pi * 0.02**2, math.sqrt(2 * math.pi) * 0.016
    series = [(3.0**k / math.factorial(k), k) for k in range(1, 30)]

    def bell(x: np.ndarray, axes: slice, width: float = 0.016) -> np.ndarray:
        return np.asarray(3.0 * np.exp(-0.5 * (x[:, axes] ** 2).sum(-1) / width**2))

    # Windows are as many cells as a deviation, but eight at least: .8 each way.
    in_well = sum(a / k for a, k in series) * area / 0.8**2
    assert unresolved_on_plane(lambda x: -bell(x, slice(0, 2), 0.02), grid, law) == pytest.approx(in_well, rel=0.1)
    across = sum(a / math.sqrt(k) for a, k in series) * g / 0.8
    # Sixteen places a cell are .025 apart.
    assert unresolved_on_plane(lambda x: bell(x, slice(0, 1)), grid, law) == pytest.approx(across, rel=0.2)
    assert unresolved_on_plane(lambda x: bell(x, slice(0, 2)), grid, law) < 0.1 * across
    assert unresolved_on_plane(lambda x: 20.0 * (x**2).sum(-1), grid, law) < 1e-3


# --- laws that leave -------------------------------------------------------------------------------------------------

FALLING = {
    "quartic": lambda x: -(x[..., 0] ** 4) + bowl(x),
    "cubic": lambda x: x[..., 0] ** 3 / 3 - 1.5 * x[..., 0] + bowl(x),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FALLING)
def test_a_law_that_leaves_is_an_error_whose_cure_works(name: str) -> None:
    v = FALLING[name]
    with pytest.raises(jf.FilterError, match=r"has left beyond x\[0\]"):
        predicted(v, 1.0, 0.3)
    belief, info = predicted(v, 1.0, 0.3, domain=((-3.0, 3.0), (-math.inf, math.inf)))
    mean, sd = by_chain(v, 0.3, 1.0, 3.0)
    # Cells of the first order in a drift of up to a hundred.
    assert first(belief) == (pytest.approx(mean, abs=2e-2 * sd), pytest.approx(sd, rel=2e-2))
    assert info.note == ""


def test_a_law_that_leaves_is_told_at_once() -> None:
    with pytest.raises(jf.FilterError, match=r"has left beyond x\[0\]"):
        predicted(FALLING["quartic"], 1.0, 0.3, cells=50)


@pytest.mark.parametrize("duration", [1.0, pytest.param(2.0, marks=pytest.mark.slow)])
def test_a_law_that_only_spreads_does_not_leave_and_is_noted_where_cells_are_too_wide(duration: float) -> None:
    """dX = X dt + sqrt(2) dW: N(0, v) goes to variance v e^(2t) + e^(2t) - 1."""
    belief, info = predicted(lambda x: -0.5 * x[..., 0] ** 2 + 0.5 * x[..., 1] ** 2, duration, 0.3)
    right = 1.09 * math.exp(2 * duration) - 1
    assert ("wide for the drift" in info.note) == (duration == 2.0)
    # Cells of a fifth of the law's deviation, and twice its width at their drift in the end.
    assert belief.covariance[0, 0].item() == pytest.approx(right, rel=0.08 if duration == 1.0 else 0.4)


# --- a fall into a stiff well ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [100.0, pytest.param(600.0, marks=pytest.mark.slow)])
def test_a_law_that_falls_into_a_stiff_well_within_a_step(rate: float) -> None:
    """Variance of a Gaussian; one step of .005 left sd 1.8 times too wide."""
    duration = 0.005
    belief, info = predicted(lambda x: rate * bowl(x), duration, 0.5, 1.0, cells=150)
    decay = math.exp(-rate * duration)
    sd = math.sqrt(0.25 * decay**2 + (1 - decay**2) / rate)
    mean, found = first(belief)
    # Cells of a fourteenth of the law's width, across which it falls through tens of kT at first.
    assert mean == pytest.approx(decay, abs=0.1 * sd)
    assert found == pytest.approx(sd, rel=0.1)
    assert ("wide for the drift" in info.note) == (rate == 100.0)


@pytest.mark.parametrize("rate", [60.0, 300.0, 600.0, 3000.0])
@pytest.mark.parametrize("duration", [0.005, 0.02])
def test_and_on_the_line(rate: float, duration: float) -> None:
    """The mean was .63 of a deviation off."""
    prior = Normal(tensor(1.0), 0.5)
    model = jf.StateSpaceModel(prior, jf.LangevinSDE(jf.Quadratic(0.0, rate), 1.0), jf.LinearGaussian(1.0, 1.0))
    filter = jf.GridFilter(model)
    belief, _ = filter.predict(filter.init(gen()), duration, gen())
    decay = math.exp(-rate * duration)
    sd = math.sqrt(0.25 * decay**2 + (1 - decay**2) / rate)
    assert belief.mean.item() == pytest.approx(decay, abs=0.02 * sd)
    assert belief.covariance.sqrt().item() == pytest.approx(sd, rel=0.02)
