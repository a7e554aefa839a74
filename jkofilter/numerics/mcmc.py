"""Markov kernels that leave N(z; 0, I) exp(g(z)) unchanged, for many particles at once.

Each takes positions z (n, d), g there, and g as a function; a point where g is -inf is never entered.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Generator

from jkofilter._typing import Points, Scalars
from jkofilter.errors import InputError
from jkofilter.numerics.draws import standard_normal, uniform

LogTarget: TypeAlias = Callable[[Points], Scalars]
AuxiliaryFunction: TypeAlias = Callable[[Points, Scalars], Points]
"""phi(z, c) with c = -2 g(z): the centre of the proposal N(phi, I) from z, (n, d)."""

_SHRINKS = 40


@dataclass(frozen=True, eq=False)
class Transition:
    """Particles after a kernel.

    Attributes:
        z: positions, (n, d).
        value: g there, (n,).
        acceptance: share of the particles that moved.
        evaluations: of g, a particle.
    """

    z: Points
    value: Scalars
    acceptance: float
    evaluations: float


def _chosen(
    z: Points, value: Scalars, proposal: Points, new: Scalars, log_ratio: Scalars, generator: Generator
) -> Transition:
    # A ratio that is NaN comes of -inf on both sides; comparing it is False, and the particle stays.
    accept = uniform(value, generator).log() < log_ratio
    moved = torch.where(accept.unsqueeze(-1), proposal, z)
    return Transition(moved, torch.where(accept, new, value), accept.double().mean().item(), 1.0)


def elliptical_slice(z: Points, value: Scalars, log_target: LogTarget, generator: Generator) -> Transition:
    """A point of the ellipse through z and a fresh normal draw, by slice sampling with a shrinking bracket.

    No tuning, and never a rejection (Murray, Adams & MacKay 2010, figure 2).
    """
    z, value, other = z.clone(), value.clone(), standard_normal(z, generator)
    start = z.clone()
    threshold = value + uniform(value, generator).log()
    angle = 2 * math.pi * uniform(value, generator)
    low, high = angle - 2 * math.pi, angle.clone()
    active, asked = torch.arange(len(value), device=z.device), 0
    for _ in range(_SHRINKS):
        turn = angle[active].unsqueeze(-1)
        trial = start[active] * turn.cos() + other[active] * turn.sin()
        found = log_target(trial)
        asked += len(active)
        good = found > threshold[active]
        done = active[good]
        z[done], value[done] = trial[good], found[good]
        active = active[~good]
        if active.numel() == 0:
            break
        left = angle[active] < 0
        low[active] = torch.where(left, angle[active], low[active])
        high[active] = torch.where(left, high[active], angle[active])
        share = uniform(angle[active], generator)
        angle[active] = low[active] + share * (high[active] - low[active])
    n = max(len(value), 1)
    return Transition(z, value, 1 - active.numel() / n, asked / n)


def crank_nicolson(z: Points, value: Scalars, log_target: LogTarget, step: float, generator: Generator) -> Transition:
    """Preconditioned Crank-Nicolson: z' = sqrt(1 - step^2) z + step * noise (Cotter, Roberts, Stuart & White 2013).

    Args:
        z: positions, (n, d).
        value: g there, (n,).
        log_target: g.
        step: between 0 and 1; 1 proposes independently of z.
        generator: the source of randomness.
    """
    proposal = math.sqrt(1 - step**2) * z + step * standard_normal(z, generator)
    new = log_target(proposal)
    return _chosen(z, value, proposal, new, new - value, generator)


def auxiliary_metropolis(
    z: Points, value: Scalars, log_target: LogTarget, phi: AuxiliaryFunction, generator: Generator
) -> Transition:
    """Metropolis-Hastings with proposals N(phi(z), I) (Mokrov et al. 2021, appendix B, there in one dimension).

    With c = -2 g, the log acceptance ratio is
    (c - c')/2 + z . phi(z') - |phi(z')|^2/2 - z' . phi(z) + |phi(z)|^2/2: what target and proposal densities leave.

    Raises:
        InputError: phi gives another shape than z, or NaN.
    """
    centre = _centre(phi, z, value)
    proposal = centre + standard_normal(z, generator)
    new = log_target(proposal)
    back = _centre(phi, proposal, new)
    log_ratio = new - value + (z * back - 0.5 * back.square() - proposal * centre + 0.5 * centre.square()).sum(-1)
    return _chosen(z, value, proposal, new, log_ratio, generator)


def _centre(phi: AuxiliaryFunction, z: Points, value: Scalars) -> Points:
    centre = phi(z, -2 * value)
    if centre.shape != z.shape:
        raise InputError(f"auxiliary must return the shape of its points, {tuple(z.shape)}, got {tuple(centre.shape)}.")
    # Where c is infinite the particle stays, whatever phi says.
    if torch.isnan(centre[torch.isfinite(value)]).any():
        raise InputError("auxiliary returns NaN; give a function that is finite wherever c is.")
    return centre


def independence(z: Points, c: Scalars) -> Points:
    """phi = 0: the independence sampler."""
    return torch.zeros_like(z)


def root_of_misfit(z: Points, c: Scalars) -> Points:
    """phi = sqrt(c), the choice of Mokrov et al. (2021), spread over the coordinates; zero where c is negative."""
    d = z.shape[-1]
    return (c.clamp(min=0, max=1e12) / d).sqrt().unsqueeze(-1).expand(-1, d)
