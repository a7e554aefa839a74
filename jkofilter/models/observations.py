"""Observation models p(y | x): a log likelihood and a sampler each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from scipy.special import stdtr
from torch import Generator, Tensor

from jkofilter._typing import Points, Reading, Readings, Scalars
from jkofilter.errors import InputError
from jkofilter.models.checks import as_tensor, positive_number, require_spd
from jkofilter.numerics.draws import standard_normal
from jkofilter.numerics.linalg import gaussian_log_density


@runtime_checkable
class ObservationModel(Protocol):
    """What a filter needs of a sensor; any object with these two methods will do.

    NaN components of ``y`` are missing: a model leaves them out of the log likelihood (an all-NaN reading never
    reaches it). Models of your own that cannot leave a component out may return NaN, which the filters report.
    """

    def log_likelihood(self, y: Reading, x: Points) -> Scalars:
        """log p(y | x) at every point, for one reading."""
        ...

    def sample(self, x: Points, generator: Generator) -> Readings:
        """One reading for every point."""
        ...


@runtime_checkable
class TailedObservation(ObservationModel, Protocol):
    """A sensor that knows the distribution function of its components."""

    def tails(self, y: Reading, x: Points) -> tuple[Readings, Readings]:
        """P(Y_i <= y_i | x) and P(Y_i >= y_i | x) of every component at every point, (n, p) each."""
        ...


EXACT = "a reading that is exact has no density; give it the variance of its last digit, digit**2 / 12"
"""What to do about noise without variance: rounding to a digit is noise too, uniform over it."""


def _output(function: Callable[[Tensor], Tensor], x: Points, name: str, components: int | None = None) -> Readings:
    """What a user's ``function`` makes of ``x`` (n, d), once it is a tensor (n, p).

    Raises:
        InputError: it is something else; names the function.
    """
    output: Any = function(x)
    if not isinstance(output, Tensor):
        raise InputError(
            f"{name} must return a tensor, got {type(output).__name__}; compute it with torch functions, or wrap the "
            "result in torch.as_tensor."
        )
    if output.ndim != 2 or output.shape[0] != x.shape[0] or components not in (None, output.shape[1]):
        cure = "; keep the last axis, as in x[:, :1]" if output.ndim == 1 else ""
        wanted = f"(n, {components or 'p'})"
        raise InputError(f"{name} must map (n, d) to {wanted}, but {tuple(x.shape)} gave {tuple(output.shape)}{cure}.")
    return output


def _matched(y: Reading, output: Readings) -> Tensor:
    """``y`` in the type of ``output`` (n, p), once they fit together.

    Without this a reading of one component would be broadcast over the p coordinates, and one of n over the points.

    Many readings are (m, 1, p).

    Raises:
        InputError: ``y`` has another length than p.
    """
    if y.shape[-1:] != output.shape[1:] or y.shape[:-1] not in ((), (len(y), 1)):
        raise InputError(f"y must hold {output.shape[1]} components for this observation model, got {tuple(y.shape)}.")
    return y.to(output)


def gaussian_log_likelihood(y: Reading, mean: Readings, covariance: Tensor) -> Scalars:
    """log N(y; mean, covariance), (n,), with the NaN components of ``y`` marginalised out."""
    present = ~torch.isnan(y)
    if not present.all():
        y, mean, covariance = y[present], mean[:, present], covariance[present][:, present]
    residuals = y - mean
    return gaussian_log_density(residuals, covariance.to(residuals))


class NonlinearGaussian:
    """y = function(x) + noise, noise ~ N(0, covariance).

    Args:
        function: maps (n, d) to (n, p).
        covariance: symmetric positive definite, (p, p); a number for p = 1.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], covariance: Tensor | float) -> None:
        self.function = function
        self.covariance = require_spd(covariance, "covariance", singular=EXACT)

    @property
    def dim(self) -> int:
        """Observation dimension p."""
        return self.covariance.shape[0]

    def predict(self, x: Points) -> Readings:
        """Noise-free readings, (n, p).

        Raises:
            InputError: ``function`` returns another shape.
        """
        return _output(self.function, x, "function", self.dim)

    def predict_near(self, y: Reading, x: Points) -> Readings:
        """Noise-free readings (n, p); a component that is an angle in the turn nearest to that of ``y`` (p,).

        Filters that subtract readings from each other ask for these.
        """
        return self.predict(x)

    def note_near(self, y: Reading, foreseen: Readings) -> str:
        """What to know of a filter that subtracts readings ``foreseen`` (n, p) from each other; empty for nothing."""
        return ""

    def log_likelihood(self, y: Reading, x: Points) -> Scalars:
        """log N(y; function(x), covariance).

        Raises:
            InputError: ``y`` has another length than the sensor.
        """
        if y.shape != (self.dim,):
            raise InputError(f"y must hold {self.dim} components for this observation model, got {tuple(y.shape)}.")
        return gaussian_log_likelihood(y.to(x), self.predict(x), self.covariance)

    def tails(self, y: Reading, x: Points) -> tuple[Readings, Readings]:
        """Those of N(function(x), covariance)."""
        mean = self.predict(x)
        z = (y.to(mean) - mean) / self.covariance.diagonal().sqrt().to(mean)
        return torch.special.ndtr(z), torch.special.ndtr(-z)

    def sample(self, x: Points, generator: Generator) -> Readings:
        """function(x) + noise."""
        mean = self.predict(x)
        return mean + standard_normal(mean, generator) @ torch.linalg.cholesky(self.covariance).to(mean).mT


