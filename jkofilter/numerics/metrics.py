"""How far apart two laws are, and how well a law foresaw the truth.

Laws are anything with ``log_prob``, ``sample`` and ``dim`` (every belief); where it says so, tensors of samples do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.special import ndtr, ndtri
from torch import Generator, Tensor

from jkofilter._typing import Density, Points, Scalars, State
from jkofilter.errors import InputError, NumericalError
from jkofilter.numerics import weights
from jkofilter.numerics.draws import stream

__all__ = [
    "crps",
    "effective_sample_size",
    "energy_distance",
    "kl",
    "pit",
    "rmse",
    "symmetric_kl",
    "wasserstein2",
]

# Where the density is below exp(-37) = 1e-16 of its maximum it carries nothing that double precision could show.
_LOG_NEGLIGIBLE = -37.0
_COARSE = 2000
_PANELS = 256
_ORDER = 16
_MAX_ASSIGNMENT = 2000


def effective_sample_size(log_weights: Scalars) -> float:
    """(sum w)^2 / sum w^2, between 1 and n, of log weights (n,) that need not be normalised (Kong 1992).

    Raises:
        InputError: another shape, every weight is zero, or one is NaN or infinite.
    """
    try:
        return weights.effective_sample_size(log_weights)
    except NumericalError as error:
        raise InputError(f"log_weights cannot be used: {error}") from error


class Marginals(Protocol):
    """A law with quantiles per coordinate: every belief."""

    @property
    def dim(self) -> int:
        """State dimension d."""
        ...

    def quantile(self, q: float, coordinate: int = 0) -> float:
        """The q-quantile of one coordinate's marginal."""
        ...


@runtime_checkable
class Distribution(Protocol):
    """A law with distribution functions per coordinate: every belief of this package, and not each one of a user's."""

    def cdf(self, x: float, coordinate: int = 0) -> float:
        """P(X_i <= x) of one coordinate."""
        ...


@runtime_checkable
class KnowsItsDraws(Protocol):
    """A law that gives the log densities of its own draws with them."""

    def sample_with_log_prob(self, n: int, generator: Generator | None = None) -> tuple[Points, Tensor]:
        """``n`` draws and their log densities."""
        ...


def kl(p: Density, q: Density, samples: int = 20_000, generator: Generator | None = None, seed: int = 0) -> float:
    """Kullback-Leibler divergence KL(p, q) = E_p[log p - log q], nats.

    In one dimension by quadrature of p (log p - log q) - p + q over where either has mass: 256 panels of 16
    Gauss-Legendre points, panels finer where the laws have their mass; error below 1e-10 for smooth densities. The
    extra -p + q integrates to zero for normalised laws, keeps the integrand above zero, and makes a normalisation
    error of eps count as eps^2 / 2 instead of eps. In more dimensions by Monte Carlo over draws of p, with q/p - 1 as
    control variate (may be slightly below zero).

    Args:
        p: the law averaged over.
        q: the law compared with it.
        samples: draws of p in more than one dimension.
        generator: source of the draws; overrides ``seed``.
        seed: seeds the draws.

    Returns:
        The divergence; inf where q has no mass but p has.

    Raises:
        InputError: dimensions differ, or a log density is NaN.
    """
    _require_same_dim(p, q)
    if p.dim == 1:
        return _kl_quadrature(p, q)
    x, log_p = _draws(p, samples, _source(generator, seed))
    log_ratio = _not_nan(log_p - q.log_prob(x))
    if torch.isinf(log_ratio).any():
        return log_ratio.mean().item()
    return _controlled_mean(log_ratio).item()


def _draws(p: Density, n: int, generator: Generator) -> tuple[Points, Tensor]:
    """Draws of a law with their log densities, which laws made by transport know without inverting anything."""
    if isinstance(p, KnowsItsDraws):
        return p.sample_with_log_prob(n, generator)
    x = p.sample(n, generator)
    return x, p.log_prob(x)


