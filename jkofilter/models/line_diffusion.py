"""Diffusions of the line with any drift and noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from jkofilter._typing import Points
from jkofilter.errors import InputError
from jkofilter.models.probes import TORCH_ONLY, probe_points, require_pointwise
from jkofilter.numerics.domain import as_domain

LineFunction = Callable[[Float[Tensor, "*n 1"]], Float[Tensor, "*n 1"]]
"""Of states of one coordinate: acts on every number by itself, as torch functions do."""

INSIDE = 1e-9
"""How far off a wall states are moved before a user's function sees them, of the size of the states."""


@dataclass(frozen=True)
class LineDiffusion:
    """dX = a(X) dt + s(X) dW on an interval, in the sense of Ito; d = 1.

    Such a diffusion is reversible, whatever its drift and noise. Its law has no flux through the ends of the domain: an
    end that can be reached reflects (Cox-Ingersoll-Ross and Jacobi processes where their noise is strong), one that
    cannot be reached changes nothing.

    Cox, Ingersoll and Ross: ``LineDiffusion(lambda x: k * (m - x), lambda x: s * x.sqrt(), (0, inf))``. Geometric
    Brownian motion: ``LineDiffusion(lambda x: r * x, lambda x: s * x, (0, inf))``. Jacobi:
    ``LineDiffusion(lambda x: k * (m - x), lambda x: s * (x * (1 - x)).sqrt(), (0, 1))``.

    SpectralFilter, ParticleFilter and ``simulate`` take it.

    Attributes:
        drift: a, units of the state per unit of time; maps (..., 1) to the same shape by torch.
        noise: s, units of the state per root of a unit of time; positive inside the domain, differentiable by torch.
        domain: (low, high), either of which may be infinite, or None for the whole line. Functions are called inside
            only.

    Raises:
        InputError: a function couples the states of a batch, changes their shape, or is NaN or (the noise) not positive
            inside the domain.
    """

    drift: LineFunction
    noise: LineFunction
    domain: Any = None
    dim: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        domain = self.domain
        object.__setattr__(self, "domain", as_domain(domain, 1))
        points = probe_points(1)
        self.check(points if self.domain is None else self.domain.reflect(points))

    def check(self, points: Points) -> None:
        """Try the functions out at states (n, 1), n of at least ten.

        Raises:
            InputError: as of the class.
        """
        x = self.inside(points)
        for name in ("drift", "noise"):
            function = getattr(self, name)
            if not callable(function):
                raise InputError(f"{name} must be a function of states (n, 1), got {type(function).__name__}.")
            require_pointwise(function, x, name, (1,))
        drift, noise = self.drift(x).detach(), self.noise(x).detach()
        if torch.isnan(drift).any() or torch.isnan(noise).any():
            name = "drift" if torch.isnan(drift).any() else "noise"
            raise InputError(f"{name} is NaN inside the domain; give a domain=(low, high) within which it is defined.")
        if not (noise > 0).all():
            raise InputError(
                f"noise must be positive inside the domain, but is {noise.min().item():g} at some state; give its "
                "size, and as domain= the interval on which it does not vanish."
            )
        self.squared_noise(x)

    def inside(self, x: Float[Tensor, "*n 1"]) -> Float[Tensor, "*n 1"]:
        """States moved off the walls by a trifle, where functions may be infinite, and their slopes."""
        if self.domain is None:
            return x
        ((low, high),) = self.domain.sides
        trifle = INSIDE * (high - low if math.isfinite(high - low) else 1.0)
        return x.clamp(low + trifle, high - trifle)

    def squared_noise(self, x: Float[Tensor, "n 1"], order: int = 3) -> list[Tensor]:
        """s^2 and its first ``order`` derivatives, (n, 1) each.

        Raises:
            InputError: the noise cannot be differentiated by torch.
        """
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            found = [self.noise(leaf).square()]
            if not found[0].requires_grad:
                # Noise that does not depend on the state.
                return found + [torch.zeros_like(x)] * order
            try:
                for k in range(order):
                    last, more = found[-1], k + 1 < order
                    zero = not last.requires_grad
                    found.append(
                        torch.zeros_like(x)
                        if zero
                        else torch.autograd.grad(last.sum(), leaf, create_graph=more, materialize_grads=True)[0]
                    )
            except RuntimeError as error:
                raise InputError(f"noise must be differentiable by torch; {TORCH_ONLY}.") from error
        return [value.detach() for value in found]
