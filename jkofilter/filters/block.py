"""The block particle filter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Generator, Tensor

from jkofilter._typing import Matrix, Points, Scalars
from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.info import StepInfo
from jkofilter.beliefs.particle import ParticleBelief
from jkofilter.errors import InputError
from jkofilter.filters.base import Runnable
from jkofilter.filters.checks import (
    log_likelihood_without_nan,
    predicting,
    present_reading,
    require_gaussian_noise,
    require_model,
    require_substep,
)
from jkofilter.filters.on_particles import (
    equal_log_weights,
    first_particles,
    predicted,
    require_density,
    survivors,
    updated,
)
from jkofilter.models.checks import require_count, require_orthogonal
from jkofilter.models.observations import NonlinearGaussian
from jkofilter.models.sde import refuse_walls
from jkofilter.models.state_space import StateSpaceModel
from jkofilter.numerics.linalg import gaussian_log_density
from jkofilter.numerics.resampling import resample
from jkofilter.numerics.weights import effective_sample_size, normalise_log_weights


@dataclass(frozen=True)
class BlockParticleFilter(Runnable):
    """Block particle filter (Rebeschini & van Handel 2015, Ann. Appl. Probab. 25, 2809-2866), Gaussian noise only.

    The coordinates of u = R x fall into blocks. Particles are moved as a whole; at a reading every block is weighed by
    the components of the reading that are its own, and resampled by itself, so that weights do not degenerate with the
    dimension. What that does to laws in which blocks depend on each other is a bias that more particles do not cure.
    Where prior, potential and readings fall apart into the blocks, there is none.

    Components of a reading belong to the block whose coordinates move them most, on average over the particles; noise
    between components of different blocks is taken for independent.

    Attributes:
        model: what to track; its observation must be NonlinearGaussian or LinearGaussian.
        particles: how many.
        blocks: groups of coordinates of u, each coordinate in one; None for single coordinates.
        rotation: R, orthogonal, (d, d); None for the identity.
        substep: longest step, time; None chooses steps from the curvature where the particles are.
        density: as of ``ParticleFilter``.
        smoothing: as of ``ParticleFilter``.

    Raises:
        InputError: a setting out of range, other observation noise, or walls.
    """

    model: StateSpaceModel
    particles: int = 10_000
    blocks: Sequence[Sequence[int]] | None = None
    rotation: Matrix | None = None
    substep: float | None = None
    density: str = "transition"
    smoothing: float = 0.01

    def __post_init__(self) -> None:
        require_model(self.model)
        require_gaussian_noise(self.model, "BlockParticleFilter")
        refuse_walls(self.model.sde, "BlockParticleFilter")
        require_count("particles", self.particles, 2)
        d = self.model.dim
        if self.blocks is not None and sorted(i for block in self.blocks for i in block) != list(range(d)):
            raise InputError(f"blocks must hold every coordinate from 0 to {d - 1} once, got {self.blocks!r}.")
        if self.rotation is not None:
            object.__setattr__(self, "rotation", require_orthogonal(self.rotation, "rotation", d))
        require_substep(self.substep)
        require_density(self.density, self.smoothing)

    @cached_property
    def _blocks(self) -> list[list[int]]:
        groups = [[i] for i in range(self.model.dim)] if self.blocks is None else self.blocks
        return [list(group) for group in groups if len(group)]

    @cached_property
    def _rotation(self) -> Matrix:
        eye = torch.eye(self.model.dim) if self.rotation is None else self.rotation
        return eye.to(dtype=self.model.dtype, device=self.model.device)

    def init(self, generator: Generator) -> ParticleBelief:
        """Equally weighted draws of the prior; their density is the kernel estimate."""
        return first_particles(self.model, self.particles, generator)

    def predict(self, belief: Belief, duration: float, generator: Generator) -> tuple[ParticleBelief, StepInfo]:
        """Move every particle.

        Raises:
            InputError: another filter's belief, or a bad duration.
            FilterError: particles reach where the potential is infinite or jumps, or a substep makes them blow up.
        """

        def step(now: ParticleBelief, duration: float) -> tuple[ParticleBelief, StepInfo]:
            start = survivors(now, self.particles, 0.0, "systematic", generator)
            settings = (self.substep, self.density, self.smoothing)
            return predicted(self.model, now, start, duration, generator, settings)

        return predicting(belief, ParticleBelief, duration, step)

    def update(self, belief: Belief, y: Tensor, generator: Generator) -> tuple[ParticleBelief, StepInfo]:
        """Weigh and resample every block by its own components; the evidence is the product of theirs.

        Raises:
            InputError: another filter's belief, or a bad reading.
            FilterError: the likelihood is NaN at a particle, or zero at all; names the time and the reading.
        """

        def step(now: ParticleBelief, reading: Tensor) -> tuple[ParticleBelief, StepInfo]:
            # Says what is wrong with a reading or a sensor.
            log_likelihood_without_nan(self.model, reading, now.particles, now.time)
            u, total, least = now.particles @ self._rotation.mT, 0.0, math.inf
            for block, weight in zip(self._blocks, self._block_weights(reading, now.particles), strict=True):
                if weight is None:
                    continue
                log_weights, increment = normalise_log_weights(weight)
                total += increment - math.log(len(u))
                least = min(least, effective_sample_size(log_weights))
                chosen = resample(log_weights, "systematic", generator)
                # In an order of its own, so that blocks are joined anew as if they were independent.
                order = torch.randperm(len(u), generator=generator, device=u.device)
                u[:, block] = u[chosen[order]][:, block]
            after = replace(
                now,
                particles=u @ self._rotation,
                log_weights=equal_log_weights(u),
                log_evidence=now.log_evidence + total,
                kernel_means=None,
                kernel_variance=0.0,
            )
            return after, StepInfo(log_evidence=total, ess=least)

        return updated(belief, ParticleBelief, y, self.model, step)

    def _block_weights(self, reading: Tensor, x: Points) -> list[Scalars | None]:
        """Log likelihood of every block's components, (n,); None where it has none."""
        sensor = self.model.observation
        if not isinstance(sensor, NonlinearGaussian):
            raise TypeError("readings have no Gaussian noise")
        present = present_reading(sensor, reading, x)
        residuals = present.values - sensor.predict_near(reading, x)[:, present.mask]
        owners = self._owners(sensor, x)[present.mask]
        weights: list[Scalars | None] = []
        for number in range(len(self._blocks)):
            mine = owners == number
            noise = present.noise[mine][:, mine]
            weights.append(gaussian_log_density(residuals[:, mine], noise) if mine.any() else None)
        return weights

    def _owners(self, sensor: NonlinearGaussian, x: Points) -> Tensor:
        """The number of the block that every component of a reading belongs to, (p,)."""
        centre = x.mean(0, keepdim=True)
        u = (x - centre) @ self._rotation.mT
        seen = sensor.predict(x)
        # Slopes by regression on the particles, each times the deviation of its coordinate.
        scale = u.std(0).clamp(min=torch.finfo(u.dtype).tiny)
        white = u / scale
        slopes = torch.linalg.lstsq(white, seen - seen.mean(0)).solution.square()
        return torch.stack([slopes[block].sum(0) for block in self._blocks]).argmax(0)
