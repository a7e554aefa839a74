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
from jkofilter.transport.steps.ridge_kernels import add_products, add_up, look_up

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
        y = self.x @ quadratic + shift + (slope - (self.slope_mean * c).sum(1, keepdim=True)).mT @ self.ridges.directions
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

    def second_derivatives(self, metric: Float[Tensor, "n d d"], inverse: Float[Tensor, "n d d"], beta: float) -> Matrix:
        """The Hessian of the objective without its barrier and smoothing, by the parameters."""
        n, d = self.x.shape
        a, width = self.ridges.directions, self.ridges.width
        k, j = self.slope_mean.shape
        m = self.ridges.cells + 3
        pulled, strained = (a @ metric).transpose(0, 1).contiguous(), (a @ inverse).transpose(0, 1).contiguous()
        sums, values = self.x.new_zeros(k, k, m + 1, m + 1), self.x.new_zeros(k, k, m, m)
        add_products(*self._slots, _array(a), _array(pulled), _array(strained), _array(sums), _array(values))
        total = self.x.new_empty(self.split[1] + k * j, self.split[1] + k * j)
        end = self.split[1]
        # Running sums from the last slot on turn differences of antiderivatives into antiderivatives; the first is one.
        turn = torch.triu(torch.ones(m + 1, m + 1).to(a))
        tie = torch.nn.functional.pad(_tied(torch.eye(m).to(a)).mT, (1, 0)) @ turn
        features = width[:, None, None] * tie
        features = features - self.slope_mean.unsqueeze(-1) * turn[0]
        slopes = torch.einsum("kim,kbmr->kbir", features, sums)
        slopes = torch.einsum("kbir,bjr->kbij", slopes, features)
        bends = _tied(_tied(values).mT).mT
        block = (slopes + bends / beta) / n
        lower = torch.tril(torch.ones(k, k).to(a))[:, :, None, None]
        block = lower * block
        block = block + block.permute(1, 0, 3, 2) * (1 - torch.eye(k).to(a))[:, :, None, None]
        total[end:, end:] = block.permute(0, 2, 1, 3).reshape(k * j, k * j)
        self._fill_affine(total, metric, inverse, pulled, strained, beta)
        return total

    def _fill_affine(
        self, total: Matrix, metric: Tensor, inverse: Tensor, pulled: Tensor, strained: Tensor, beta: float
    ) -> None:
        """Rows and columns of b and q."""
        n, d = self.x.shape
        end = self.split[1]
        reach = self.x @ self.pairs.mT
        # Every feature is a scalar times a fixed vector.
        scalars = torch.cat((torch.ones_like(self.x), reach), 1)
        vectors = torch.cat((torch.eye(d).to(self.x), self.pairs))
        own = torch.einsum("na,nab,nb->ab", scalars, vectors @ metric @ vectors.mT, scalars)
        own[d:, d:] += (self.pairs @ inverse @ self.pairs.mT).square().sum(0) / beta
        total[:end, :end] = own / n
        none = torch.zeros_like(strained[..., 0])
        for row in range(end):
            force = scalars[:, row] * (pulled @ vectors[row])
            strain = (strained @ vectors[row]).square() / beta if row >= d else none
            pull = self.pulled_along(force, strain).reshape(-1) / n
            total[row, end:] = pull
            total[end:, row] = pull

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