def _controlled_mean(log_ratio: Tensor) -> Tensor:
    """Mean of log p/q under p with q/p - 1, whose mean is zero, regressed out.

    For close laws the two are nearly opposite, and the noise falls from the divergence's root to the divergence.
    """
    ratio = torch.expm1(-log_ratio)
    centred = log_ratio - log_ratio.mean()
    spread = ratio - ratio.mean()
    variance = spread.square().sum()
    if not torch.isfinite(variance) or variance == 0:
        return log_ratio.mean()
    return log_ratio.mean() - (centred * spread).sum() / variance * ratio.mean()


def symmetric_kl(
    p: Density, q: Density, samples: int = 20_000, generator: Generator | None = None, seed: int = 0
) -> float:
    """KL(p, q) + KL(q, p), nats; arguments as for ``kl``."""
    source = _source(generator, seed)
    return kl(p, q, samples, source) + kl(q, p, samples, source)


def wasserstein2(p: Marginals | Tensor, q: Marginals | Tensor) -> float:
    """Wasserstein-2 distance, in units of the state.

    One-dimensional laws by their quantile functions, W^2 = int (Q_p - Q_q)^2 du with u = Phi(z), trapezoid in z;
    samples (n,) or (n, 1) by sorting, of equal numbers; samples (n, d) exactly, by optimal assignment, n <= 2000.

    Raises:
        InputError: a law of more than one dimension (hand in samples), a law against samples, or unequal numbers.
    """
    if isinstance(p, Tensor) and isinstance(q, Tensor):
        return _wasserstein2_samples(_as_points(p, "p"), _as_points(q, "q"))
    if isinstance(p, Tensor) or isinstance(q, Tensor):
        raise InputError("p and q must both be laws or both be tensors of samples; call sample(n) on the law.")
    _require_same_dim(p, q)
    if p.dim != 1:
        raise InputError(
            f"p and q must have dim 1, got {p.dim}; hand in samples (n, d) with n up to {_MAX_ASSIGNMENT}."
        )
    z, weights = _normal_nodes(600)
    gaps = np.array([p.quantile(u, 0) - q.quantile(u, 0) for u in ndtr(z).tolist()])
    return math.sqrt(float(weights @ gaps**2))


