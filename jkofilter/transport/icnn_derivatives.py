"""Gradient and Hessian of the hidden layers of an input-convex network, with their reverse pass written out.

The recursions are those of ``icnn``: forward for pre-activations u_l and Jacobians J_l = du_l/dx, backward for
p_l = dpsi/dz_l. Their adjoint runs the same two recursions the other way round. Automatic differentiation finds the
same numbers, with about twice the passes over the Jacobians, which is where the time of training goes. The units of all
layers lie side by side in one (n, d, w) array, so that most products take all layers at once, along the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus as torch_softplus

from jkofilter._typing import Points

CHUNK = 2**18
"""Entries of the Jacobians that are worked on at once: they should stay in a core's cache."""


def softplus(u: Tensor) -> Tensor:
    """log(1 + e^u) to double precision: torch's own turns linear at 20, where it is off by 2e-9."""
    return torch_softplus(u, threshold=40.0)


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
    def links(self) -> list[tuple[slice, slice, Tensor]]:
        """(units below, units above, W) of neighbouring layers, from the bottom."""
        if not self.hidden:
            return []
        edges = [0, self.hidden[0].shape[1]]
        for hidden in self.hidden:
            edges.append(edges[-1] + hidden.shape[0])
        spans = [slice(*pair) for pair in pairwise(edges)]
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
class _Trace:
    """The layers at n points: B x (n, w, r); softplus'(u), softplus(u), p = dpsi/dz and e = dpsi/du, (n, w)."""

    projected: Tensor
    slope: Tensor
    activation: Tensor
    sensitivity: Tensor
    pull: Tensor


def _trace(x: Points, weights: Weights) -> _Trace:
    projected = weights.project(x)
    u = torch.addmm(weights.bias, x, weights.linear.mT) + 0.5 * projected.square().sum(-1)
    for below, above, hidden in weights.links:
        u[:, above] += softplus(u[:, below]) @ hidden.mT
    slope = u.sigmoid()
    sensitivity = weights.output.expand_as(u).clone()
    for below, above, hidden in reversed(weights.links):
        sensitivity[:, below] += (sensitivity[:, above] * slope[:, above]) @ hidden
    return _Trace(projected, slope, softplus(u), sensitivity, sensitivity * slope)


def _jacobians(weights: Weights, trace: _Trace) -> Float[Tensor, "n d w"]:
    jacobian = weights.linear.mT.repeat(trace.slope.shape[0], 1, 1)
    for r in range(weights.skip.shape[1]):
        jacobian.addcmul_(trace.projected[:, None, :, r], weights.skip[:, r].mT.contiguous())
    flat = jacobian.flatten(0, 1)
    for below, above, hidden in weights.links:
        flat[:, above].addmm_(_inner(jacobian, trace, below), hidden.mT)
    return jacobian


def _inner(jacobian: Tensor, trace: _Trace, below: slice) -> Tensor:
    """Jacobians of the activations of some units, (n d, v)."""
    return (jacobian[:, :, below] * trace.slope[:, None, below]).flatten(0, 1)


def _hessian(weights: Weights, trace: _Trace, jacobian: Tensor) -> Float[Tensor, "n d d"]:
    bend = trace.pull * (1 - trace.slope)
    hessian = (jacobian * bend.unsqueeze(1)) @ jacobian.mT
    hessian.flatten(1).addmm_(trace.pull, weights.outer)
    return hessian


@dataclass(frozen=True, eq=False)
class _Adjoints:
    """Adjoints that a reverse pass adds to: of the parameters, of slopes and projections, and of the Jacobians."""

    linear: Tensor
    skip: Tensor
    output: Tensor
    hidden: list[Tensor]
    slope: Tensor
    projected: Tensor
    jacobian: Tensor


def _through_outputs(
    weights: Weights, trace: _Trace, jacobian: Tensor, to_gradient: Points, to_hessian: Float[Tensor, "n d d"]
) -> _Adjoints:
    """From gradient and Hessian to what they are made of; p_l depends on the layers above, so its adjoint climbs."""
    pull, slope, flat = trace.pull, trace.slope, to_hessian.flatten(1)
    to_jacobian = to_hessian @ jacobian
    to_bend = (to_jacobian * jacobian).sum(1)
    to_jacobian *= (2 * pull * (1 - slope)).unsqueeze(1)
    along = weights.project(to_gradient)
    to_pull = to_gradient @ weights.linear.mT + (along * trace.projected).sum(-1) + flat @ weights.outer.mT
    to_pull += to_bend * (1 - slope)
    hidden: list[Tensor] = []
    for below, above, matrix in weights.links:
        to_sensitivity = to_pull[:, below] * slope[:, below]
        to_pull[:, above] += to_sensitivity @ matrix.mT
        hidden.append(pull[:, above].mT @ to_sensitivity)
    pulled = (pull.unsqueeze(-1) * trace.projected).flatten(1)
    skip = (pulled.mT @ to_gradient).unflatten(0, weights.skip.shape[:2])
    skip = skip + 2 * weights.skip @ (pull.mT @ flat).unflatten(1, to_hessian.shape[1:])
    output = (to_pull * slope).sum(0)
    to_slope = to_pull * trace.sensitivity - to_bend * pull
    linear = pull.mT @ to_gradient
    return _Adjoints(linear, skip, output, hidden, to_slope, along * pull.unsqueeze(-1), to_jacobian)


