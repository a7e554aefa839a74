"""What readings to come say of a state now: the backward function h of a reversible diffusion, from its own filter.

h_t(x) = p(readings after t | X_t = x) solves the backward equation. A diffusion in detailed balance with pi moves
r = pi h as it moves laws, so that r is what the filter itself makes of the readings in reversed order, from pi on; and
the law given all readings is proportional to rho h, rho the filter's law (DESIGN, section 4; for chains, the
two-filter form of Kitagawa 1994, Ann. Inst. Statist. Math. 46, 605-623).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from jkofilter._typing import Array
from jkofilter.beliefs.info import StepInfo

AGREED = 1e-3
"""Nats by which the evidence of both passes may differ at a time before that is noted."""
_TAIL_NODES = 10
_MISSED = 1e-6

OnLine = Callable[[Array], Array]
"""A function at points (n,)."""


@dataclass(frozen=True, eq=False)
class BackwardFunction:
    """log h = log r - log pi where r is known, and beyond that its tangent where it falls, else a constant.

    r is known only to some depth below its maximum. Where pi lies deeper still, as it does far out, the quotient of
    their tails would say anything.

    Attributes:
        log_r: log density of r, at any points (n,).
        log_pi: of pi, likewise.
        known: increasing points at which r is known, the outermost of which end the quotient, (k,).
        level: what is added, for r that is normalised: the log evidence of the readings in it.
    """

    log_r: OnLine
    log_pi: OnLine
    known: Array
    level: float = 0.0

    def __call__(self, x: Array) -> Array:
        """log h at points, (n,)."""
        low, high = float(self.known[0]), float(self.known[-1])
        ends = self.known[[0, min(_TAIL_NODES, self.known.size - 1), -1 - min(_TAIL_NODES, self.known.size - 1), -1]]
        at = np.concatenate([np.clip(x, low, high), ends])
        value = self.log_r(at) - self.log_pi(at)
        inside, (first, second, third, last) = value[: x.size], value[x.size :]
        rise = max((second - first) / (ends[1] - ends[0]), 0.0) if ends[1] > ends[0] else 0.0
        fall = min((last - third) / (ends[3] - ends[2]), 0.0) if ends[3] > ends[2] else 0.0
        return self.level + inside - rise * np.maximum(low - x, 0.0) + fall * np.maximum(x - high, 0.0)

    def missed(self, x: Array, masses: Array) -> bool:
        """Whether more than a trifle of a law, masses at points (n,) each, lies where h was continued."""
        return bool(masses[(x < self.known[0]) | (x > self.known[-1])].sum() > _MISSED * masses.sum())


def no_reading(x: Array) -> Array:
    """log h where no reading is to come."""
    return np.zeros_like(x)


def last_reading(readings: Sequence[Tensor | None]) -> int | None:
    """Index of the last time with a reading; None where there is none."""
    return next((k for k in reversed(range(len(readings))) if readings[k] is not None), None)


def told(backward: float, forward: float) -> StepInfo:
    """What a smoothed law reports: the evidence of the record by the two passes there, and where they disagree."""
    apart = abs(backward - forward)
    note = f"the evidence of the passes forth and back differs by {apart:.2g} nats" if apart > AGREED else ""
    return StepInfo(note=note, details={"evidence_apart": apart})
