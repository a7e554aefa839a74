"""Independent coordinates, seen rotated: the exact law of problems that separate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator

from jkofilter._typing import Density, Matrix, Points, Scalars
from jkofilter.beliefs.checks import checked_points, generator_or_default


@dataclass(frozen=True, eq=False)
class ProductLaw:
    """The law of x = R'u with independent u_i.

    Attributes:
        marginals: laws of u_1, ..., u_d, each of dimension one.
        rotation: R, orthogonal, (d, d).
    """

    marginals: tuple[Density, ...]
    rotation: Matrix

    @property
    def dim(self) -> int:
        """State dimension d."""
        return len(self.marginals)

    def log_prob(self, x: Points) -> Scalars:
        """sum_i log p_i((R x)_i), (n,)."""
        u = checked_points(x, self.dim) @ self.rotation.mT
        parts = [law.log_prob(u[:, i : i + 1]) for i, law in enumerate(self.marginals)]
        return torch.stack(parts).sum(0)

    def sample(self, n: int, generator: Generator | None = None) -> Points:
        """``n`` independent draws, (n, d)."""
        source = generator_or_default(generator, self.rotation.device)
        u = torch.cat([law.sample(n, source) for law in self.marginals], 1)
        return u @ self.rotation
