"""What stays fixed while a step is solved over ridge splines: particles, dictionary, and the basis at every particle.

Of a direction's B-splines only four differ from zero at a particle, but their antiderivatives are step-like. Written by
the differences of neighbouring antiderivatives, with running sums of the coefficients, slopes are local as well:

    sum_m c_m A_m = sum_m (A_m - A_{m+1}) (c_0 + ... + c_m),

where A_m - A_{m+1} vanishes except on five cells. One more slot, for A = 1 before the first, makes them sum to one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jkofilter._typing import Matrix, Points
from jkofilter.transport.maps.ridge import Ridges, RidgeSpline
from jkofilter.transport.steps.ridge_kernels import add_up, fill_products, look_up

SMOOTHING = 1e-4
"""Weight of squared second differences of a ridge's coefficients, in units of the transport term: decides where next to
no particles do, and counts like a share of 1e-4 of them."""


@dataclass(frozen=True, eq=False)
class RidgeDesign:
    """Everything about pool and dictionary that stays fixed during a solve.

    Parameters are (b, q, c): Q = sum_p q_p e_p e_p' over the d (d + 1) / 2 vectors e_i and (e_i + e_j) / sqrt(2).
    Slopes are centred, so that b is the mean of the map.

    Attributes:
        ridges: directions and knots.
        pairs: e_p, (p, d).
        x: centred particles, (n, d).
        x_mean: their mean, (d,).
        index: first slot of every particle in every direction's table, (k, n).
        rises: what stands in five slots of the running sums of a direction's coefficients, (k, n, 5).
        bumps: what stands in four slots of the coefficients, (k, n, 4).
        slope_mean: of every basis function, (k, j).
        outer: a a' of every direction, (k, d d).
        roughness: of the smoothing term, (k, j, j).
    """

    ridges: Ridges
    pairs: Float[Tensor, "p d"]
    x: Points
    x_mean: Tensor
    index: Int[Tensor, "k n"]
    rises: Float[Tensor, "k n 5"]
    bumps: Float[Tensor, "k n 4"]
    slope_mean: Float[Tensor, "k j"]
    outer: Float[Tensor, "k dd"]
    roughness: Float[Tensor, "k j j"]

    @staticmethod
    def build(x: Points, ridges: Ridges, h: float) -> RidgeDesign:
        """The design of a step of length ``h`` on particles ``x``."""
        d = x.shape[1]
        index, rises, bumps = ridges.slots(x)
        directions = ridges.directions
        outer = (directions[:, :, None] * directions[:, None, :]).reshape(-1, d * d)
        bends = torch.diff(torch.eye(ridges.cells - 1, dtype=x.dtype, device=x.device), n=2, dim=0)
        roughness = SMOOTHING / h * ridges.width.square()[:, None, None] * (bends.mT @ bends)
        x_mean, none = x.mean(0), x.new_zeros(len(directions), ridges.cells - 1)
        pairs = symmetric_directions(x)
        bare = RidgeDesign(ridges, pairs, x - x_mean, x_mean, index, rises, bumps, none, outer, roughness)
        share = torch.full_like(rises[..., 0], 1 / len(x))
        mean = bare.pulled_along(share, torch.zeros_like(share))
        return RidgeDesign(ridges, pairs, x - x_mean, x_mean, index, rises, bumps, mean, outer, roughness)

    @property
    def split(self) -> tuple[int, int]:
        """Where b ends, and where q does."""
        d = self.x.shape[1]
        return d, d + self.pairs.shape[0]

    def unpack(self, theta: Tensor) -> tuple[Tensor, Matrix, Tensor]:
        """b, Q and c of a parameter vector."""
        d, end = self.split
        quadratic = (self.pairs * theta[d:end, None]).mT @ self.pairs
        return theta[:d], quadratic, theta[end:].reshape(self.slope_mean.shape)

    def pack(self, psi: RidgeSpline) -> Tensor:
        """The parameter vector of a potential on these ridges."""
        shift = psi.shift + self.x_mean @ psi.quadratic
        shift = shift + (self._spline_mean * psi.coefficients).sum(1) @ self.ridges.directions
        twice = 2 * torch.tril(psi.quadratic, -1)
        own = torch.diag(psi.quadratic.diagonal() - 0.5 * (twice + twice.mT).sum(0))
        row, column = torch.tril_indices(*psi.quadratic.shape, device=shift.device)
        return torch.cat((shift, (twice + own)[row, column], psi.coefficients.reshape(-1)))

    def spline(self, theta: Tensor) -> RidgeSpline:
        """The potential of a parameter vector."""
        shift, quadratic, c = self.unpack(theta)
        shift = shift - self.x_mean @ quadratic - (self._spline_mean * c).sum(1) @ self.ridges.directions
        return RidgeSpline(quadratic, shift, self.ridges, c.clone())

    def map(self, theta: Tensor) -> tuple[Points, Float[Tensor, "n d d"]]:
        """Images and Jacobians of the particles."""
        shift, quadratic, c = self.unpack(theta)
        if c.numel() == 0:
            return self.x @ quadratic + shift, quadratic.unsqueeze(0)
        slope, curvature = self.along(c)
        y = (
            self.x @ quadratic
            + shift
            + (slope - (self.slope_mean * c).sum(1, keepdim=True)).mT @ self.ridges.directions
        )
        return y, quadratic + (curvature.mT @ self.outer).reshape(-1, *quadratic.shape)

    def along(self, c: Float[Tensor, "k j"]) -> tuple[Float[Tensor, "k n"], Float[Tensor, "k n"]]:
        """Slope, not centred, and curvature of every ridge at every particle."""
        values = torch.cat((c[:, :1].expand(-1, 3), c[:, 1:-1], c[:, -1:].expand(-1, 3)), 1)
        sums = torch.nn.functional.pad(values.cumsum(1), (1, 0)) * self.ridges.width[:, None]
        if self._compiled:
            slope, curvature = torch.empty_like(self.rises[..., 0]), torch.empty_like(self.rises[..., 0])
            look_up(*self._slots, _array(sums), _array(values), _array(slope), _array(curvature))
            return slope, curvature
        at = self.index.unsqueeze(-1)
        four = at + torch.arange(4, device=at.device)
        five = at + torch.arange(5, device=at.device)
        slope, curvature = (
            (parts * table.unsqueeze(1).expand(-1, at.shape[1], -1).gather(-1, slots)).sum(-1)
            for parts, table, slots in ((self.rises, sums, five), (self.bumps, values, four))
        )
        return slope, curvature

    def pulled_along(self, force: Float[Tensor, "k n"], strain: Float[Tensor, "k n"]) -> Float[Tensor, "k j"]:
        """Derivative by the coefficients of the sum of force times centred slope and strain times curvature."""
        k, m = len(self.index), self.ridges.cells + 3
        sums, values = force.new_zeros(k, m + 1), force.new_zeros(k, m)
        if self._compiled:
            add_up(*self._slots, _array(force), _array(strain), _array(sums), _array(values))
        else:
            at = self.index.unsqueeze(-1)
            for table, parts, pull in ((sums, self.rises, force), (values, self.bumps, strain)):
                slots = at + torch.arange(parts.shape[-1], device=at.device)
                table.scatter_add_(1, slots.reshape(k, -1), (parts * pull.unsqueeze(-1)).reshape(k, -1))
        slopes = sums.flip(1).cumsum(1).flip(1)[:, 1:] * self.ridges.width[:, None]
        return _tied(slopes + values) - self.slope_mean * force.sum(1, keepdim=True)

    def pulled(self, force: Points, strain: Float[Tensor, "n d d"], on_quadratic: Matrix | None = None) -> Tensor:
        """Derivative by the parameters of E[force . y + tr(strain H)] + tr(on_quadratic Q)."""
        n, directions = len(force), self.ridges.directions
        moment = self.x.mT @ force / n + strain.mean(0)
        if on_quadratic is not None:
            moment = moment + on_quadratic
        pairs = ((self.pairs @ moment) * self.pairs).sum(-1)
        if directions.shape[0] == 0:
            return torch.cat((force.mean(0), pairs))
        along = ((directions @ strain) * directions).sum(-1).expand(n, -1)
        ridge = self.pulled_along((directions @ force.mT) / n, along.mT / n)
        return torch.cat((force.mean(0), pairs, ridge.reshape(-1)))

    def rough(self, c: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        """Gradient of the smoothing term at flat coefficients."""
        rows = c.reshape(self.slope_mean.shape)
        return (self.roughness @ rows.unsqueeze(-1)).reshape(-1)

    def weights_along(self, matrices: Float[Tensor, "n d d"]) -> tuple[Tensor, Tensor]:
        """e' M e for every pair vector (n, p) and every ridge direction (n, k)."""
        d = matrices.shape[-1]
        row, column = torch.tril_indices(d, d, device=matrices.device)
        own = matrices.diagonal(dim1=-2, dim2=-1)
        mixed = 0.5 * (own[:, row] + own[:, column]) + matrices[:, row, column]
        pairs = torch.where(row == column, own[:, row], mixed)
        return pairs, ((self.ridges.directions @ matrices) * self.ridges.directions).sum(-1)

    def second_derivatives(
        self, metric: Float[Tensor, "n d d"], inverse: Float[Tensor, "n d d"], beta: float
    ) -> Matrix:
        """The Hessian of the objective without its barrier and smoothing, by the parameters."""
        a, size, end = self.ridges.directions, self.slope_mean.numel(), self.split[1]
        pulled, strained = ((a @ each).transpose(0, 1).contiguous() for each in (metric, inverse))
        total = self.x.new_empty(end + size, end + size)
        if size:
            total[end:, end:] = self._products(pulled, strained, 1 / beta)
        for row, (scalar, vector) in enumerate(zip(self._affine_scalars, self._affine_vectors, strict=True)):
            bent = inverse @ vector if row >= self.x.shape[1] else torch.zeros_like(self.x)
            product = self._row(scalar.unsqueeze(-1) * (metric @ vector), bent, beta)
            total[row], total[:, row] = product, product
        return total

    def _products(self, pulled: Tensor, strained: Tensor, weight: float) -> Matrix:
        """Second derivatives by the coefficients, from M a and H^-1 a of every direction, (k, n, d) each."""
        k, j = self.slope_mean.shape
        if not self._compiled:
            return self._dense_products(pulled, strained, weight).permute(0, 2, 1, 3).reshape(k * j, k * j)
        total = self.x.new_empty(k, j, k, j)
        a, width, mean = (_array(part) for part in (self.ridges.directions, self.ridges.width, self.slope_mean))
        moved = _array(pulled), _array(strained)
        fill_products(*self._slots, a, moved[0], moved[1], width, mean, weight, _array(total))
        return total.reshape(k * j, k * j).div_(len(self.x))

    def _dense_products(self, pulled: Tensor, strained: Tensor, weight: float) -> Float[Tensor, "k k j j"]:
        """The same by dense products, for other devices."""
        a = self.ridges.directions
        slopes, bends = self.ridges.basis(self.x + self.x_mean)
        slopes = slopes - slopes.mean(0)
        rows = []
        for own_slope, own_bend, pull, strain in zip(slopes.unbind(1), bends.unbind(1), pulled, strained, strict=True):
            metric, squares = (pull @ a.mT).unsqueeze(-1), (strain @ a.mT).square().unsqueeze(-1)
            block = torch.einsum("ni,nlj->lij", own_slope, metric * slopes)
            rows.append(block + torch.einsum("ni,nlj->lij", own_bend, squares * bends) * weight)
        return torch.stack(rows) / len(self.x)

    @property
    def _affine_scalars(self) -> Float[Tensor, "p n"]:
        """The features of b and q are scalars of the particles times fixed vectors."""
        return torch.cat((torch.ones_like(self.x), self.x @ self.pairs.mT), 1).mT

    @property
    def _affine_vectors(self) -> Float[Tensor, "p d"]:
        return torch.cat((torch.eye(self.x.shape[1]).to(self.x), self.pairs))

    def _row(self, force: Points, bent: Points, beta: float) -> Float[Tensor, " p"]:
        """``pulled`` by ``force`` and the strain of rank one that ``bent`` gives."""
        n, directions = len(self.x), self.ridges.directions
        moment = self.x.mT @ force / n + bent.mT @ bent / (beta * n)
        strain = (directions @ bent.mT).square() / (beta * n)
        ridge = self.pulled_along((directions @ force.mT) / n, strain).reshape(-1)
        return torch.cat((force.mean(0), ((self.pairs @ moment) * self.pairs).sum(-1), ridge))

    def least_squares(self, weights: Float[Tensor, " n"]) -> Matrix:
        """Weighted second moments of the features of the parameters, which are vectors."""
        a, end, size, share = self.ridges.directions, self.split[1], self.slope_mean.numel(), weights / len(self.x)
        scalars, vectors = self._affine_scalars, self._affine_vectors
        total = self.x.new_empty(end + size, end + size)
        total[:end, :end] = ((scalars * share) @ scalars.mT) * (vectors @ vectors.mT)
        if size:
            pulled = weights[:, None] * a.unsqueeze(1)
            total[end:, end:] = self._products(pulled, torch.zeros_like(pulled), 1.0)
            none, cosines = pulled.new_zeros(len(a), len(share)), vectors @ a.mT
            for row in range(end):
                product = self.pulled_along(cosines[row].unsqueeze(-1) * (scalars[row] * share), none).reshape(-1)
                total[row, end:], total[end:, row] = product, product
        return total

    @property
    def _spline_mean(self) -> Float[Tensor, "k j"]:
        """Means of the slopes as a ridge spline has them, zero at the first knot, where A is 23/24 + 1/2 + 1/24."""
        first = 1.5 * self.ridges.width.unsqueeze(1)
        return torch.cat((self.slope_mean[:, :1] - first, self.slope_mean[:, 1:]), 1)

    @property
    def _compiled(self) -> bool:
        return self.x.device.type == "cpu" and self.x.dtype in (torch.float64, torch.float32)

    @cached_property
    def _slots(self) -> tuple[object, object, object]:
        return _array(self.index), _array(self.rises), _array(self.bumps)


def symmetric_directions(like: Tensor) -> Float[Tensor, "p d"]:
    """Unit vectors e_i and (e_i + e_j) / sqrt(2), whose outer products span the symmetric matrices."""
    d = like.shape[-1]
    row, column = torch.tril_indices(d, d, device=like.device)
    eye = torch.eye(d, dtype=like.dtype, device=like.device)
    sums = eye[row] + eye[column]
    return sums / sums.norm(dim=1, keepdim=True)


def _tied(full: Tensor) -> Tensor:
    """Sums over the first and the last three along the last dimension, whose coefficients are tied."""
    ends = full[..., :3].sum(-1, keepdim=True), full[..., -3:].sum(-1, keepdim=True)
    return torch.cat((ends[0], full[..., 3:-3], ends[1]), -1)


def _array(tensor: Tensor) -> object:
    return tensor.detach().contiguous().numpy()
