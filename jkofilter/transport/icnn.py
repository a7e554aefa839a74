"""The input-convex neural network, with its gradient and Hessian by recursion.

    u_l = W_l z_{l-1} + A_l x + q_l(x) + b_l,    z_l = softplus(u_l),    q_l(x)_i = sum_r (B_lir . x)^2 / 2,
    psi(x) = sum_l a_l . z_l + x'Qx/2 + c'x,     W_l >= 0,  a_l >= 0,  Q = R R' + floor I

(Amos, Xu & Kolter 2017; the dense form with quadratic skip layers of Korotin et al. 2021, here with every hidden layer
feeding the output.) With J_l = du_l/dx by forward recursion, p_l = dpsi/dz_l and e_l = p_l softplus'(u_l) by backward
recursion,

    grad psi = sum_l (A_l + dq_l)' e_l + Q x + c,
    Hess psi = sum_l J_l' diag(p_l softplus''(u_l)) J_l + sum_l sum_i e_li sum_r B_lir B_lir' + Q:

positive definite by construction, and one reverse pass to train through instead of one for each dimension.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import softplus as torch_softplus

from jkofilter._typing import Matrix, Points, Scalars, State

FLOOR = 1e-3
"""Least eigenvalue of Q."""


def softplus(u: Tensor) -> Tensor:
    """log(1 + e^u) to double precision: torch's own turns linear at 20, where it is off by 2e-9."""
    return torch_softplus(u, threshold=40.0)


@dataclass(frozen=True, eq=False)
class Layer:
    """One hidden layer; the raw tensors are unconstrained.

    Attributes:
        linear: A, (w, d).
        bias: b, (w,).
        skip: B, (w, r, d).
        output: raw of a = softplus(output) / w, (w,).
        hidden: raw of W = softplus(hidden) / (width of the layer below), (w, v); None in the first layer.
    """

    linear: Float[Tensor, "w d"]
    bias: Float[Tensor, " w"]
    skip: Float[Tensor, "w r d"]
    output: Float[Tensor, " w"]
    hidden: Float[Tensor, "w v"] | None = None


@dataclass(frozen=True, eq=False)
class _Trace:
    """A forward pass: pre-activations (n, w), their Jacobians (w, n, d), and the skips' projections (n, w, r).

    Units come first in the Jacobians, so that a layer's weights act on all particles in one matrix product.
    """

    u: list[Tensor]
    jacobian: list[Tensor]
    projected: list[Tensor]


