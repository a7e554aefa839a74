"""Gradient and Hessian of the hidden layers of an input-convex network, with their reverse pass written out.

The recursions are those of ``icnn``: forward for pre-activations u_l and Jacobians J_l = du_l/dx, backward for
p_l = dpsi/dz_l. Their adjoint runs the same two recursions the other way round. Automatic differentiation finds the
same numbers, with about twice the passes over the Jacobians, which is where the time of training goes. The units of all
layers lie side by side in one (n, d, w) array, so that most products take all layers at once, along the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus as torch_softplus

from jkofilter._typing import Points
from jkofilter.numerics.threads import blocks, in_threads
from jkofilter.transport.maps.icnn_jacobians import Adjoints, Bending, Weights, jacobian_adjoints, jacobians

CHUNK = 2**22
"""Entries of the Jacobians that are held at once."""


def softplus(u: Tensor) -> Tensor:
    """log(1 + e^u) to double precision: torch's own turns linear at 20, where it is off by 2e-9."""
    return torch_softplus(u, threshold=40.0)


def softplus_inverse(value: Tensor) -> Tensor:
    """u with softplus(u) = value, positive, in the form that neither under- nor overflows."""
    return value + torch.log(-torch.expm1(-value))


@dataclass(frozen=True, eq=False)
class _Trace:
    """The layers at n points: B x (n, w, r); softplus'(u), p = dpsi/dz and e = dpsi/du, (n, w); softplus(u) a layer."""

    projected: Tensor
    slope: Tensor
    activations: list[Tensor]
    sensitivity: Tensor
    pull: Tensor

    @property
    def bending(self) -> Bending:
        """What the Jacobians and curvatures are made of."""
        return Bending(self.slope, self.projected, self.pull)


def _trace(x: Points, weights: Weights) -> _Trace:
    projected = weights.project(x)
    u = torch.addmm(weights.bias, x, weights.linear.mT) + 0.5 * projected.square().sum(-1)
    activations = []
    for below, above, hidden in weights.links:
        activations.append(softplus(u[:, below]))
        u[:, above] += activations[-1] @ hidden.mT
    slope = u.sigmoid()
    sensitivity = weights.output.expand_as(u).clone()
    for below, above, hidden in reversed(weights.links):
        sensitivity[:, below] += (sensitivity[:, above] * slope[:, above]) @ hidden
    return _Trace(projected, slope, activations, sensitivity, sensitivity * slope)


def _through_outputs(
    weights: Weights, trace: _Trace, jacobian: Tensor, to_gradient: Points, to_hessian: Float[Tensor, "n d d"]
) -> tuple[Adjoints, Tensor]:
    """From gradient and Hessian to what they are made of, and to a; the adjoint of p_l climbs, as p_l comes down."""
    pull, slope, flat = trace.pull, trace.slope, to_hessian.flatten(1)
    within = jacobian_adjoints(weights, trace.bending, jacobian, to_hessian)
    along = weights.project(to_gradient)
    to_pull = within.pull.addmm_(to_gradient, weights.linear.mT).addmm_(flat, weights.outer.mT)
    to_pull += (along * trace.projected).sum(-1)
    hidden: list[Tensor] = []
    for (below, above, matrix), found in zip(weights.links, within.hidden, strict=True):
        to_sensitivity = to_pull[:, below] * slope[:, below]
        to_pull[:, above] += to_sensitivity @ matrix.mT
        hidden.append(torch.addmm(found, pull[:, above].mT, to_sensitivity))
    pulled = (pull.unsqueeze(-1) * trace.projected).flatten(1)
    skip = within.skip + (pulled.mT @ to_gradient).unflatten(0, weights.skip.shape[:2])
    skip = skip + 2 * weights.skip @ (pull.mT @ flat).unflatten(1, to_hessian.shape[1:])
    to_slope = within.slope.addcmul_(to_pull, trace.sensitivity)
    linear = torch.addmm(within.linear, pull.mT, to_gradient)
    to_projected = within.projected + along * pull.unsqueeze(-1)
    return Adjoints(linear, skip, hidden, to_slope, to_projected, to_pull), (to_pull * slope).sum(0)