def energy_distance(
    p: Density | Tensor, q: Density | Tensor, samples: int = 2000, generator: Generator | None = None, seed: int = 0
) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| over two sets of samples, all means over all pairs (V-statistic).

    Pairs of a point with itself count, so this is the distance of the two empirical laws: zero for identical sets and
    never below zero. Of samples of one law it is on average (1/n + 1/k) E|X - X'|, which the unbiased form, over
    n (n - 1) pairs, would take out at the price of negative values.

    Args:
        p: a law, or samples (n, d).
        q: a law, or samples (k, d).
        samples: draws of each law.
        generator: source of the draws; overrides ``seed``.
        seed: seeds the draws.

    Raises:
        InputError: dimensions differ.
    """
    source = _source(generator, seed)
    x = _as_points(p, "p") if isinstance(p, Tensor) else p.sample(samples, source)
    y = _as_points(q, "q") if isinstance(q, Tensor) else q.sample(samples, source)
    if x.shape[1] != y.shape[1]:
        raise InputError(f"p and q must have the same dimension, got {x.shape[1]} and {y.shape[1]}.")
    return (2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean()).item()


def rmse(estimates: Tensor, truth: Tensor) -> float:
    """Root of the mean squared error over all entries of two tensors of equal shape, in units of the state.

    Raises:
        InputError: shapes differ.
    """
    if estimates.shape != truth.shape:
        raise InputError(f"estimates and truth must share a shape, got {tuple(estimates.shape)}, {tuple(truth.shape)}.")
    return (estimates - truth).square().mean().sqrt().item()


def pit(belief: Marginals, x: State | float) -> State:
    """Probability integral transform: P(X_i <= x_i) per coordinate, (d,).

    By the law's own ``cdf``, or by bisection of its quantile function where it has none.

    Uniform on (0, 1) over many truths where the belief is calibrated. Values are clipped to [1e-15, 1 - 1e-15].

    Raises:
        InputError: ``x`` does not have d entries.
    """
    truth = _truth(belief, x)
    return torch.tensor([_level(belief, value, i) for i, value in enumerate(truth)], dtype=torch.float64)


def crps(belief: Marginals | Tensor, truth: State | float) -> State:
    """Continuous ranked probability score per coordinate, (d,), in units of the state; smaller is better.

    int (F - 1{x >= truth})^2 dx = 2 int (1{truth <= Q(u)} - u) (Q(u) - truth) du (Laio & Tamea 2007), with u = Phi(z)
    and Gauss-Legendre either side of the truth. Of samples it is the score of their empirical law,
    E|X - truth| - E|X - X'| / 2 over all n^2 pairs, and not the "fair" score over n (n - 1), which is an estimate for
    the law that they were drawn from.

    Args:
        belief: a law with quantiles, or equally weighted samples (n, d).
        truth: what happened, (d,), or a number for d = 1.

    Raises:
        InputError: ``truth`` does not have d entries.
    """
    if isinstance(belief, Tensor):
        points = _as_points(belief, "belief")
        n = points.shape[0]
        value = torch.as_tensor(truth, dtype=points.dtype).reshape(-1)
        if value.numel() != points.shape[1]:
            raise InputError(f"truth must have {points.shape[1]} entries, got {value.numel()}.")
        ranks = 2 * torch.arange(1, n + 1, dtype=points.dtype) - n - 1
        spread = (ranks.unsqueeze(-1) * points.sort(0).values).sum(0) / n**2
        return (points - value).abs().mean(0) - spread
    scores = [_crps_coordinate(belief, value, i) for i, value in enumerate(_truth(belief, truth))]
    return torch.tensor(scores, dtype=torch.float64)


def _source(generator: Generator | None, seed: int) -> Generator:
    return stream(seed, "judging") if generator is None else generator


def _require_same_dim(p: Any, q: Any) -> None:
    if p.dim != q.dim:
        raise InputError(f"p and q must have the same dimension, got {p.dim} and {q.dim}.")


def _not_nan(values: Tensor) -> Tensor:
    if torch.isnan(values).any():
        raise InputError("p and q must have log densities free of NaN, but log_prob returned NaN.")
    return values


def _as_points(samples: Tensor, name: str) -> Points:
    points = samples.unsqueeze(-1) if samples.ndim == 1 else samples
    if points.ndim != 2 or points.shape[0] == 0:
        raise InputError(f"{name} must hold samples of shape (n, d), got {tuple(samples.shape)}.")
    return points.to(torch.float64)


def _truth(belief: Marginals, x: State | float) -> list[float]:
    values = torch.as_tensor(x, dtype=torch.float64).reshape(-1)
    if values.numel() != belief.dim:
        raise InputError(f"truth must have {belief.dim} entries, got {values.numel()}.")
    return values.tolist()


def _log_at(law: Density, x: np.ndarray) -> np.ndarray:
    points = torch.as_tensor(x, dtype=torch.float64).reshape(-1, 1)
    return _not_nan(law.log_prob(points)).detach().cpu().to(torch.float64).numpy()


def _interval(law: Density) -> tuple[float, float]:
    """Where the density exceeds 1e-16 of its maximum, roughly: quantiles, then stepping outwards."""
    quantile: Callable[[float, int], float] | None = getattr(law, "quantile", None)
    if quantile is None:
        draws = law.sample(1000, _source(None, 0))
        low, high = draws.min().item(), draws.max().item()
    else:
        low, high = quantile(1e-9, 0), quantile(1 - 1e-9, 0)
    width = max(high - low, 1e-12 * max(abs(low), abs(high), 1e-300))
    floor = _log_at(law, np.linspace(low, high, 200)).max() + _LOG_NEGLIGIBLE
    step = 0.1 * width
    # Doubling the step 40 times spans 1e11 widths, beyond any light tail; a heavier one is cut there.
    for _ in range(40):
        ends = _log_at(law, np.array([low, high]))
        if (ends < floor).all():
            break
        low, high = low - step * (ends[0] >= floor), high + step * (ends[1] >= floor)
        step *= 1.5
    return low, high


def _nodes(p: Density, q: Density) -> tuple[np.ndarray, np.ndarray]:
    """Quadrature points and weights over the mass of both laws, denser where the mass is."""
    intervals = [_interval(p), _interval(q)]
    coarse = np.unique(np.concatenate([np.linspace(low, high, _COARSE) for low, high in intervals]))
    monitor = np.zeros_like(coarse)
    for law, (low, high) in zip((p, q), intervals, strict=True):
        log_density = _log_at(law, coarse)
        # The square root spreads panels into the flanks, where the log ratio matters although the mass is small.
        monitor += np.exp(0.5 * (log_density - log_density.max())) / (high - low)
    widths = np.diff(coarse)
    mass = 0.5 * (monitor[1:] + monitor[:-1]) * widths
    share = mass / mass.sum() + 0.5 * widths / widths.sum()
    cumulative = np.concatenate([[0.0], np.cumsum(share)])
    edges = np.interp(np.linspace(0.0, cumulative[-1], _PANELS + 1), cumulative, coarse)
    # No panel may reach from one law's tail across a gap: its few points would miss the tail.
    edges = np.unique(np.concatenate([edges, np.ravel(intervals)]))
    unit, unit_weights = np.polynomial.legendre.leggauss(_ORDER)
    half = 0.5 * np.diff(edges)[:, None]
    x = edges[:-1, None] + half * (unit + 1.0)
    return x.ravel(), (half * unit_weights).ravel()


def _kl_quadrature(p: Density, q: Density) -> float:
    x, weights = _nodes(p, q)
    log_p, log_q = _log_at(p, x), _log_at(q, x)
    massive = log_p > log_p.max() + _LOG_NEGLIGIBLE
    if np.isneginf(log_q[massive]).any():
        return math.inf
    density_p, density_q = np.exp(log_p), np.exp(log_q)
    # Where q vanishes outright and p is negligible the ratio is undefined and its share of the integral nothing.
    defined = np.isfinite(log_p) & np.isfinite(log_q)
    ratio = np.where(defined, log_p, 0.0) - np.where(defined, log_q, 0.0)
    return float(weights @ (density_p * ratio - density_p + density_q))


def _normal_nodes(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Trapezoid for the standard normal; converges geometrically for smooth integrands."""
    z = np.linspace(-8.0, 8.0, points)
    return z, np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) * (z[1] - z[0])


