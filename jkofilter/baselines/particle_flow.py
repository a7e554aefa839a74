"""Particles moved by the diffusion, with a Gaussian kernel estimate."""

from __future__ import annotations

import time as clock
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Generator, Tensor
from torch.distributions import Distribution

from jkofilter._typing import Points
from jkofilter.baselines.stepped import check_flow
from jkofilter.baselines.weighted_particles import equally_weighted
from jkofilter.beliefs.particle import ParticleBelief
from jkofilter.errors import InputError
from jkofilter.models.checks import require_count
from jkofilter.models.motion import move, reflected
from jkofilter.models.sde import LangevinSDE
from jkofilter.models.state_space import sample_prior
from jkofilter.numerics.draws import stream
from jkofilter.numerics.threads import one_thread
from jkofilter.numerics.time_grid import step_of

_TRIAL, _TRIAL_STEPS, _TRIAL_SHARE = 2000, 20, 0.1


@dataclass(frozen=True, eq=False)
class ParticleFlow:
    """Particles at some times; between them they are moved on from the time before.

    Attributes:
        sde: the diffusion.
        substep: longest step, time; None chooses steps from the curvature where the particles are.
        times: increasing, starting with zero.
        snapshots: the particles then, (n, d) each.
        seed: of the moves to a time between.
    """

    sde: LangevinSDE
    substep: float | None
    times: tuple[float, ...]
    snapshots: tuple[Points, ...]
    seed: int = 0

    @property
    def dim(self) -> int:
        """State dimension d."""
        return self.sde.dim

    @property
    def final(self) -> ParticleBelief:
        """The law at the end."""
        return self.at(self.times[-1])

    def at(self, time: float) -> ParticleBelief:
        """The law at ``time``; its density is the kernel estimate.

        Raises:
            InputError: ``time`` is outside the flow.
        """
        done, since = step_of(self.times, time)
        x = self.snapshots[done]
        if since:
            generator = stream(self.seed, "between steps", x.device)
            x = _moved(self.sde, x, since, self.substep, generator)
        return ParticleBelief(float(time), x, equally_weighted(x).log_masses, walls=self.sde.domain)


@one_thread()
def solve_particles(
    prior: Distribution,
    sde: LangevinSDE,
    times: Sequence[float],
    substep: float | None = None,
    particles: int = 10_000,
    seed: int = 0,
) -> ParticleFlow:
    """Carry draws of a prior through a Langevin diffusion by Heun's scheme, reflected at walls.

    Of second weak order in the substep; the kernel estimate adds a bias that falls with the number of particles as
    n^(-4/(d + 4)), so slowly that it decides in more than a few dimensions (Silverman 1986, section 4.3).

    Args:
        prior: event_shape (d,), with sample.
        sde: the diffusion.
        times: when the particles are kept, increasing, after zero, in the SDE's unit.
        substep: longest step, time; None chooses steps from the curvature where the particles are.
        particles: how many.
        seed: draws particles and noise.

    Raises:
        InputError: an argument cannot be used.
        FilterError: particles reach where the potential is infinite or jumps, or a substep makes them blow up.
    """
    clock_times = [float(time) for time in times]
    if not clock_times or any(b <= a for a, b in zip([0.0, *clock_times], clock_times, strict=False)):
        raise InputError(f"times must be increasing and after zero, got {clock_times}.")
    prior = check_flow(prior, sde, clock_times[-1], 1.0 if substep is None else substep)
    require_count("particles", particles, 2)
    generator = stream(seed, "particles")
    snapshots, now = [reflected(sde, sample_prior(prior, particles, generator))], 0.0
    for time in clock_times:
        snapshots.append(_moved(sde, snapshots[-1], time - now, substep, generator))
        now = time
    return ParticleFlow(sde, substep, (0.0, *clock_times), tuple(snapshots), seed)


@one_thread()
def affordable_particles(
    prior: Distribution, sde: LangevinSDE, duration: float, substep: float | None, seconds: float
) -> float:
    """How many particles can be carried so far in so much processor time, by a short trial."""
    generator = stream(0, "probe")
    x = sample_prior(prior, _TRIAL, generator)
    part = duration * _TRIAL_SHARE if substep is None else min(_TRIAL_STEPS * substep, duration)
    start = clock.process_time()
    _moved(sde, x, part, substep, generator)
    each = (clock.process_time() - start) / _TRIAL
    return seconds * part / (each * duration)


def _moved(sde: LangevinSDE, x: Tensor, duration: float, substep: float | None, generator: Generator) -> Tensor:
    return move(sde, x, duration, generator, substep).points
