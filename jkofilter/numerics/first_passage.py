"""How likely a diffusion of the line is not to have left an interval by some time.

The survival probability u(x, t) from x solves the backward equation u_t = -V' u_x + u_xx / beta with u = 1 at time zero
and u = 0 at ends that absorb (Gardiner, Handbook of Stochastic Methods, section 5.2.7). On cells, it is the transpose
of the Chang-Cooper generator, whose fluxes through an absorbing end are fitted over half a cell. The jump at time zero
is damped by L-stable steps that begin short and grow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from jkofilter._typing import Array
from jkofilter.numerics.chang_cooper import backward_step, face_weights

_GROWTH = 1.05
_LONGEST = 200
_COARSE = 1000


@dataclass(frozen=True)
class Stay:
    """An interval to be left.

    Attributes:
        low: its lower end.
        high: its upper end.
        absorbs_low: whether the lower end is an exit; else it reflects.
        absorbs_high: whether the upper end is.
    """

    low: float
    high: float
    absorbs_low: bool
    absorbs_high: bool


def survival(energy: Callable[[Array], Array], beta: float, stay: Stay, x: Array, times: Sequence[float]) -> Array:
    """P(not out by each time), from points x (n,) of the interval, (k, n); both errors of second order taken out.

    Args:
        energy: V at points (n,), finite inside.
        beta: inverse temperature.
        stay: the interval.
        x: where from, (n,).
        times: increasing, positive, (k,).
    """
    coarse, fine = (_on_cells(energy, beta, stay, x, times, cells) for cells in (_COARSE, 2 * _COARSE))
    return np.clip(fine + (fine - coarse) / 3.0, 0.0, 1.0)


def _on_cells(
    energy: Callable[[Array], Array], beta: float, stay: Stay, x: Array, times: Sequence[float], cells: int
) -> Array:
    width = (stay.high - stay.low) / cells
    centres = stay.low + width * (np.arange(cells) + 0.5)
    # An end may be a wall where V is infinite, at which nothing is absorbed.
    ends = np.array([stay.low, stay.high])[[stay.absorbs_low, stay.absorbs_high]]
    at = beta * energy(np.concatenate([centres, ends]))
    inner, outer = at[:cells], list(at[cells:])
    scale = 1.0 / (beta * width**2)
    rightward, leftward = (scale * weight for weight in face_weights(np.diff(inner)))
    exits = np.zeros(cells)
    # Half a cell from an absorbing end the flux is fitted over that half.
    for cell in [0] * stay.absorbs_low + [-1] * stay.absorbs_high:
        exits[cell] += 2.0 * scale * face_weights(np.array([outer.pop(0) - inner[cell]]))[0][0]
    u, found, now = np.ones(cells), [], 0.0
    step = 0.5 * width**2 * beta
    for time in times:
        while now < time:
            length = min(step, time - now)
            u = backward_step(u, length, rightward, leftward, exits)
            # The last step to a time ends there, and is no reason for those after it to be short.
            now = time if length == time - now else now + length
            step = min(_GROWTH * step, times[-1] / _LONGEST)
        low, high = 0.0 if stay.absorbs_low else u[0], 0.0 if stay.absorbs_high else u[-1]
        knots = np.concatenate([[stay.low], centres, [stay.high]])
        found.append(CubicSpline(knots, np.concatenate([[low], u, [high]]))(x))
    return np.array(found)
