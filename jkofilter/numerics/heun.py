"""One step of a diffusion dX = f(X) dt + s dW with additive noise, of second weak order.

The scheme is the exponential form of Heun's: with a symmetric A >= 0 that stands for the stiff part of -f', and
g(x) = f(x) + A x for the rest,

    a = x + h phi1(hA) f(x) + C,    x' = a + h phi2(hA) (g(a) - g(x)),    C ~ N(0, s^2 h phi1(2hA)),

which is exact where f is linear with matrix -A, and Heun's scheme (Kloeden & Platen 1992, section 15.1) where A = 0.
Sources: Hochbruck & Ostermann (2010), Acta Numerica 19, 209-286 (exponential Runge-Kutta); Lepingle (1995), Math.
Comput. Simulation 38, 119-126 (the minimum of the path within a step makes reflection exact for a constant drift).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from jkofilter._typing import Points, Scalars
from jkofilter.numerics.domain import Domain
from jkofilter.numerics.draws import standard_normal, uniform
from jkofilter.numerics.linalg import times

Length: TypeAlias = float | Tensor
"""Of a step, time: one number, or one for each point, (n, 1)."""

Drift: TypeAlias = Callable[[Tensor], Tensor]
"""Maps points (n, d) to (n, d)."""

_SERIES_BELOW = 1e-3


def phi1(z: Tensor) -> Tensor:
    """(1 - exp(-z)) / z, 1 at zero."""
    small = z.abs() < _SERIES_BELOW
    safe = torch.where(small, 1.0, z)
    return torch.where(small, 1 - z / 2 + z * z / 6 * (1 - z / 4), -torch.expm1(-safe) / safe)


def phi2(z: Tensor) -> Tensor:
    """(exp(-z) - 1 + z) / z^2, 1/2 at zero."""
    small = z.abs() < 10 * _SERIES_BELOW
    safe = torch.where(small, 1.0, z)
    series = 0.5 - z / 6 * (1 - z / 4 * (1 - z / 5 * (1 - z / 6)))
    return torch.where(small, series, (torch.expm1(-safe) + safe) / (safe * safe))


@dataclass(frozen=True, eq=False)
class Linear:
    """A symmetric matrix A >= 0 by its eigenvectors.

    Attributes:
        rates: eigenvalues, (d,), per unit of time.
        basis: orthogonal, eigenvectors in columns, (d, d); None is the identity.
    """

    rates: Float[Tensor, " d"]
    basis: Float[Tensor, "d d"] | None = None

    def into(self, x: Points) -> Points:
        """Coordinates in the eigenbasis."""
        return x if self.basis is None else times(x, self.basis)

    def back(self, u: Points) -> Points:
        """From coordinates in the eigenbasis."""
        return u if self.basis is None else times(u, self.basis.mT)


@dataclass(frozen=True, eq=False)
class HeunScheme:
    """Takes points a step ahead; no flux through the walls of ``domain``.

    Attributes:
        drift: f = -grad V.
        energy: beta V, maps (n, d) to (n,).
        beta: inverse temperature; the noise adds 2 / beta to each variance per unit of time.
        linear: A; with a domain its rates are zero.
        domain: walls, or None.
    """

    drift: Drift
    energy: Drift
    beta: float
    linear: Linear
    domain: Domain | None
    _known: dict[float, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict, init=False)

    def noise(self, x: Points, h: Length, generator: Generator) -> Points:
        """What the noise adds in a step from x, (n, d), in the eigenbasis of A."""
        return self._factors(h)[2] * standard_normal(x, generator)

    def _factors(self, h: Length) -> tuple[Tensor, Tensor, Tensor]:
        """h phi1(hA), h phi2(hA) and the deviation of the noise; a length is asked for many times in a row."""
        known = self._known.get(h) if isinstance(h, float) else None
        if known is None:
            z = h * self.linear.rates
            known = h * phi1(z), h * phi2(z), (2 / self.beta * h * phi1(2 * z)).sqrt()
            if isinstance(h, float):
                self._known.clear()
                self._known[h] = known
        return known

    def halves(self, noise: Points, h: Length, generator: Generator) -> tuple[Points, Points]:
        """The noise of both halves of a step, given that of the whole (a Brownian bridge)."""
        decay = torch.exp(-0.5 * h * self.linear.rates)
        variance = h / self.beta * phi1(h * self.linear.rates)
        both = 1 + decay.square()
        first = decay / both * noise + (variance / both).sqrt() * standard_normal(noise, generator)
        return first, noise - decay * first

    def step(
        self, x: Points, h: Length, noise: Points, generator: Generator, watch: bool = True
    ) -> tuple[Points, Scalars]:
        """One step with this noise.

        Args:
            x: from where, (n, d).
            h: length, time.
            noise: from ``noise``.
            generator: draws how far the path went towards the walls.
            watch: whether to compare energies too.

        Returns:
            Where it leads, (n, d), and what the step leaves unresolved, (n,): h times the rate at which g changes along
            it, or with ``watch`` the change of beta V that its gradients miss, if that is more. NaN or infinite where
            the potential is.
        """
        force = self.drift(x)
        if self.domain is None:
            first, second, _ = self._factors(h)
            predicted = x + self.linear.back(first * self.linear.into(force) + noise)
            moved, foreseen = predicted - x, self.drift(predicted)
            change = self.linear.into(foreseen - force) + self.linear.rates * self.linear.into(moved)
            after = predicted + self.linear.back(second * change)
        else:
            after, moved, foreseen = self._reflected(self.domain, x, h, force, noise, generator)
            change = foreseen - force
        # Norms by sums: torch's own take many times as long where coordinates are not neighbours in memory.
        size = change.square().sum(-1).sqrt()
        length = h[:, 0] if isinstance(h, Tensor) else h
        unresolved = torch.where(size == 0, size, length * size / moved.square().sum(-1).sqrt())
        if watch:
            seen = 0.5 * self.beta * ((force + foreseen) * (after - x)).sum(-1)
            before, now = self.energy(x), self.energy(after)
            rounding = 64 * torch.finfo(x.dtype).eps * (before.abs() + now.abs() + seen.abs())
            unresolved = torch.maximum(unresolved, ((now - before + seen).abs() - rounding))
        return after, unresolved

    def _reflected(
        self, domain: Domain, x: Points, h: Length, force: Points, noise: Points, generator: Generator
    ) -> tuple[Points, Points, Points]:
        """After the step, the move to the predicted point, and the drift there."""
        return self.reflected(domain, x, h, force, noise, (uniform(x, generator), uniform(x, generator)))

    def reflected(
        self, domain: Domain, x: Points, h: Length, force: Points, noise: Points, towards: tuple[Points, Points]
    ) -> tuple[Points, Points, Points]:
        """A step between walls, given everything random.

        Args:
            domain: the walls.
            x: from where, (n, d).
            h: length, time.
            force: the drift there.
            noise: from ``noise``.
            towards: uniform numbers that tell how far the path went towards lower and upper walls, (n, d) each.

        Returns:
            Where it leads, the move to the predicted point, and the drift there, (n, d) each.
        """
        low, high = domain.corners(x)
        # How far a path goes beyond its ends within a step: one draw for each wall, used in both stages.
        spread = -4 / self.beta * h
        below = spread * torch.log1p(-towards[0])
        above = spread * torch.log1p(-towards[1])

        def reach(shift: Points) -> Points:
            lowest = 0.5 * (shift - (shift.square() + below).sqrt())
            highest = 0.5 * (shift + (shift.square() + above).sqrt())
            pushed = (low - x - lowest).clamp(min=0) - (x + highest - high).clamp(min=0)
            return domain.reflect(x + shift + pushed)

        predicted = reach(h * force + noise)
        foreseen = self.drift(predicted)
        return reach(h * 0.5 * (force + foreseen) + noise), predicted - x, foreseen
