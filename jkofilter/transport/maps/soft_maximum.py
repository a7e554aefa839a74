"""The soft maximum of convex functions: a map that sends every region of space its own way.

    psi(x) = (1/g) log sum_i exp(g q_i(x)),    z = (x - c_i)/s,
    q_i(x) = s^2 (z'A_i z/2 + b_i'z + o_i + sum_k w_ik R_k ((R_k^2 + |z|^2)^(1/2) - R_k)
                  + sum_l v_il softplus(a_il.z + e_il)),    w, v >= 0.

With quadratic pieces it is the form of a step towards a Gaussian mixture: for V = -(1/beta) log sum_i exp(-beta V_i),
the explicit step of length h has the potential
|x|^2/2 - h V(x) = (h/beta) log sum_i exp((beta/h) (|x|^2/2 - h V_i(x))). The last two sums let a region change its
shape: the first draws in what is farther than R_k from its centre, the second bends it along lines. With the weights
r_i = softmax(g q_i) and the pieces' gradients G_i and Hessians B_i,

    y = grad psi = sum_i r_i G_i,    Hess psi = sum_i r_i B_i + g sum_i r_i D_i D_i',    D_i = G_i - y,

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
    """A soft maximum of m pieces; all but ``unit`` and ``radii`` is unconstrained.

    Attributes:
        centres: c, where the pieces are written around, (m, d).
        unit: s, the unit of length, positive, ().
        root: lower triangle shared by the pieces' roots R_i = root + deviations_i of A_i = R_i R_i' + FLOOR I, (d, d).
        deviations: lower triangles, (m, d, d).
        slopes: b, (m, d); piece i sends its centre to s b_i.
        offsets: o, (m,).
        log_sharpness: log(s^2 g), ().
        radii: R, positive, (k,); k is zero in quadratic pieces.
        radial: roots of w, (m, k).
        linear: a, (m, u, d); u is zero in quadratic pieces.
        bias: e, (m, u).
        ridge: roots of v, (m, u).
    """

    centres: Float[Tensor, "m d"]
    unit: Float[Tensor, ""]
    root: Matrix
    deviations: Float[Tensor, "m d d"]
    slopes: Float[Tensor, "m d"]
    offsets: Float[Tensor, " m"]
    log_sharpness: Float[Tensor, ""]
    radii: Float[Tensor, " k"]
    radial: Float[Tensor, "m k"]
    linear: Float[Tensor, "m u d"]
    bias: Float[Tensor, "m u"]
    ridge: Float[Tensor, "m u"]

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

    def pieces(self, x: Points) -> Pieces:
        """The pieces at ``x``."""
        z = (x.unsqueeze(1) - self.centres) / self.unit
        distances = (z.square().sum(-1, keepdim=True) + self.radii.square()).sqrt()
        units = torch.einsum("nmd,mud->nmu", z, self.linear) + self.bias
        return Pieces(self, z, distances, self.radii * self.radial.square(), units, self.ridge.square())

    def __call__(self, x: Points) -> Scalars:
        """psi(x), (n,)."""
        return (self.sharpness * self.pieces(x).values_and_gradients()[0]).logsumexp(-1) / self.sharpness

    def gradient(self, x: Points) -> Points:
        """The map grad psi(x), (n, d)."""
        values, gradients = self.pieces(x).values_and_gradients()
        return _mean((self.sharpness * values).softmax(-1), gradients)

    def hessian(self, x: Points) -> Float[Tensor, "n d d"]:
        """Its Jacobian, (n, d, d)."""
        return self.gradient_and_hessian(x)[1]

    def gradient_and_hessian(self, x: Points) -> tuple[Points, Float[Tensor, "n d d"]]:
        """Both from the pieces' values, gradients and Hessians."""
        pieces = self.pieces(x)
        values, gradients = pieces.values_and_gradients()
        weights = (self.sharpness * values).softmax(-1)
        y = _mean(weights, gradients)
        apart = gradients - y.unsqueeze(1)
        spread = (weights.unsqueeze(-1) * apart).mT @ apart
        return y, pieces.mean_hessian(weights) + self.sharpness * spread

    def log_det_gradient(self, x: Points, inverse_hessian: Float[Tensor, "n d d"]) -> Points:
        """tr(P d_k H) for every k with P = H^-1 held fixed, (n, d).

        From d r_i = g r_i D_i and d D_i = B_i - H, the gradient is

            sum_i r_i [g (tr(P B_i) + g D_i'P D_i) D_i + 2 g (B_i - H) P D_i + d tr(P B_i)],

        where H drops out because sum_i r_i D_i = 0.
        """
        pieces = self.pieces(x)
        values, gradients = pieces.values_and_gradients()
        weights = (self.sharpness * values).softmax(-1)
        apart = gradients - _mean(weights, gradients).unsqueeze(1)
        turned = apart @ inverse_hessian
        traces, slopes = pieces.traces(inverse_hessian)
        lengths = traces + self.sharpness * (turned * apart).sum(-1)
        change = lengths.unsqueeze(-1) * apart + 2 * pieces.times(turned)
        return _mean(weights, self.sharpness * change + slopes)

    def parameters(self) -> dict[str, Tensor]:
        """Every tensor by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @staticmethod
    def from_parameters(parameters: Mapping[str, Tensor]) -> SoftMaximum:
        """The inverse of ``parameters``; without bends, the pieces are quadratic."""
        slopes = parameters["slopes"]
        m, d = slopes.shape
        shapes = {"radii": (0,), "radial": (m, 0), "linear": (m, 0, d), "bias": (m, 0), "ridge": (m, 0)}
        return SoftMaximum(**{name: slopes.new_zeros(shape) for name, shape in shapes.items()} | dict(parameters))


@dataclass(frozen=True, eq=False)
class Pieces:
    """The pieces of a soft maximum at n points.

    Attributes:
        psi: the soft maximum.
        z: the points from every centre, in units of length, (n, m, d).
        distances: (R_k^2 + |z|^2)^(1/2), (n, m, k).
        radial: R_k w_ik, (m, k).
        units: a_il.z + e_il, (n, m, u).
        ridge: v, (m, u).
    """

    psi: SoftMaximum
    z: Float[Tensor, "n m d"]
    distances: Float[Tensor, "n m k"]
    radial: Float[Tensor, "m k"]
    units: Float[Tensor, "n m u"]
    ridge: Float[Tensor, "m u"]

    def values_and_gradients(self) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m d"]]:
        """q_i and G_i."""
        psi, z = self.psi, self.z
        bent = torch.einsum("nmd,mde->nme", z, psi.curvatures)
        values = (z * (0.5 * bent + psi.slopes)).sum(-1) + psi.offsets
        values = values + (self.radial * (self.distances - psi.radii)).sum(-1)
        values = values + (self.ridge * torch.nn.functional.softplus(self.units)).sum(-1)
        gradients = bent + psi.slopes + self._radial(1).unsqueeze(-1) * z
        gradients = gradients + torch.einsum("nmu,mud->nmd", self.ridge * self.units.sigmoid(), psi.linear)
        return psi.unit.square() * values, psi.unit * gradients

    def mean_hessian(self, weights: Float[Tensor, "n m"]) -> Float[Tensor, "n d d"]:
        """sum_i r_i B_i."""
        psi, z = self.psi, self.z
        hessian = torch.tensordot(weights, psi.curvatures, 1)
        if psi.radii.numel() > 0:
            flat = (weights * self._radial(1)).sum(-1, keepdim=True).expand(-1, psi.dim)
            round_ = (weights * self._radial(3)).unsqueeze(-1) * z
            hessian = hessian + torch.diag_embed(flat) - round_.mT @ z
        if psi.bias.numel() > 0:
            bends = (weights.unsqueeze(-1) * self._bends()[0]).flatten(1)
            hessian = hessian + (bends @ self._squares()).unflatten(-1, (psi.dim, psi.dim))
        return hessian

    def times(self, vectors: Float[Tensor, "n m d"]) -> Float[Tensor, "n m d"]:
        """B_i times a vector for every point and piece."""
        psi, z = self.psi, self.z
        along = torch.einsum("nmd,mud->nmu", vectors, psi.linear)
        outward = (self._radial(3) * (z * vectors).sum(-1)).unsqueeze(-1) * z
        return (
            torch.einsum("nmd,mde->nme", vectors, psi.curvatures)
            + self._radial(1).unsqueeze(-1) * vectors
            - outward
            + torch.einsum("nmu,mud->nmd", self._bends()[0] * along, psi.linear)
        )

    def traces(self, matrices: Float[Tensor, "n d d"]) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m d"]]:
        """tr(P B_i) for a matrix at every point, and its gradient with P held fixed."""
        psi, z = self.psi, self.z
        size = matrices.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
        turned = z @ matrices
        squares = (z * turned).sum(-1)
        along = (matrices.flatten(1) @ self._squares().mT).view_as(self.units)
        first, second = self._bends()
        value = torch.einsum("nde,mde->nm", matrices, psi.curvatures) + (first * along).sum(-1)
        value = value + self._radial(1) * size - self._radial(3) * squares
        change = (3 * self._radial(5) * squares - self._radial(3) * size).unsqueeze(-1) * z
        change = change - 2 * self._radial(3).unsqueeze(-1) * turned
        change = change + torch.einsum("nmu,mud->nmd", second * along, psi.linear)
        return value, change / psi.unit

    def _radial(self, power: int) -> Float[Tensor, "n m"]:
        return (self.radial / self.distances**power).sum(-1)

    def _bends(self) -> tuple[Float[Tensor, "n m u"], Float[Tensor, "n m u"]]:
        """v times the second and the third derivative of softplus."""
        rise = self.units.sigmoid()
        bends = self.ridge * rise * (1 - rise)
        return bends, bends * (1 - 2 * rise)

    def _squares(self) -> Float[Tensor, "mu dd"]:
        """a a' for every unit, flattened."""
        return torch.einsum("mud,mue->mude", self.psi.linear, self.psi.linear).flatten(0, 1).flatten(1)


def _mean(weights: Float[Tensor, "n m"], vectors: Float[Tensor, "n m d"]) -> Points:
    return (weights.unsqueeze(1) @ vectors).squeeze(1)
