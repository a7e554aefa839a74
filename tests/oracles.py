"""Exact answers, in NumPy and SciPy alone: nothing here calls the library."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.integrate import cumulative_simpson
from scipy.linalg import solve_banded
from scipy.special import logsumexp
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

Array = NDArray[np.float64]


@dataclass(frozen=True)
class OrnsteinUhlenbeck:
    """dX = -rate (X - centre) dt + sqrt(2/beta) dW with X_0 ~ N(mean, variance), seen as y = gain x + N(0, noise)."""

    rate: float
    centre: float
    beta: float
    mean: float
    variance: float
    gain: float = 1.0
    noise: float = 1.0

    def transition(self, duration: float) -> tuple[float, float]:
        """Factor of X - centre over ``duration``, and the variance added."""
        return math.exp(-self.rate * duration), -math.expm1(-2 * self.rate * duration) / (self.beta * self.rate)

    def kalman(self, times: Sequence[float], readings: Sequence[float]) -> tuple[Array, Array, Array]:
        """Means, variances and log evidence after every reading (NaN is missing)."""
        mean, variance, evidence, now = self.mean, self.variance, 0.0, 0.0
        rows = []
        for time, y in zip(times, readings, strict=True):
            factor, added = self.transition(time - now)
            mean, variance, now = self.centre + factor * (mean - self.centre), factor**2 * variance + added, time
            if not math.isnan(y):
                spread = self.gain**2 * variance + self.noise
                evidence += float(stats.norm.logpdf(y, self.gain * mean, math.sqrt(spread)))
                weight = variance * self.gain / spread
                mean, variance = mean + weight * (y - self.gain * mean), variance * self.noise / spread
            rows.append((mean, variance, evidence))
        means, variances, log_evidence = np.array(rows).T
        return means, variances, log_evidence

    def density(self, prior: Callable[[Array], Array], z: Array, duration: float, x: Array) -> Array:
        """Density at ``x`` after ``duration`` from any prior density, by Simpson's rule over the points ``z``."""
        factor, added = self.transition(duration)
        kernel = stats.norm.pdf(x[:, None], self.centre + factor * (z - self.centre), math.sqrt(added))
        return np.array(cumulative_simpson(kernel * prior(z), x=z, axis=1)[:, -1])


@dataclass(frozen=True)
class Benes:
    """Law cosh(kappa x) N(x; m, P) / (e^{kappa^2 P / 2} cosh(kappa m)) of dX = s^2 kappa tanh(kappa X) dt + s dW.

    h(t, x) = cosh(kappa x) e^{-kappa^2 s^2 t / 2} is a martingale of Brownian motion s W, and the diffusion is the
    motion transformed by it; so P grows by s^2 t and m stays. Readings y = x + N(0, noise).
    """

    kappa: float
    m: float
    P: float
    log_evidence: float = 0.0

    def prior(self) -> MixtureSameFamily:
        """The law for torch: completing the square gives N(m + kappa P, P) and N(m - kappa P, P)."""
        weights = torch.tensor([self.kappa * self.m, -self.kappa * self.m]).double().softmax(0)
        centres = torch.tensor([[self.m + self.kappa * self.P], [self.m - self.kappa * self.P]]).double()
        scales = torch.full((2, 1), math.sqrt(self.P)).double()
        return MixtureSameFamily(Categorical(weights), Independent(Normal(centres, scales), 1))

    def predict(self, duration: float, beta: float) -> Benes:
        return Benes(self.kappa, self.m, self.P + 2.0 / beta * duration, self.log_evidence)

    def update(self, y: float, noise: float) -> Benes:
        spread = self.P + noise
        m, P = self.m + self.P / spread * (y - self.m), self.P * noise / spread
        increment = (
            float(stats.norm.logpdf(y, self.m, math.sqrt(spread)))
            + 0.5 * self.kappa**2 * (P - self.P)
            + math.log(math.cosh(self.kappa * m) / math.cosh(self.kappa * self.m))
        )
        return Benes(self.kappa, m, P, self.log_evidence + increment)

    def log_density(self, x: Array) -> Array:
        k = self.kappa
        log_cosh = np.logaddexp(k * x, -k * x) - math.log(2)
        total = 0.5 * k * k * self.P + math.log(math.cosh(k * self.m))
        return np.array(log_cosh + stats.norm.logpdf(x, self.m, math.sqrt(self.P)) - total)


def gaussian_jko_step(
    mean: float, deviation: float, rate: float, centre: float, beta: float, tau: float
) -> tuple[float, float]:
    """Mean and standard deviation after one exact JKO step for V = rate (x - centre)^2 / 2.

    The optimal map is affine, x -> mean' + T (x - mean). The objective |x' - x|^2 / (2 tau) + V - log(T) / beta has
    in T s =: s' the optimality condition (1 + tau rate) s' - s - tau / (beta s') = 0, whose positive root this is.
    """
    stiff = 1.0 + tau * rate
    root = math.sqrt(deviation**2 + 4.0 * tau * stiff / beta)
    return (mean + tau * rate * centre) / stiff, (deviation + root) / (2.0 * stiff)


