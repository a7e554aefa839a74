"""The convex ridge spline: a quadratic plus one-dimensional convex splines along directions.

    psi(x) = x'Qx/2 + b'x + sum_k g_k(a_k . x),     g_k'' = sum_j c_kj B_j >= 0

The curvature of each ridge is a cubic B-spline on uniform knots, constant beyond them, so that the B_j sum to one
everywhere and c >= 0 with Q positive definite makes Hess psi = Q + sum_k g_k''(a_k . x) a_k a_k' positive definite at
every point, not only where it was fitted. Ridges, gradients and Hessians are linear in (Q, b, c).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jkofilter._typing import Matrix, Points, Scalars, State

LEAST = 0.2
_FULL = (1 / 24, 11 / 24, 11 / 24, 1 / 24)


def _values(t: Tensor) -> Tensor:
    """The four cubic B-splines that live on a cell, at 0 <= t <= 1 within it, (..., 4)."""
    return torch.stack(((1 - t) ** 3, (3 * t - 6) * t * t + 4, ((3 - 3 * t) * t + 3) * t + 1, t**3), -1) / 6


def _slopes(t: Tensor) -> Tensor:
    return torch.stack((-((1 - t) ** 2), (3 * t - 4) * t, (2 - 3 * t) * t + 1, t * t), -1) / 2


def _integrals(t: Tensor) -> Tensor:
    """Their integrals from the cell's left end to t."""
    s = t * t
    return (
        torch.stack((1 - (1 - t) ** 4, (3 * t - 8) * t * s + 16 * t, ((4 - 3 * t) * t + 6) * s + 4 * t, s * s), -1) / 24
    )


def _double_integrals(t: Tensor) -> Tensor:
    s = t * t
    first = 5 * t - 1 + (1 - t) ** 5
    return (
        torch.stack((first, (3 * t - 10) * s * s + 40 * s, ((5 - 3 * t) * t + 10) * t * s + 10 * s, t * s * s), -1)
        / 120
    )


def _repeat_ends(values: Float[Tensor, "k j"]) -> Float[Tensor, "k i"]:
    """Coefficients of all B-splines: the first and last three are tied, which flattens the curvature at both ends."""
    return torch.cat((values[:, :1].expand(-1, 3), values[:, 1:-1], values[:, -1:].expand(-1, 3)), 1)


def _tie_ends(basis: Tensor) -> Tensor:
    return torch.cat(
        (basis[..., :3].sum(-1, keepdim=True), basis[..., 3:-3], basis[..., -3:].sum(-1, keepdim=True)), -1
    )


@dataclass(frozen=True, eq=False)
class Ridges:
    """Directions and knots: the dictionary a ridge spline is written in.

    Attributes:
        directions: unit vectors a_k, (k, d).
        lower: first knot of each direction, (k,).
        width: distance of its knots, (k,).
        cells: number of knot intervals; each direction has cells - 1 coefficients.
    """

    directions: Float[Tensor, "k d"]
    lower: Float[Tensor, " k"]
    width: Float[Tensor, " k"]
    cells: int

    @staticmethod
    def spanning(x: Points, directions: Float[Tensor, "k d"], cells: int) -> Ridges:
        """Knots over the range of the projections of ``x``, (n, d); what lies beyond sees a constant curvature."""
        if directions.shape[0] == 0:
            return Ridges(directions, x.new_zeros(0), x.new_zeros(0), cells)
        lower, upper = (x @ directions.mT).aminmax(dim=0)
        return Ridges(directions, lower, (upper - lower) / cells, cells)

    def locate(self, x: Points) -> tuple[Tensor, Tensor, Tensor]:
        """Cell index (n, k), position within the cell in [0, 1], and how far beyond the knots, in cells."""
        v = (x @ self.directions.mT - self.lower) / self.width
        inside = v.clamp(0, self.cells)
        index = inside.floor().clamp(max=self.cells - 1)
        return index.long(), inside - index, v - inside

    def basis(self, x: Points) -> tuple[Float[Tensor, "n k j"], Float[Tensor, "n k j"]]:
        """Slopes g_j'(a_k . x) and curvatures B_j(a_k . x) of every basis function at every point, (n, k, j)."""
        index, t, beyond = self.locate(x)
        slot = index.unsqueeze(-1) + torch.arange(4, device=x.device)
        curvature = x.new_zeros(*index.shape, self.cells + 3).scatter_(-1, slot, _values(t))
        slope = self._cumulative(x)[index].scatter_add_(-1, slot, _integrals(t))
        slope[..., :3] += beyond.clamp(max=0).unsqueeze(-1) / 3
        slope[..., -3:] += beyond.clamp(min=0).unsqueeze(-1) / 3
        return _tie_ends(slope) * self.width[:, None], _tie_ends(curvature)

    def slots(self, x: Points) -> tuple[Int[Tensor, "k n"], Float[Tensor, "k n 5"], Float[Tensor, "k n 4"]]:
        """First slot, differences of neighbouring slopes A_m - A_{m+1} in cells, and curvatures, of each direction.

        The differences stand in the slots of m = first - 1 to first + 3, the one before the first B-spline included,
        where A = 1; the curvatures in those of first to first + 3.
        """
        index, t, beyond = (part.mT.contiguous() for part in self.locate(x))
        past = t.new_tensor((23 / 24, 1 / 2, 1 / 24, 0.0))
        heights = _integrals(t) + past
        one = torch.ones_like(t).unsqueeze(-1)
        rises = torch.cat((one, heights), -1) - torch.cat((heights, torch.zeros_like(one)), -1)
        # Beyond the knots the three tied splines at that end share the slope.
        low, high = beyond.clamp(max=0) / 3, beyond.clamp(min=0) / 3
        rises += torch.stack((-low, -high, torch.zeros_like(low), low, high), -1)
        return index, rises, _values(t)

    def _cumulative(self, like: Tensor) -> Float[Tensor, "i j"]:
        """Integral of each of the cells + 3 B-splines up to each cell's left end, in cells."""
        piece = like.new_zeros(self.cells + 1, self.cells + 3)
        for k, part in enumerate(_FULL):
            piece[1:, k : k + self.cells].diagonal().fill_(part)
        return piece.cumsum(0)


