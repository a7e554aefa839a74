"""The part of an input-convex network's derivatives that is as large as its Jacobians, n d w: where the time goes.

With p_l = dpsi/dz_l, e_l = dpsi/du_l = p_l softplus'(u_l) and J_l = du_l/dx, by

    J_l = A_l + sum_r (B_lr x) B_lr + W_l diag(softplus'(u_(l-1))) J_(l-1),

the curvature is sum_l J_l' diag(p_l softplus''(u_l)) J_l, and p softplus'' = e (1 - softplus'). The adjoint takes the
recursion the other way round. On a CPU both are compiled (``icnn_kernels``), on other devices and in other types they
are array expressions. The units of all layers lie side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jkofilter._typing import Array, Points
from jkofilter.transport.maps.icnn_kernels import add_adjoints, fill_jacobians


@dataclass(frozen=True, eq=False)
class Weights:
    """Hidden layers as they act: u_l = W_l z_(l-1) + A x + |B x|^2 / 2 + b, and psi = a . softplus(u).

    Attributes:
        linear: A of all layers, (w, d).
        bias: b, (w,).
        skip: B, (w, r, d).
        output: a >= 0, (w,).
        hidden: W >= 0 between neighbouring layers, (w_l, w_(l-1)) each, one fewer than there are layers.
    """

    linear: Float[Tensor, "w d"]
    bias: Float[Tensor, " w"]
    skip: Float[Tensor, "w r d"]
    output: Float[Tensor, " w"]
    hidden: tuple[Tensor, ...]

    @property
    def edges(self) -> list[int]:
        """First unit of every layer, and the number of units."""
        if not self.hidden:
            return [0, self.bias.numel()]
        edges = [0, self.hidden[0].shape[1]]
        for hidden in self.hidden:
            edges.append(edges[-1] + hidden.shape[0])
        return edges

    @property
    def links(self) -> list[tuple[slice, slice, Tensor]]:
        """(units below, units above, W) of neighbouring layers, from the bottom."""
        spans = [slice(*pair) for pair in pairwise(self.edges)]
        return [(low, high, hidden) for (low, high), hidden in zip(pairwise(spans), self.hidden, strict=True)]

    @property
    def outer(self) -> Float[Tensor, "w dd"]:
        """sum_r B_ir B_ir' of every unit, flattened."""
        return (self.skip.mT @ self.skip).flatten(1)

    def project(self, vectors: Points) -> Float[Tensor, "n w r"]:
        """B_ir . v for every unit i and rank r."""
        return (vectors @ self.skip.flatten(0, 1).mT).unflatten(1, self.skip.shape[:2])

    def pull_back(self, units: Float[Tensor, "n w"], projected: Float[Tensor, "n w r"]) -> Points:
        """sum_i units_i A_i + sum_ir projected_ir B_ir."""
        return units @ self.linear + projected.flatten(1) @ self.skip.flatten(0, 1)


@dataclass(frozen=True, eq=False)
class Bending:
    """What the Jacobians and curvatures of n points are made of: softplus'(u), (n, w), B x, (n, w, r), e, (n, w)."""

    slope: Tensor
    projected: Tensor
    pull: Tensor

    @property
    def bend(self) -> Tensor:
        """p softplus''(u), (n, w)."""
        return self.pull * (1 - self.slope)


@dataclass(frozen=True, eq=False)
class Adjoints:
    """Adjoints of A, (w, d), B, (w, r, d), every W, softplus'(u), (n, w), B x, (n, w, r), and e, (n, w)."""

    linear: Tensor
    skip: Tensor
    hidden: list[Tensor]
    slope: Tensor
    projected: Tensor
    pull: Tensor


def jacobians(weights: Weights, bending: Bending) -> tuple[Float[Tensor, "n d w"], Float[Tensor, "n d d"]]:
    """Jacobians du/dx, transposed, and curvatures."""
    return _compiled_jacobians(weights, bending) if _compiles(bending.slope) else _array_jacobians(weights, bending)


def jacobian_adjoints(
    weights: Weights, bending: Bending, jacobian: Float[Tensor, "n d w"], to_curvature: Float[Tensor, "n d d"]
) -> Adjoints:
    """What symmetric adjoints of the curvatures are worth in everything that these are made of."""
    adjoints = _compiled_adjoints if _compiles(bending.slope) else _array_adjoints
    return adjoints(weights, bending, jacobian, to_curvature)


def _compiles(like: Tensor) -> bool:
    return like.device.type == "cpu" and like.dtype in (torch.float64, torch.float32)


# --- as array expressions --------------------------------------------------------------------------------------------


