"""What every belief offers."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Generator

from jkofilter._typing import Matrix, Points, Scalars, State


@runtime_checkable
class Belief(Protocol):
    """The filtering law at one time: evaluate it, sample it, summarise it. Beliefs are immutable."""

    @property
    def time(self) -> float:
        """Time of the belief, in the SDE's unit."""
        ...

    @property
    def dim(self) -> int:
        """State dimension d."""
        ...

    @property
    def log_evidence(self) -> float:
        """log p of all readings taken in so far."""
        ...

    @property
    def mean(self) -> State:
        """E[X], (d,)."""
        ...

    @property
    def covariance(self) -> Matrix:
        """Cov[X], (d, d)."""
        ...

    def log_prob(self, x: Points) -> Scalars:
        """Normalised log density at ``x``, (n,)."""
        ...

    def sample(self, n: int, generator: Generator | None = None) -> Points:
        """``n`` independent draws, (n, d); without a generator, one seeded with 0."""
        ...

    def quantile(self, q: float, coordinate: int = 0) -> float:
        """The q-quantile of one coordinate's marginal, 0 < q < 1."""
        ...
