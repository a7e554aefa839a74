"""Part of a step: McCann's displacement interpolation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jkofilter._typing import Points, Scalars
from jkofilter.transport.maps.convex import ConvexPotential


@dataclass(frozen=True, eq=False)
class DisplacementInterpolation:
    """(1 - share) |x|^2 / 2 + share psi(x): particles that share of the way along straight lines (McCann 1997).

    Attributes:
        psi: potential of the whole step.
        share: between 0 and 1.
    """

    psi: ConvexPotential
    share: float

    @property
    def dim(self) -> int:
        """State dimension d."""
        return self.psi.dim

    def __call__(self, x: Points) -> Scalars:
        """The potential, (n,)."""
        return 0.5 * (1 - self.share) * x.square().sum(-1) + self.share * self.psi(x)

    def gradient(self, x: Points) -> Points:
        """The map, (n, d)."""
        return (1 - self.share) * x + self.share * self.psi.gradient(x)

    def hessian(self, x: Points) -> Float[Tensor, "n d d"]:
        """Its Jacobian, (n, d, d)."""
        return self.gradient_and_hessian(x)[1]

    def gradient_and_hessian(self, x: Points) -> tuple[Points, Float[Tensor, "n d d"]]:
        """Both."""
        y, hessian = self.psi.gradient_and_hessian(x)
        eye = torch.eye(self.dim, dtype=x.dtype, device=x.device)
        return (1 - self.share) * x + self.share * y, (1 - self.share) * eye + self.share * hessian

    def log_det_gradient(self, x: Points, inverse_hessian: Float[Tensor, "n d d"]) -> Points:
        """tr(H^-1 d_i H) is linear in H^-1, and only psi's share of H varies."""
        return self.psi.log_det_gradient(x, self.share * inverse_hessian)

    def parameters(self) -> Mapping[str, Tensor]:
        """Those of the whole step, and the share."""
        share = torch.tensor(self.share, dtype=torch.float64)
        return {**self.psi.parameters(), "share": share}
