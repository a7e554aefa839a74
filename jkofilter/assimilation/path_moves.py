"""Moves of paths that leave the law of start and noises invariant, given a tempered reading at their end.

Start and noises are standard normal numbers q before the reading; with it their density is exp(t l(end(q))) N(q; 0, I),
t the temperature. Hilbert-space Hamiltonian moves (Beskos, Pinski, Sanz-Serna & Stuart 2011, Stoch. Proc. Appl. 121,
2201-2230) rotate q and its velocity, which leaves N(0, I) alone, and kick with the gradient of l; preconditioned
Crank-Nicolson moves (Cotter, Roberts, Stuart & White 2013, Stat. Sci. 28, 424-446) need no gradient. Any force that is
a function of q alone keeps both exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Generator, Tensor

from jkofilter._typing import Matrix, Points, Scalars, State
from jkofilter.assimilation.likelihood import LogLikelihood
from jkofilter.assimilation.paths import Noises, PathMap
from jkofilter.numerics.draws import standard_normal, uniform
from jkofilter.numerics.linalg import by_columns, times
from jkofilter.numerics.resampling import resample

PathMove: TypeAlias = Literal["hmc", "pcn"]
ANGLE = 1.2
"""Length of a Hamiltonian trajectory, a quarter turn of N(0, I) being pi / 2."""
_WANTED: dict[PathMove, float] = {"hmc": 0.75, "pcn": 0.3}
_GAIN, _PATIENCE, _JITTER = 1.0, 4, 0.3
_SHORTEST, _LONGEST, _MOST_LEAPS = 1e-3, 1.2, 32
_TOGETHER = 16_384
"""Coordinates of points that are moved together: what a step works on stays in the cache."""
_PARTS = 2


@dataclass(frozen=True, eq=False)
class StartLaw:
    """A law of starts as that of x = mean + factor u, u ~ N(0, I), times exp(excess(x)).

    Attributes:
        mean: (d,).
        factor: lower triangular, (d, d).
        excess: log of the density relative to N(mean, factor factor'), up to a constant; None for zero.
    """

    mean: State
    factor: Matrix
    excess: LogLikelihood | None

    def place(self, u: Points) -> Points:
        """x for u, (n, d)."""
        return times(u, self.factor.mT) + self.mean

    def standardised(self, x: Points) -> Points:
        """u for x, (n, d)."""
        return torch.linalg.solve_triangular(self.factor, (x - self.mean).mT, upper=False).mT

    def to(self, like: Tensor) -> StartLaw:
        """In the type and on the device of another tensor."""
        return StartLaw(self.mean.to(like), self.factor.to(like), self.excess)


@dataclass(frozen=True, eq=False)
class PathTarget:
    """The law of paths that end at a reading.

    Attributes:
        path: the gap's map.
        log_likelihood: of the reading, for points at the end.
        start: law of the starts, which then move as well, their u in the first row of the numbers; None keeps starts
            but for swaps.
    """

    path: PathMap
    log_likelihood: LogLikelihood
    start: StartLaw | None

    def begin(self, origin: Points, generator: Generator) -> Paths:
        """Paths from given starts (n, d), with noise drawn afresh."""
        rows = len(self.path.steps) + (self.start is not None)
        # Coordinate by coordinate in memory, see numerics.linalg.times.
        numbers = origin.new_empty(rows, self.path.width, len(origin)).normal_(generator=generator).mT
        origin = by_columns(origin)
        if self.start is not None:
            numbers[0, :, : origin.shape[1]] = self.start.standardised(origin)
        known = torch.zeros(len(origin), dtype=torch.bool, device=origin.device)
        value, slope = origin.new_zeros(len(origin)), torch.zeros_like(numbers)
        paths = Paths(origin.clone(), numbers, torch.zeros_like(origin), value, slope, known)
        for part in paths.parts():
            paths.end[part], paths.value[part] = self.value(origin[part], numbers[:, part])
        return paths

    def value(self, origin: Points, numbers: Noises) -> tuple[Points, Scalars]:
        """Ends, and log likelihood there: minus infinity where a path leaves the finite numbers."""
        end = self.path.end(*self.split(origin, numbers))
        lost = ~torch.isfinite(end).all(-1)
        if not lost.any():
            return end, self.log_likelihood(end)
        value = end.new_full((len(end),), -math.inf)
        if not lost.all():
            value[~lost] = self.log_likelihood(end[~lost])
        return end, value

    def value_and_slope(self, origin: Points, numbers: Noises) -> tuple[Points, Scalars, Noises]:
        """Ends, log likelihood there, and its gradient by the numbers."""
        start, noises = self.split(origin, numbers)
        end, pull_back = self.path.linearised(start, noises)
        value, slope = _with_slope(self.log_likelihood, torch.nan_to_num(end, 0.0, 0.0, 0.0))
        value = torch.where(torch.isfinite(end).all(-1), value, -math.inf)
        by_start, gradient = pull_back(by_columns(slope))
        if self.start is not None:
            gradient = torch.cat([times(by_start, self.start.factor).mT.unsqueeze(0), gradient.mT]).mT
        return end, value, gradient

    def excess(self, origin: Points, numbers: Noises) -> Scalars:
        """Excess of the start's law, (n,)."""
        if self.start is None or self.start.excess is None:
            return torch.zeros_like(origin[:, 0])
        return self.start.excess(self.split(origin, numbers)[0]).detach()

    def excess_and_slope(self, origin: Points, numbers: Noises) -> tuple[Scalars | float, Points | None]:
        """Excess of the start's law, (n,), and its gradient by the first row of numbers; zero and None for none."""
        if self.start is None or self.start.excess is None:
            return 0.0, None
        value, slope = _with_slope(self.start.excess, self.split(origin, numbers)[0])
        return value, times(slope, self.start.factor)

    def split(self, origin: Points, numbers: Noises) -> tuple[Points, Noises]:
        """Starts and noises."""
        if self.start is None:
            return origin, numbers
        return self.start.place(numbers[0, :, : origin.shape[1]]), numbers[1:]


@dataclass(eq=False)
class Paths:
    """Paths that are being moved, in place.

    Attributes:
        origin: where they start, (n, d), unless the start moves.
        numbers: standard normal before the reading, (steps, n, k); one row more where the start moves.
        end: where they end, (n, d).
        value: log likelihood there, (n,).
        slope: its gradient by the numbers, where it was left by a move, as the numbers.
        known: whose slope is known, (n,).
    """

    origin: Points
    numbers: Noises
    end: Points
    value: Scalars
    slope: Noises
    known: Tensor

    def parts(self) -> Iterator[slice]:
        """Points that are moved together."""
        n, d = self.origin.shape
        # Steps of moves are adapted from part to part.
        size = max(32, min(_TOGETHER // d, math.ceil(n / _PARTS)))
        return (slice(a, min(a + size, n)) for a in range(0, n, size))

    def chosen(self, indices: Tensor) -> Paths:
        """Some of them."""
        points = [x.mT[..., indices].mT for x in (self.origin, self.numbers, self.end, self.slope)]
        return Paths(points[0], points[1], points[2], self.value[indices], points[3], self.known[indices])

    def accept(self, part: slice, ok: Tensor, end: Points, value: Scalars) -> None:
        """New ends and values where ``ok``."""
        self.end[part] = torch.where(ok.unsqueeze(-1), end, self.end[part])
        self.value[part] = torch.where(ok, value, self.value[part])


@dataclass(eq=False)
class PathMover:
    """Applies moves, and adapts their length to how many are accepted.

    Attributes:
        target: law of the paths.
        generator: draws proposals.
        step: of "hmc" a time, of "pcn" an angle.
        acceptance: of all sweeps so far, by name.
    """

    target: PathTarget
    generator: Generator
    step: dict[PathMove, float] = field(default_factory=lambda: {"hmc": 0.5, "pcn": 0.5})
    acceptance: dict[str, list[float]] = field(default_factory=dict)

    def sweep(self, paths: Paths, move: PathMove, temperature: float) -> None:
        """One move of every path; again, a few times at most, while hardly half of what was wanted is accepted."""
        for _ in range(_PATIENCE):
            if self._swept(paths, move, temperature) > 0.5 * _WANTED[move]:
                return

    def _swept(self, paths: Paths, move: PathMove, temperature: float) -> float:
        kernel = self._hamiltonian if move == "hmc" else self._crank_nicolson
        total = 0.0
        for part in paths.parts():
            share = kernel(paths, part, temperature)
            size = part.stop - part.start
            total += share * size
            change = _GAIN * (share - _WANTED[move])
            self.step[move] = min(max(self.step[move] * math.exp(change), _SHORTEST), _LONGEST)
        accepted = total / len(paths.value)
        self.acceptance.setdefault(move, []).append(accepted)
        return accepted

    def swap(self, paths: Paths, pool: Points, log_weights: Scalars, temperature: float) -> None:
        """Proposes to every path another start, drawn from the law of starts before the reading: weighted points."""
        start, total = self.target.start, 0.0
        drawn = pool[resample(log_weights, "multinomial", self.generator, len(paths.value))]
        for part in paths.parts():
            numbers, origin = by_columns(paths.numbers[:, part]), by_columns(drawn[part])
            if start is not None:
                # What lies by columns already is not copied, and rejected proposals must leave no trace.
                numbers = numbers.clone()
                numbers[0, :, : origin.shape[1]] = start.standardised(origin)
            end, value = self.target.value(origin, numbers)
            ok, share = self._accepted(temperature * (value - paths.value[part]))
            paths.origin[part] = torch.where(ok.unsqueeze(-1), origin, paths.origin[part])
            if start is not None:
                paths.numbers[0, part] = torch.where(ok.unsqueeze(-1), numbers[0], paths.numbers[0, part])
            paths.accept(part, ok, end, value)
            paths.known[part] &= ~ok
            total += share * len(ok)
        self.acceptance.setdefault("swap", []).append(total / len(paths.value))

    def _accepted(self, gain: Scalars) -> tuple[Tensor, float]:
        """Which proposals are taken, and the mean probability of it."""
        probability = torch.nan_to_num(gain, nan=-math.inf, posinf=0.0).clamp(max=0.0).exp()
        return uniform(probability, self.generator) < probability, probability.mean().item()

    def _hamiltonian(self, paths: Paths, part: slice, temperature: float) -> float:
        step = self.step["hmc"]
        leaps = min(max(1, math.ceil(ANGLE / step)), _MOST_LEAPS)
        # Steps of their own: in steps all alike, directions that turn once in a trajectory would never move.
        value = paths.value[part]
        steps = (step * (1 + _JITTER * (2 * uniform(value, self.generator) - 1))).unsqueeze(-1)
        cosine, sine = steps.cos(), steps.sin()
        origin, q = by_columns(paths.origin[part]), by_columns(paths.numbers[:, part])
        v = standard_normal(q.mT, self.generator).mT
        slope = self._known_slope(paths, part, origin, q)
        excess, pull = self.target.excess_and_slope(origin, q)
        before = _energy(temperature * value + excess, q, v)
        _kick(v, temperature * steps, slope, steps, pull, 0.5)
        for k in range(leaps):
            q, v = torch.addcmul(cosine * q, sine, v), torch.addcmul(cosine * v, sine, q, value=-1)
            end, value, slope = self.target.value_and_slope(origin, q)
            excess, pull = self.target.excess_and_slope(origin, q)
            _kick(v, temperature * steps, slope, steps, pull, 1.0 if k < leaps - 1 else 0.5)
        ok, share = self._accepted(before - _energy(temperature * value + excess, q, v))
        paths.slope[:, part] = torch.where(ok.unsqueeze(-1), slope, paths.slope[:, part])
        return self._taken(paths, part, ok, q, end, value, share)

    def _known_slope(self, paths: Paths, part: slice, origin: Points, numbers: Noises) -> Noises:
        """The gradient where the paths are: what the last move left, computed where there was none."""
        fresh = ~paths.known[part]
        if fresh.all():
            paths.slope[:, part] = self.target.value_and_slope(origin, numbers)[2]
        elif fresh.any():
            index = fresh.nonzero()[:, 0]
            some = by_columns(origin[index]), by_columns(numbers[:, index])
            paths.slope[:, part.start + index] = self.target.value_and_slope(*some)[2]
        paths.known[part] = True
        return by_columns(paths.slope[:, part])

    def _crank_nicolson(self, paths: Paths, part: slice, temperature: float) -> float:
        angle = self.step["pcn"]
        origin, old = by_columns(paths.origin[part]), by_columns(paths.numbers[:, part])
        q = torch.add(math.cos(angle) * old, standard_normal(old.mT, self.generator).mT, alpha=math.sin(angle))
        end, value = self.target.value(origin, q)
        gain = temperature * (value - paths.value[part])
        if self.target.start is not None:
            gain = gain + self.target.excess(origin, q) - self.target.excess(origin, old)
        ok, share = self._accepted(gain)
        paths.known[part] &= ~ok
        return self._taken(paths, part, ok, q, end, value, share)

    def _taken(
        self, paths: Paths, part: slice, ok: Tensor, q: Noises, end: Points, value: Scalars, share: float
    ) -> float:
        paths.numbers[:, part] = torch.where(ok.unsqueeze(-1), q, paths.numbers[:, part])
        paths.accept(part, ok, end, value)
        return share


def _with_slope(function: LogLikelihood, x: Points) -> tuple[Scalars, Points]:
    """Values (n,) and slopes (n, d), zero where torch knows none.

    Never by differences, whose width would depend on the other points: a force must be a function of its point alone.
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        value = function(leaf)
        slope = torch.zeros_like(x)
        if value.requires_grad:
            (slope,) = torch.autograd.grad(value.sum(), leaf, materialize_grads=True)
    return value.detach(), torch.nan_to_num(slope, 0.0, 0.0, 0.0)


def _kick(v: Noises, tempered: Tensor, slope: Noises, steps: Tensor, pull: Points | None, share: float) -> None:
    """Adds a share of the steps (n, 1) times the forces: of the likelihood, and of the start's law on the first row."""
    v.addcmul_(slope, tempered, value=share)
    if pull is not None:
        v[0, :, : pull.shape[1]].addcmul_(pull, steps, value=share)


def _energy(value: Scalars, q: Noises, v: Noises) -> Scalars:
    return 0.5 * (q.square().sum((0, 2)) + v.square().sum((0, 2))) - value
