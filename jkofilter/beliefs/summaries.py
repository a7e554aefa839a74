"""What every belief tells beside its moments: spread, tails, intervals, expectations, probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from jkofilter._typing import Matrix, Points, Scalars, State
from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.region import as_region
from jkofilter.errors import InputError

_DRAWS = 100_000


@runtime_checkable
class _Weighed(Protocol):
    def weighted_points(self) -> tuple[Points, Scalars]: ...
    def probability(self, region: Any) -> float: ...


class _Law(Protocol):
    """What a belief must have of its own."""

    @property
    def dim(self) -> int: ...
    @property
    def covariance(self) -> Matrix: ...
    def sample(self, n: int, generator: Generator | None = None) -> Points: ...
    def quantile(self, q: float, coordinate: int = 0) -> float: ...
    def cdf(self, x: float, coordinate: int = 0) -> float: ...
    def weighted_points(self) -> tuple[Points, Scalars]: ...
    def expect(self, function: Callable[[Points], Tensor]) -> Tensor: ...


def points_of(belief: Belief) -> tuple[Points, Scalars]:
    """Points (n, d) and weights (n,), summing to one, that stand for any belief in expectations."""
    if isinstance(belief, _Weighed):
        x, weights = belief.weighted_points()
        return x, weights / weights.sum()
    x = belief.sample(_DRAWS)
    return x, x.new_full((len(x),), 1.0 / len(x))


def probability_of(belief: Belief, region: Any) -> float:
    """P(X in region) of any belief; see ``Summaries.probability``."""
    if isinstance(belief, _Weighed):
        return belief.probability(region)
    x, weights = points_of(belief)
    return float(weights @ as_region(region, belief.dim).contains(x).to(weights))


class Summaries:
    """Inherited by beliefs."""

    @property
    def std(self: _Law) -> State:
        """Standard deviation of every coordinate, (d,)."""
        return torch.diagonal(self.covariance).sqrt()

    def sf(self: _Law, x: float, coordinate: int = 0) -> float:
        """P(X_i > x) of one coordinate."""
        return 1.0 - self.cdf(x, coordinate)

    def interval(self: _Law, level: float, coordinate: int = 0) -> tuple[float, float]:
        """The interval between the quantiles (1 - level)/2 and (1 + level)/2 of one coordinate.

        Raises:
            InputError: the level is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise InputError(f"level must lie strictly between 0 and 1, got {level!r}.")
        return self.quantile(0.5 - 0.5 * level, coordinate), self.quantile(0.5 + 0.5 * level, coordinate)

    def weighted_points(self: _Law) -> tuple[Points, Scalars]:
        """Points (n, d) and weights (n,) that stand for the law in expectations; here 100,000 draws."""
        x = self.sample(_DRAWS)
        return x, x.new_full((len(x),), 1.0 / len(x))

    def expect(self: _Law, function: Callable[[Points], Tensor]) -> Tensor:
        """E[f(X)], by ``weighted_points``.

        Args:
            function: f of points (n, d), (n,) or (n, ...).

        Raises:
            InputError: f returns another number of values than there are points.
        """
        x, weights = self.weighted_points()
        values = torch.as_tensor(function(x)).detach()
        if values.ndim == 0 or len(values) != len(x):
            raise InputError(f"function must return one value a point, ({len(x)}, ...), got {tuple(values.shape)}.")
        return torch.tensordot(weights.to(x), values.to(x), dims=1)

    def probability(self: _Law, region: Any) -> float:
        """P(X in region): from distribution functions where one coordinate decides, else by ``weighted_points``.

        Args:
            region: (low, high) for d = 1; in more dimensions such a pair, or None, for each coordinate; None is no end.
                Or a function of points (n, d) that says which are inside, (n,).

        Raises:
            InputError: the region cannot be read.
        """
        found = as_region(region, self.dim)
        if found.sides is not None:
            ended = [i for i, side in enumerate(found.sides) if any(math.isfinite(end) for end in side)]
            if not ended:
                return 1.0
            if len(ended) == 1:
                (i,) = ended
                low, high = found.sides[i]
                below = self.cdf(low, i) if math.isfinite(low) else 0.0
                return (self.cdf(high, i) if math.isfinite(high) else 1.0) - below
        return min(max(self.expect(lambda x: found.contains(x).to(x)).item(), 0.0), 1.0)
