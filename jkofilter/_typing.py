"""Shape vocabulary shared by every layer.

Axis names: ``n`` points, ``d`` state dimension, ``p`` observation dimension, ``m`` observations or times.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Generator, Tensor

Scalars: TypeAlias = Float[Tensor, " n"]
Points: TypeAlias = Float[Tensor, "n d"]
Paths: TypeAlias = Float[Tensor, "n m d"]
State: TypeAlias = Float[Tensor, " d"]
Matrix: TypeAlias = Float[Tensor, "d d"]
Reading: TypeAlias = Float[Tensor, " p"]
Readings: TypeAlias = Float[Tensor, "n p"]
Array: TypeAlias = Float[np.ndarray, "..."]


class Sampled(Protocol):
    """Anything that can be sampled, also where its density is not known."""

    @property
    def dim(self) -> int:
        """State dimension d."""
        ...

    def sample(self, n: int, generator: Generator | None = None) -> Points:
        """Draw ``n`` independent points."""
        ...


@runtime_checkable
class Density(Sampled, Protocol):
    """Anything that can be evaluated and sampled: every belief, and the models' priors once wrapped."""

    def log_prob(self, x: Points) -> Scalars:
        """Normalised log density at ``x``."""
        ...
