"""The bootstrap particle filter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Generator, Tensor

from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.info import StepInfo
from jkofilter.beliefs.particle import ParticleBelief
from jkofilter.errors import InputError
from jkofilter.filters.base import Runnable
from jkofilter.filters.checks import checked_belief, predicting, require_model, require_substep
from jkofilter.filters.on_particles import (
    equal_log_weights,
    first_particles,
    likelihood_of,
    predicted,
    require_density,
    survivors,
    updated,
    weighed,
)
from jkofilter.models.checks import require_count
from jkofilter.models.state_space import StateSpaceModel
from jkofilter.numerics.resampling import checked_scheme
from jkofilter.smoothing.contract import PathDraws, Record, Smoothed, positions, require_known
from jkofilter.smoothing.particles import backward_simulated, few_ancestors

_PATHS = 2_000
"""Paths that a smoothing law is made of: each is weighed against every particle."""


@dataclass(frozen=True)
class ParticleFilter(Runnable):
    """Bootstrap filter (Gordon, Salmond & Smith 1993) with adaptive resampling; any dimension, any observation model.

    Weights stay with their particles from step to step until the effective sample size falls to ``ess_threshold``
    of the particles; then they are resampled at the start of the next predict, where the noise that follows tells
    the copies apart. The belief after an update is therefore always the weighted one, and the evidence is the
    weighted mean likelihood, unbiased whether or not resampling happened.

    Particles move by Heun's scheme, of second weak order, and are reflected at the walls of the potential's domain.
    With ``density="transition"`` the last step before a reading is half its noise, the flow along -grad V to m_i and
    the other half of the noise, N(0, step / beta). So the particles are draws of sum_i w_i N(x; m_i, step / beta),
    which the belief after a predict evaluates exactly (folded at walls). An update has no such mixture, so the
    density falls back to the kernel estimate until the next predict. It does so for a LineDiffusion, too, whose noise
    depends on the state; its points move by Strang's splitting (``models/line_motion.py``).

    Attributes:
        model: what to track.
        particles: how many.
        resampling: systematic, stratified, multinomial or residual.
        ess_threshold: resample at or below this share of the particles; 0 never, 1 always.
        substep: longest step, time; None chooses steps from the curvature where the particles are.
        density: "transition" or "kde" (Silverman bandwidth on the effective sample size).
        smoothing: half the longest last step, time: the kernel's variance is at most 2 smoothing / beta. Where the
            potential bends within that step, it is shorter.

    Raises:
        InputError: a setting out of range.
    """

    model: StateSpaceModel
    particles: int = 10_000
    resampling: str = "systematic"
    ess_threshold: float = 0.5
    substep: float | None = None
    density: str = "transition"
    smoothing: float = 0.01

    def __post_init__(self) -> None:
        require_model(self.model, any_noise=True)
        require_count("particles", self.particles, 2)
        checked_scheme(self.resampling)
        if not 0 <= self.ess_threshold <= 1:
            raise InputError(f"ess_threshold must lie between 0 and 1, got {self.ess_threshold!r}.")
        require_substep(self.substep)
        require_density(self.density, self.smoothing)

    def init(self, generator: Generator) -> ParticleBelief:
        """Equally weighted draws of the prior; their density is the kernel estimate."""
        return first_particles(self.model, self.particles, generator)

    def predict(self, belief: Belief, duration: float, generator: Generator) -> tuple[ParticleBelief, StepInfo]:
        """Resample if the weights call for it, then move every particle.

        Raises:
            InputError: another filter's belief, or a bad duration.
            FilterError: particles reach where the potential is infinite or jumps, or a substep makes them blow up.
        """

        def step(now: ParticleBelief, duration: float) -> tuple[ParticleBelief, StepInfo]:
            n = len(now.particles)
            start = survivors(now, n, self.ess_threshold, self.resampling, generator)
            settings = (self.substep, self.density, self.smoothing)
            return predicted(self.model, now, start, duration, generator, settings)

        return predicting(belief, ParticleBelief, duration, step)

    def update(self, belief: Belief, y: Tensor, generator: Generator) -> tuple[ParticleBelief, StepInfo]:
        """Multiply the weights by the likelihood; the evidence increment is the log of their sum.

        Raises:
            InputError: another filter's belief, or a bad reading.
            FilterError: every particle's likelihood is zero, or one is NaN; names the time and the reading.
        """

        def step(now: ParticleBelief, reading: Tensor) -> tuple[ParticleBelief, StepInfo]:
            return weighed(now, likelihood_of(self.model, now, reading))

        return updated(belief, ParticleBelief, y, self.model, step)

    def smoothed(self, record: Record, generator: Generator) -> Smoothed:
        """The laws of a record given all its readings, by backward simulation (Godsill, Doucet & West 2004).

        Paths go back through the last transitions, so they need ``density="transition"``; where few different particles
        are left of them a note says so.

        Raises:
            InputError: the density of the last transition is not known.
        """
        laws, predicted = _own(record.laws), _own(record.predicted)
        paths, distinct = backward_simulated(laws, predicted, min(self.particles, _PATHS), generator)
        log_evidence, smoothed = laws[-1].log_evidence, []
        for law, x in zip(laws, paths.unbind(1), strict=True):
            smoothed.append(ParticleBelief(law.time, x, equal_log_weights(x), log_evidence, walls=law.walls))
        return Smoothed(tuple(smoothed), tuple(StepInfo(note=few_ancestors(count)) for count in distinct))

    def paths(self, record: Record, n: int, times: list[float], generator: Generator) -> PathDraws:
        """``n`` paths given all readings, by backward simulation.

        Raises:
            InputError: the density of the last transition is not known, or a time is none of the record's.
        """
        require_known(times, record.times)
        laws, predicted = _own(record.laws), _own(record.predicted)
        paths, distinct = backward_simulated(laws, predicted, n, generator)
        return PathDraws(paths[:, positions(laws, times)], StepInfo(note=few_ancestors(min(distinct))))


def _own(laws: Sequence[Belief]) -> list[ParticleBelief]:
    return [checked_belief(law, ParticleBelief) for law in laws]
