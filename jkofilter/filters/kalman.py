"""The Kalman filter of an Ornstein-Uhlenbeck process, exact in continuous time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from filterpy.kalman import KalmanFilter as _FilterPyKalman
from torch import Generator, Tensor

from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.gaussian import GaussianBelief
from jkofilter.beliefs.info import StepInfo
from jkofilter.errors import InputError
from jkofilter.filters.base import Runnable
from jkofilter.filters.checks import checked_belief, predicting, present_reading, require_model, updating
from jkofilter.models.observations import LinearGaussian
from jkofilter.models.potentials import Quadratic
from jkofilter.models.sde import refuse_walls
from jkofilter.models.state_space import StateSpaceModel
from jkofilter.numerics.linalg import gaussian_log_density, gaussian_prior_moments, spd_inverse, symmetrised
from jkofilter.smoothing.contract import PathDraws, Record, Smoothed
from jkofilter.smoothing.gaussian import Link, gain_of, gaussian_paths, rauch_tung_striebel


@dataclass(frozen=True)
class KalmanFilter(Runnable):
    """Exact for V = (x - b)' A (x - b) / 2 with linear-Gaussian readings and a Gaussian prior; filterpy underneath.

    The discretisation is exact, whatever the duration: with F = e^{-A t},
    m_t = b + F (m - b) and P_t = F P F + (beta A)^-1 (I - e^{-2 A t}).
    Missing components of a reading drop out; the covariance update is Joseph's form.

    Attributes:
        model: what to track.

    Raises:
        InputError: the model is not linear and Gaussian throughout.
    """

    model: StateSpaceModel

    def __post_init__(self) -> None:
        require_model(self.model)
        if not isinstance(self.model.sde.potential, Quadratic):
            raise InputError(
                f"model has the potential {type(self.model.sde.potential).__name__}, but KalmanFilter needs Quadratic; "
                "use UnscentedKalmanFilter, ParticleFilter or JKOFilter."
            )
        refuse_walls(self.model.sde, "KalmanFilter")
        if not isinstance(self.model.observation, LinearGaussian):
            raise InputError(
                f"model has the observation {type(self.model.observation).__name__}, but KalmanFilter needs "
                "LinearGaussian; use UnscentedKalmanFilter for Gaussian noise, else ParticleFilter or JKOFilter."
            )
        if self.model.observation.matrix.shape[1] != self.model.dim:
            raise InputError(
                f"observation has a matrix with {self.model.observation.matrix.shape[1]} columns, but the state "
                f"dimension is {self.model.dim}; give a matrix of shape (p, {self.model.dim})."
            )
        if gaussian_prior_moments(self.model.prior) is None:
            raise InputError(
                f"prior is {type(self.model.prior).__name__}, but KalmanFilter needs MultivariateNormal or "
                "Independent(Normal, 1); use ParticleFilter or JKOFilter for others."
            )

    def init(self, generator: Generator) -> GaussianBelief:
        """The prior."""
        moments = gaussian_prior_moments(self.model.prior)
        assert moments is not None, "construction checked the prior"
        return GaussianBelief(0.0, *moments)

    def predict(self, belief: Belief, duration: float, generator: Generator) -> tuple[GaussianBelief, StepInfo]:
        """The law ``duration`` later, exactly.

        Raises:
            InputError: another filter's belief, or a bad duration.
        """
        return predicting(belief, GaussianBelief, duration, self._later)

    def _later(self, now: GaussianBelief, duration: float) -> tuple[GaussianBelief, StepInfo]:
        centre, flow, noise = self._transition(duration, now.mean)
        engine = _engine(now.mean - centre, now.covariance, 1)
        engine.predict(F=flow.cpu().numpy(), Q=noise.cpu().numpy())
        after = GaussianBelief(
            now.time + duration,
            centre + torch.from_numpy(engine.x).to(centre),
            symmetrised(torch.from_numpy(engine.P).to(centre)),
            now.log_evidence,
        )
        return after, StepInfo()

    def update(self, belief: Belief, y: Tensor, generator: Generator) -> tuple[GaussianBelief, StepInfo]:
        """Condition on the components of ``y`` that are present; evidence from the innovation.

        Raises:
            InputError: another filter's belief, or a bad reading.
        """
        return updating(belief, GaussianBelief, y, self.model, self._given)

    def _given(self, now: GaussianBelief, reading: Tensor) -> tuple[GaussianBelief, StepInfo]:
        observation = self.model.observation
        assert isinstance(observation, LinearGaussian), "construction checked the observation"
        present = present_reading(observation, reading, now.mean)
        matrix = observation.matrix.to(now.mean)[present.mask]
        innovation = present.values - matrix @ now.mean
        spread = symmetrised(matrix @ now.covariance @ matrix.mT) + present.noise
        increment = gaussian_log_density(innovation, spread).item()
        engine = _engine(now.mean, now.covariance, len(innovation))
        engine.update(present.values.cpu().numpy(), R=present.noise.cpu().numpy(), H=matrix.cpu().numpy())
        after = GaussianBelief(
            now.time,
            torch.from_numpy(engine.x).to(now.mean),
            symmetrised(torch.from_numpy(engine.P).to(now.mean)),
            now.log_evidence + increment,
        )
        return after, StepInfo(log_evidence=increment)

    def smoothed(self, record: Record, generator: Generator) -> Smoothed:
        """The laws of a record given all its readings, exactly (Rauch, Tung & Striebel 1965)."""
        return rauch_tung_striebel([checked_belief(law, GaussianBelief) for law in record.laws], self._linked)

    def paths(self, record: Record, n: int, times: list[float], generator: Generator) -> PathDraws:
        """``n`` independent paths given all readings, exactly."""
        laws = record.laws_with(times, lambda law, duration: self.predict(law, duration, generator)[0])
        checked = [checked_belief(law, GaussianBelief) for law in laws]
        return gaussian_paths(checked, self._linked, n, times, generator)

    def _linked(self, now: GaussianBelief, duration: float) -> Link:
        centre, flow, noise = self._transition(duration, now.mean)
        covariance = symmetrised(flow @ now.covariance @ flow.mT) + noise
        return Link(centre + flow @ (now.mean - centre), covariance, gain_of(now.covariance @ flow.mT, covariance))

    def _transition(self, duration: float, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Centre b, flow e^{-A t} and noise covariance (beta A)^-1 (I - e^{-2 A t}), by eigenvectors of A."""
        potential = self.model.sde.potential
        assert isinstance(potential, Quadratic), "construction checked the potential"
        rates, vectors = torch.linalg.eigh(potential.precision.to(like))
        flow = (vectors * torch.exp(-rates * duration)) @ vectors.mT
        # expm1 keeps the digits that 1 - exp(-2 a t) loses when a t is small.
        variances = -torch.expm1(-2 * rates * duration) / (self.model.sde.beta * rates)
        return potential.mean.to(like), flow, symmetrised((vectors * variances) @ vectors.mT)


def _engine(mean: Tensor, covariance: Tensor, readings: int) -> _FilterPyKalman:
    engine = _FilterPyKalman(dim_x=mean.numel(), dim_z=readings)
    engine.inv = spd_inverse
    engine.x = mean.cpu().numpy().copy()
    engine.P = covariance.cpu().numpy().copy()
    return engine
