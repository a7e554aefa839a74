"""Potentials V of the Langevin diffusion dX = -grad V dt + sqrt(2/beta) dW."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from jkofilter._typing import Points
from jkofilter.errors import InputError
from jkofilter.models.checks import as_tensor, positive_number, require_orthogonal, require_spd
from jkofilter.models.probes import TORCH_ONLY, probe_points, require_pointwise
from jkofilter.numerics.domain import Domain, as_domain
from jkofilter.numerics.linalg import times

__all__ = ["DoubleWell", "GaussianMixture", "LogCosh", "Potential", "Quadratic", "Rotated", "SineQuadratic"]


Linearised: TypeAlias = Callable[[Tensor], Tensor]
"""A Hessian as what it does to directions (..., d)."""


class Potential:
    """A scalar function of the state, with gradient and Hessian.

    Args:
        function: maps (..., d) to (...), differentiable by torch, and acting on each point by itself.
        dim: state dimension d.
        domain: where V is finite: (low, high) for every coordinate, such a pair for each, or two tensors (d,) of lower
            and upper ends; ends may be infinite; None is R^d. Its walls reflect: the law has no flux through them.

    Attributes:
        domain: a Domain, or None for R^d. Outside it V is plus infinity and ``function`` is never called; gradient
            and Hessian mean nothing there, and at a wall V may be infinite.

    Raises:
        InputError: ``dim`` is not a positive integer, ``function`` returns the wrong shape, couples the points of a
            batch, or cannot be differentiated by torch, or ``domain`` cannot be read.
    """

    domain: Domain | None = None

    def __init__(self, function: Callable[[Tensor], Tensor], dim: int, domain: Any = None) -> None:
        if not isinstance(dim, int) or dim < 1:
            raise InputError(f"dim must be a positive integer, got {dim!r}.")
        self.dim = dim
        self.domain = as_domain(domain, dim)
        self._function = function
        self._check()

    def _check(self) -> None:
        """Shapes, and that points are independent; where the prior lives is for the model to look at."""
        points = self._probes(torch.float64)
        try:
            require_pointwise(self, points, "potential", ())
        except InputError as error:
            # A network of float32, for a prior of float32, takes no others.
            points = self._probes(torch.float32)
            try:
                require_pointwise(self, points, "potential", ())
            except InputError:
                raise error from error.__cause__
        if type(self).gradient is not Potential.gradient:
            return
        try:
            self.gradient(points)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"potential must be differentiable by torch ({type(error).__name__}: {error}); {TORCH_ONLY}, or give a "
                "subclass with a gradient() of its own."
            ) from error

    def _probes(self, dtype: torch.dtype) -> Points:
        points = probe_points(self.dim, dtype)
        return points if self.domain is None else self.domain.reflect(points)

    def __call__(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """Potential energy V(x), plus infinity outside the domain."""
        if self.domain is None:
            return self._function(x)
        inside = self.domain.contains(x)
        # A function such as log(x) would give NaN outside, and its gradient there would spoil that of every point.
        safe = torch.where(inside.unsqueeze(-1), x, self.domain.inside_like(x))
        return torch.where(inside, self._function(safe), torch.inf)

    def gradient(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """grad V(x), by reverse-mode differentiation of the sum over points."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self._total(leaf), leaf)
        return gradient

    def _total(self, leaf: Tensor) -> Tensor:
        total = self(leaf).sum()
        if not total.requires_grad:
            raise InputError(
                "potential must be differentiable by torch: compute it from the state with torch functions, a constant "
                "as 0 * x.sum(-1)."
            )
        return total

    def hessian(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d d"]:
        """Hessian of V(x), one reverse pass per coordinate over all points at once."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self._total(leaf), leaf, create_graph=True)
            if not gradient.requires_grad:
                return torch.zeros(*x.shape, self.dim, dtype=x.dtype, device=x.device)
            rows = [
                torch.autograd.grad(gradient[..., i].sum(), leaf, retain_graph=True, materialize_grads=True)[0]
                for i in range(self.dim)
            ]
        return torch.stack(rows, dim=-2)

    def linearised(self, x: Float[Tensor, "*n d"]) -> tuple[Float[Tensor, "*n d"], Linearised]:
        """grad V(x), and what maps directions v (..., d) to hessian(x) v, at the price of a gradient."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self._total(leaf), leaf, create_graph=True)

        def product(v: Tensor) -> Tensor:
            if not gradient.requires_grad:
                return torch.zeros_like(v)
            (along,) = torch.autograd.grad(gradient, leaf, v, retain_graph=True, materialize_grads=True)
            return along

        return gradient.detach(), product


ROTATES = (
    "a drift -A (x - b) with such an A is no gradient of a V, which is all this toolkit carries, and (A + A.T) / 2 is "
    "another model unless the difference is rounding"
)


class Quadratic(Potential):
    """V(x) = (x - mean)' precision (x - mean) / 2: the Ornstein-Uhlenbeck process.

    Args:
        mean: centre, (d,); a number for d = 1.
        precision: symmetric positive definite, (d, d); a number for d = 1.
        domain: walls, as for Potential.
    """

    def __init__(self, mean: Tensor | float, precision: Tensor | float, domain: Any = None) -> None:
        self.mean = as_tensor(mean, "mean").reshape(-1)
        self.precision = require_spd(precision, "precision", self.mean.numel(), ROTATES).to(self.mean)
        super().__init__(self._energy, self.mean.numel(), domain)

    def _energy(self, x: Tensor) -> Tensor:
        centred = x - self.mean.to(x)
        return 0.5 * ((centred @ self.precision.to(x)) * centred).sum(-1)

    def gradient(self, x: Tensor) -> Tensor:
        """precision (x - mean)."""
        return times(x - self.mean.to(x), self.precision.to(x))

    def hessian(self, x: Tensor) -> Tensor:
        """The precision at every point."""
        return self.precision.to(x).expand(*x.shape, self.dim)

    def linearised(self, x: Tensor) -> tuple[Tensor, Linearised]:
        """Gradient, and the product with the precision."""
        return self.gradient(x), lambda v: times(v, self.precision.to(v))


class Rotated(Potential):
    """V(x) = sum_i v((R x)_i): a product of one-dimensional problems seen in rotated coordinates.

    Args:
        scalar_potential: a Potential of dimension one. If it has walls, they become walls of every coordinate, which
            takes a rotation that only permutes and flips them.
        rotation: orthogonal, (d, d).
    """

    def __init__(self, scalar_potential: Potential, rotation: Tensor) -> None:
        if not isinstance(scalar_potential, Potential):
            raise InputError(f"scalar_potential must be a Potential, got {type(scalar_potential).__name__}.")
        if scalar_potential.dim != 1:
            raise InputError(f"scalar_potential must have dim 1, got dim {scalar_potential.dim}.")
        self.scalar_potential = scalar_potential
        self.rotation = require_orthogonal(rotation, "rotation")
        super().__init__(self._energy, self.rotation.shape[0], _rotated_walls(scalar_potential.domain, self.rotation))

    def _coordinates(self, x: Tensor) -> Tensor:
        return (x @ self.rotation.to(x).mT).unsqueeze(-1)

    def _energy(self, x: Tensor) -> Tensor:
        return self.scalar_potential(self._coordinates(x)).sum(-1)

    def gradient(self, x: Tensor) -> Tensor:
        """R' v'(R x)."""
        return self.scalar_potential.gradient(self._coordinates(x)).squeeze(-1) @ self.rotation.to(x)

    def hessian(self, x: Tensor) -> Tensor:
        """R' diag(v''(R x)) R."""
        curvature = self.scalar_potential.hessian(self._coordinates(x))[..., 0, 0]
        rotation = self.rotation.to(x)
        return torch.einsum("ki,...k,kj->...ij", rotation, curvature, rotation)

    def linearised(self, x: Tensor) -> tuple[Tensor, Linearised]:
        """Those of v, coordinate by coordinate in R x."""
        rotation = self.rotation.to(x)
        slope, curved = self.scalar_potential.linearised(self._coordinates(x))
        return slope.squeeze(-1) @ rotation, lambda v: curved(self._coordinates(v)).squeeze(-1) @ rotation


def _rotated_walls(domain: Domain | None, rotation: Tensor) -> Domain | None:
    """The box in x that every (R x)_i in ``domain`` makes; there is one if R permutes and flips axes."""
    if domain is None:
        return None
    ((low, high),) = domain.sides
    flipped = rotation.round()
    if not torch.allclose(rotation, flipped, atol=1e-8):
        raise InputError(
            "scalar_potential has a domain, whose walls this rotation turns away from the axes; give a rotation that "
            "permutes or flips coordinates, or model the state in the rotated coordinates."
        )
    # Column j of a signed permutation has one entry: the sign with which x_j appears.
    return Domain(tuple((low, high) if sign > 0 else (-high, -low) for sign in flipped.sum(0).tolist()))


class _Separable(Potential):
    """sum_i v((R x)_i) with v, v', v'' in closed form; ``rotation`` None is the identity."""

    def __init__(self, dim: int, rotation: Tensor | None, domain: Any = None) -> None:
        self.rotation = None if rotation is None else require_orthogonal(rotation, "rotation", dim)
        super().__init__(self._energy, dim, domain)

    def _value(self, u: Tensor) -> Tensor:
        raise TypeError("a separable potential defines its scalar value")

    def _slope(self, u: Tensor) -> Tensor:
        raise TypeError("a separable potential defines its scalar slope")

    def _curvature(self, u: Tensor) -> Tensor:
        raise TypeError("a separable potential defines its scalar curvature")

    def _rotate(self, x: Tensor) -> Tensor:
        return x if self.rotation is None else times(x, self.rotation.to(x).mT)

    def _energy(self, x: Tensor) -> Tensor:
        return self._value(self._rotate(x)).sum(-1)

    def gradient(self, x: Tensor) -> Tensor:
        """R' v'(R x)."""
        slope = self._slope(self._rotate(x))
        return slope if self.rotation is None else times(slope, self.rotation.to(x))

    def hessian(self, x: Tensor) -> Tensor:
        """R' diag(v''(R x)) R."""
        curvature = self._curvature(self._rotate(x))
        if self.dim == 1:
            return curvature.unsqueeze(-1)
        if self.rotation is None:
            return torch.diag_embed(curvature)
        rotation = self.rotation.to(x)
        return torch.einsum("ki,...k,kj->...ij", rotation, curvature, rotation)

    def linearised(self, x: Tensor) -> tuple[Tensor, Linearised]:
        """R' v'(R x), and the product with R' diag(v''(R x)) R."""
        slope, curvature = self._slope(u := self._rotate(x)), self._curvature(u)
        if self.rotation is None:
            return slope, lambda v: curvature * v
        rotation = self.rotation.to(x)
        return times(slope, rotation), lambda v: times(curvature * times(v, rotation.mT), rotation)


class DoubleWell(_Separable):
    """V(x) = sum_i (u_i^2 - 1)^2, u = R x: wells at u_i = -1 and 1, barrier 1 (times beta in nats).

    Args:
        dim: state dimension d.
        rotation: orthogonal (d, d); None is the identity.
        domain: walls, as for Potential, in the coordinates of x.
    """

    def __init__(self, dim: int, rotation: Tensor | None = None, domain: Any = None) -> None:
        super().__init__(dim, rotation, domain)

    def _value(self, u: Tensor) -> Tensor:
        return (u * u - 1).square()

    def _slope(self, u: Tensor) -> Tensor:
        return 4 * u * (u * u - 1)

    def _curvature(self, u: Tensor) -> Tensor:
        return 12 * u * u - 4


class SineQuadratic(_Separable):
    """V(x) = sum_i sin(2 pi u_i)/pi + u_i^2/4, u = R x: the potential of Mokrov et al. (2021), section 5.4.

    Args:
        dim: state dimension d.
        rotation: orthogonal (d, d); None is the identity.
        domain: walls, as for Potential, in the coordinates of x.
    """

    def __init__(self, dim: int, rotation: Tensor | None = None, domain: Any = None) -> None:
        super().__init__(dim, rotation, domain)

    def _value(self, u: Tensor) -> Tensor:
        return torch.sin(2 * math.pi * u) / math.pi + u * u / 4

    def _slope(self, u: Tensor) -> Tensor:
        return 2 * torch.cos(2 * math.pi * u) + u / 2

    def _curvature(self, u: Tensor) -> Tensor:
        return 0.5 - (4 * math.pi) * torch.sin(2 * math.pi * u)


class LogCosh(_Separable):
    """V(x) = -s^2 sum_i log cosh(kappa_i x_i), s^2 = 2/beta: the Benes diffusion, drift s^2 kappa tanh(kappa X).

    Exactly solvable (Benes 1981): with s^2 = 2/beta the law stays a cosh-tilted Gaussian. The potential has to know
    beta for that; it is unbounded below, so there is no stationary law. With walls it would not be solvable: for them
    wrap it, ``Potential(LogCosh(kappa), d, domain=...)``.

    Args:
        kappa: steepness per coordinate, scalar or (d,), in inverse units of the state.
        beta: inverse temperature of the SDE it is used with.
    """

    def __init__(self, kappa: float | Tensor, beta: float = 1.0) -> None:
        self.kappa = as_tensor(kappa, "kappa").reshape(-1)
        self.beta = positive_number(beta, "beta")
        super().__init__(self.kappa.numel(), None)

    def _value(self, u: Tensor) -> Tensor:
        scaled = (self.kappa.to(u) * u).abs()
        return -(2 / self.beta) * (scaled + torch.log1p(torch.exp(-2 * scaled)) - math.log(2))

    def _slope(self, u: Tensor) -> Tensor:
        kappa = self.kappa.to(u)
        return -(2 / self.beta) * kappa * torch.tanh(kappa * u)

    def _curvature(self, u: Tensor) -> Tensor:
        kappa = self.kappa.to(u)
        return -(2 / self.beta) * (kappa / torch.cosh((kappa * u).clamp(-350, 350))).square()


class GaussianMixture(Potential):
    """V(x) = -log sum_k w_k N(x; mean_k, covariance_k): the mixture is stationary at beta = 1.

    Args:
        means: (k, d); (k,) for d = 1.
        covariances: symmetric positive definite, (k, d, d); (k,) for d = 1.
        weights: positive, (k,); normalised here.
        domain: walls, as for Potential.
    """

    def __init__(self, means: Tensor, covariances: Tensor, weights: Tensor, domain: Any = None) -> None:
        given = as_tensor(means, "means")
        self.means = given.unsqueeze(-1) if given.ndim == 1 else given
        if self.means.ndim != 2:
            raise InputError(f"means must have shape (k, d), got {tuple(self.means.shape)}.")
        components, dim = self.means.shape
        covariances = as_tensor(covariances, "covariances")
        if dim == 1 and covariances.ndim == 1:
            covariances = covariances.reshape(-1, 1, 1)
        if covariances.shape != (components, dim, dim):
            raise InputError(
                f"covariances must have shape ({components}, {dim}, {dim}), got {tuple(covariances.shape)}."
            )
        covariances = torch.stack([require_spd(covariance, "covariances", dim) for covariance in covariances])
        self.weights = as_tensor(weights, "weights").reshape(-1)
        if self.weights.shape != (components,) or not (self.weights > 0).all():
            raise InputError(f"weights must be {components} positive numbers, got {self.weights.tolist()}.")
        self.weights = self.weights / self.weights.sum()
        self.precisions = torch.linalg.inv(covariances)
        self._log_constants = self.weights.log() - 0.5 * torch.logdet(2 * math.pi * covariances)
        super().__init__(self._energy, dim, domain)

    def _log_components(self, x: Tensor) -> tuple[Tensor, Tensor]:
        centred = x.unsqueeze(-2) - self.means.to(x)
        scaled = torch.einsum("kij,...kj->...ki", self.precisions.to(x), centred)
        return self._log_constants.to(x) - 0.5 * (scaled * centred).sum(-1), scaled

    def _energy(self, x: Tensor) -> Tensor:
        return -torch.logsumexp(self._log_components(x)[0], -1)

    def gradient(self, x: Tensor) -> Tensor:
        """Posterior-weighted mean of precision_k (x - mean_k)."""
        logits, scaled = self._log_components(x)
        return (torch.softmax(logits, -1).unsqueeze(-1) * scaled).sum(-2)

    def hessian(self, x: Tensor) -> Tensor:
        """Mean precision minus the covariance of the component gradients, under the posterior weights."""
        logits, scaled = self._log_components(x)
        weights = torch.softmax(logits, -1)
        centred = scaled - (weights.unsqueeze(-1) * scaled).sum(-2, keepdim=True)
        mean_precision = torch.einsum("...k,kij->...ij", weights, self.precisions.to(x))
        return mean_precision - torch.einsum("...k,...ki,...kj->...ij", weights, centred, centred)
