"""Laws whose logarithm is linear: within cells and between them their draws and quantiles are known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import cumulative_simpson

from jkofilter.beliefs.grid import GridBelief
from jkofilter.beliefs.grid_2d import GridBelief2D
from jkofilter.beliefs.quantile import QuantileBelief

SLOPES = (3.0, -4.0)
LENGTHS = (2.0, 3.0)
CELLS = (4, 5)
"""Cells of .5 and .6: the density grows 4.5-fold across one of the first, falls 11-fold across one of the second."""

LEVELS = np.array([1e-6, 0.01, 0.2, 0.5, 0.77, 0.99, 1 - 1e-6])


def exponential_cdf(x: np.ndarray, slope: float, length: float) -> np.ndarray:
    """Of the density proportional to exp(slope x) on [0, length]."""
    return np.expm1(slope * x) / math.expm1(slope * length)


def exponential_quantile(u: np.ndarray, slope: float, length: float) -> np.ndarray:
    return np.log1p(u * math.expm1(slope * length)) / slope


def centres(length: float, cells: int) -> np.ndarray:
    return length * (np.arange(cells) + 0.5) / cells


def plane_law() -> GridBelief2D:
    x, y = (centres(length, cells) for length, cells in zip(LENGTHS, CELLS, strict=True))
    energy = SLOPES[0] * x[:, None] + SLOPES[1] * y
    energy -= np.log(np.exp(energy).sum() * (LENGTHS[0] / CELLS[0]) * (LENGTHS[1] / CELLS[1]))
    return GridBelief2D(0.0, (0.0, 0.0), LENGTHS, torch.tensor(energy), closed=True)


@pytest.mark.parametrize("method", ["sample", "even_sample"])
def test_draws_on_the_plane_follow_the_exponential_law_within_cells_too(method: str) -> None:
    n = 20_000
    draws = getattr(plane_law(), method)(n, torch.Generator().manual_seed(3)).numpy()
    for k, (slope, length, cells) in enumerate(zip(SLOPES, LENGTHS, CELLS, strict=True)):
        assert stats.kstest(draws[:, k], lambda x, s=slope, h=length: exponential_cdf(x, s, h)).pvalue > 1e-5
        # Whatever the cell, the place in it has one and the same law.
        width = length / cells
        within = np.mod(draws[:, k], width)
        assert stats.kstest(within, lambda x, s=slope, h=width: exponential_cdf(x, s, h)).pvalue > 1e-5
    assert abs(stats.pearsonr(draws[:, 0], draws[:, 1])[0]) < 5 / math.sqrt(n)


def test_even_draws_on_the_plane_give_every_cell_its_share_to_one_draw() -> None:
    law, n = plane_law(), 1_000
    counts = np.zeros((2, *CELLS))
    for row, seed in zip(counts, (0, 1), strict=True):
        draws = law.even_sample(n, torch.Generator().manual_seed(seed)).numpy()
        index = [np.floor(draws[:, k] / (LENGTHS[k] / CELLS[k])).astype(int) for k in range(2)]
        np.add.at(row, tuple(index), 1)
        assert np.abs(row - n * law.masses).max() < 1.0 + 1e-9
    # The levels are shifted at random, else the draws would be biased.
    assert (counts[0] != counts[1]).any()


def test_flat_cells_are_drawn_from_evenly() -> None:
    flat = torch.full((2, 3), -math.log(6.0), dtype=torch.float64)
    draws = GridBelief2D(0.0, (0.0, 0.0), (2.0, 3.0), flat, closed=True).sample(
        20_000, torch.Generator().manual_seed(0)
    )
    for k in range(2):
        assert stats.kstest(np.mod(draws[:, k].numpy(), 1.0), "uniform").pvalue > 1e-5


def test_a_marginal_keeps_its_side_and_its_walls() -> None:
    law = plane_law()
    for k in range(2):
        marginal = law.marginal(k)
        assert (marginal.low, marginal.high, marginal.closed) == (0.0, LENGTHS[k], True)
        expected = exponential_quantile(LEVELS, SLOPES[k], LENGTHS[k])
        np.testing.assert_allclose([law.quantile(u, k) for u in LEVELS], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("slope", SLOPES)
def test_quantiles_on_the_line_are_exact_for_an_exponential_law(slope: float) -> None:
    length, cells = 3.0, 6
    energy = slope * centres(length, cells)
    energy -= np.log(np.exp(energy).sum() * length / cells)
    law = GridBelief(0.0, 0.0, length, torch.tensor(energy), closed=True)
    expected = exponential_quantile(LEVELS, slope, length)
    np.testing.assert_allclose([law.quantile(u) for u in LEVELS], expected, rtol=0, atol=1e-9)
    draws = law.sample(20_000, torch.Generator().manual_seed(5)).numpy()[:, 0]
    assert stats.kstest(draws, lambda x: exponential_cdf(x, slope, length)).pvalue > 1e-5
    # Evenly: the k-th smallest of n lies between the levels (k - 1) / n and k / n.
    even = np.sort(law.even_sample(50, torch.Generator().manual_seed(6)).numpy()[:, 0])
    levels = 50 * exponential_cdf(even, slope, length) - np.arange(50)
    assert np.ptp(levels) < 1e-6
    assert 0.0 < levels.mean() < 1.0
    other = np.sort(law.even_sample(50, torch.Generator().manual_seed(7)).numpy()[:, 0])
    assert abs(other - even).max() > 1e-6


@pytest.mark.parametrize("slope", SLOPES)
def test_quantiles_and_draws_on_nodes_are_those_of_the_density_that_is_evaluated(slope: float) -> None:
    """Eight nodes of an exponential law whose edges are continued by tails: all of it is one law."""
    nodes, length = np.linspace(0.0, 3.0, 8), 3.0
    energy = slope * nodes - math.log(math.expm1(slope * length) / slope)
    law = QuantileBelief(0.0, torch.tensor(nodes), torch.tensor(energy))
    ends = law.quantile(1e-9), law.quantile(1 - 1e-9)
    x = np.union1d(np.linspace(*ends, 200_001), nodes)
    density = law.log_prob(torch.tensor(x).unsqueeze(-1)).exp().numpy()
    below = cumulative_simpson(density, x=x, initial=0.0) + 1e-9
    for level in LEVELS:
        assert abs(np.interp(law.quantile(level), x, below) - level) < 1e-7
    draws = law.sample(20_000, torch.Generator().manual_seed(5)).numpy()[:, 0]
    assert stats.kstest(draws, lambda at: np.interp(at, x, below)).pvalue > 1e-5


def test_quantiles_at_cell_edges_are_those_of_a_gaussian_on_coarse_cells() -> None:
    """Cells of .3 deviations: their masses come from Simpson's rule, wrong by some 1e-5 of each."""
    edges = np.linspace(-6.0, 6.0, 41)
    law = GridBelief(0.0, -6.0, 6.0, torch.tensor(stats.norm.logpdf(0.5 * (edges[1:] + edges[:-1]))))
    inner = edges[np.abs(edges) < 3]
    np.testing.assert_allclose([law.quantile(q) for q in stats.norm.cdf(inner)], inner, rtol=0, atol=1e-4)


def test_quantiles_at_uneven_nodes_are_those_of_a_gaussian() -> None:
    nodes = 8.0 * np.linspace(-1.0, 1.0, 41) ** 3 + np.linspace(-1.0, 1.0, 41)
    law = QuantileBelief(0.0, torch.tensor(nodes), torch.tensor(stats.norm.logpdf(nodes)))
    inner = nodes[np.abs(nodes) < 3]
    np.testing.assert_allclose([law.quantile(q) for q in stats.norm.cdf(inner)], inner, rtol=0, atol=1e-4)
    assert law.mean.item() == pytest.approx(0.0, abs=1e-12)
