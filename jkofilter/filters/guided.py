"""A particle filter whose paths are guided towards the next reading by a linearisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from jkofilter._typing import Points, Readings, Scalars
from jkofilter.assimilation.guided_paths import GuidedPaths, Sensor, Slopes, guide
from jkofilter.assimilation.paths import path_map
from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.info import StepInfo
from jkofilter.beliefs.path import Origin, PathBelief
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
    collapsed,
    first_with_origin,
    likelihood_of,
    predicted_with_origin,
    require_density,
    updated,
    weighed,
    without_origin,
)
from jkofilter.models.checks import require_count, require_share
from jkofilter.models.motion import planned_steps
from jkofilter.models.observations import LinearGaussian, NonlinearGaussian
from jkofilter.models.sde import refuse_walls
from jkofilter.models.state_space import StateSpaceModel
from jkofilter.models.turned import turned
from jkofilter.numerics.resampling import resample
from jkofilter.numerics.weights import effective_sample_size

_LOOKED_AT = 128


@dataclass(frozen=True)
class GuidedParticleFilter(Runnable):
    """Particle filter of guided paths, Gaussian noise only (Guarniero, Johansen & Lee 2017; Del Moral & Murray 2015).

    Where weighing keeps the share ``ess`` of the particles effective, the filter is the bootstrap filter. Where it does
    not, paths through the last gap start anew, every step drawn from its law given the reading under a linearisation of
    the drift, and paths are resampled within the gap by weights that look ahead to the reading
    (``assimilation/guided_paths.py``). Where drift and sensor are linear that is exact but for where paths start; where
    they are not, the weights make up for it, so that the evidence is unbiased but for the time step.

    Attributes:
        model: what to track; its observation must be NonlinearGaussian or LinearGaussian.
        particles: how many.
        ess: share of the particles below which paths are resampled.
        substep: longest step, time; None chooses steps from the curvature where the particles are.
        density: of predictions, "transition" or "kde", as of ``ParticleFilter``.
        smoothing: as of ``ParticleFilter``.

    Raises:
        InputError: a setting out of range, other observation noise, or walls.
    """

    model: StateSpaceModel
    particles: int = 4_000
    ess: float = 0.5
    substep: float | None = None
    density: str = "transition"
    smoothing: float = 0.01

    def __post_init__(self) -> None:
        require_model(self.model)
        require_gaussian_noise(self.model, "GuidedParticleFilter")
        refuse_walls(self.model.sde, "GuidedParticleFilter")
        require_count("particles", self.particles, 2)
        require_share("ess", self.ess)
        require_substep(self.substep)
        require_density(self.density, self.smoothing)

    def init(self, generator: Generator) -> PathBelief:
        """Equally weighted draws of the prior; their density is the kernel estimate."""
        return first_with_origin(self.model, self.particles, generator)

    def predict(self, belief: Belief, duration: float, generator: Generator) -> tuple[PathBelief, StepInfo]:
        """Move every particle; resample first where weights are uneven.

        Raises:
            InputError: another filter's belief, or a bad duration.
            FilterError: particles reach where the potential is infinite or jumps, or a substep makes them blow up.
        """

        def step(now: PathBelief, duration: float) -> tuple[PathBelief, StepInfo]:
            settings = (self.substep, self.density, self.smoothing)
            return predicted_with_origin(self.model, now, self.particles, self.ess, duration, generator, settings)

        return predicting(belief, PathBelief, duration, step)

    def update(self, belief: Belief, y: Tensor, generator: Generator) -> tuple[PathBelief, StepInfo]:
        """Weigh, or guide the paths of the last gap.

        Raises:
            InputError: another filter's belief, or a bad reading.
            FilterError: every particle's likelihood is zero, or one is NaN; names the time and the reading.
        """

        def step(now: PathBelief, reading: Tensor) -> tuple[PathBelief, StepInfo]:
            value = log_likelihood_without_nan(self.model, reading, now.particles, now.time)
            enough, origin = self.ess * len(now.particles), now.origin
            if origin is None or origin.time == now.time or effective_sample_size(now.log_weights + value) >= enough:
                after, info = weighed(now, likelihood_of(self.model, now, reading))
                return without_origin(after), info
            return self._guided(now, origin, reading, generator)

        return updated(belief, PathBelief, y, self.model, step)

    def _guided(
        self, now: PathBelief, origin: Origin, reading: Tensor, generator: Generator
    ) -> tuple[PathBelief, StepInfo]:
        x, log_weights = origin.points, origin.log_weights
        if len(x) != self.particles:
            x = x[resample(log_weights, "systematic", generator, self.particles)]
            log_weights = torch.full_like(x[:, 0], 1 / len(x)).log()
        turn, sde = turned(self.model.sde)
        chosen = x[:: max(1, len(x) // _LOOKED_AT)]
        chosen = chosen if turn is None else chosen @ turn.to(x).mT
        steps = planned_steps(sde, chosen, now.time - origin.time, generator, self.substep)
        present = present_reading(_gaussian(self.model), reading, x)

        def log_likelihood(points: Points) -> Scalars:
            return log_likelihood_without_nan(self.model, reading, points, now.time)

        seen = _sensor(_gaussian(self.model), reading, present.mask), present.noise, log_likelihood
        done = guide(path_map(sde, steps, turn).to(x), x, log_weights, seen, self.ess, generator)
        after = PathBelief(now.time, done.ends, done.log_weights, now.log_evidence + done.log_evidence)
        return after, _report(done)


def _gaussian(model: StateSpaceModel) -> NonlinearGaussian:
    if not isinstance(model.observation, NonlinearGaussian):
        raise TypeError("readings have no Gaussian noise")
    return model.observation


def _sensor(observation: NonlinearGaussian, reading: Tensor, mask: Tensor) -> Sensor:
    """What a reading exceeds the sensor's values by, and the sensor's slopes."""

    def linear(x: Points) -> tuple[Readings, Slopes]:
        return (reading.to(x) - observation.predict(x))[:, mask], observation.matrix.to(x)[mask]  # type: ignore[attr-defined]

    def curved(x: Points) -> tuple[Readings, Slopes]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            seen = observation.predict_near(reading.to(x), leaf)[:, mask]
            rows = [
                torch.autograd.grad(seen[:, i].sum(), leaf, retain_graph=True, materialize_grads=True)[0]
                for i in range(seen.shape[1])
            ]
        return reading.to(x)[mask] - seen.detach(), torch.stack(rows, 1)

    return linear if isinstance(observation, LinearGaussian) else curved


def _report(done: GuidedPaths) -> StepInfo:
    ess = effective_sample_size(done.log_weights)
    return StepInfo(
        log_evidence=done.log_evidence,
        ess=ess,
        details={"resampled_within": float(done.resampled), "least_share": min(done.ess)},
        note=collapsed(ess, len(done.log_weights)),
        history={"ess": done.ess},
    )
