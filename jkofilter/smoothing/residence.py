"""Where the past was spent: in which of some regions at each time, and how often it went from one to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from jkofilter._typing import Array, Paths
from jkofilter.beliefs.region import as_region
from jkofilter.errors import InputError
from jkofilter.models.clock import Clock
from jkofilter.models.series import times_by, times_shown

NOWHERE = -1


@dataclass(frozen=True, eq=False)
class Residence:
    """Regions, such as wells, that paths given all readings were in.

    A path belongs to a region from when it enters it until it enters another one, so that it does not jump while it
    wanders between them.

    Attributes:
        times: (m,), in the SDE's unit.
        names: of the regions.
        inside: share of the paths inside each region at each time, (m, r).
        visited: the region that each path belongs to, by its place among ``names``, -1 before the first, (n, m).
        clock: what makes dates of times; None for plain numbers.
    """

    times: Tensor
    names: tuple[str, ...]
    inside: Array
    visited: Int[np.ndarray, "n m"]
    clock: Clock | None = None

    @property
    def belongs(self) -> Array:
        """Share of the paths that belong to each region at each time, (m, r)."""
        return np.stack([(self.visited == i).mean(0) for i in range(len(self.names))], 1)

    @property
    def jumps(self) -> Int[np.ndarray, " n"]:
        """How often each path goes from one region to another, (n,)."""
        before, after = self.visited[:, :-1], self.visited[:, 1:]
        return ((before != after) & (before != NOWHERE)).sum(1)

    def jump_interval(self, level: float = 0.9) -> tuple[int, int]:
        """Credible interval of the number of jumps.

        Raises:
            InputError: the level is not between 0 and 1.
        """
        low, high = np.quantile(self.jumps, _tails(level), method="inverted_cdf")
        return int(low), int(high)

    def first_entry(self, name: str, after: Any = None, level: float = 0.9) -> pd.Series:
        """When paths first enter a region, after a time: median, credible interval, and how many do at all.

        Args:
            name: of the region.
            after: a time in the SDE's unit, or a date; None is the first. A path that is there then enters then.
            level: of the interval.

        Raises:
            InputError: no such region, no path that enters it, or a level not between 0 and 1.
        """
        if name not in self.names:
            raise InputError(f"name must be one of {', '.join(self.names)}, got {name!r}.")
        times = self.times.numpy()
        late = times >= (times[0] if after is None else times_by(self.clock, after, "after")[0])
        there = (self.visited == self.names.index(name)) & late
        entered = there.any(1)
        if not entered.any():
            raise InputError(f"no path enters {name!r} within the record; look at a longer one.")
        found = times[there[entered].argmax(1)]
        quantiles = np.quantile(found, (0.5, *_tails(level)), method="inverted_cdf")
        shown = times_shown(torch.from_numpy(quantiles), self.clock)
        return pd.Series([*shown, entered.mean()], index=["median", "low", "high", "share"], name=name, dtype=object)

    def to_frame(self) -> pd.DataFrame:
        """One row a time: the share of paths inside each region, and that belong to it."""
        columns = {"time": times_shown(self.times, self.clock)}
        for i, name in enumerate(self.names):
            columns |= {f"in {name}": self.inside[:, i], f"from {name}": self.belongs[:, i]}
        return pd.DataFrame(columns)


def residence(paths: Paths, times: Tensor, regions: Mapping[str, Any], clock: Clock | None = None) -> Residence:
    """What paths tell of regions.

    Args:
        paths: (n, m, d).
        times: (m,).
        regions: by name, as for ``Belief.probability``; they must not overlap.
        clock: what makes dates of times.

    Raises:
        InputError: a region cannot be read, there are none, or two overlap.
    """
    if not isinstance(regions, Mapping) or not regions:
        raise InputError(
            "regions must be a dict of at least one region by name, as {'left': (None, 0), 'right': (0, None)}."
        )
    n, m, d = paths.shape
    flat = paths.reshape(n * m, d)
    found = [as_region(region, d) for region in regions.values()]
    inside = np.stack([region.contains(flat).cpu().numpy().reshape(n, m) for region in found])
    if (inside.sum(0) > 1).any():
        raise InputError("regions must not overlap, but some states lie in two of them; leave a gap between them.")
    now = np.where(inside.any(0), inside.argmax(0), NOWHERE)
    # The last place at which a path was inside any region, carried on.
    last = np.maximum.accumulate(np.where(now == NOWHERE, -1, np.arange(m)), axis=1)
    visited = np.where(last >= 0, np.take_along_axis(now, np.maximum(last, 0), 1), NOWHERE)
    return Residence(times, tuple(regions), inside.mean(1).T, visited, clock)


def _tails(level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise InputError(f"level must lie strictly between 0 and 1, got {level!r}.")
    return 0.5 - 0.5 * level, 0.5 + 0.5 * level
