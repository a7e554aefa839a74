"""The continuous-discrete unscented Kalman filter."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from filterpy.kalman import MerweScaledSigmaPoints
from filterpy.kalman import UnscentedKalmanFilter as _FilterPyUnscented
from scipy.integrate import solve_ivp
from scipy.linalg import cho_solve
from torch import Generator, Tensor

from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.gaussian import GaussianBelief
from jkofilter.beliefs.info import StepInfo
from jkofilter.errors import FilterError, NumericalError
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
from jkofilter.models.observations import NonlinearGaussian
from jkofilter.models.potential_checks import trouble_around
from jkofilter.models.reach import require_all_reachable
from jkofilter.models.sde import refuse_walls
from jkofilter.models.state_space import StateSpaceModel, sample_prior
from jkofilter.numerics.arrays import as_array
from jkofilter.numerics.linalg import (
    gaussian_log_density,
    gaussian_prior_moments,
    safe_cholesky,
    spd_inverse,
    symmetrised,
    weighted_moments,
)
from jkofilter.smoothing.contract import PathDraws, Record, Smoothed
from jkofilter.smoothing.gaussian import Link, gain_of, gaussian_paths, rauch_tung_striebel

# Draws that stand in for a prior without closed-form moments.
_PRIOR_DRAWS = 100_000
_RELATIVE, _ABSOLUTE = 1e-8, 1e-10
_REACH, _LOOKS = 3.0, 65
# Runge-Kutta is stable up to 2.78 times a rate of change; the covariance changes at twice the curvature.
_COARSE = 0.7
# Some seconds of them: a law that slides along a kink takes ever shorter steps.
_MOST_EVALUATIONS = 10_000
_RUN_OFF = 1e3


@dataclass(frozen=True)
class UnscentedKalmanFilter(Runnable):
    """A Gaussian at all times; sigma points and the update by filterpy (2.0 or later).

    Between readings the moments follow dm/dt = E[f(X)], dP/dt = Cov(X, f) + Cov(f, X) + (2/beta) I, expectations by
    sigma points of N(m, P) (Sarkka 2007), by LSODA, which chooses its steps and turns implicit where the potential is
    stiff (Petzold 1983), or by classical Runge-Kutta in equal steps. For a linear drift that is the exact moment
    equation, so it agrees with the Kalman filter to LSODA's tolerance of 1e-8, or to the fourth power of the substep;
    filterpy's own predict adds the noise once per step and would be first order. Points: alpha 1, beta 0, kappa
    max(3 - d, 0), hence no negative weights. One mode only: of several wells it reports the overall mean and spread.

    Attributes:
        model: what to track; its observation must be NonlinearGaussian or LinearGaussian. A prior that is not
            Gaussian is replaced by one with its moments, estimated from 100,000 draws.
        substep: longest Runge-Kutta step, time; None leaves the steps to LSODA.

    Raises:
        InputError: a setting out of range, other observation noise, or walls.
    """

    model: StateSpaceModel
    substep: float | None = None

    def __post_init__(self) -> None:
        require_model(self.model)
        require_gaussian_noise(self.model, "UnscentedKalmanFilter")
        refuse_walls(self.model.sde, "UnscentedKalmanFilter")
        require_substep(self.substep)

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
            FilterError: the law reaches where the potential is infinite or jumps, steps become ever shorter at a kink,
                or the covariance left the positive definite matrices (substep too long for the potential).
        """
        return predicting(belief, GaussianBelief, duration, self._later)

    def _later(self, now: GaussianBelief, duration: float) -> tuple[GaussianBelief, StepInfo]:
        require_short(duration, self.model, self.substep)
        span = f"between time {now.time:g} and {now.time + duration:g}"
        try:
            if self.substep is None:
                mean, covariance, jitter, steps, _ = self._adapted(now.mean, now.covariance, duration)
            else:
                steps = max(1, math.ceil(duration / self.substep * (1 - 1e-12)))
                mean, covariance, jitter = self._integrate(now.mean, now.covariance, duration / steps, steps)
        except NumericalError as error:
            reach = torch.diag(torch.diagonal(now.covariance).clamp(min=0).sqrt())
            trouble = trouble_around(self.model.sde.potential, torch.cat([now.mean + reach, now.mean - reach]))
            if trouble:
                raise FilterError(trouble) from error
            # What the law was before may be no covariance either, and then jumps cannot be looked for.
            with suppress(NumericalError):
                self._require_continuous(now)
            cause = "" if self.substep is None else f"substep {self.substep:g} is too long for this potential: "
            cure = "use ParticleFilter or JKOFilter" if self.substep is None else "leave it None, and it is chosen"
            raise FilterError(f"{cause}the covariance broke down {span}; {cure}.") from error
        after = GaussianBelief(now.time + duration, mean, covariance, now.log_evidence)
        self._require_continuous(after)
        details = {"substeps": float(steps), "jitter": jitter}
        return after, StepInfo(details=details, note=self._coarse_note(after))

    def update(self, belief: Belief, y: Tensor, generator: Generator) -> tuple[GaussianBelief, StepInfo]:
        """Condition on the components of ``y`` that are present; evidence of the Gaussian innovation.

        Raises:
            InputError: another filter's belief, or a bad reading.
            FilterError: the observation function is not finite at a sigma point, or the covariance breaks down.
        """
        return updating(belief, GaussianBelief, y, self.model, self._given)

    def _given(self, now: GaussianBelief, reading: Tensor) -> tuple[GaussianBelief, StepInfo]:
        observation = self.model.observation
        assert isinstance(observation, NonlinearGaussian), "construction checked the observation"
        present = present_reading(observation, reading, now.mean)
        like = now.mean

        def foresee(state: np.ndarray) -> np.ndarray:
            point = torch.as_tensor(state).to(like).unsqueeze(0)
            foreseen = observation.predict_near(reading, point)[0, present.mask].detach()
            if not torch.isfinite(foreseen).all():
                raise FilterError(
                    f"observation function is not finite at a sigma point at time {now.time:g}; check it."
                )
            return foreseen.cpu().numpy()

        points = _sigma_points(self.model.dim)
        engine = _FilterPyUnscented(self.model.dim, len(present.values), 1.0, foresee, None, points)
        engine.inv = spd_inverse
        engine.x, engine.P = like.cpu().numpy().copy(), now.covariance.cpu().numpy().copy()
        # filterpy's update reads the sigma points its predict leaves behind; ours come straight from (m, P).
        offsets, _ = _offsets(now.covariance)
        engine.sigmas_f = (like + offsets).cpu().numpy()
        # What overflows shows as a covariance that is not finite, which is refused.
        with np.errstate(over="ignore", invalid="ignore"):
            engine.update(present.values.cpu().numpy(), R=present.noise.cpu().numpy())
        increment = gaussian_log_density(
            torch.from_numpy(engine.y).to(like), torch.from_numpy(engine.S).to(like)
        ).item()
        covariance = symmetrised(torch.from_numpy(engine.P).to(like))
        factor, jitter = safe_cholesky(covariance)
        after = GaussianBelief(
            now.time,
            torch.from_numpy(engine.x).to(like),
            factor @ factor.mT if jitter else covariance,
            now.log_evidence + increment,
        )
        note = observation.note_near(reading, observation.predict_near(reading, like + offsets).detach())
        return after, StepInfo(log_evidence=increment, details={"jitter": jitter} if jitter else {}, note=note)

    def smoothed(self, record: Record, generator: Generator) -> Smoothed:
        """The laws of a record given all its readings, as Gaussians (Sarkka 2013, section 14.3).

        The gain back over a gap is that of the statistically linearised drift (``_adapted``).

        Raises:
            FilterError: a covariance breaks down.
        """
        return rauch_tung_striebel([checked_belief(law, GaussianBelief) for law in record.laws], self._linked)

    def paths(self, record: Record, n: int, times: list[float], generator: Generator) -> PathDraws:
        """``n`` paths given all readings, drawn from the Gaussian laws of the smoother."""
        laws = record.laws_with(times, lambda law, duration: self.predict(law, duration, generator)[0])
        checked = [checked_belief(law, GaussianBelief) for law in laws]
        return gaussian_paths(checked, self._linked, n, times, generator)

    def _linked(self, now: GaussianBelief, duration: float) -> Link:
        mean, covariance, _, _, cross = self._adapted(now.mean, now.covariance, duration, with_cross=True)
        return Link(mean, covariance, gain_of(cross, covariance))

    def _require_continuous(self, belief: GaussianBelief) -> None:
        """Raise FilterError if the potential is infinite or jumps within three deviations along an axis of the law."""
        reach = _REACH * safe_cholesky(belief.covariance)[0].mT
        shares = torch.linspace(-1, 1, _LOOKS, dtype=reach.dtype, device=reach.device)
        for axis in reach:
            points = belief.mean + shares.unsqueeze(-1) * axis
            require_all_reachable(self.model.sde, points[:-1], points[1:])

    def _coarse_note(self, belief: GaussianBelief) -> str:
        if self.substep is None:
            return ""
        rate = torch.linalg.eigvalsh(self.model.sde.potential.hessian(belief.mean.unsqueeze(0))[0]).abs().max().item()
        if not rate * self.substep > _COARSE:
            return ""
        return (
            f"substep {self.substep:g} is too long for this potential: times the curvature at the mean it is "
            f"{rate * self.substep:.2g}, above {_COARSE:g}; leave it None, and it is chosen"
        )

    def _adapted(
        self, mean: Tensor, covariance: Tensor, duration: float, with_cross: bool = False
    ) -> tuple[Tensor, Tensor, float, int, Tensor]:
        """The moments ``duration`` later by LSODA, the jitter of the factors, the evaluations, and Cov(X_0, X_t).

        The last, (d, d), where it is asked for, by d/dt Cov(X_0, X_t) = Cov(X_0, X_t) P^-1 Cov(X_t, f), which puts the
        best linear approximation in the place of the drift f.
        """
        dim = mean.numel()
        # A matrix that is no covariance breaks down here, and not within the solver, which has its own words for it.
        _, worst = _offsets(covariance)
        evaluations = 0
        weights, reach = _sigma_points(dim).Wm[:, None], as_array(_directions(covariance))
        diffusion = self.model.sde.variance_rate() * np.eye(dim)
        rows, columns = np.tril_indices(dim)

        own = dim + len(rows)

        def unpack(state: np.ndarray) -> np.ndarray:
            matrix = np.zeros((dim, dim))
            matrix[rows, columns] = matrix[columns, rows] = state[dim:own]
            return matrix

        before = as_array(covariance)
        start = np.concatenate([as_array(mean), before[rows, columns], before.ravel() if with_cross else []])

        def rates(passed: float, state: np.ndarray) -> np.ndarray:
            nonlocal worst, evaluations
            evaluations += 1
            if evaluations > _MOST_EVALUATIONS:
                far = not np.abs(state - start).max() < _RUN_OFF * np.abs(start).max()
                raise FilterError(_lost(far, f"{passed:g} into a prediction of {duration:g}"))
            # The work of a few numbers is all call overhead, of which NumPy has a fifth of torch's.
            factor, jitter = _factor(unpack(state))
            worst = max(worst, jitter)
            with np.errstate(over="ignore", invalid="ignore"):
                offsets = reach @ factor.T
                drift = as_array(self.model.sde.drift(torch.from_numpy(state[:dim] + offsets).to(mean)))
                cross = (weights * offsets).T @ drift
                moments = [weights[:, 0] @ drift, (cross + cross.T + diffusion)[rows, columns]]
                if with_cross:
                    back = state[own:].reshape(dim, dim)
                    moments.append((back @ cho_solve((factor, True), cross)).ravel())
                return np.concatenate(moments)

        scale = float(torch.diagonal(covariance).max().sqrt())
        least = np.concatenate([np.full(dim, _ABSOLUTE * scale), np.full(len(start) - dim, _ABSOLUTE * scale**2)])
        found = solve_ivp(rates, (0.0, duration), start, "LSODA", rtol=_RELATIVE, atol=least)
        if not found.success:
            raise NumericalError(f"moments cannot be integrated: {found.message}")
        after, matrix = (torch.as_tensor(part).to(mean) for part in (found.y[:dim, -1], unpack(found.y[:, -1])))
        factor, jitter = safe_cholesky(symmetrised(matrix))
        cross_covariance = torch.as_tensor(found.y[own:, -1]).to(mean).reshape(-1, dim)
        return after, factor @ factor.mT if jitter else matrix, max(worst, jitter), int(found.nfev), cross_covariance

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
        offsets, jitter = _offsets(covariance)
        drift = self.model.sde.drift(mean + offsets)
        cross = (weights.unsqueeze(-1) * offsets).mT @ drift
        diffusion = self.model.sde.variance_rate() * torch.eye(dim, dtype=mean.dtype, device=mean.device)
        return weights @ drift, cross + cross.mT + diffusion, jitter