def _through_layers(
    x: Points, weights: Weights, trace: _Trace, adjoints: Adjoints, to_points: bool
) -> tuple[Points | None, tuple[Tensor, ...]]:
    """From the top layer down to x: adjoints of x, which training does not ask for, and of A, b, B, W_2, ..."""
    to_u = adjoints.slope * (trace.slope * (1 - trace.slope))
    hidden = list(adjoints.hidden)
    for number, (below, above, matrix) in reversed(list(enumerate(weights.links))):
        hidden[number] = torch.addmm(hidden[number], to_u[:, above].mT, trace.activations[number])
        to_u[:, below] += (to_u[:, above] @ matrix) * trace.slope[:, below]
    to_projected = adjoints.projected + to_u.unsqueeze(-1) * trace.projected
    linear = torch.addmm(adjoints.linear, to_u.mT, x)
    skip = adjoints.skip + (to_projected.flatten(1).mT @ x).unflatten(0, weights.skip.shape[:2])
    return weights.pull_back(to_u, to_projected) if to_points else None, (linear, to_u.sum(0), skip, *hidden)


@dataclass(frozen=True, eq=False)
class _Part:
    """Some of the points, and what the reverse pass needs of them."""

    block: slice
    x: Points
    trace: _Trace
    jacobian: Tensor


def _forward(part: slice, x: Points, weights: Weights) -> tuple[_Part, Points, Float[Tensor, "n d d"]]:
    trace = _trace(x, weights)
    jacobian, hessian = jacobians(weights, trace.bending)
    hessian.flatten(1).addmm_(trace.pull, weights.outer)
    gradient = weights.pull_back(trace.pull, trace.pull.unsqueeze(-1) * trace.projected)
    return _Part(part, x, trace, jacobian), gradient, hessian


def _backward(
    part: _Part, weights: Weights, to_gradient: Points, to_hessian: Float[Tensor, "n d d"], to_points: bool
) -> tuple[Points | None, tuple[Tensor, ...]]:
    """Adjoints of the points, and of A, b, B, a, W_2, ..."""
    symmetric = 0.5 * (to_hessian + to_hessian.mT)
    adjoints, output = _through_outputs(weights, part.trace, part.jacobian, to_gradient, symmetric)
    to_x, (linear, bias, skip, *hidden) = _through_layers(part.x, weights, part.trace, adjoints, to_points)
    return to_x, (linear, bias, skip, output, *hidden)


class _Derivatives(torch.autograd.Function):
    """(x, A, b, B, a, W_2, ...) -> gradient, Hessian.

    Blocks do not depend on the number of threads, so neither do the sums over them.
    """

    @staticmethod
    def forward(ctx: Any, x: Points, *fields: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        weights, points = _weights([field.detach() for field in fields]), x.detach()
        found = in_threads(lambda block: _forward(block, points[block], weights), blocks(x))
        ctx.save_for_backward(x, *fields)
        ctx.parts = [part for part, _, _ in found]
        return torch.cat([gradient for _, gradient, _ in found]), torch.cat([hessian for _, _, hessian in found])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_gradient: Tensor, to_hessian: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        _, *fields = ctx.saved_tensors
        weights, wanted = _weights([field.detach() for field in fields]), ctx.needs_input_grad[0]

        def work(part: _Part) -> tuple[Points | None, tuple[Tensor, ...]]:
            return _backward(part, weights, to_gradient[part.block], to_hessian[part.block], wanted)

        found = in_threads(work, ctx.parts)
        to_points = [to_x for to_x, _ in found if to_x is not None]
        totals = [torch.stack(parts).sum(0) for parts in zip(*(to_fields for _, to_fields in found), strict=True)]
        return torch.cat(to_points) if wanted else None, *totals


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
