"""First passage: how likely a state is to have entered a region by some time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Generator, Tensor

from jkofilter._typing import Array, Points
from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.region import Region
from jkofilter.beliefs.summaries import points_of, probability_of
from jkofilter.errors import InputError
from jkofilter.models.line_diffusion import LineDiffusion
from jkofilter.models.motion import move
from jkofilter.models.sde import LangevinSDE, relaxation_rate
from jkofilter.models.state_space import StateSpaceModel
from jkofilter.numerics.arrays import as_array
from jkofilter.numerics.draws import uniform
from jkofilter.numerics.first_passage import Stay, survival
from jkofilter.numerics.resampling import resample

_PATHS = 10_000
_LOOKS, _LOOKS_A_RELAXATION, _MOST_LOOKS = 200, 50, 5000
"""Times at which paths in several dimensions are looked at: at least, in a relaxation time, and at most."""
_TALL = 40.0
"""Nats that a climb may cost before an interval ends there: what it keeps out is e^-40 of the law."""
_WIDTHS = 8.0
_SHARE = 1e-10


def first_passage(
    model: StateSpaceModel, belief: Belief, region: Region, durations: Sequence[float], generator: Generator
) -> Array:
    """P(in the region at some time within each duration), (k,), the start included.

    On the line the backward equation with absorbing ends is solved for every start; in more dimensions 10,000 paths
    are looked at, at least 200 times and 50 times in a relaxation time. Between two looks at a half-space they are
    known to have crossed by the law of a Brownian bridge; a box or a function's region that is visited between two
    looks only is missed.

    Args:
        model: whose diffusion it is.
        belief: where the state is now.
        region: to be entered.
        durations: increasing, not negative, (k,).
        generator: draws what is needed.

    Raises:
        InputError: a LineDiffusion, a region of the line that is a function or beyond the walls, or so long a duration
            that nobody would wait for the paths.
    """
    if isinstance(model.sde, LineDiffusion):
        raise InputError("passage needs a LangevinSDE; write the LineDiffusion as one by Lamperti's transform.")
    if model.dim == 1:
        if region.sides is None:
            raise InputError("region must be (low, high) on the line; take a function's intervals one by one.")
        return _on_the_line(model.sde, belief, region.sides[0], durations)
    return _by_paths(model.sde, belief, region, durations, generator)


def _on_the_line(sde: LangevinSDE, belief: Belief, region: tuple[float, float], durations: Sequence[float]) -> Array:
    x, weights = (as_array(part) for part in points_of(belief))
    x, beta = x[:, 0], float(sde.beta)
    low, high = region
    if sde.domain is not None and not (low < sde.domain.sides[0][1] and high > sde.domain.sides[0][0]):
        raise InputError(
            f"region ({low:g}, {high:g}) lies outside the domain {sde.domain}, where the state never gets."
        )
    later = [duration for duration in durations if duration > 0.0]
    kept = np.zeros((len(later), len(x)))
    walls = (-math.inf, math.inf) if sde.domain is None else sde.domain.sides[0]

    def energy(at: Array) -> Array:
        with torch.no_grad():
            return as_array(sde.potential(torch.from_numpy(at).unsqueeze(-1)))

    for side, start in (("left", x < low), ("right", x > high)):
        if not later or not start.any():
            continue
        exit = low if side == "left" else high
        far = _far_end(energy, beta, exit, x[start], weights[start], later[-1], walls)
        stay = Stay(far, exit, False, True) if side == "left" else Stay(exit, far, True, False)
        inside = np.clip(x[start], stay.low, stay.high)
        kept[:, start] = survival(energy, beta, stay, inside, later)
    at_once = [probability_of(belief, (low, high))] * (len(durations) - len(later))
    return np.append(at_once, 1.0 - kept @ weights)


def _far_end(
    energy: Callable[[Array], Array],
    beta: float,
    exit: float,
    x: Array,
    weights: Array,
    duration: float,
    walls: tuple[float, float],
) -> float:
    """Where an interval beyond ``exit`` may end without a difference: at a wall, a climb, or where no path gets to."""
    sign = -1.0 if x[0] < exit else 1.0
    distance = np.sort(sign * (x - exit))
    order = np.argsort(sign * (x - exit))
    reached = distance[np.searchsorted(np.cumsum(weights[order]), (1 - _SHARE) * weights.sum()).clip(max=len(x) - 1)]
    most = float(reached) + _WIDTHS * math.sqrt(2.0 * duration / beta)
    wall = walls[0] if sign < 0 else walls[1]
    most = min(most, sign * (wall - exit))
    at = np.linspace(0.0, most, 4001)[1:-1]
    values = beta * np.nan_to_num(energy(exit + sign * at), nan=np.inf)
    home = values[at <= max(float(reached), at[0])]
    # Beyond where the law is, the first place too high to be climbed from any place before it.
    tall = (values > home.max() + _TALL) & (at > reached)
    return float(exit + sign * (at[int(tall.argmax())] if tall.any() else most))


def _by_paths(
    sde: LangevinSDE, belief: Belief, region: Region, durations: Sequence[float], generator: Generator
) -> Array:
    x, weights = points_of(belief)
    x = x[resample(weights.log(), "systematic", generator, _PATHS)]
    entered = region.contains(x)
    found, now = [], 0.0
    rate = max(relaxation_rate(sde, x), 1e-300)
    looks = max(_LOOKS, math.ceil(_LOOKS_A_RELAXATION * durations[-1] * rate))
    if looks > _MOST_LOOKS:
        raise InputError(
            f"by lies {durations[-1] * rate:.3g} relaxation times ahead, too far to follow paths in several "
            "dimensions; "
            f"ask for at most {_MOST_LOOKS / _LOOKS_A_RELAXATION / rate:.3g} units of time."
        )
    steps = np.linspace(0.0, durations[-1], looks + 1)[1:]
    for time in durations:
        for look in [*steps[(steps > now) & (steps < time)], time]:
            if look <= now:
                continue
            after = move(sde, x, look - now, generator).points
            entered = entered | region.contains(after) | _crossed(region, x, after, sde, look - now, generator)
            x, now = after, float(look)
        found.append(entered.double().mean().item())
    return np.array(found)


def _crossed(
    region: Region, before: Points, after: Points, sde: LangevinSDE, duration: float, generator: Generator
) -> Tensor:
    """Whether paths outside a half-space at both ends of a short time were inside between them, drawn, (n,)."""
    ended = [] if region.sides is None else [(i, side) for i, side in enumerate(region.sides) if side != _WHOLE]
    if len(ended) != 1 or all(math.isfinite(end) for end in ended[0][1]):
        return torch.zeros(len(before), dtype=torch.bool, device=before.device)
    ((i, (low, high)),) = ended
    gaps = [low - part[:, i] if math.isfinite(low) else part[:, i] - high for part in (before, after)]
    chance = torch.exp(-2.0 * gaps[0].clamp(min=0) * gaps[1].clamp(min=0) / (sde.variance_rate() * duration))
    return uniform(chance, generator) < chance


_WHOLE = (-math.inf, math.inf)