class LinearGaussian(NonlinearGaussian):
    """y = matrix x + noise, noise ~ N(0, covariance).

    Args:
        matrix: (p, d); a number for p = d = 1.
        covariance: symmetric positive definite, (p, p); a number for p = 1.
    """

    def __init__(self, matrix: Tensor | float, covariance: Tensor | float) -> None:
        given = as_tensor(matrix, "matrix")
        self.matrix = given.reshape(1, 1) if given.numel() == 1 else given
        if self.matrix.ndim != 2:
            raise InputError(f"matrix must have shape (p, d), got {tuple(self.matrix.shape)}.")
        super().__init__(self._apply, require_spd(covariance, "covariance", self.matrix.shape[0], singular=EXACT))

    def _apply(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.matrix.shape[1]:
            raise InputError(f"matrix has {self.matrix.shape[1]} columns, but the state dimension is {x.shape[-1]}.")
        return x @ self.matrix.to(x).mT


class StudentT:
    """y = function(x) + scale * t, independent Student-t noise per coordinate: outliers are expected.

    Args:
        function: maps (n, d) to (n, p).
        scale: positive, scalar or (p,), in units of the reading.
        degrees_of_freedom: positive; below 3 the variance is infinite.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], scale: float | Tensor, degrees_of_freedom: float) -> None:
        self.function = function
        self.scale = as_tensor(scale, "scale").reshape(-1)
        if not (self.scale > 0).all():
            raise InputError(f"scale must be positive, got {self.scale.tolist()}; {EXACT}.")
        self.degrees_of_freedom = positive_number(degrees_of_freedom, "degrees_of_freedom")

    def log_likelihood(self, y: Reading, x: Points) -> Scalars:
        """Sum of the Student-t log densities of the components that are present.

        Raises:
            InputError: ``y``, ``function`` and ``scale`` disagree on p.
        """
        nu, scale = self.degrees_of_freedom, self.scale.to(x)
        centre = _output(self.function, x, "function")
        y = _matched(y, centre)
        if scale.shape[0] not in (1, y.shape[-1]):
            raise InputError(f"scale must be a scalar or hold {y.shape[-1]} components, got {scale.shape[0]}.")
        z = (y - centre) / scale
        constant = math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - 0.5 * math.log(nu * math.pi)
        terms = constant - scale.log() - (nu + 1) / 2 * torch.log1p(z.square() / nu)
        return torch.where(torch.isnan(y), 0.0, terms).sum(-1)

    def tails(self, y: Reading, x: Points) -> tuple[Readings, Readings]:
        """By the incomplete beta function of SciPy."""
        centre = self.function(x)
        z = ((y.to(centre) - centre) / self.scale.to(centre)).detach().cpu().numpy()
        lower, upper = (stdtr(self.degrees_of_freedom, sign * z) for sign in (1.0, -1.0))
        return torch.as_tensor(lower).to(centre), torch.as_tensor(upper).to(centre)

    def sample(self, x: Points, generator: Generator) -> Readings:
        """function(x) + scale * t, t as a normal over the root of an independent chi-square / nu."""
        mean = _output(self.function, x, "function")
        shape = torch.full_like(mean, self.degrees_of_freedom / 2)
        chi_square = 2 * torch._standard_gamma(shape, generator=generator)
        noise = standard_normal(mean, generator) / torch.sqrt(chi_square / self.degrees_of_freedom)
        return mean + self.scale.to(mean) * noise


class Poisson:
    """Counts y ~ Poisson(rate(x)), independent per coordinate.

    Args:
        rate: maps (n, d) to positive rates (n, p), in counts per reading.
    """

    def __init__(self, rate: Callable[[Tensor], Tensor]) -> None:
        self.rate = rate

    def log_likelihood(self, y: Reading, x: Points) -> Scalars:
        """Sum of y log(rate) - rate - log(y!) over the components that are present.

        Raises:
            InputError: a count is negative or not whole, or ``y`` has another length than the rates.
        """
        rate = _output(self.rate, x, "rate")
        y = _matched(y, rate)
        count = torch.nan_to_num(y, nan=0.0)
        if (count < 0).any() or (count != count.round()).any():
            raise InputError(f"y must hold whole counts of zero or more for Poisson, got {y.tolist()}.")
        terms = torch.xlogy(count, rate) - rate - torch.lgamma(count + 1)
        # Far out an exponential overflows: no count comes of an infinite rate.
        terms = torch.where(torch.isposinf(rate), -torch.inf, terms)
        return torch.where(torch.isnan(y), 0.0, terms).sum(-1)

    def tails(self, y: Reading, x: Points) -> tuple[Readings, Readings]:
        """By the incomplete gamma function."""
        rate = self.rate(x)
        count = y.to(rate) + torch.zeros_like(rate)
        at_most = torch.special.gammaincc(count + 1.0, rate)
        at_least = torch.where(count > 0, torch.special.gammainc(count.clamp(min=0.5), rate), 1.0)
        return at_most, at_least

    def sample(self, x: Points, generator: Generator) -> Readings:
        """Counts as floats.

        Raises:
            InputError: a rate is negative or NaN.
        """
        rate = _output(self.rate, x, "rate")
        if not (rate >= 0).all():
            raise InputError("rate must be positive wherever the state goes; return torch.exp or softplus of it.")
        return torch.poisson(rate, generator=generator)


class StochasticVolatility:
    """y ~ N(0, exp(x)) per coordinate: the state is the log variance of the reading (p = d)."""

    def log_likelihood(self, y: Reading, x: Points) -> Scalars:
        """Sum of log N(y_i; 0, exp(x_i)) over the components that are present.

        Raises:
            InputError: ``y`` has another length than the state.
        """
        y = _matched(y, x)
        terms = -0.5 * (math.log(2 * math.pi) + x + y.square() * torch.exp(-x))
        return torch.where(torch.isnan(y), 0.0, terms).sum(-1)

    def tails(self, y: Reading, x: Points) -> tuple[Readings, Readings]:
        """Those of N(0, exp(x_i))."""
        z = y.to(x) * torch.exp(-0.5 * x)
        return torch.special.ndtr(z), torch.special.ndtr(-z)

    def sample(self, x: Points, generator: Generator) -> Readings:
        """exp(x / 2) times standard normals."""
        return torch.exp(0.5 * x) * standard_normal(x, generator)