def _through_layers(
    x: Points, weights: Weights, trace: _Trace, jacobian: Tensor, adjoints: _Adjoints
) -> tuple[Points, Tensor]:
    """From the top layer down to x; completes the adjoints of the parameters, returns those of x and of the biases."""
    links = list(enumerate(weights.links))
    flat = adjoints.jacobian.flatten(0, 1)
    for number, (below, above, hidden) in reversed(links):
        adjoints.hidden[number].addmm_(flat[:, above].mT, _inner(jacobian, trace, below))
        back = (flat[:, above] @ hidden).unflatten(0, jacobian.shape[:2])
        adjoints.slope[:, below] += (back * jacobian[:, :, below]).sum(1)
        adjoints.jacobian[:, :, below].addcmul_(back, trace.slope[:, None, below])
    adjoints.linear.add_(adjoints.jacobian.sum(0).mT)
    for r in range(weights.skip.shape[1]):
        adjoints.projected[:, :, r] += (adjoints.jacobian * weights.skip[:, r].mT.contiguous()).sum(1)
        adjoints.skip[:, r] += (adjoints.jacobian * trace.projected[:, None, :, r]).sum(0).mT
    to_u = adjoints.slope * (trace.slope * (1 - trace.slope))
    for number, (below, above, hidden) in reversed(links):
        adjoints.hidden[number].addmm_(to_u[:, above].mT, trace.activation[:, below])
        to_u[:, below] += (to_u[:, above] @ hidden) * trace.slope[:, below]
    adjoints.projected.add_(to_u.unsqueeze(-1) * trace.projected)
    adjoints.linear.addmm_(to_u.mT, x)
    adjoints.skip.add_((adjoints.projected.flatten(1).mT @ x).unflatten(0, weights.skip.shape[:2]))
    return weights.pull_back(to_u, adjoints.projected), to_u.sum(0)


class _Derivatives(torch.autograd.Function):
    """(x, A, b, B, a, W_2, ...) -> gradient, Hessian."""

    @staticmethod
    def forward(ctx: Any, x: Points, *fields: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        weights = _weights(fields)
        trace = _trace(x, weights)
        jacobian = _jacobians(weights, trace)
        ctx.save_for_backward(x, *fields)
        ctx.passed = trace, jacobian
        gradient = weights.pull_back(trace.pull, trace.pull.unsqueeze(-1) * trace.projected)
        return gradient, _hessian(weights, trace, jacobian)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_gradient: Tensor, to_hessian: Tensor) -> tuple[Tensor, ...]:  # noqa: D102
        x, *fields = ctx.saved_tensors
        weights, (trace, jacobian) = _weights(fields), ctx.passed
        symmetric = 0.5 * (to_hessian + to_hessian.mT)
        adjoints = _through_outputs(weights, trace, jacobian, to_gradient, symmetric)
        to_x, bias = _through_layers(x, weights, trace, jacobian, adjoints)
        return to_x, adjoints.linear, bias, adjoints.skip, adjoints.output, *adjoints.hidden


def _weights(fields: Sequence[Tensor]) -> Weights:
    return Weights(fields[0], fields[1], fields[2], fields[3], tuple(fields[4:]))


def layers_gradient(x: Points, weights: Weights) -> Points:
    """Gradient of a . softplus(u) at every point, (n, d)."""
    trace = _trace(x, weights)
    return weights.pull_back(trace.pull, trace.pull.unsqueeze(-1) * trace.projected)


def layers_gradient_and_hessian(x: Points, weights: Weights) -> tuple[Points, Float[Tensor, "n d d"]]:
    """Gradient and Hessian of a . softplus(u), (n, d) and (n, d, d); differentiable once, by x and by the weights."""
    fields = (weights.linear, weights.bias, weights.skip, weights.output, *weights.hidden)
    chunk = max(CHUNK // weights.linear.numel(), 32)
    parts = [_Derivatives.apply(part, *fields) for part in x.split(chunk)]
    if len(parts) == 1:
        return parts[0]
    return torch.cat([gradient for gradient, _ in parts]), torch.cat([hessian for _, hessian in parts])
