"""Problems on the plane that tests share: a correlated Ornstein-Uhlenbeck process, and coupled wells."""

import numpy as np
import torch
from torch.distributions import MultivariateNormal

import jkofilter as jf
from jkofilter.numerics.grids import Axis, Grid

EYE = torch.eye(2, dtype=torch.float64)


def tensor(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def plane(low: float, high: float, *cells: int) -> Grid:
    return Grid(tuple(Axis(low, high, n) for n in cells))


def coupled(points: np.ndarray) -> np.ndarray:
    """Two wells in x, y bound to x and pushed by it: no rotation makes it a sum."""
    x, y = points.T
    return (x**2 - 1) ** 2 + 0.5 * (y - x) ** 2 + 0.3 * x * y**2 / (1 + y**2)


PRECISION, CENTRE, BETA = tensor([[2.0, 0.8], [0.8, 1.0]]), tensor([0.3, -0.2]), 1.3
PRIOR_MEAN, PRIOR_COVARIANCE = tensor([0.8, -0.5]), tensor([[0.5, -0.2], [-0.2, 0.4]])
MATRIX, NOISE = tensor([[1.0, 0.5], [-0.3, 1.0]]), tensor([[0.3, 0.1], [0.1, 0.4]])


def transition(mean, covariance, duration):
    rates, vectors = torch.linalg.eigh(PRECISION)
    flow = vectors @ torch.diag(torch.exp(-rates * duration)) @ vectors.T
    stationary = torch.linalg.inv(PRECISION) / BETA
    return CENTRE + flow @ (mean - CENTRE), stationary + flow @ (covariance - stationary) @ flow


def kalman(times, values):
    mean, covariance, evidence, now = PRIOR_MEAN, PRIOR_COVARIANCE, 0.0, 0.0
    for time, y in zip(times, tensor(values), strict=True):
        (mean, covariance), now = transition(mean, covariance, time - now), time
        present = ~torch.isnan(y)
        if present.any():
            h = MATRIX[present]
            total = h @ covariance @ h.T + NOISE[present][:, present]
            evidence += MultivariateNormal(h @ mean, total).log_prob(y[present]).item()
            gain = covariance @ h.T @ torch.linalg.inv(total)
            mean, covariance = mean + gain @ (y[present] - h @ mean), covariance - gain @ h @ covariance
    return mean, covariance, evidence


def ou(prior=None, observation=None):
    return jf.StateSpaceModel(
        prior or MultivariateNormal(PRIOR_MEAN, PRIOR_COVARIANCE),
        jf.LangevinSDE(jf.Quadratic(CENTRE, PRECISION), BETA),
        observation or jf.LinearGaussian(MATRIX, NOISE),
    )


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moments(grid: Grid, p: np.ndarray) -> np.ndarray:
    mass = p.reshape(-1) / p.sum()
    mean = mass @ grid.points
    centred = grid.points - mean
    return np.append(mean, (mass[:, None] * centred).T @ centred)


def coupled_filter(**options) -> jf.GridFilter:
    def potential(x):
        first, second = x[..., 0], x[..., 1]
        push = 0.3 * first * second**2 / (1 + second**2)
        return (first**2 - 1) ** 2 + 0.5 * (second - first) ** 2 + push

    prior = MultivariateNormal(tensor([0.5, 0.0]), 0.5 * EYE)
    sde = jf.LangevinSDE(jf.Potential(potential, 2), 1.0)
    return jf.GridFilter(jf.StateSpaceModel(prior, sde, jf.LinearGaussian([[1.0, 0.0]], [[0.2]])), **options)
