"""Problems on the plane, and how well so many particles can know them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import jkofilter as jf

NAN = math.nan
EYE = torch.eye(2, dtype=torch.float64)
ZERO = torch.zeros(2, dtype=torch.float64)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=gen(seed), dtype=torch.float64)


def spd(d: int, seed: int) -> Tensor:
    square = normals(d, d, seed=seed)
    return square @ square.mT / d + 0.3 * torch.eye(d, dtype=torch.float64)


def noise_of(pool: int) -> float:
    """Five standard errors, in posterior standard deviations, at an effective size of half the pool."""
    return 5 / math.sqrt(pool / 2)


def chain(kappa: float) -> jf.Potential:
    """(x_1^2 - 1)^2 + (x_2^2 - 1)^2 + kappa (x_1 - x_2)^2 / 2."""

    def value(x: Tensor) -> Tensor:
        return (x.square() - 1).square().sum(-1) + 0.5 * kappa * (x[..., 0] - x[..., 1]).square()

    return jf.Potential(value, 2)


def seen(
    potential: jf.Potential, observation: jf.ObservationModel, prior: torch.distributions.Distribution | None = None
) -> jf.StateSpaceModel:
    return jf.StateSpaceModel(prior or MultivariateNormal(ZERO, EYE), jf.LangevinSDE(potential), observation)


@dataclass(frozen=True)
class Sensor:
    """A log likelihood of the test's own."""

    function: Callable[[Tensor, Tensor], Tensor]

    def log_likelihood(self, y: Tensor, x: Tensor) -> Tensor:
        return self.function(y, x)

    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x
