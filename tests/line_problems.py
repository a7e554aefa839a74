"""Problems on the line, and a chain that solves them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy import linalg, stats
from torch import Tensor
from torch.distributions import MultivariateNormal

import jkofilter as jf


def gen() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def normal(mean: float, variance: float) -> MultivariateNormal:
    return MultivariateNormal(torch.tensor([mean]).double(), variance * torch.eye(1).double())


def model_of(
    function: Callable[[Tensor], Tensor], beta: float, mean: float, variance: float, noise: float = 0.1
) -> jf.StateSpaceModel:
    potential = jf.Potential(lambda x: function(x[..., 0]), 1)
    return jf.StateSpaceModel(
        normal(mean, variance), jf.LangevinSDE(potential, beta), jf.LinearGaussian([[1.0]], [[noise]])
    )


def predicted(filter: jf.JKOFilter, *durations: float) -> jf.Belief:
    belief = filter.init(gen())
    for duration in durations:
        belief, info = filter.predict(belief, duration, gen())
        assert info.status == "ok"
    return belief


def chain_law(
    function: Callable[[Tensor], Tensor],
    beta: float,
    mean: float,
    variance: float,
    duration: float,
    box: tuple[float, float],
    cells: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Cell centres and masses of the law at ``duration``, by the exponential of a chain in detailed balance with pi."""
    edges = np.linspace(*box, cells + 1)
    x, width = 0.5 * (edges[1:] + edges[:-1]), edges[1] - edges[0]
    energy = beta * function(torch.from_numpy(x)).numpy()
    # Rates exp(-(E_j - E_i)/2) / (beta width^2): symmetric once scaled by the root of pi.
    rate = 1.0 / (beta * width**2)
    right, left = rate * np.exp(-0.5 * np.diff(energy)), rate * np.exp(0.5 * np.diff(energy))
    outflow = np.append(right, 0.0)
    outflow[1:] += left
    values, vectors = linalg.eigh_tridiagonal(-outflow, np.full(cells - 1, rate))
    scale = np.exp(-0.5 * (energy - energy.min()))
    start = np.diff(stats.norm.cdf(edges, mean, math.sqrt(variance)))
    masses = scale * (vectors @ (np.exp(values * duration) * (vectors.T @ (start / scale))))
    return x, masses / masses.sum()


def quantile_of(x: np.ndarray, masses: np.ndarray, level: float) -> float:
    width = x[1] - x[0]
    return float(np.interp(level, np.append(0.0, np.cumsum(masses)), np.append(x - 0.5 * width, x[-1] + 0.5 * width)))