def _array_jacobians(weights: Weights, bending: Bending) -> tuple[Tensor, Tensor]:
    jacobian = weights.linear.mT.repeat(bending.slope.shape[0], 1, 1)
    for r in range(weights.skip.shape[1]):
        jacobian.addcmul_(bending.projected[:, None, :, r], weights.skip[:, r].mT.contiguous())
    flat = jacobian.flatten(0, 1)
    for below, above, hidden in weights.links:
        flat[:, above].addmm_(_inner(jacobian, bending, below), hidden.mT)
    return jacobian, (jacobian * bending.bend.unsqueeze(1)) @ jacobian.mT


def _inner(jacobian: Tensor, bending: Bending, below: slice) -> Tensor:
    """Jacobians of the activations of some units, (n d, v)."""
    return (jacobian[:, :, below] * bending.slope[:, None, below]).flatten(0, 1)


def _array_adjoints(weights: Weights, bending: Bending, jacobian: Tensor, to_curvature: Tensor) -> Adjoints:
    to_jacobian = to_curvature @ jacobian
    to_bend = (to_jacobian * jacobian).sum(1)
    to_jacobian *= (2 * bending.bend).unsqueeze(1)
    flat, to_slope, to_hidden = to_jacobian.flatten(0, 1), -to_bend * bending.pull, []
    for below, above, hidden in reversed(weights.links):
        to_hidden.append(flat[:, above].mT @ _inner(jacobian, bending, below))
        back = (flat[:, above] @ hidden).unflatten(0, jacobian.shape[:2])
        to_slope[:, below] += (back * jacobian[:, :, below]).sum(1)
        to_jacobian[:, :, below].addcmul_(back, bending.slope[:, None, below])
    to_pull = to_bend * (1 - bending.slope)
    to_projected, to_skip = torch.empty_like(bending.projected), torch.empty_like(weights.skip)
    for r in range(weights.skip.shape[1]):
        to_projected[:, :, r] = (to_jacobian * weights.skip[:, r].mT.contiguous()).sum(1)
        to_skip[:, r] = (to_jacobian * bending.projected[:, None, :, r]).sum(0).mT
    return Adjoints(to_jacobian.sum(0).mT, to_skip, to_hidden[::-1], to_slope, to_projected, to_pull)


# --- compiled --------------------------------------------------------------------------------------------------------


def _array(tensor: Tensor) -> Array:
    return tensor.detach().contiguous().numpy()


def _flat(matrices: list[Tensor], like: Tensor) -> Tensor:
    return torch.cat([matrix.flatten() for matrix in matrices]) if matrices else like.new_empty(0)


def _compiled_jacobians(weights: Weights, bending: Bending) -> tuple[Tensor, Tensor]:
    (n, w), d = bending.slope.shape, weights.linear.shape[1]
    jacobian, curvature = bending.slope.new_empty(n, d, w), bending.slope.new_empty(n, d, d)
    hidden = _flat([hidden.mT for hidden in weights.hidden], bending.slope)
    shared = [_array(part) for part in (weights.linear.mT, weights.skip.permute(1, 2, 0), hidden)]
    shared.append(_array(torch.tensor(weights.edges)))
    points = [_array(part) for part in (bending.slope, bending.projected.mT, bending.pull, jacobian, curvature)]
    fill_jacobians(*shared, *points)
    return jacobian, curvature


def _compiled_adjoints(weights: Weights, bending: Bending, jacobian: Tensor, to_curvature: Tensor) -> Adjoints:
    skip, hidden = _array(weights.skip.permute(1, 2, 0)), _array(_flat(list(weights.hidden), jacobian))
    edges = _array(torch.tensor(weights.edges))
    units = [_array(part) for part in (bending.slope, bending.projected.mT, bending.pull)]
    sums = (np.zeros(jacobian.shape[1:], skip.dtype), np.zeros_like(skip), np.zeros_like(hidden))
    to_units = tuple(np.zeros_like(part) for part in units)
    add_adjoints(*(skip, hidden, edges, *units, _array(jacobian), _array(to_curvature), sums, to_units))
    linear, to_skip, to_hidden = (torch.from_numpy(total) for total in sums)
    matrices = to_hidden.split([matrix.numel() for matrix in weights.hidden])
    shaped = [part.view_as(matrix) for part, matrix in zip(matrices, weights.hidden, strict=True)]
    to_slope, to_projected, to_pull = (torch.from_numpy(part) for part in to_units)
    return Adjoints(linear.mT, to_skip.permute(2, 0, 1), shaped, to_slope, to_projected.mT, to_pull)
