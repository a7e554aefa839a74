"""Weighted particles with the law from which their paths set out."""

from __future__ import annotations

from dataclasses import dataclass

from jkofilter._typing import Points, Scalars
from jkofilter.beliefs.particle import ParticleBelief


@dataclass(frozen=True, eq=False)
class Origin:
    """The law from which the last gap set out.

    Attributes:
        points: (n, d).
        log_weights: normalised, (n,).
        time: when that was.
        steps: that the gap has taken since.
        prior: whether these are draws of the prior.
    """

    points: Points
    log_weights: Scalars
    time: float
    steps: int
    prior: bool


@dataclass(frozen=True, eq=False)
class PathBelief(ParticleBelief):
    """Weighted particles that know where they came from.

    Attributes:
        origin: since the last reading; None after one.
    """

    origin: Origin | None = None