def _wasserstein2_samples(x: Points, y: Points) -> float:
    if x.shape != y.shape:
        raise InputError(f"p and q must hold equally many samples, got shapes {tuple(x.shape)} and {tuple(y.shape)}.")
    if x.shape[1] == 1:
        return (x.sort(0).values - y.sort(0).values).square().mean().sqrt().item()
    if x.shape[0] > _MAX_ASSIGNMENT:
        raise InputError(f"p and q may hold at most {_MAX_ASSIGNMENT} samples in more than one dimension; thin them.")
    cost = torch.cdist(x, y).square().cpu().numpy()
    rows, columns = linear_sum_assignment(cost)
    return math.sqrt(float(cost[rows, columns].mean()))


def _level(belief: Marginals, value: float, coordinate: int) -> float:
    """u with quantile(u) = value; where it has to be bisected, in its normal score: even resolution in both tails."""
    if isinstance(belief, Distribution):
        return _inside(belief.cdf(value, coordinate))
    low, high = -8.0, 8.0
    for _ in range(45):
        middle = 0.5 * (low + high)
        below = belief.quantile(_probability(middle), coordinate) < value
        low, high = (middle, high) if below else (low, middle)
    return _probability(0.5 * (low + high))


def _probability(z: float) -> float:
    return _inside(float(ndtr(z)))


def _inside(u: float) -> float:
    return min(max(u, 1e-15), 1 - 1e-15)


def _crps_coordinate(belief: Marginals, value: float, coordinate: int) -> float:
    split = float(ndtri(_level(belief, value, coordinate)))
    unit, unit_weights = np.polynomial.legendre.leggauss(64)
    total = 0.0
    for low, high, above in ((-8.0, split, 0.0), (split, 8.0, 1.0)):
        z = low + 0.5 * (high - low) * (unit + 1.0)
        u = ndtr(z)
        excess = np.array([belief.quantile(_probability(s), coordinate) for s in z.tolist()]) - value
        density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
        total += float((0.5 * (high - low) * unit_weights) @ (2 * (above - u) * excess * density))
    return total
