"""A reading taken in by paths, in temperatures, moved at each (Del Moral, Doucet & Jasra 2006)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Generator

from jkofilter._typing import Points, Scalars
from jkofilter.assimilation.path_moves import PathMove, PathMover, Paths, PathTarget
from jkofilter.assimilation.paths import Refinement, refinement
from jkofilter.numerics.linalg import by_columns
from jkofilter.numerics.resampling import resample
from jkofilter.numerics.tempering import next_temperature
from jkofilter.numerics.weights import effective_sample_size, log_mean_exp, normalise_log_weights

_CRANK_NICOLSON_SWEEPS = 5
"""Sweeps of Crank-Nicolson moves that go as far as one of Hamiltonian ones, or nearly."""


@dataclass(frozen=True, eq=False)
class TemperedPaths:
    """What a reading makes of paths.

    Attributes:
        ends: where they end, (k n, d): after each of k last sweeps.
        log_weights: normalised, (k n,).
        log_evidence: log p(reading | before).
        temperatures: at which paths were moved, the last is one.
        ess: effective share before resampling at each.
        acceptance: of moves by name, at every sweep.
    """

    ends: Points
    log_weights: Scalars
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
    pieces: int,
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
        pieces: in which steps are taken at the end, when paths are weighed for the difference.
        generator: draws everything.

    Raises:
        NumericalError: the likelihood is zero at every end.
    """
    paths, mover = target.begin(origin, generator), PathMover(target, generator)
    temperature, log_evidence = 0.0, 0.0
    temperatures, effective, ends = [], [], []
    finer = refinement(target.path, pieces) if pieces > 1 else None
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
                ends.append(_refined(target, paths, finer, generator))
    log_weights, increment = normalise_log_weights(torch.cat([weight for _, weight in ends]))
    log_evidence += increment - math.log(len(log_weights))
    points = torch.cat([end for end, _ in ends])
    return TemperedPaths(points, log_weights, log_evidence, tuple(temperatures), tuple(effective), mover.acceptance)


def _refined(
    target: PathTarget, paths: Paths, finer: Refinement | None, generator: Generator
) -> tuple[Points, Scalars]:
    """Ends by finer steps, and the log likelihood there less that at the ends of the steps of the moves."""
    if finer is None:
        return paths.end.clone(), torch.zeros_like(paths.value, dtype=torch.float64)
    ends, gains = torch.empty_like(paths.end), torch.empty_like(paths.value, dtype=torch.float64)
    fine = replace(target, path=finer.path, start=None)
    for part in paths.parts():
        start, noises = target.split(by_columns(paths.origin[part]), by_columns(paths.numbers[:, part]))
        ends[part], value = fine.value(start, finer.noises(noises, generator))
        gains[part] = value.double() - paths.value[part].double()
    return ends, gains
