"""The hidden diffusion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from jkofilter._typing import Points
from jkofilter.errors import InputError
from jkofilter.models.checks import positive_number
from jkofilter.models.potentials import Potential
from jkofilter.numerics.domain import Domain


class Drifting(Protocol):
    """A diffusion, of which only the drift is asked."""

    @property
    def drift(self) -> Callable[[Tensor], Tensor]:
        """Of states (n, d), units of the state per unit of time."""
        ...


@dataclass(frozen=True)
class LangevinSDE:
    """dX = -grad V(X) dt + sqrt(2/beta) dW.

    Attributes:
        potential: V, energy per state.
        beta: inverse temperature; the diffusion coefficient is derived from it, never set by hand.

    Raises:
        InputError: ``beta`` is not positive and finite, or ``potential`` is not a Potential.
    """

    potential: Potential
    beta: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.potential, Potential):
            raise InputError("potential must be a jkofilter Potential; wrap a function as Potential(function, dim).")
        positive_number(self.beta, "beta")

    @property
    def dim(self) -> int:
        """State dimension d."""
        return self.potential.dim

    @property
    def domain(self) -> Domain | None:
        """The walls of the potential; None is R^d."""
        return self.potential.domain

    def drift(self, x: Tensor) -> Tensor:
        """-grad V(x), (..., d)."""
        return -self.potential.gradient(x)

    def variance_rate(self) -> float:
        """2/beta: variance the noise adds to each coordinate per unit of time."""
        return 2.0 / float(self.beta)


def relaxation_rate(sde: Drifting, x: Points) -> float:
    """How fast a drift pulls points (n, d) to their mean m, per unit of time, as a size.

    E[(X - m) . drift] / E|X - m|^2: exact for an isotropic quadratic; elsewhere an order of magnitude.
    """
    drift = torch.nan_to_num(sde.drift(x).detach(), 0.0, 0.0, 0.0)
    centred = x - x.mean(0)
    spread = centred.square().sum().item()
    return abs((centred * drift).sum().item()) / spread if spread > 0 else 0.0


def refuse_walls(sde: LangevinSDE, name: str) -> None:
    """Raise InputError if the potential has walls, which the method ``name`` would walk through."""
    if sde.domain is not None:
        instead = "GridFilter or ParticleFilter" if sde.dim <= 2 else "ParticleFilter"
        raise InputError(f"potential has the domain {sde.domain}, whose walls {name} does not know; use {instead}.")


def require_finite_potential(sde: LangevinSDE, x: Points) -> None:
    """Raise InputError unless the potential and its gradient are finite, and of the right shape, at ``x`` (n, d)."""
    value, gradient = sde.potential(x), sde.potential.gradient(x)
    if value.shape != x.shape[:1] or gradient.shape != x.shape:
        raise InputError(
            f"potential must give values (n,) and gradients (n, d), but {tuple(x.shape)} gave "
            f"{tuple(value.shape)} and {tuple(gradient.shape)}."
        )
    if not (torch.isfinite(value).all() and torch.isfinite(gradient).all()):
        raise InputError("potential is NaN or infinite where the law has mass; give one that is finite there.")
