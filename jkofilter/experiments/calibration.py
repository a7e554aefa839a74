"""Whether a filter's beliefs are honest: truths simulated from the model should be spread evenly over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from jkofilter.errors import FilterError, InputError
from jkofilter.filters.contract import Filter
from jkofilter.filters.driver import run_filter
from jkofilter.models.series import ObservationSeries
from jkofilter.models.simulate import simulate
from jkofilter.numerics import metrics
from jkofilter.numerics.draws import derived_seed


@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranks of simulated truths within the beliefs about them.

    Attributes:
        times: of the readings, (m,), in the SDE's unit.
        levels: P(X_i <= truth_i | readings so far) of every run, reading and coordinate, (r, m, d): uniform on (0, 1)
            for a filter that is right (Cook, Gelman & Rubin 2006). Runs are independent; readings and coordinates of
            one run are not.
    """

    times: Float[Tensor, " m"]
    levels: Float[Tensor, "r m d"]

    @property
    def runs(self) -> int:
        """Number of simulated runs r."""
        return self.levels.shape[0]

    def coverage(self, probability: float = 0.9) -> float:
        """Share of truths inside their central credible intervals of that probability.

        Raises:
            InputError: ``probability`` is not between 0 and 1.
        """
        if not 0 < probability < 1:
            raise InputError(f"probability must be between 0 and 1, got {probability!r}.")
        return self._inside(probability).mean().item()

    def coverage_error(self, probability: float = 0.9) -> float:
        """Standard error of ``coverage``, from the differences between runs."""
        return (self._inside(probability).mean((1, 2)).std() / self.runs**0.5).item()

    def _inside(self, probability: float) -> Tensor:
        return ((self.levels - 0.5).abs() <= 0.5 * probability).to(self.levels)

    def to_frame(self) -> pd.DataFrame:
        """One row per run, reading and coordinate: run, time, coordinate, level."""
        r, m, d = self.levels.shape
        index = pd.MultiIndex.from_product(
            [range(r), self.times.tolist(), range(d)], names=["run", "time", "coordinate"]
        )
        return pd.Series(self.levels.reshape(-1).numpy(), index=index, name="level").reset_index()


def calibrate(
    filter: Filter,
    times: Any,
    runs: int = 200,
    seed: int = 0,
    substep: float | None = None,
    on_run: Callable[[int], None] = lambda run: None,
    start: float | None = None,
) -> Calibration:
    """Simulate paths and readings from the filter's own model, and rank the truths within its beliefs.

    Args:
        filter: what is put to the test.
        times: of the readings, increasing, (m,), in the SDE's unit.
        runs: how many simulations; coverage is known to about 0.3 / sqrt(runs).
        seed: zero or more; another seed gives other simulations.
        substep: longest step of the simulation, time; None chooses steps from the curvature.
        on_run: called after every run with its number.
        start: when the prior holds, time; None is time zero, as in ``simulate``.

    Raises:
        InputError: ``filter`` is none, ``runs`` is below two, ``seed`` below zero, or the simulation cannot be made.
        FilterError: the filter fails on one of the runs, reported or not; names the run and its seed.
    """
    if not isinstance(filter, Filter):
        raise InputError(f"filter must be a filter such as JKOFilter(model), got {type(filter).__name__}.")
    check_request(runs, seed)
    levels = []
    for run in range(runs):
        own = derived_seed(seed, "calibration", run)
        path, series = simulate(filter.model, times, seed=own, substep=substep, start=start)
        try:
            levels.append(_levels(filter, path, series, own))
        except FilterError as error:
            raise FilterError(f"run {run} (seed {own}) of the calibration: {error}") from error
        on_run(run)
    return Calibration(series.times, torch.stack(levels))


def check_request(runs: int, seed: int) -> None:
    """Raise InputError unless a calibration can be of so many runs and that seed."""
    if not isinstance(runs, int) or runs < 2:
        raise InputError(f"runs must be an integer of at least 2, got {runs!r}.")
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed must be an integer of zero or more, got {seed!r}.")


def _levels(filter: Filter, path: Tensor, series: ObservationSeries, seed: int) -> Float[Tensor, "m d"]:
    result = run_filter(filter, series, seed=seed, keep_beliefs=True)
    if result.status != "ok":
        # A belief kept after a failure is none about this truth.
        raise FilterError(result.status)
    return torch.stack([metrics.pit(belief, truth) for belief, truth in zip(result.beliefs, path, strict=True)])
