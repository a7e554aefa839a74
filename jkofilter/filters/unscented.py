"""The continuous-discrete unscented Kalman filter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from filterpy.kalman import MerweScaledSigmaPoints
from filterpy.kalman import UnscentedKalmanFilter as _FilterPyUnscented
from torch import Generator, Tensor

from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.gaussian import GaussianBelief
from jkofilter.beliefs.info import StepInfo
from jkofilter.errors import FilterError, InputError
from jkofilter.filters.base import Runnable
from jkofilter.filters.checks import checked_belief, checked_duration, checked_reading
from jkofilter.models.observations import NonlinearGaussian
from jkofilter.models.state_space import StateSpaceModel, sample_prior
from jkofilter.numerics.linalg import (
    gaussian_log_density,
    gaussian_prior_moments,
    safe_cholesky,
    symmetrised,
    weighted_moments,
)

# Draws that stand in for a prior without closed-form moments.
_PRIOR_DRAWS = 100_000


@dataclass(frozen=True)
class UnscentedKalmanFilter(Runnable):
    """A Gaussian at all times; sigma points and the update by filterpy (2.0 or later).

    Between readings the moments follow dm/dt = E[f(X)], dP/dt = Cov(X, f) + Cov(f, X) + (2/beta) I, expectations by
    sigma points of N(m, P) (Sarkka 2007), by classical Runge-Kutta. For a linear drift that is the exact moment
    equation, so it agrees with the Kalman filter to the fourth power of the substep; filterpy's own predict adds the
    noise once per step and would be first order. Points: alpha 1, beta 0, kappa max(3 - d, 0), hence no negative
    weights. One mode only: of several wells it reports the overall mean and spread.

    Attributes:
        model: what to track; its observation must be NonlinearGaussian or LinearGaussian. A prior that is not
            Gaussian is replaced by one with its moments, estimated from 100,000 draws.
        substep: largest Runge-Kutta step, time.

    Raises:
        InputError: a setting out of range, or other observation noise.
    """

    model: StateSpaceModel
    substep: float = 0.01

    def __post_init__(self) -> None:
        if not isinstance(self.model, StateSpaceModel):
            raise InputError(f"model must be a StateSpaceModel, got {type(self.model).__name__}.")
        if not isinstance(self.model.observation, NonlinearGaussian):
            raise InputError(
                f"model has the observation {type(self.model.observation).__name__}, but UnscentedKalmanFilter needs "
                "NonlinearGaussian or LinearGaussian; use ParticleFilter or JKOFilter."
            )
        if not 0 < self.substep < math.inf:
            raise InputError(f"substep must be positive and finite, got {self.substep!r}.")

    def init(self, generator: Generator) -> GaussianBelief:
        """The Gaussian with the prior's mean and covariance."""
        moments = gaussian_prior_moments(self.model.prior)
        if moments is None:
            draws = sample_prior(self.model.prior, _PRIOR_DRAWS, generator)
            moments = weighted_moments(draws, draws.new_full((_PRIOR_DRAWS,), -math.log(_PRIOR_DRAWS)))
        return GaussianBelief(0.0, *moments)

    def predict(self, belief: Belief, duration: float, generator: Generator) -> tuple[GaussianBelief, StepInfo]:
        """Integrate the moment equations.

        Raises:
            InputError: another filter's belief, or a bad duration.
            FilterError: the covariance left the positive definite matrices (substep too long for the potential).
        """
        start = perf_counter()
        now = checked_belief(belief, GaussianBelief)
        duration = checked_duration(duration)
        if duration == 0:
            return now, StepInfo(status="skipped")
        steps = max(1, math.ceil(duration / self.substep * (1 - 1e-12)))
        try:
            mean, covariance, jitter = self._integrate(now.mean, now.covariance, duration / steps, steps)
        except InputError as error:
            raise FilterError(
                f"substep {self.substep:g} is too long for this potential: the covariance broke down between time "
                f"{now.time:g} and {now.time + duration:g}; try a tenth of it."
            ) from error
        after = GaussianBelief(now.time + duration, mean, covariance, now.log_evidence)
        details = {"substeps": float(steps), "jitter": jitter}
        return after, StepInfo(seconds=perf_counter() - start, details=details)

    def update(self, belief: Belief, y: Tensor, generator: Generator) -> tuple[GaussianBelief, StepInfo]:
        """Condition on the components of ``y`` that are present; evidence of the Gaussian innovation.

        Raises:
            InputError: another filter's belief, or a bad reading.
            FilterError: the observation function is not finite at a sigma point.
        """
        start = perf_counter()
        now = checked_belief(belief, GaussianBelief)
        reading = checked_reading(y, self.model)
        if reading is None:
            return now, StepInfo(status="skipped")
        observation = self.model.observation
        assert isinstance(observation, NonlinearGaussian), "construction checked the observation"
        if reading.numel() != observation.dim:
            raise InputError(f"y must have {observation.dim} components, got {reading.numel()}.")
        present = ~torch.isnan(reading)
        like = now.mean

        def foresee(state: np.ndarray) -> np.ndarray:
            point = torch.as_tensor(state).to(like).unsqueeze(0)
            return observation.predict(point)[0, present].detach().cpu().numpy()

        points = _sigma_points(self.model.dim)
        noise = observation.covariance.to(like)[present][:, present]
        engine = _FilterPyUnscented(self.model.dim, int(present.sum()), 1.0, foresee, None, points)
        engine.x, engine.P = like.cpu().numpy().copy(), now.covariance.cpu().numpy().copy()
        # filterpy's update reads the sigma points its predict leaves behind; ours come straight from (m, P).
        engine.sigmas_f = points.sigma_points(engine.x, engine.P)
        engine.update(reading[present].cpu().numpy(), R=noise.cpu().numpy())
        if not np.isfinite(engine.x).all():
            raise FilterError(f"observation function is not finite at a sigma point at time {now.time:g}; check it.")
        covariance = symmetrised(torch.from_numpy(engine.P).to(like))
        factor, jitter = safe_cholesky(covariance)
        increment = gaussian_log_density(
            torch.from_numpy(engine.y).to(like), torch.from_numpy(engine.S).to(like)
        ).item()
        after = GaussianBelief(
            now.time,
            torch.from_numpy(engine.x).to(like),
            factor @ factor.mT if jitter else covariance,
            now.log_evidence + increment,
        )
        details = {"jitter": jitter} if jitter else {}
        return after, StepInfo(log_evidence=increment, seconds=perf_counter() - start, details=details)

    def _integrate(self, mean: Tensor, covariance: Tensor, h: float, steps: int) -> tuple[Tensor, Tensor, float]:
        worst = 0.0
        weights = torch.as_tensor(_sigma_points(mean.numel()).Wm).to(mean)
        for _ in range(steps):
            m1, c1, j1 = self._rates(mean, covariance, weights)
            m2, c2, j2 = self._rates(mean + h / 2 * m1, covariance + h / 2 * c1, weights)
            m3, c3, j3 = self._rates(mean + h / 2 * m2, covariance + h / 2 * c2, weights)
            m4, c4, j4 = self._rates(mean + h * m3, covariance + h * c3, weights)
            mean = mean + h / 6 * (m1 + 2 * m2 + 2 * m3 + m4)
            covariance = symmetrised(covariance + h / 6 * (c1 + 2 * c2 + 2 * c3 + c4))
            worst = max(worst, j1, j2, j3, j4)
        factor, jitter = safe_cholesky(covariance)
        return mean, factor @ factor.mT if jitter else covariance, max(worst, jitter)

    def _rates(self, mean: Tensor, covariance: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, float]:
        """dm/dt, dP/dt and the jitter the Cholesky factor needed."""
        dim = mean.numel()
        factor, jitter = safe_cholesky(symmetrised(covariance))
        # filterpy's points, m and m +- sqrt(d + kappa) L e_i, all at once: its own function is a loop with a second
        # Cholesky factorisation that raises where ours adds jitter.
        reach = math.sqrt(dim + _kappa(dim)) * factor.mT
        offsets = torch.cat([torch.zeros_like(mean).unsqueeze(0), reach, -reach])
        drift = self.model.sde.drift(mean + offsets)
        cross = (weights.unsqueeze(-1) * offsets).mT @ drift
        diffusion = self.model.sde.variance_rate() * torch.eye(dim, dtype=mean.dtype, device=mean.device)
        return weights @ drift, cross + cross.mT + diffusion, jitter


def _kappa(dim: int) -> float:
    return float(max(3 - dim, 0))


def _sigma_points(dim: int) -> MerweScaledSigmaPoints:
    return MerweScaledSigmaPoints(dim, alpha=1.0, beta=0.0, kappa=_kappa(dim))
