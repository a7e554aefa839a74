"""The bootstrap particle filter."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.info import StepInfo
from jkofilter.beliefs.particle import ParticleBelief
from jkofilter.errors import FilterError, InputError
from jkofilter.filters.base import Runnable
from jkofilter.filters.checks import (
    checked_log_likelihood,
    occasion,
    predicting,
    require_model,
    require_short,
    require_substep,
    updating,
)
from jkofilter.models.checks import require_count, require_positive
from jkofilter.models.line_diffusion import LineDiffusion
from jkofilter.models.line_motion import LineMover
from jkofilter.models.motion import coarse_note, last_step, move, reflected, resolved_step
from jkofilter.models.reach import require_all_reachable
from jkofilter.models.state_space import StateSpaceModel, sample_prior
from jkofilter.numerics.draws import standard_normal
from jkofilter.numerics.resampling import checked_scheme, resample
from jkofilter.numerics.weights import normalise_log_weights

_FEW = 30
"""Effective particles below which moments, let alone densities, are rough: their error is .2 sd and more."""


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
        if self.density not in ("transition", "kde"):
            raise InputError(f"density must be 'transition' or 'kde', got {self.density!r}.")
        require_positive("smoothing", self.smoothing)

    def init(self, generator: Generator) -> ParticleBelief:
        """Equally weighted draws of the prior; their density is the kernel estimate."""
        x = sample_prior(self.model.prior, self.particles, generator)
        log_weights = torch.full((self.particles,), -math.log(self.particles), dtype=x.dtype, device=x.device)
        return ParticleBelief(0.0, reflected(self.model.sde, x), log_weights, walls=self.model.sde.domain)

    def predict(self, belief: Belief, duration: float, generator: Generator) -> tuple[ParticleBelief, StepInfo]:
        """Resample if the weights call for it, then move every particle.

        Raises:
            InputError: another filter's belief, or a bad duration.
            FilterError: particles reach where the potential is infinite or jumps, or a substep makes them blow up.
        """

        def step(now: ParticleBelief, duration: float) -> tuple[ParticleBelief, StepInfo]:
            return self._later(now, duration, generator)

        return predicting(belief, ParticleBelief, duration, step)

    def _later(self, now: ParticleBelief, duration: float, generator: Generator) -> tuple[ParticleBelief, StepInfo]:
        require_short(duration, self.model, self.substep)
        x, log_weights, resampled = self._survivors(now, generator)
        sde = self.model.sde
        step, means, variance = 0.0, None, 0.0
        if isinstance(sde, LineDiffusion):
            moved = LineMover(sde, generator).move(x, duration, self.substep)
            x = moved.points
        elif self.density == "kde":
            moved = move(sde, x, duration, generator, self.substep)
            x = moved.points
        else:
            step = resolved_step(sde, x, min(2 * self.smoothing, duration), generator)
            moved = move(sde, x, duration - step, generator, self.substep)
            means = last_step(sde, moved.points, step, generator)
            noise = math.sqrt(step / float(sde.beta)) * standard_normal(x, generator)
            x = reflected(sde, means + noise)
            require_all_reachable(sde, moved.points, x)
            variance = step / float(sde.beta)
        after = ParticleBelief(now.time + duration, x, log_weights, now.log_evidence, means, variance, sde.domain)
        details = {"resampled": float(resampled), "steps": float(moved.steps), "split": float(moved.split)}
        return after, StepInfo(details=details, note=coarse_note(moved.coarseness, self.substep))

    def update(self, belief: Belief, y: Tensor, generator: Generator) -> tuple[ParticleBelief, StepInfo]:
        """Multiply the weights by the likelihood; the evidence increment is the log of their sum.

        Raises:
            InputError: another filter's belief, or a bad reading.
            FilterError: every particle's likelihood is zero, or one is NaN; names the time and the reading.
        """
        after, info = updating(belief, ParticleBelief, y, self.model, self._given)
        return after, replace(info, ess=after.ess)

    def _given(self, now: ParticleBelief, reading: Tensor) -> tuple[ParticleBelief, StepInfo]:
        likelihood = checked_log_likelihood(self.model, reading, now.particles, now.time)
        joint = now.log_weights + likelihood
        if (joint == -math.inf).all():
            raise FilterError(f"the likelihood is zero at every particle {occasion(reading, now.time)}.")
        log_weights, increment = normalise_log_weights(joint)
        after = replace(
            now,
            log_weights=log_weights,
            log_evidence=now.log_evidence + increment,
            kernel_means=None,
            kernel_variance=0.0,
        )
        return after, StepInfo(log_evidence=increment, note=_collapsed(after.ess, len(log_weights)))

    def _survivors(self, belief: ParticleBelief, generator: Generator) -> tuple[Tensor, Tensor, bool]:
        n = belief.particles.shape[0]
        if self.ess_threshold == 0 or belief.ess > self.ess_threshold * n * (1 + 1e-12):
            return belief.particles, belief.log_weights, False
        chosen = resample(belief.log_weights, self.resampling, generator)
        return belief.particles[chosen], torch.full_like(belief.log_weights, -math.log(n)), True


def _collapsed(ess: float, particles: int) -> str:
    """What to note of weights that leave few particles; empty where they leave enough."""
    if ess >= _FEW:
        return ""
    return (
        f"the reading leaves {ess:.1f} effective particles of {particles}: moments and evidence are rough, and wrong "
        "where it lies beyond all of them; use more particles, or GridFilter or JKOFilter"
    )