@dataclass(frozen=True, eq=False)
class RidgeSpline:
    """A convex ridge spline; with no directions, the quadratic potential of an affine (Gaussian) map.

    Attributes:
        quadratic: Q, symmetric positive definite, (d, d).
        shift: b, (d,).
        ridges: directions and knots, k may be zero.
        coefficients: c >= 0, (k, cells - 1).
    """

    quadratic: Matrix
    shift: State
    ridges: Ridges
    coefficients: Float[Tensor, "k j"]

    @staticmethod
    def affine(matrix: Matrix, shift: State) -> RidgeSpline:
        """The potential of x -> matrix x + shift, ``matrix`` symmetric positive definite."""
        none = matrix.new_zeros(0)
        ridges = Ridges(matrix.new_zeros(0, matrix.shape[0]), none, none, 4)
        return RidgeSpline(matrix, shift, ridges, matrix.new_zeros(0, 3))

    @staticmethod
    def identity(ridges: Ridges, share: float = 0.5) -> RidgeSpline:
        """|x|^2 / 2 with ``share`` of the curvature (along the best covered direction) held by the ridges."""
        d = ridges.directions.shape[1]
        return RidgeSpline.affine(torch.eye(d).to(ridges.directions), ridges.lower.new_zeros(d)).on(ridges, share)

    def on(self, ridges: Ridges, share: float = 0.5) -> RidgeSpline:
        """The potential of this affine map with part of its curvature held by other ridges, all of them alike.

        Args:
            ridges: none of them leaves it as it is.
            share: of the curvature that the ridges could hold.
        """
        directions = ridges.directions
        if directions.shape[0] == 0:
            return self
        frame = directions.mT @ directions
        # Q - level frame is positive definite below the least eigenvalue of frame^-1 Q, whose inverse this is.
        factor = torch.linalg.cholesky(self.quadratic)
        within = torch.linalg.solve_triangular(factor, directions.mT, upper=False)
        level = share / torch.linalg.eigvalsh(within @ within.mT)[-1]
        coefficients = level.expand(directions.shape[0], ridges.cells - 1).clone()
        shift = self.shift + level * (ridges.lower @ directions)
        return RidgeSpline(self.quadratic - level * frame, shift, ridges, coefficients)

    def ahead(self, reach: float) -> RidgeSpline:
        """``reach`` times as far from the identity, as far as every coefficient stays above LEAST of what it is."""
        still = RidgeSpline.identity(self.ridges)
        c, rest = self.coefficients, still.coefficients
        coefficients = torch.maximum(rest + reach * (c - rest), LEAST * c)
        quadratic = still.quadratic + reach * (self.quadratic - still.quadratic)
        return RidgeSpline(quadratic, still.shift + reach * (self.shift - still.shift), self.ridges, coefficients)

    @property
    def dim(self) -> int:
        """State dimension d."""
        return self.shift.numel()

    def _ridge(self, x: Points) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Local coefficients (n, k, 4), cell, position, overshoot, and all coefficients (k, cells + 3)."""
        index, t, beyond = self.ridges.locate(x)
        full = _repeat_ends(self.coefficients)
        slot = index.unsqueeze(-1) + torch.arange(4, device=x.device)
        local = full.expand(x.shape[0], -1, -1).gather(-1, slot)
        return local, index, t, beyond, full

    def __call__(self, x: Points) -> Scalars:
        """psi(x), (n,)."""
        value = 0.5 * ((x @ self.quadratic) * x).sum(-1) + x @ self.shift
        if self.coefficients.shape[0] == 0:
            return value
        local, index, t, beyond, full = self._ridge(x)
        slope = self._slope_at_knots(full)
        # In units of cells: g at the knots by summing the cells' own double integrals and the slopes they start with.
        ones = torch.ones_like(full[:, 0])
        within = (full.unfold(1, 4, 1) * _double_integrals(ones)[:, None]).sum(-1)
        height = torch.cat((torch.zeros_like(slope[:, :1]), (within + slope[:, :-1]).cumsum(1)), 1)
        at = lambda table: table.expand(x.shape[0], -1, -1).gather(-1, index.unsqueeze(-1)).squeeze(-1)  # noqa: E731
        ridge = at(height) + at(slope) * t + (local * _double_integrals(t)).sum(-1)
        end_slope = at(slope) + (local * _integrals(t)).sum(-1)
        curvature = (local * _values(t)).sum(-1)
        ridge = ridge + end_slope * beyond + 0.5 * curvature * beyond.square()
        return value + (ridge * self.ridges.width.square()).sum(-1)

    def _slope_at_knots(self, full: Tensor) -> Tensor:
        """g' at every knot, in units of cells, (k, cells + 1); zero at the first."""
        ones = torch.ones_like(full[:, 0])
        gain = (full.unfold(1, 4, 1) * _integrals(ones)[:, None]).sum(-1)
        return torch.cat((torch.zeros_like(gain[:, :1]), gain.cumsum(1)), 1)

    def gradient(self, x: Points) -> Points:
        """The map grad psi(x), (n, d)."""
        return self.gradient_and_hessian(x)[0]

    def hessian(self, x: Points) -> Float[Tensor, "n d d"]:
        """Q + sum_k g_k''(a_k . x) a_k a_k', (n, d, d)."""
        return self.gradient_and_hessian(x)[1]

    def along(self, x: Points) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n k"]]:
        """Slope g_k' and curvature g_k'' of every ridge, (n, k) each."""
        local, index, t, beyond, full = self._ridge(x)
        start = self._slope_at_knots(full).expand(x.shape[0], -1, -1).gather(-1, index.unsqueeze(-1)).squeeze(-1)
        curvature = (local * _values(t)).sum(-1)
        return (start + (local * _integrals(t)).sum(-1) + curvature * beyond) * self.ridges.width, curvature

    def gradient_and_hessian(self, x: Points) -> tuple[Points, Float[Tensor, "n d d"]]:
        """The map and its Jacobian."""
        n, d = x.shape
        y = x @ self.quadratic + self.shift
        if self.coefficients.shape[0] == 0:
            return y, self.quadratic.repeat(n, 1, 1)
        slope, curvature = self.along(x)
        directions = self.ridges.directions
        outer = (directions[:, :, None] * directions[:, None, :]).reshape(-1, d * d)
        return y + slope @ directions, self.quadratic + (curvature @ outer).reshape(n, d, d)

    def log_det_gradient(self, x: Points, inverse_hessian: Float[Tensor, "n d d"]) -> Points:
        """sum_k g_k'''(a_k . x) (a_k' H^-1 a_k) a_k, (n, d)."""
        if self.coefficients.shape[0] == 0:
            return torch.zeros_like(x)
        local, _, t, beyond, _ = self._ridge(x)
        third = torch.where(beyond == 0, (local * _slopes(t)).sum(-1), 0.0) / self.ridges.width
        directions = self.ridges.directions
        return (third * ((directions @ inverse_hessian) * directions).sum(-1)) @ directions

    def parameters(self) -> dict[str, Tensor]:
        """Q, b, c, and the dictionary."""
        return {
            "quadratic": self.quadratic,
            "shift": self.shift,
            "coefficients": self.coefficients,
            "directions": self.ridges.directions,
            "lower": self.ridges.lower,
            "width": self.ridges.width,
        }

    @staticmethod
    def from_parameters(parameters: dict[str, Tensor]) -> RidgeSpline:
        """The inverse of ``parameters``."""
        coefficients = parameters["coefficients"]
        ridges = Ridges(
            parameters["directions"], parameters["lower"], parameters["width"], int(coefficients.shape[1]) + 1
        )
        return RidgeSpline(parameters["quadratic"], parameters["shift"], ridges, coefficients)