def entropic_gaussian_step(variance: float, rate: float, temperature: float, gamma: float, tau: float) -> float:
    """Variance after one entropic JKO step of N(m, variance) for V = rate (x - c)^2 / 2.

    The coupling x = a y + noise of variance v minimises, over Gaussians, E|x - y|^2 / (2 tau) + E V(x) +
    temperature E log rho(x) + gamma E log pi(x, y). The slope in Cov(x, y) gives v = gamma tau a; the slope in
    s = Var x then gives 1 + tau rate - tau temperature / s = 1/a. With s = a^2 variance + v this is the quadratic
    variance M a^2 + (gamma tau M - variance) a = gamma tau + tau temperature, M = 1 + tau rate, whose positive root
    this is. The mean is that of the JKO step.
    """
    stiff = 1.0 + tau * rate
    half = 0.5 * (variance - gamma * tau * stiff)
    a = (half + math.sqrt(half**2 + variance * stiff * tau * (gamma + temperature))) / (variance * stiff)
    return a * a * variance + gamma * tau * a


@dataclass(frozen=True)
class Law:
    """Mass, moments and distribution function of a density, by Simpson's rule on points that cover it."""

    x: Array
    density: Array

    @property
    def mass(self) -> float:
        return float(self.cdf_table[-1])

    @property
    def cdf_table(self) -> Array:
        return np.array(cumulative_simpson(self.density, x=self.x, initial=0.0))

    @property
    def mean(self) -> float:
        return float(cumulative_simpson(self.density * self.x, x=self.x)[-1])

    @property
    def variance(self) -> float:
        return float(cumulative_simpson(self.density * (self.x - self.mean) ** 2, x=self.x)[-1])

    def cdf(self, x: Array) -> Array:
        return np.interp(x, self.x, self.cdf_table)


def law_of(log_prob: Callable[[torch.Tensor], torch.Tensor], low: float, high: float, points: int = 40_001) -> Law:
    """The law with this torch log density, on a grid between ``low`` and ``high``."""
    x = np.linspace(low, high, points)
    return Law(x, np.exp(log_prob(torch.from_numpy(x).unsqueeze(-1)).numpy().astype(np.float64)))


def bayes_by_quadrature(log_joint: Callable[[Array], Array], x: Array) -> tuple[float, Law]:
    """Log evidence and posterior from log prior + log likelihood, by Simpson's rule on ``x``."""
    joint = log_joint(x)
    top = float(joint.max())
    total = float(cumulative_simpson(np.exp(joint - top), x=x)[-1])
    return top + math.log(total), Law(x, np.exp(joint - top) / total)


def mixture_log_density(x: Array, weights: Array, means: Array, deviations: Array) -> Array:
    """Log density of a Gaussian mixture on the line, (n,)."""
    return np.array(logsumexp(np.log(weights) + stats.norm.logpdf(x[:, None], means, deviations), axis=1))


@dataclass(frozen=True)
class Chain:
    """A diffusion on an interval as a chain of unequal cells (Chang & Cooper 1970), stepped by extrapolation.

    Rates between neighbours keep exp(-beta V) in detailed balance. Backward Euler in n equal steps has an error in
    powers of 1/n, and Neville's scheme takes out the first of them; fast modes, which it damps as (1 + rate t/n)^-n,
    do no harm. Ends reflect, or absorb where a law leaves for good.

    Attributes:
        edges: of the cells, increasing, (n + 1,).
        energy: V at their centres, (n,).
        beta: inverse temperature.
        absorbs: whether the lower and the upper end take what arrives.
        levels: numbers of steps that are extrapolated.
    """

    edges: Array
    energy: Array
    beta: float
    absorbs: tuple[bool, bool] = (False, False)
    levels: tuple[int, ...] = (40, 80, 160, 320)

    @property
    def x(self) -> Array:
        """Centres of the cells."""
        return np.array(0.5 * (self.edges[1:] + self.edges[:-1]))

    @property
    def widths(self) -> Array:
        return np.diff(self.edges)

    def _bands(self, step: float) -> Array:
        """1 - step times the generator of cell masses, in the form of ``scipy.linalg.solve_banded``."""
        rise = np.clip(self.beta * np.diff(self.energy), -700.0, 700.0)
        with np.errstate(invalid="ignore"):
            up, down = (np.where(rise == 0, 1.0, s * rise / np.expm1(s * rise)) for s in (1.0, -1.0))
        speed = 1.0 / (self.beta * np.diff(self.x))
        up, down = speed * up / self.widths[:-1], speed * down / self.widths[1:]
        leaves = np.append(up, 0.0) + np.append(0.0, down)
        ends = [2.0 / (self.beta * width**2) for width in self.widths[[0, -1]]]
        leaves[[0, -1]] += np.where(self.absorbs, ends, 0.0)
        bands = np.zeros((3, leaves.size))
        bands[0, 1:], bands[1], bands[2, :-1] = -step * down, 1.0 + step * leaves, -step * up
        return bands

    def later(self, masses: Array, duration: float) -> Array:
        """Masses of the cells after ``duration``."""
        rows: list[Array] = []
        for k, n in enumerate(self.levels):
            bands, p = self._bands(duration / n), masses
            for _ in range(n):
                p = solve_banded((1, 1), bands, p, check_finite=False)
            row = [p]
            for j in range(k):
                row.append(row[j] + (row[j] - rows[j]) / (n / self.levels[k - 1 - j] - 1))
            rows = row
        return np.maximum(rows[-1], 0.0)
