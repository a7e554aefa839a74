"""Markov moves of particles between temperatures, repeated until they have settled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Generator

from jkofilter._typing import Matrix, Points, Scalars, State
from jkofilter.numerics.linalg import safe_cholesky
from jkofilter.numerics.mcmc import (
    AuxiliaryFunction,
    LogTarget,
    Transition,
    auxiliary_metropolis,
    crank_nicolson,
    elliptical_slice,
)

Move: TypeAlias = Literal["elliptical-slice", "crank-nicolson", "auxiliary", "global"]
MOVES: tuple[Move, ...] = ("elliptical-slice", "crank-nicolson", "auxiliary", "global")
ENOUGH_FOR_COVARIANCE = 5
"""Particles per dimension from which their covariance is used."""
FLOOR_OF_VARIANCE = 1e-12
WIDER = 1.2
"""Deviations of the kernels' own law over those of the particles. Reweighted particles are narrower than their law, the
more so the fewer they are; a kernel that takes their word for it keeps them so, and after tens of temperatures they
have collapsed along the way of the reading (forty deviations away, 500 particles ended 28 deviations short)."""
WIDENING, WIDEST = 1.5, 5.0
"""Growth of that with every further sweep of particles that drift, and its end."""
MOST_SWEEPS = 15
"""Times the sweeps asked for."""
DRIFT = 5.0
"""Standard errors by which the mean or variance of settled particles may change in a sweep."""
_STEP, _STEP_WANTED, _STEP_GAIN = 0.5, 0.3, 0.5
"""First Crank-Nicolson step, the acceptance it is tuned to, and how fast."""


@dataclass(frozen=True, eq=False)
class Frame:
    """Coordinates v, u = mean + factor v, in which the particles have no mean and nearly unit covariance.

    A posterior narrower than the base law makes kernels for N(u; 0, I) propose far too boldly; in v they do not.
    """

    mean: State
    factor: Matrix

    @staticmethod
    def around(u: Points, wider: float = WIDER) -> Frame:
        """Moments of the particles, deviations times ``wider``; too few for a covariance give their variances alone."""
        n, d = u.shape
        mean = u.mean(0)
        covariance = (u - mean).mT @ (u - mean) / n
        if n < ENOUGH_FOR_COVARIANCE * d:
            covariance = torch.diag(covariance.diagonal())
        floor = FLOOR_OF_VARIANCE * torch.eye(d, dtype=u.dtype, device=u.device)
        return Frame(mean, wider * safe_cholesky(covariance + floor)[0])

    def into(self, u: Points) -> Points:
        """v of u."""
        return torch.linalg.solve_triangular(self.factor, (u - self.mean).mT, upper=False).mT

    def out(self, v: Points) -> Points:
        """u of v."""
        return self.mean + v @ self.factor.mT


@dataclass(eq=False)
class Kernels:
    """Applies kernels, tunes them and keeps count.

    Attributes:
        moves: local kernels, in the order of a sweep; "global" is left out.
        sweeps: fewest at each temperature.
        auxiliary: phi(z, c) of the "auxiliary" kernel.
        generator: the source of randomness.
        evaluations: of the target so far, a particle.
        most: sweeps at one temperature so far.
        acceptance: of every kernel at every sweep so far.
    """

    moves: Sequence[Move]
    sweeps: int
    auxiliary: AuxiliaryFunction
    generator: Generator
    evaluations: float = 0.0
    most: int = 0
    acceptance: dict[str, list[float]] = field(default_factory=dict)
    _step: float = _STEP

    @property
    def counts(self) -> dict[str, float]:
        """Sweeps, evaluations and acceptance of every kernel, by name."""
        acceptance = {f"acceptance_{move}": sum(found) / len(found) for move, found in self.acceptance.items()}
        return {"sweeps": float(self.most), "evaluations": self.evaluations} | acceptance

    def settled(self, u: Points, value: Scalars, target: LogTarget) -> tuple[Points, Scalars]:
        """The particles after sweeps, at least ``sweeps`` and more while they drift.

        What has the target's law already keeps it, so that its moments change by chance alone.
        """
        local = [move for move in self.moves if move != "global"]
        wider = WIDER
        for count in range(1, MOST_SWEEPS * self.sweeps + 1 if local else 0):
            frame, before = Frame.around(u, wider), u
            for move in local:
                u, value = self._applied(move, frame, u, value, target)
            self.most = max(self.most, count)
            if count >= self.sweeps:
                if not drifting(frame.into(before), frame.into(u)):
                    break
                wider = min(WIDENING * wider, WIDEST)
        return u, value

    def _applied(
        self, move: Move, frame: Frame, u: Points, value: Scalars, target: LogTarget
    ) -> tuple[Points, Scalars]:
        if move == "auxiliary":
            moved = auxiliary_metropolis(u, value, target, self.auxiliary, self.generator)
        else:
            moved = self._framed(move, frame, u, value, target)
        self.evaluations += moved.evaluations
        self.acceptance.setdefault(move, []).append(moved.acceptance)
        return moved.z, moved.value

    def _framed(self, move: Move, frame: Frame, u: Points, value: Scalars, target: LogTarget) -> Transition:
        def framed(v: Points) -> Scalars:
            inner = frame.out(v)
            return target(inner) + _tilt(inner, v)

        v = frame.into(u)
        start = value + _tilt(u, v)
        if move == "elliptical-slice":
            moved = elliptical_slice(v, start, framed, self.generator)
        else:
            moved = crank_nicolson(v, start, framed, self._step, self.generator)
            self._step *= math.exp(_STEP_GAIN * (moved.acceptance - _STEP_WANTED))
            self._step = min(max(self._step, 1e-3), 1.0)
        u = frame.out(moved.z)
        return Transition(u, moved.value - _tilt(u, moved.z), moved.acceptance, moved.evaluations)


def drifting(before: Points, after: Points) -> bool:
    """Whether means or mean squares of the coordinates change by more than chance would have it."""
    change = torch.cat((after - before, after.square() - before.square()), -1)
    error = change.std(0) / math.sqrt(len(change))
    return bool((change.mean(0).abs() > DRIFT * error).any())


def _tilt(u: Points, v: Points) -> Scalars:
    """log N(u; 0, I) - log N(v; 0, I), up to a constant: the target's base law is that of u, the kernels' that of v."""
    return 0.5 * (v.square() - u.square()).sum(-1)
