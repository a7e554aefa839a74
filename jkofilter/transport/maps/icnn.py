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
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from jkofilter._typing import Matrix, Points, Scalars, State
from jkofilter.transport.maps.icnn_derivatives import (
    layers_gradient,
    layers_gradient_and_hessian,
    softplus,
    softplus_inverse,
)
from jkofilter.transport.maps.icnn_jacobians import Weights

FLOOR = 1e-3
"""Least eigenvalue of Q."""


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

    def _weights(self) -> Weights:
        """The layers as they act, with the positive weights positive."""
        layers = self.layers
        return Weights(
            torch.cat([layer.linear for layer in layers]),
            torch.cat([layer.bias for layer in layers]),
            torch.cat([layer.skip for layer in layers]),
            torch.cat([softplus(layer.output) / layer.output.numel() for layer in layers]),
            tuple(softplus(layer.hidden) / layer.hidden.shape[1] for layer in layers if layer.hidden is not None),
        )

    def __call__(self, x: Points) -> Scalars:
        """psi(x), (n,)."""
        weights = self._weights()
        u = x @ weights.linear.mT + weights.bias + 0.5 * weights.project(x).square().sum(-1)
        widths = [layer.bias.numel() for layer in self.layers]
        activations = [softplus(part) for part in u.split(widths, 1)[:1]]
        for part, hidden in zip(u.split(widths, 1)[1:], weights.hidden, strict=True):
            activations.append(softplus(part + activations[-1] @ hidden.mT))
        return torch.cat(activations, 1) @ weights.output + 0.5 * ((x @ self.quadratic) * x).sum(-1) + x @ self.shift

    def gradient(self, x: Points) -> Points:
        """The map grad psi(x), (n, d)."""
        return layers_gradient(x, self._weights()) + x @ self.quadratic + self.shift

    def hessian(self, x: Points) -> Float[Tensor, "n d d"]:
        """Its Jacobian, (n, d, d)."""
        return self.gradient_and_hessian(x)[1]

    def gradient_and_hessian(self, x: Points) -> tuple[Points, Float[Tensor, "n d d"]]:
        """Both by one forward and one backward recursion."""
        gradient, hessian = layers_gradient_and_hessian(x, self._weights())
        quadratic = self.quadratic
        return gradient + x @ quadratic + self.shift, hessian + quadratic

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
        return ICNN(tuple(_scaled(layer, scale) for layer in layers), raw.root, raw.shift).about(x, eye, raw.shift, 1.0)

    def about(self, x: Points, matrix: Matrix, shift: State, most: float = 0.5) -> ICNN:
        """A network whose map and Jacobian are on average over ``x`` those of the affine map matrix x + shift.

        Hidden layers keep their shapes, and their weights as far as they leave some of ``matrix`` to Q.

        Args:
            x: particles, (n, d).
            matrix: symmetric, of eigenvalues above FLOOR.
            shift: of the map.
            most: share of ``matrix``, in any direction, that hidden layers may hold.
        """
        eye = torch.eye(self.dim, dtype=x.dtype, device=x.device)
        bare = ICNN(self.layers, torch.zeros_like(eye), torch.zeros_like(shift))
        factor, left = torch.linalg.cholesky(matrix - FLOOR * eye), bare.hessian(x).mean(0) - FLOOR * eye
        whitened = torch.linalg.solve_triangular(factor, left, upper=False)
        whitened = torch.linalg.solve_triangular(factor, whitened.mT, upper=False)
        share = min(1.0, most / torch.linalg.eigvalsh(0.5 * (whitened + whitened.mT))[-1].item())
        root = torch.linalg.cholesky(matrix - FLOOR * eye - share * left)
        network = ICNN(tuple(_scaled(layer, share) for layer in self.layers), root, torch.zeros_like(shift))
        return replace(network, shift=(x @ matrix + shift - network.gradient(x)).mean(0))

    def rescaled(self, share: float) -> ICNN | None:
        """(1 - share) |x|^2 / 2 + share psi(x): that share of the way; None where Q does not allow it."""
        eye = torch.eye(self.dim, dtype=self.root.dtype, device=self.root.device)
        root, info = torch.linalg.cholesky_ex((1 - share) * eye + share * self.quadratic - FLOOR * eye)
        if info.item() != 0:
            return None
        return ICNN(tuple(_scaled(layer, share) for layer in self.layers), root, share * self.shift)


SHARPNESS = 3.0
"""Slope of a fresh first-layer unit, per standard deviation of the particles."""


def _scaled(layer: Layer, share: float) -> Layer:
    """The layer with ``share`` of its output weights."""
    weights = (share * softplus(layer.output)).clamp(min=1e-12)
    return replace(layer, output=softplus_inverse(weights))