def _lost(far: bool, when: str) -> str:
    """Why moments take too many steps, and what would work."""
    if far:
        return (
            f"moments run off to infinity {when}: the potential falls without end; give Potential(..., domain=(low, "
            "high)), and use GridFilter."
        )
    return (
        f"moments get nowhere {when}, as where a sigma point slides along a kink of the potential; smooth it over some "
        "width, or use ParticleFilter."
    )


def _offsets(covariance: Tensor) -> tuple[Tensor, float]:
    """filterpy's sigma points as seen from the mean, 0 and +- sqrt(d + kappa) L e_i, (2d + 1, d), and L's jitter.

    Its own function is a loop with a Cholesky factorisation that raises where ours adds jitter.
    """
    factor, jitter = safe_cholesky(symmetrised(covariance))
    return _directions(covariance) @ factor.mT, jitter


def _directions(covariance: Tensor) -> Tensor:
    """The sigma points of the identity in as many dimensions as ``covariance``, (2d + 1, d)."""
    dim = covariance.shape[0]
    reach = math.sqrt(dim + _kappa(dim)) * torch.eye(dim).to(covariance)
    return torch.cat([torch.zeros_like(reach[:1]), reach, -reach])


def _factor(matrix: np.ndarray) -> tuple[np.ndarray, float]:
    """``safe_cholesky`` of a symmetric array."""
    try:
        return np.linalg.cholesky(matrix), 0.0
    except np.linalg.LinAlgError:
        factor, jitter = safe_cholesky(torch.from_numpy(matrix))
        return factor.numpy(), jitter


def _kappa(dim: int) -> float:
    return float(max(3 - dim, 0))


def _sigma_points(dim: int) -> MerweScaledSigmaPoints:
    return MerweScaledSigmaPoints(dim, alpha=1.0, beta=0.0, kappa=_kappa(dim))
