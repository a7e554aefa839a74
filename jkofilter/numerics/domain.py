"""Where a potential is finite: boxes with walls that reflect."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from jkofilter._typing import Array
from jkofilter.errors import InputError

Side: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Domain:
    """A box of R^d, closed; a diffusion that comes to one of its walls is reflected.

    The law has no flux through a wall. Where the potential climbs without bound towards it (a log barrier), the wall
    is never reached and changes nothing. The potential is looked at strictly inside only: at a wall it may be infinite.

    Attributes:
        sides: (low, high) along each coordinate, in units of the state; either may be infinite.
    """

    sides: tuple[Side, ...]

    @property
    def dim(self) -> int:
        """State dimension d."""
        return len(self.sides)

    @property
    def bounded(self) -> bool:
        """Whether every side ends both ways."""
        return all(math.isfinite(end) for side in self.sides for end in side)

    @property
    def interior(self) -> tuple[float, ...]:
        """A point well inside: the middle of a side that ends both ways, one unit from the wall of a half-line."""
        return tuple(_inside(low, high) for low, high in self.sides)

    def corners(self, like: Tensor) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
        """Lower and upper ends of all sides, with the type and device of ``like``."""
        return _corners(self.sides, like.dtype, like.device)

    def inside_like(self, like: Tensor) -> Float[Tensor, " d"]:
        """``interior`` with the type and device of ``like``."""
        return _corners(tuple((u, u) for u in self.interior), like.dtype, like.device)[0]

    def contains(self, x: Float[Tensor, "*n d"]) -> Bool[Tensor, "*n"]:
        """Whether points lie in the closed box; NaN does not."""
        low, high = self.corners(x)
        return ((x >= low) & (x <= high)).all(-1)

    def holds(self, x: Array) -> NDArray[np.bool_]:
        """``contains`` for points (n, d) in NumPy."""
        low, high = np.asarray(self.sides).T
        return np.asarray(((x >= low) & (x <= high)).all(-1))

    def reflect(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Points mirrored at the walls, as often as it takes to bring them inside; NaN stays NaN."""
        low, high = self.corners(x)
        if ((x >= low) & (x <= high)).all():
            return x
        length = high - low
        # Between two walls the mirror images repeat after twice the length.
        bounded = torch.isfinite(length)
        period = torch.where(bounded, 2 * length, torch.inf)
        above = torch.where(bounded, torch.remainder(x - torch.where(bounded, low, 0.0), period), 0.0)
        between = torch.where(bounded, low, 0.0) + torch.minimum(above, period - above)
        once = torch.where(x < low, 2 * low - x, torch.where(x > high, 2 * high - x, x))
        # Rounding must not carry a point beyond the wall it was mirrored at.
        folded = torch.where(bounded & ((x < low) | (x > high)), between, once)
        return torch.maximum(torch.minimum(folded, high), low)

    def __str__(self) -> str:
        """As one would write it."""
        text = ", ".join(f"({low:g}, {high:g})" for low, high in self.sides)
        return text if self.dim == 1 else f"({text})"


def as_domain(domain: Any, dim: int) -> Domain | None:
    """A domain from what a user writes; None, or a box without an end, is all of R^d.

    Args:
        domain: None, a Domain, (low, high) for every coordinate, a (low, high) or None for each coordinate, or two
            tensors or arrays (d,) of lower and upper ends. Ends may be infinite.
        dim: state dimension d.

    Raises:
        InputError: it cannot be read, or a side has low >= high.
    """
    if domain is None:
        return None
    sides = domain.sides if isinstance(domain, Domain) else _sides(domain, dim)
    if len(sides) != dim:
        raise InputError(f"domain must have {dim} pairs (low, high), one for each coordinate, got {len(sides)}.")
    for low, high in sides:
        if not (low < high and low < math.inf and high > -math.inf):
            raise InputError(f"domain must have low < high along every coordinate, got ({low:g}, {high:g}).")
    return Domain(sides) if any(math.isfinite(end) for side in sides for end in side) else None


def folded_log_prob(
    log_prob: Callable[[Tensor], Tensor], x: Float[Tensor, "n d"], walls: Domain
) -> Float[Tensor, " n"]:
    """Log density at ``x`` of a law mirrored into a domain: sum over the mirror images, -inf outside.

    Images in one mirror per coordinate are summed, 3^d of them: enough for a law that reaches less than the length of
    the domain beyond it.
    """
    total = torch.full_like(x[:, 0], -torch.inf)
    for mirrors in itertools.product(*((None, *(end for end in side if math.isfinite(end))) for side in walls.sides)):
        columns = [x[:, k] if wall is None else 2 * wall - x[:, k] for k, wall in enumerate(mirrors)]
        total = torch.logaddexp(total, log_prob(torch.stack(columns, -1)))
    return torch.where(walls.contains(x), total, -torch.inf)


@lru_cache(maxsize=64)
def _corners(sides: tuple[tuple[float, ...], ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    # Making these small tensors costs as much as a step of a few points.
    low, high = torch.tensor(sides, dtype=dtype, device=device).unbind(-1)
    return low, high


def _sides(domain: Any, dim: int) -> tuple[Side, ...]:
    form = "domain must be (low, high), or such a pair for each coordinate, or None"
    try:
        first, second = domain if not isinstance(domain, Tensor) else domain.tolist()
    except (TypeError, ValueError):
        first = second = None
    if isinstance(first, Tensor | np.ndarray) and isinstance(second, Tensor | np.ndarray) and np.ndim(first) == 1:
        domain = list(zip(first.tolist(), second.tolist(), strict=False))
    elif _is_number(first) and _is_number(second):
        domain = [(first, second)] * dim
    if not isinstance(domain, Sequence | Tensor | np.ndarray) or isinstance(domain, str):
        raise InputError(f"{form}, got {domain!r}.")
    try:
        pairs = [(-math.inf, math.inf) if side is None else (float(side[0]), float(side[1])) for side in domain]
        if any(side is not None and len(side) != 2 for side in domain):
            raise TypeError("a side has two ends")
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(f"{form}, got {domain!r}.") from error
    return tuple(pairs)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) or (isinstance(value, Tensor) and value.ndim == 0)


def _inside(low: float, high: float) -> float:
    if math.isfinite(low) and math.isfinite(high):
        return low + 0.5 * (high - low)
    if math.isfinite(low):
        return low + 1.0
    return high - 1.0 if math.isfinite(high) else 0.0
