"""Sets of states: intervals, half-lines, boxes, or whatever a function tells."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from jkofilter._typing import Points
from jkofilter.errors import InputError
from jkofilter.numerics.domain import Side


@dataclass(frozen=True)
class Region:
    """A set of states.

    Attributes:
        sides: (low, high) along each coordinate, either end may be infinite; None where ``function`` tells.
        function: of points (n, d), whether each is inside, (n,); None for a box.
    """

    sides: tuple[Side, ...] | None
    function: Callable[[Points], Tensor] | None = None

    def contains(self, x: Points) -> Bool[Tensor, " n"]:
        """Whether each of some points is inside.

        Raises:
            InputError: the function does not answer with one truth value a point.
        """
        if self.sides is not None:
            low, high = (x.new_tensor(ends) for ends in zip(*self.sides, strict=True))
            return ((x >= low) & (x <= high)).all(-1)
        assert self.function is not None, "a region is a box or a function"
        inside = torch.as_tensor(self.function(x)).detach()
        if inside.dtype != torch.bool or inside.shape != (len(x),):
            raise InputError(
                f"region must answer with one truth value a point, ({len(x)},), got {tuple(inside.shape)} of "
                f"{inside.dtype}; write for example lambda x: x[:, 0] > 1."
            )
        return inside.to(x.device)


def as_region(region: Any, dim: int) -> Region:
    """A region from what a user writes.

    Args:
        region: (low, high) for d = 1; in more dimensions such a pair or None for each coordinate; None is no end. Or a
            function of points (n, d) that says which are inside, (n,).
        dim: state dimension d.

    Raises:
        InputError: it cannot be read, or holds nothing.
    """
    if isinstance(region, Region):
        return region
    if callable(region):
        return Region(None, region)
    form = "region must be (low, high)" if dim == 1 else f"region must hold (low, high) or None for each of {dim}"
    try:
        parts = list(region)
        pairs = [parts] if dim == 1 and not isinstance(parts[0], Sequence | np.ndarray | Tensor) else parts
        sides = tuple(_side(pair) for pair in pairs)
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(f"{form}, None where there is no end, or a function of points, got {region!r}.") from error
    if len(sides) != dim:
        raise InputError(f"{form}, None where there is no end, or a function of points, got {region!r}.")
    if not all(low < high for low, high in sides):
        raise InputError(f"region must have low < high along every coordinate, got {region!r}.")
    return Region(sides)


def _side(pair: Any) -> Side:
    if pair is None:
        return -math.inf, math.inf
    low, high = pair
    return -math.inf if low is None else float(low), math.inf if high is None else float(high)
