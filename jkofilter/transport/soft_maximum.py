"""The soft maximum of convex quadratics: a map that sends every region of space its own, affine way.

    psi(x) = (1/g) log sum_i exp(g q_i(x)),    q_i(x) = s^2 (z'A_i z / 2 + b_i'z + o_i),    z = (x - c_i)/s.

It is the form of a step towards a Gaussian mixture: for V = -(1/beta) log sum_i exp(-beta V_i), the explicit step of
length h has the potential |x|^2/2 - h V(x) = (h/beta) log sum_i exp((beta/h) (|x|^2/2 - h V_i(x))). With the weights
r_i = softmax(g q_i) and the pieces' gradients G_i = s (A_i z + b_i),

    y = grad psi = sum_i r_i G_i,    Hess psi = sum_i r_i A_i + g sum_i r_i D_i D_i',    D_i = G_i - y,

positive definite because every A_i is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from jkofilter._typing import Matrix, Points, Scalars

FLOOR = 1e-3
"""Least eigenvalue of every A_i."""


@dataclass(frozen=True, eq=False)
class SoftMaximum:
    """A soft maximum of m quadratics; all but ``unit`` is unconstrained.

    Attributes:
        centres: c, where the pieces are written around, (m, d).
        unit: s, the unit of length, positive, ().
        root: lower triangle shared by the pieces' roots R_i = root + deviations_i of A_i = R_i R_i' + FLOOR I, (d, d).
        deviations: lower triangles, (m, d, d).
        slopes: b, (m, d); piece i sends its centre to s b_i.
        offsets: o, (m,).
        log_sharpness: log(s^2 g), ().
    """

    centres: Float[Tensor, "m d"]
    unit: Float[Tensor, ""]
    root: Matrix
    deviations: Float[Tensor, "m d d"]
    slopes: Float[Tensor, "m d"]
    offsets: Float[Tensor, " m"]
    log_sharpness: Float[Tensor, ""]

    @property
    def dim(self) -> int:
        """State dimension d."""
        return self.slopes.shape[1]

    @property
    def sharpness(self) -> Tensor:
        """g, ()."""
        return self.log_sharpness.exp() / self.unit.square()

    @property
    def curvatures(self) -> Float[Tensor, "m d d"]:
        """A, (m, d, d)."""
        root = (self.root + self.deviations).tril()
        return root @ root.mT + FLOOR * torch.eye(self.dim, dtype=root.dtype, device=root.device)

    def pieces(self, x: Points) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m d"], Float[Tensor, "m d d"]]:
        """Values q_i, gradients G_i and curvatures A_i."""
        curvatures = self.curvatures
        z = (x.unsqueeze(1) - self.centres) / self.unit
        bent = torch.einsum("nmd,mde->nme", z, curvatures)
        values = (z * (0.5 * bent + self.slopes)).sum(-1) + self.offsets
        return self.unit.square() * values, self.unit * (bent + self.slopes), curvatures

    def __call__(self, x: Points) -> Scalars:
        """psi(x), (n,)."""
        values, _, _ = self.pieces(x)
        return (self.sharpness * values).logsumexp(-1) / self.sharpness

    def gradient(self, x: Points) -> Points:
        """The map grad psi(x), (n, d)."""
        values, gradients, _ = self.pieces(x)
        return _mean((self.sharpness * values).softmax(-1), gradients)

    def hessian(self, x: Points) -> Float[Tensor, "n d d"]:
        """Its Jacobian, (n, d, d)."""
        return self.gradient_and_hessian(x)[1]

    def gradient_and_hessian(self, x: Points) -> tuple[Points, Float[Tensor, "n d d"]]:
        """Both from the pieces' values and gradients."""
        values, gradients, curvatures = self.pieces(x)
        weights = (self.sharpness * values).softmax(-1)
        y = _mean(weights, gradients)
        apart = gradients - y.unsqueeze(1)
        spread = (weights.unsqueeze(-1) * apart).mT @ apart
        return y, torch.tensordot(weights, curvatures, 1) + self.sharpness * spread

    def log_det_gradient(self, x: Points, inverse_hessian: Float[Tensor, "n d d"]) -> Points:
        """tr(P d_k H) for every k with P = H^-1 held fixed, (n, d).

        From d r_i = g r_i D_i and d D_i = A_i - H, the gradient is

            g sum_i r_i [(tr(P A_i) + g D_i'P D_i) D_i + 2 (A_i - H) P D_i],

        where H drops out because sum_i r_i D_i = 0.
        """
        values, gradients, curvatures = self.pieces(x)
        weights = (self.sharpness * values).softmax(-1)
        apart = gradients - _mean(weights, gradients).unsqueeze(1)
        turned = apart @ inverse_hessian
        traces = torch.einsum("nde,mde->nm", inverse_hessian, curvatures)
        lengths = traces + self.sharpness * (turned * apart).sum(-1)
        change = lengths.unsqueeze(-1) * apart + 2 * torch.einsum("nmd,mde->nme", turned, curvatures)
        return self.sharpness * _mean(weights, change)

    def parameters(self) -> dict[str, Tensor]:
        """Every tensor by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @staticmethod
    def from_parameters(parameters: Mapping[str, Tensor]) -> SoftMaximum:
        """The inverse of ``parameters``."""
        return SoftMaximum(**parameters)


def _mean(weights: Float[Tensor, "n m"], vectors: Float[Tensor, "n m d"]) -> Points:
    return (weights.unsqueeze(1) @ vectors).squeeze(1)
