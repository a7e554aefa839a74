"""Paths through a gap as a map: from a start and standard normal numbers to where the diffusion is at its end.

The map is exponential Heun (``numerics/heun.py``) with steps that are planned once for the gap, so that it is the same
for every point and can be differentiated by hand: with f = -grad V, symmetric matrices P1 = h phi1(hA), P2 = h phi2(hA)
and S S' = (2 / beta) h phi1(2hA),

    p = x + f(x) P1 + z S',    x' = p + (f(p) - f(x) + (p - x) A) P2,

so that with l the derivative by x' and c = l P2, that by p is m = l + J(p) c + c A, that by z is m S, and that by x is
m - c A + J(x) (m P1 - c), J = -Hessian. A point for which a step turns out too long takes it in pieces, along which its
noise is spread evenly; its derivative is then given as zero, which costs moves of that point, not their exactness.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from jkofilter._typing import Matrix, Points, State
from jkofilter.assimilation.compiled_paths import CompiledPaths
from jkofilter.models.motion import PlannedStep
from jkofilter.models.potentials import Linearised
from jkofilter.models.sde import LangevinSDE
from jkofilter.models.turned import cubic_slope
from jkofilter.numerics.heun import HeunScheme, Linear, phi1, phi2
from jkofilter.numerics.linalg import times

Noises: TypeAlias = Float[Tensor, "steps n k"]
"""Standard normal numbers of paths, k for each step: d, or 3 d between walls."""

PullBack: TypeAlias = Callable[[Points], tuple[Points, Noises]]
"""From derivatives by the end of paths (n, d) to those by start and noises."""

Factor: TypeAlias = Matrix | State | float
"""A symmetric matrix; its diagonal; or a number times the identity."""

_DEEPEST = 14
_ALIKE = 1.0
_STABLE, _ACCURATE = 2.0, 0.5
"""Length of a step times the rate at which the drift changes along it, from which on Heun's scheme blows up; and up to
which a piece is good."""


@dataclass(frozen=True, eq=False)
class _Step:
    """One step; matrices that are diagonal are vectors, or numbers."""

    h: float
    linear: Linear
    first: Factor
    second: Factor
    spread: Factor
    matrix: Factor

    def to(self, like: Tensor) -> _Step:
        """In the type and on the device of another tensor."""
        moved = [
            m.to(like) if isinstance(m, Tensor) else m for m in (self.first, self.second, self.spread, self.matrix)
        ]
        basis = None if self.linear.basis is None else self.linear.basis.to(like)
        return _Step(self.h, Linear(self.linear.rates.to(like), basis), *moved)


def _step(planned: PlannedStep, beta: float) -> _Step:
    h, linear = planned.length, planned.linear
    rates = linear.rates
    if linear.basis is not None and rates.max() - rates.min() <= _ALIKE * rates.mean():
        # A multiple of the identity does nearly as well, and takes no products with matrices.
        linear = Linear(rates.mean().expand_as(rates))
    deviation = (2 / beta * h * phi1(2 * h * linear.rates)).sqrt()
    first, second = _factors(linear, h)
    return _Step(h, linear, first, second, _whole(linear, deviation), _whole(linear, linear.rates))


def _whole(linear: Linear, factor: Tensor) -> Factor:
    """The matrix that multiplies eigenvectors of A by ``factor``."""
    if linear.basis is None:
        return factor[0].item() if bool((factor == factor[0]).all()) else factor
    return (linear.basis * factor) @ linear.basis.mT


def _factors(linear: Linear, h: float) -> tuple[Factor, Factor]:
    """P1 and P2 of a step of this length."""
    z = h * linear.rates
    return _whole(linear, h * phi1(z)), _whole(linear, h * phi2(z))


def _times(x: Points, factor: Factor) -> Points:
    return times(x, factor) if isinstance(factor, Tensor) and factor.ndim == 2 else x * factor


def _added(x: Points, y: Points, factor: Factor) -> Points:
    """x + y factor."""
    if not isinstance(factor, Tensor):
        return torch.add(x, y, alpha=factor)
    return torch.addcmul(x, y, factor) if factor.ndim == 1 else torch.addmm(x.mT, factor.mT, y.mT).mT


@dataclass(frozen=True, eq=False)
class PathMap:
    """Where paths through a gap end.

    Attributes:
        sde: the diffusion of u, which is the state or a rotation of it.
        steps: of the gap.
        turn: R if u = R x; None for u = x. Noises are those of u.
    """

    sde: LangevinSDE
    steps: tuple[_Step, ...]
    turn: Matrix | None = None

    @property
    def width(self) -> int:
        """How many numbers a step takes."""
        return self.sde.dim * (1 if self.sde.domain is None else 3)

    def to(self, like: Tensor) -> PathMap:
        """In the type and on the device of another tensor."""
        turn = None if self.turn is None else self.turn.to(like)
        return replace(self, steps=tuple(step.to(like) for step in self.steps), turn=turn)

    def end(self, x: Points, noises: Noises) -> Points:
        """Where paths from x (n, d) end, (n, d); NaN where they leave the finite numbers."""
        if self.sde.domain is not None:
            return self._between_walls(x, noises)
        start = self._into(x)
        if self._compiled is not None:
            end, worst = self._compiled.ends(start, noises)
            return self._back(self._mended(start, noises, end, worst - _STABLE)[0])
        u, worst = start, start.new_zeros(len(x))
        for step, z in zip(self.steps, noises, strict=True):
            force = self.sde.drift(u)
            ahead = _added(_added(u, force, step.first), z, step.spread)
            moved, change = ahead - u, self.sde.drift(ahead) - force
            change = _added(change, moved, step.matrix)
            worst = torch.maximum(worst, _excess(moved, change, step.h))
            u = _added(ahead, change, step.second)
        return self._back(self._mended(start, noises, u, worst)[0])

    def linearised(self, x: Points, noises: Noises) -> tuple[Points, PullBack]:
        """Where paths end, and how derivatives are pulled back from there, once.

        Without walls only.
        """
        start = self._into(x)
        if self._compiled is not None:
            end, worst, pull = self._compiled.linearised(start, noises)
            worst = worst - _STABLE
        else:
            end, worst, pull = self._linearised(start, noises)
        end, mended = self._mended(start, noises, end, worst)

        def pull_back(slope: Points) -> tuple[Points, Noises]:
            slope = self._into(slope)
            if mended is None:
                by_start, by_noise = pull(slope)
                return self._back(by_start), by_noise
            # Zero times the infinite curvature of a path that blew up is NaN.
            by_start, by_noise = pull(torch.where(mended.unsqueeze(-1), 0.0, slope))
            return self._back(by_start.nan_to_num(0.0, 0.0, 0.0)), by_noise.nan_to_num(0.0, 0.0, 0.0)

        return self._back(end), pull_back

    def _into(self, x: Points) -> Points:
        return x if self.turn is None else times(x, self.turn.mT)

    def _back(self, u: Points) -> Points:
        return u if self.turn is None else times(u, self.turn)

    @cached_property
    def _compiled(self) -> CompiledPaths | None:
        """These paths in compiled code; None where that knows the potential or the steps not."""
        cubic = cubic_slope(self.sde.potential)
        if cubic is None or any(step.linear.basis is not None for step in self.steps) or not self.steps:
            return None
        like = self.steps[0].linear.rates
        if like.device.type != "cpu":
            return None
        rows = [
            torch.stack(
                [torch.as_tensor(one).to(like).expand_as(like) for one in (s.first, s.second, s.spread, s.matrix, s.h)]
            )
            for s in self.steps
        ]
        return CompiledPaths(cubic, torch.stack(rows))

    def _linearised(self, u: Points, noises: Noises) -> tuple[Points, Tensor, PullBack]:
        """Ends, by how much the worst step is too long, and the pulling back."""
        worst = u.new_zeros(len(u))
        tape: list[tuple[Linearised, Linearised]] = []
        potential = self.sde.potential
        for step, z in zip(self.steps, noises, strict=True):
            slope, here = potential.linearised(u)
            ahead = _added(torch.sub(u, _times(slope, step.first)), z, step.spread)
            slope_ahead, there = potential.linearised(ahead)
            moved, change = ahead - u, slope - slope_ahead
            change = _added(change, moved, step.matrix)
            worst = torch.maximum(worst, _excess(moved, change, step.h))
            u = _added(ahead, change, step.second)
            tape.append((here, there))

        def pull_back(slope: Points) -> tuple[Points, Noises]:
            by_noise = torch.empty_like(noises)
            for j in range(len(self.steps) - 1, -1, -1):
                step, (here, there) = self.steps[j], tape[j]
                c = _times(slope, step.second)
                bent = _times(c, step.matrix)
                by_ahead = slope + bent - there(c)
                by_noise[j] = _times(by_ahead, step.spread)
                slope = by_ahead - bent - here(_times(by_ahead, step.first) - c)
            return slope, by_noise

        return u, worst, pull_back

    def _mended(self, start: Points, noises: Noises, end: Points, worst: Tensor) -> tuple[Points, Tensor | None]:
        """Ends, those anew whose steps were too long, and which these are (None for none)."""
        long = ~(worst <= 0)
        if not long.any():
            return end, None
        u = start[long]
        for step, z in zip(self.steps, noises[:, long], strict=True):
            u = self._in_pieces(step, u, step.h, _times(z, step.spread))
        return torch.index_put(end, (long,), u), long

    def _in_pieces(self, step: _Step, x: Points, h: float, noise: Points, depth: int = 0) -> Points:
        """One step, halved where it is too long."""
        force = self.sde.drift(x)
        first, second = _factors(step.linear, h)
        ahead = _added(x, force, first) + noise
        moved, change = ahead - x, self.sde.drift(ahead) - force
        change = _added(change, moved, step.matrix)
        after = _added(ahead, change, second)
        long = (
            ~(_excess(moved, change, h, _ACCURATE) <= 0) if depth < _DEEPEST else torch.zeros(len(x), dtype=torch.bool)
        )
        if long.any():
            # A steady push b with h phi1(hA) b equal to the noise of the step.
            half = 0.5 * h
            rates = step.linear.rates
            ratio = half * phi1(half * rates) / (h * phi1(h * rates))
            part = step.linear.back(ratio * step.linear.into(noise[long]))
            after[long] = self._in_pieces(
                step, self._in_pieces(step, x[long], half, part, depth + 1), half, part, depth + 1
            )
        return after

    def _between_walls(self, x: Points, noises: Noises) -> Points:
        domain = self.sde.domain
        if domain is None:
            raise TypeError("there are no walls")
        beta = float(self.sde.beta)
        scheme = HeunScheme(self.sde.drift, self.sde.potential, beta, Linear(torch.zeros_like(x[0])), domain)
        for step, z in zip(self.steps, noises, strict=True):
            normal, below, above = z.chunk(3, -1)
            # Uniform numbers lie in [0, 1).
            towards = tuple(torch.special.ndtr(one).clamp(max=1 - torch.finfo(x.dtype).eps) for one in (below, above))
            spread = (2 / beta * step.h) ** 0.5
            x = scheme.reflected(domain, x, step.h, self.sde.drift(x), spread * normal, towards)[0]
        return x


@dataclass(frozen=True, eq=False)
class Refinement:
    """The same paths in steps so many times shorter: their noises given those of the whole steps.

    Pieces c_k of the noise of a step, C = sum_k D_k c_k with D_k the decay from the end of a piece to that of the step,
    are drawn freely and then shifted by Cov(c_k, C) Var(C)^-1 times what their sum misses of C. Without walls only.

    Attributes:
        coarse: the paths.
        path: the finer ones.
        pieces: of a step.
        bridges: of every step the deviation of a piece's noise, the decays, and the shifts of the pieces.
    """

    coarse: PathMap
    path: PathMap
    pieces: int
    bridges: tuple[tuple[State, list[State], list[State]], ...]

    def noises(self, noises: Noises, generator: Generator) -> Noises:
        """Noises of the finer steps for those of the paths."""
        pieces = self.pieces
        numbers = noises.new_empty(len(noises) * pieces, noises.shape[2], noises.shape[1]).normal_(generator=generator)
        numbers = numbers.mT
        for j, (step, (deviation, decays, shifts)) in enumerate(zip(self.coarse.steps, self.bridges, strict=True)):
            linear, mine = step.linear, numbers[j * pieces : (j + 1) * pieces]
            missed = linear.into(_times(noises[j], step.spread))
            for decay, z in zip(decays, mine, strict=True):
                missed = torch.addcmul(missed, linear.into(z), decay * deviation, value=-1)
            for shift, z in zip(shifts, mine, strict=True):
                z += linear.back(shift * missed)
        return numbers


def refinement(path: PathMap, pieces: int) -> Refinement:
    """Paths in steps so many times shorter."""
    beta, steps, bridges = float(path.sde.beta), [], []
    for step in path.steps:
        linear, h = step.linear, step.h / pieces
        steps += [_step(PlannedStep(h, linear), beta).to(linear.rates)] * pieces
        deviation = (2 / beta * h * phi1(2 * h * linear.rates)).sqrt()
        decays = [torch.exp(-(pieces - 1 - k) * h * linear.rates) for k in range(pieces)]
        whole = torch.stack(decays).square().sum(0) * deviation.square()
        bridges.append((deviation, decays, [deviation * decay / whole for decay in decays]))
    return Refinement(path, replace(path, steps=tuple(steps)), pieces, tuple(bridges))


def path_map(sde: LangevinSDE, planned: tuple[PlannedStep, ...], turn: Matrix | None = None) -> PathMap:
    """The map of a gap that is taken in the given steps; ``turn`` as of ``PathMap``."""
    return PathMap(sde, tuple(_step(one, float(sde.beta)) for one in planned), turn)


def _excess(moved: Points, change: Points, h: float, most: float = _STABLE) -> Tensor:
    """Positive where the drift changes by more than a step can be long for, NaN where numbers break down; (n,)."""
    return torch.sub(change.square(), moved.square(), alpha=(most / h) ** 2).sum(-1)
