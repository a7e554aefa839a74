"""A reading taken in by paths: from prior to posterior in temperatures, moved at each (Del Moral, Doucet & Jasra 2006)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator

from jkofilter._typing import Points, Scalars
from jkofilter.assimilation.path_moves import PathMove, PathMover, Paths, PathTarget
from jkofilter.numerics.resampling import resample
from jkofilter.numerics.tempering import next_temperature
from jkofilter.numerics.weights import effective_sample_size, log_mean_exp

_CRANK_NICOLSON_SWEEPS = 5
"""Sweeps of Crank-Nicolson moves that go as far as one of Hamiltonian ones, or nearly."""


@dataclass(frozen=True, eq=False)
class TemperedPaths:
    """What a reading makes of paths.

    Attributes:
        ends: where they end, (k n, d): after each of k last sweeps, equally weighted.
        log_evidence: log p(reading | before).
        temperatures: at which paths were moved, the last is one.
        ess: effective share before resampling at each.
        acceptance: of moves by name, at every sweep.
    """

    ends: Points
    log_evidence: float
    temperatures: tuple[float, ...]
    ess: tuple[float, ...]
    acceptance: dict[str, list[float]]


def temper(
    target: PathTarget,
    origin: Points,
    pool: tuple[Points, Scalars],
    move: PathMove,
    share: float,
    sweeps: int,
    generator: Generator,
) -> TemperedPaths:
    """Takes a reading in.

    Args:
        target: law of the paths given the reading.
        origin: starts drawn from the law before the gap, (n, d), equally weighted.
        pool: that law, points (m, d) and log weights (m,), for swaps.
        move: of the noises.
        share: of the paths that a temperature keeps effective.
        sweeps: at the last temperature.
        generator: draws everything.

    Raises:
        NumericalError: the likelihood is zero at every end.
    """
    paths, mover = target.begin(origin, generator), PathMover(target, generator)
    temperature, log_evidence = 0.0, 0.0
    temperatures, effective, ends = [], [], []
    swaps = target.start is None or target.start.excess is not None
    while temperature < 1:
        value = paths.value.double()
        after = next_temperature(value, temperature, share)
        log_weights = (after - temperature) * value
        log_evidence += log_mean_exp(log_weights)
        effective.append(effective_sample_size(log_weights) / len(value))
        temperature = after
        temperatures.append(after)
        paths = paths.chosen(resample(log_weights, "systematic", generator))
        for _ in range(sweeps if temperature == 1 else 1):
            if swaps:
                mover.swap(paths, *pool, temperature)
            for _ in range(1 if move == "hmc" else _CRANK_NICOLSON_SWEEPS):
                mover.sweep(paths, move, temperature)
            if temperature == 1:
                ends.append(paths.end.clone())
    return TemperedPaths(torch.cat(ends), log_evidence, tuple(temperatures), tuple(effective), mover.acceptance)
