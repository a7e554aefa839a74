"""Particles taken from a belief to its posterior, by as much of the reading at a time as keeps them effective."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from jkofilter._typing import Points, Scalars
from jkofilter.assimilation.base_space import BaseParticles, BaseSpace
from jkofilter.assimilation.likelihood import LogLikelihood
from jkofilter.assimilation.moves import Kernels
from jkofilter.errors import FilterError
from jkofilter.numerics.resampling import resample
from jkofilter.numerics.tempering import next_temperature
from jkofilter.numerics.weights import effective_sample_size, log_mean_exp

MAX_TEMPERATURES = 200
COLLAPSED = 0.02
"""Share of the particles that must end at points of their own."""


@dataclass(frozen=True, eq=False)
class Tempered:
    """Particles of a posterior and how they came there.

    Attributes:
        particles: where they are.
        log_evidence: of the reading, nats: the product of the steps' mean weights.
        temperatures: of the steps, up to one.
        ess: of the particles, in every step, before they are resampled.
        distinct: share of the particles at points of their own.
    """

    particles: BaseParticles
    log_evidence: float
    temperatures: tuple[float, ...]
    ess: tuple[float, ...]
    distinct: float


def tempered(
    space: BaseSpace, particles: BaseParticles, log_likelihood: LogLikelihood, share: float, kernels: Kernels
) -> Tempered:
    """Sequential Monte Carlo from a belief to its posterior (Del Moral, Doucet & Jasra 2006), in its base space.

    Args:
        space: the belief's base space.
        particles: the belief's particles.
        log_likelihood: of the reading.
        share: of the particles that a step keeps effective.
        kernels: moves them between the steps.

    Raises:
        FilterError: the posterior is not reached, or only by so few particles that they say nothing about it.
    """
    temperatures, effective, log_evidence = [0.0], [], 0.0
    while temperatures[-1] < 1:
        now = next_temperature(particles.log_likelihood, temperatures[-1], share)
        weights = (now - temperatures[-1]) * particles.log_likelihood
        log_evidence += log_mean_exp(weights)
        effective.append(effective_sample_size(weights))
        temperatures.append(now)
        particles = particles.chosen(resample(weights, "systematic", kernels.generator))

        def target(u: Points, temperature: float = now) -> Scalars:
            return space.particles_at(u, log_likelihood).log_target(temperature)

        u, _ = kernels.settled(particles.u, particles.log_target(now), target)
        particles = space.particles_at(u, log_likelihood)
        if len(effective) == MAX_TEMPERATURES and now < 1:
            raise FilterError(f"tempering reaches {now:.3g} of the reading in {len(effective)} steps and is given up")
    n, distinct = len(particles.u), len(torch.unique(particles.u, dim=0))
    if distinct < max(COLLAPSED * n, particles.u.shape[1] + 2):
        raise FilterError(
            f"{n} particles have collapsed to {distinct} on the way to the posterior; give a larger pool, or moves "
            "with 'elliptical-slice'"
        )
    return Tempered(particles, log_evidence, tuple(temperatures[1:]), tuple(effective), distinct / n)