@dataclass(frozen=True, eq=False)
class ICNN:
    """An input-convex neural network.

    Attributes:
        layers: hidden layers, the first one first.
        root: R, (d, d).
        shift: c, (d,).
    """

    layers: tuple[Layer, ...]
    root: Matrix
    shift: State

    @property
    def dim(self) -> int:
        """State dimension d."""
        return self.shift.numel()

    @property
    def quadratic(self) -> Matrix:
        """Q, (d, d)."""
        eye = torch.eye(self.dim, dtype=self.root.dtype, device=self.root.device)
        return self.root @ self.root.mT + FLOOR * eye

    def _weights(self, layer: Layer) -> tuple[Tensor, Tensor | None]:
        output = softplus(layer.output) / layer.output.numel()
        hidden = None if layer.hidden is None else softplus(layer.hidden) / layer.hidden.shape[1]
        return output, hidden

    def _forward(self, x: Points) -> _Trace:
        trace = _Trace([], [], [])
        for layer in self.layers:
            width, rank, d = layer.skip.shape
            projected = (x @ layer.skip.reshape(-1, d).mT).reshape(-1, width, rank)
            u = x @ layer.linear.mT + layer.bias + 0.5 * projected.square().sum(-1)
            jacobian = layer.linear.unsqueeze(1).expand(-1, x.shape[0], -1)
            for r in range(rank):
                jacobian = torch.addcmul(jacobian, projected[:, :, r].mT.unsqueeze(-1), layer.skip[:, None, r])
            _, hidden = self._weights(layer)
            if hidden is not None:
                below = trace.u[-1]
                u = u + softplus(below) @ hidden.mT
                inner = below.sigmoid().mT.unsqueeze(-1) * trace.jacobian[-1]
                jacobian = jacobian + (hidden @ inner.reshape(inner.shape[0], -1)).reshape(jacobian.shape)
            trace.u.append(u)
            trace.jacobian.append(jacobian)
            trace.projected.append(projected)
        return trace

    def _backward(self, trace: _Trace) -> list[Tensor]:
        """p_l = dpsi/dz_l, (n, w)."""
        sensitivities: list[Tensor] = []
        above: Tensor | None = None
        for layer, u in zip(reversed(self.layers), reversed(trace.u), strict=True):
            output, hidden = self._weights(layer)
            p = output.expand_as(u) if above is None else output + above
            sensitivities.insert(0, p)
            if hidden is not None:
                above = (p * u.sigmoid()) @ hidden
        return sensitivities

    def __call__(self, x: Points) -> Scalars:
        """psi(x), (n,)."""
        trace = self._forward(x)
        value = 0.5 * ((x @ self.quadratic) * x).sum(-1) + x @ self.shift
        for layer, u in zip(self.layers, trace.u, strict=True):
            value = value + softplus(u) @ self._weights(layer)[0]
        return value

    def gradient(self, x: Points) -> Points:
        """The map grad psi(x), (n, d)."""
        return self.gradient_and_hessian(x)[0]

    def hessian(self, x: Points) -> Float[Tensor, "n d d"]:
        """Its Jacobian, (n, d, d)."""
        return self.gradient_and_hessian(x)[1]

    def gradient_and_hessian(self, x: Points) -> tuple[Points, Float[Tensor, "n d d"]]:
        """Both by one forward and one backward recursion."""
        trace = self._forward(x)
        quadratic = self.quadratic
        gradient, hessian = x @ quadratic + self.shift, quadratic
        for layer, u, jacobian, projected, p in zip(
            self.layers, trace.u, trace.jacobian, trace.projected, self._backward(trace), strict=True
        ):
            slope = u.sigmoid()
            e = p * slope
            quadratic_pull = (e.unsqueeze(-1) * projected).flatten(1) @ layer.skip.flatten(0, 1)
            gradient = gradient + e @ layer.linear + quadratic_pull
            turned = jacobian.permute(1, 2, 0)
            hessian = hessian + (turned * (p * slope * (1 - slope)).unsqueeze(1)) @ turned.mT
            outer = layer.skip.mT @ layer.skip
            hessian = hessian + (e @ outer.reshape(outer.shape[0], -1)).reshape(-1, *outer.shape[1:])
        return gradient, hessian

    def log_det_gradient(self, x: Points, inverse_hessian: Float[Tensor, "n d d"]) -> Points:
        """tr(H^-1 d_i H) for every i, by one reverse pass, (n, d)."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad((inverse_hessian.detach() * self.hessian(leaf)).sum(), leaf)
        return gradient

    def parameters(self) -> dict[str, Tensor]:
        """Every tensor by name."""
        named = {"root": self.root, "shift": self.shift}
        for number, layer in enumerate(self.layers):
            for name in ("linear", "bias", "skip", "output", "hidden"):
                value = getattr(layer, name)
                if value is not None:
                    named[f"{name}.{number}"] = value
        return named

    @staticmethod
    def from_parameters(parameters: Mapping[str, Tensor]) -> ICNN:
        """The inverse of ``parameters``."""
        count = sum(1 for name in parameters if name.startswith("linear."))
        names = ("linear", "bias", "skip", "output", "hidden")
        layers = [Layer(*(parameters.get(f"{name}.{i}") for name in names)) for i in range(count)]  # type: ignore[arg-type]
        return ICNN(tuple(layers), parameters["root"], parameters["shift"])

    @staticmethod
    def random(x: Points, widths: tuple[int, ...], rank: int, share: float, generator: Generator) -> ICNN:
        """A random network that is close to the identity on the particles ``x``.

        Units switch where the particles are: first-layer rows are random directions over the particles' own spread.
        The network's mean Hessian is at most ``share`` of the identity, and Q and c make up for it.
        """
        like: dict[str, Any] = {"dtype": x.dtype, "device": x.device}
        mean, spread, d = x.mean(0), x.std(0), x.shape[1]
        layers: list[Layer] = []
        for number, width in enumerate(widths):
            rows = torch.randn(width, d, generator=generator, **like)
            rows = SHARPNESS * rows / rows.norm(dim=1, keepdim=True)
            offset = 1.5 * SHARPNESS * torch.randn(width, generator=generator, **like)
            linear = rows / spread
            skip = 0.1 * torch.randn(width, rank, d, generator=generator, **like) / (spread * math.sqrt(d))
            hidden = torch.randn(width, widths[number - 1], generator=generator, **like) if number else None
            bias = offset - linear @ mean
            layers.append(Layer(linear, bias, skip, torch.zeros(width, **like), hidden))
        eye = torch.eye(d, **like)
        raw = ICNN(tuple(layers), torch.zeros_like(eye), torch.zeros_like(mean))
        bare = raw.hessian(x).mean(0) - FLOOR * eye
        scale = share / torch.linalg.eigvalsh(bare)[-1].item()
        scaled = [Layer(*_scaled(layer, scale)) for layer in layers]
        network = ICNN(tuple(scaled), raw.root, raw.shift)
        return network.completed(x)

    def completed(self, x: Points) -> ICNN:
        """The same network with Q and c such that map and Jacobian are those of the identity on average over ``x``."""
        eye = torch.eye(self.dim, dtype=x.dtype, device=x.device)
        bare = ICNN(self.layers, torch.zeros_like(eye), torch.zeros_like(self.shift))
        y, hessian = bare.gradient_and_hessian(x)
        root = torch.linalg.cholesky(eye - hessian.mean(0))
        network = ICNN(self.layers, root, torch.zeros_like(self.shift))
        return ICNN(self.layers, root, (x - network.gradient(x)).mean(0))

    def rescaled(self, share: float) -> ICNN | None:
        """(1 - share) |x|^2 / 2 + share psi(x): that share of the way; None where Q does not allow it."""
        eye = torch.eye(self.dim, dtype=self.root.dtype, device=self.root.device)
        root, info = torch.linalg.cholesky_ex((1 - share) * eye + share * self.quadratic - FLOOR * eye)
        if info.item() != 0:
            return None
        layers = [Layer(*_scaled(layer, share)) for layer in self.layers]
        return ICNN(tuple(layers), root, share * self.shift)


SHARPNESS = 3.0
"""Slope of a fresh first-layer unit, per standard deviation of the particles."""


def _scaled(layer: Layer, share: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """The fields of a layer whose output weights are ``share`` of the old ones."""
    weights = (share * softplus(layer.output)).clamp(min=1e-12)
    # The inverse of softplus, in the form that neither under- nor overflows.
    raw = weights + torch.log(-torch.expm1(-weights))
    return layer.linear, layer.bias, layer.skip, raw, layer.hidden
