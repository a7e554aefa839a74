"""The ensemble Kalman filter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.info import StepInfo
from jkofilter.beliefs.particle import ParticleBelief
from jkofilter.errors import FilterError
from jkofilter.filters.base import Runnable
from jkofilter.filters.checks import (
    checked_belief,
    predicting,
    present_reading,
    require_gaussian_noise,
    require_model,
    require_short,
    require_substep,
    updating,
)
from jkofilter.models.checks import require_count
from jkofilter.models.motion import coarse_note, move
from jkofilter.models.observations import NonlinearGaussian
from jkofilter.models.sde import refuse_walls
from jkofilter.models.state_space import StateSpaceModel, sample_prior
from jkofilter.numerics.draws import standard_normal
from jkofilter.numerics.linalg import gaussian_log_density, safe_cholesky, symmetrised
from jkofilter.smoothing.contract import PathDraws, Record, Smoothed, positions, require_known
from jkofilter.smoothing.gaussian import gain_of


@dataclass(frozen=True)
class EnsembleKalmanFilter(Runnable):
    """Stochastic EnKF with perturbed observations (Burgers, van Leeuwen & Evensen 1998); Gaussian noise only.

    Members move by Heun's scheme (second weak order), so the prediction is right for any potential; the update is
    linear regression of the state on the predicted readings, exact only in the linear-Gaussian case and with many
    members. Own code, not filterpy's: that one draws from NumPy's global generator and loops over members.

    Attributes:
        model: what to track; its observation must be NonlinearGaussian or LinearGaussian.
        members: how many.
        substep: longest step, time; None chooses steps from the curvature where the members are.

    Raises:
        InputError: a setting out of range, other observation noise, or walls.
    """

    model: StateSpaceModel
    members: int = 1_000
    substep: float | None = None

    def __post_init__(self) -> None:
        require_model(self.model)
        require_gaussian_noise(self.model, "EnsembleKalmanFilter")
        refuse_walls(self.model.sde, "EnsembleKalmanFilter")
        require_count("members", self.members, 2)
        require_substep(self.substep)

    def init(self, generator: Generator) -> ParticleBelief:
        """Draws of the prior, equally weighted as they stay."""
        return self._belief(0.0, sample_prior(self.model.prior, self.members, generator), 0.0)

    def predict(self, belief: Belief, duration: float, generator: Generator) -> tuple[ParticleBelief, StepInfo]:
        """Move every member.

        Raises:
            InputError: another filter's belief, or a bad duration.
            FilterError: members reach where the potential is infinite or jumps, or a substep makes them blow up.
        """

        def step(now: ParticleBelief, duration: float) -> tuple[ParticleBelief, StepInfo]:
            return self._later(now, duration, generator)

        return predicting(belief, ParticleBelief, duration, step)

    def _later(self, now: ParticleBelief, duration: float, generator: Generator) -> tuple[ParticleBelief, StepInfo]:
        require_short(duration, self.model, self.substep)
        moved = move(self.model.sde, now.particles, duration, generator, self.substep)
        after = self._belief(now.time + duration, moved.points, now.log_evidence)
        details = {"steps": float(moved.steps), "split": float(moved.split)}
        return after, StepInfo(details=details, note=coarse_note(moved.coarseness, self.substep))

    def update(self, belief: Belief, y: Tensor, generator: Generator) -> tuple[ParticleBelief, StepInfo]:
        """Shift every member by the gain times its own perturbed innovation; evidence of the Gaussian fit.

        Raises:
            InputError: another filter's belief, or a bad reading.
            FilterError: the observation function is not finite at a member.
        """

        def step(now: ParticleBelief, reading: Tensor) -> tuple[ParticleBelief, StepInfo]:
            return self._given(now, reading, generator)

        return updating(belief, ParticleBelief, y, self.model, step)

    def _given(self, now: ParticleBelief, reading: Tensor, generator: Generator) -> tuple[ParticleBelief, StepInfo]:
        observation = self.model.observation
        assert isinstance(observation, NonlinearGaussian), "construction checked the observation"
        x = now.particles
        present = present_reading(observation, reading, x)
        near = observation.predict_near(reading, x).detach()
        foreseen = near[:, present.mask]
        if not torch.isfinite(foreseen).all():
            raise FilterError(f"observation function is not finite at a member at time {now.time:g}; check it.")
        states, readings = x - x.mean(0), foreseen - foreseen.mean(0)
        innovation_covariance = symmetrised(readings.mT @ readings / (self.members - 1)) + present.noise
        cross = readings.mT @ states / (self.members - 1)
        factor, jitter = safe_cholesky(innovation_covariance)
        gain = torch.cholesky_solve(cross, factor)
        draws = standard_normal(foreseen, generator)
        # Perturbations with a mean of exactly zero leave the ensemble mean at the Kalman update of the mean.
        perturbations = (draws - draws.mean(0)) @ safe_cholesky(present.noise)[0].mT
        x = x + (present.values + perturbations - foreseen) @ gain
        increment = gaussian_log_density(present.values - foreseen.mean(0), innovation_covariance).item()
        after = self._belief(now.time, x, now.log_evidence + increment)
        details = {"jitter": jitter} if jitter else {}
        note = observation.note_near(reading, near)
        return after, StepInfo(log_evidence=increment, details=details, note=note)

    def smoothed(self, record: Record, generator: Generator) -> Smoothed:
        """The laws of a record given all its readings: each member shifted by the gain back over every gap.

        A member's shift at the end of a gap, from where it was predicted, comes back through the regression of the
        ensemble's states on its predictions (Raanes 2016, Q. J. R. Meteorol. Soc. 142, 1259-1264).
        """
        laws = [checked_belief(law, ParticleBelief) for law in record.laws]
        predicted = [checked_belief(law, ParticleBelief).particles for law in record.predicted]
        log_evidence, members = laws[-1].log_evidence, [laws[-1].particles]
        for now, later in zip(reversed(laws[:-1]), reversed(predicted), strict=False):
            states, foreseen = now.particles - now.particles.mean(0), later - later.mean(0)
            cross, spread = states.mT @ foreseen, symmetrised(foreseen.mT @ foreseen)
            members.append(now.particles + (members[-1] - later) @ gain_of(cross, spread).mT)
        smoothed = [self._belief(law.time, x, log_evidence) for law, x in zip(laws, reversed(members), strict=True)]
        return Smoothed(tuple(smoothed), (StepInfo(),) * len(laws))

    def paths(self, record: Record, n: int, times: list[float], generator: Generator) -> PathDraws:
        """``n`` members' smoothed paths, drawn with replacement.

        Raises:
            InputError: a time that the record has not.
        """
        require_known(times, record.times)
        laws = self.smoothed(record, generator).laws
        chosen = torch.randint(self.members, (n,), generator=generator, device=generator.device)
        paths = [laws[i].particles[chosen] for i in positions(laws, times)]  # type: ignore[attr-defined]
        return PathDraws(torch.stack(paths, 1))

    def _belief(self, time: float, x: Tensor, log_evidence: float) -> ParticleBelief:
        log_weights = torch.full((x.shape[0],), -math.log(x.shape[0]), dtype=x.dtype, device=x.device)
        return ParticleBelief(time, x, log_weights, log_evidence)
