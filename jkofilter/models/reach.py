"""Where a law may go: not where the potential is infinite, and not over a jump that its gradient does not see."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jkofilter._typing import Points, State
from jkofilter.errors import FilterError
from jkofilter.models.sde import LangevinSDE
from jkofilter.numerics.draws import standard_normal, stream

_HALVINGS, _LASTS, _FELT, _ROUNDING, _STEEP = 40, 0.5, 0.1, 64, 1e3


def require_finite(sde: LangevinSDE, x: Points) -> None:
    """Raise FilterError unless the potential is finite at all points (n, d)."""
    with torch.no_grad():
        value = sde.potential(x)
    if not torch.isfinite(value).all():
        raise _infinite(sde, x[~torch.isfinite(value)][0])


def require_reachable(sde: LangevinSDE, before: State, after: State) -> None:
    """Raise FilterError if the potential is infinite, or jumps, between two points (d,)."""
    require_finite(sde, torch.stack([before, after]))
    jump = jump_between(sde, before, after)
    if jump is not None:
        size, at = jump
        raise FilterError(
            f"the potential jumps by {size:g} near {_at(at)}, which its gradient does not show: smooth the jump over "
            "some width, or use GridFilter with cells narrow for it."
        )


def require_gradual(sde: LangevinSDE, x: Points, duration: float) -> None:
    """Raise FilterError if the potential jumps, or turns infinite at once, as far from points (n, d) as noise reaches.

    For methods that go by gradients and move points by none of the noise themselves. A barrier that rises to infinity
    gradually, as -log x does, is none of these.

    Args:
        sde: the diffusion.
        x: where the law is, finite.
        duration: of the noise, time.
    """
    deviation = math.sqrt(sde.variance_rate() * duration)
    after = x + deviation * standard_normal(x, stream(0, "probe", x.device))
    with torch.no_grad():
        value = sde.potential(after)
    for at in torch.nonzero(value == torch.inf)[:1, 0].tolist():
        edge = _edge(sde, x[at], after[at])
        rise = torch.linalg.vector_norm(sde.potential.gradient(edge.unsqueeze(0))).item() * deviation
        if rise * float(sde.beta) < _STEEP:
            raise _infinite(sde, after[at])
    gradual = torch.isfinite(value) & torch.isfinite(sde.potential.gradient(after)).all(-1)
    if gradual.any():
        require_all_reachable(sde, x[gradual], after[gradual])


def _edge(sde: LangevinSDE, inside: State, outside: State) -> State:
    """The last point at which V is finite on the way to one where it is not."""
    for _ in range(_HALVINGS):
        middle = 0.5 * (inside + outside)
        finite = bool(torch.isfinite(sde.potential(middle.unsqueeze(0))).all())
        inside, outside = (middle, outside) if finite else (inside, middle)
    return inside


def require_all_reachable(sde: LangevinSDE, before: Points, after: Points) -> None:
    """``require_reachable`` for the pair, of points (n, d) before and after a short move, that looks worst."""
    with torch.no_grad():
        change = sde.potential(after) - sde.potential(before)
    slope = 0.5 * ((sde.potential.gradient(before) + sde.potential.gradient(after)) * (after - before)).sum(-1)
    missed = (change - slope).abs().nan_to_num(nan=torch.inf)
    worst = int(missed.argmax())
    if missed[worst] * float(sde.beta) < _FELT:
        return
    require_reachable(sde, before[worst], after[worst])


def jump_between(sde: LangevinSDE, before: State, after: State) -> tuple[float, State] | None:
    """Size and place of a finite jump of V on the way from one point (d,) to another, or None.

    The change of V that the gradients at both ends do not explain vanishes with the length of the way, unless V jumps.
    """
    low, high = before, after
    missed = first = _missed(sde, low, high)
    for _ in range(_HALVINGS):
        if abs(missed) * float(sde.beta) < _FELT or abs(missed) < _LASTS * abs(first):
            return None
        middle = 0.5 * (low + high)
        left, right = _missed(sde, low, middle), _missed(sde, middle, high)
        low, high, missed = (low, middle, left) if abs(left) > abs(right) else (middle, high, right)
    return abs(missed), 0.5 * (low + high)


def _missed(sde: LangevinSDE, low: State, high: State) -> float:
    """The change of V that the gradients at both ends do not explain; zero where it is within rounding."""
    ends = torch.stack([low, high])
    with torch.no_grad():
        value = sde.potential(ends)
    slope = 0.5 * sde.potential.gradient(ends).sum(0) @ (high - low)
    missed = (value[1] - value[0] - slope).item()
    rounding = _ROUNDING * torch.finfo(value.dtype).eps * value.abs().sum().item()
    return missed if math.isfinite(missed) and abs(missed) > rounding else 0.0


def _infinite(sde: LangevinSDE, at: Tensor) -> FilterError:
    if not torch.isfinite(at).all():
        return FilterError("the law leaves the finite numbers: the potential is NaN, or pushes outwards without bound.")
    return FilterError(
        f"the law reaches where the potential is infinite or NaN, near {_at(at)}: give Potential(..., domain=...) with "
        "the interval or box on which it is finite."
    )


def _at(x: Tensor) -> str:
    return f"x = {x.item():g}" if x.numel() == 1 else "x = (" + ", ".join(f"{u:g}" for u in x.tolist()) + ")"
