"""The exact filter of the Benes diffusion, nonlinear and of two modes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Generator, Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from jkofilter._typing import State
from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.benes import BenesBelief, log_cosh
from jkofilter.beliefs.gaussian import GaussianBelief
from jkofilter.beliefs.info import StepInfo
from jkofilter.errors import InputError
from jkofilter.filters.base import Runnable
from jkofilter.filters.checks import checked_belief, predicting, present_reading, require_model, updating
from jkofilter.models.checks import as_tensor
from jkofilter.models.observations import LinearGaussian
from jkofilter.models.potentials import LogCosh
from jkofilter.models.state_space import StateSpaceModel
from jkofilter.numerics.linalg import gaussian_log_density
from jkofilter.smoothing.contract import PathDraws, Record, Smoothed, positions
from jkofilter.smoothing.gaussian import Link, backward_simulated, smoothed_by

_SAME = 1e-9


def benes_prior(centre: float | State, variance: float | State, kappa: float | State) -> Distribution:
    """The law with density proportional to prod_i cosh(k_i x_i) N(x_i; m_i, P_i), (d,): what a Benes diffusion keeps.

    Args:
        centre: m, a number for all coordinates or (d,).
        variance: P, positive, likewise.
        kappa: k, likewise; d is the longest of the three.

    Raises:
        InputError: lengths disagree, or a variance is not positive.
    """
    parts = [as_tensor(value, name).reshape(-1) for value, name in ((centre, "centre"), (variance, "variance"))]
    try:
        m, p, k = torch.broadcast_tensors(*parts, as_tensor(kappa, "kappa").reshape(-1))
    except RuntimeError as error:
        raise InputError("centre, variance and kappa must be numbers or of one length.") from error
    if not (p > 0).all():
        raise InputError(f"variance must be positive, got {p.tolist()}.")
    odds = torch.stack([2 * k * m, torch.zeros_like(m)], -1)
    means = torch.stack([m + k * p, m - k * p], -1)
    halves = Normal(means, p.sqrt().unsqueeze(-1).expand_as(means))
    return Independent(MixtureSameFamily(Categorical(logits=odds), halves), 1)


@dataclass(frozen=True)
class BenesFilter(Runnable):
    """Exact in one dimension for V = -s^2 log cosh(k x), s^2 = 2/beta, and linear readings with Gaussian noise.

    The drift is s^2 k tanh(k x). As h(x, t) = cosh(k x) exp(-k^2 s^2 t / 2) solves the backward heat equation
    dh/dt + (s^2/2) h'' = 0, the diffusion is Brownian motion tilted by h (Doob), with the transition density
    cosh(k y) / cosh(k x) exp(-k^2 s^2 t / 2) N(y; x, s^2 t). A law cosh(k x) N(x; m, P) / c(m, P), with
    c(m, P) = exp(k^2 P / 2) cosh(k m), therefore keeps its shape: predicting adds s^2 t to P. A reading y = H x + noise
    multiplies by a Gaussian, so (m, P) goes through Kalman's update; what is left of the constants is its evidence,
    N(y; H m, S) c(m', P') / c(m, P). (Benes, Stochastics 5, 1981; Daum, IEEE Trans. Automatic Control 31, 1986.)

    More dimensions that do not meet: one such filter for each in a ProductFilter.

    Attributes:
        model: what to track: prior by ``benes_prior``, potential LogCosh, observation LinearGaussian; d = 1.

    Raises:
        InputError: the model is another one.
    """

    model: StateSpaceModel

    def __post_init__(self) -> None:
        require_model(self.model)
        potential, beta = self.model.sde.potential, float(self.model.sde.beta)
        if not isinstance(potential, LogCosh) or potential.dim != 1 or abs(potential.beta - beta) > _SAME * beta:
            raise InputError(
                "model must have the potential LogCosh of one dimension, with the beta of its SDE, for BenesFilter; "
                "use one filter a coordinate in a ProductFilter, or JKOFilter."
            )
        observation = self.model.observation
        if not isinstance(observation, LinearGaussian) or observation.matrix.shape[1] != 1:
            raise InputError("observation must be a LinearGaussian with a matrix of shape (p, 1) for BenesFilter.")
        _ = self._start

    @property
    def _kappa(self) -> float:
        potential = self.model.sde.potential
        assert isinstance(potential, LogCosh), "construction checked the potential"
        return potential.kappa.item()

    @property
    def _start(self) -> tuple[Tensor, Tensor]:
        """m (1,) and P (1, 1) of the prior.

        Raises:
            InputError: it is not of the family.
        """
        prior, k = self.model.prior, self._kappa
        cure = "prior must be benes_prior(centre, variance, kappa) with the potential's own kappa for BenesFilter."
        if not isinstance(prior, Independent) or not isinstance(prior.base_dist, MixtureSameFamily):
            raise InputError(cure)
        halves, odds = prior.base_dist.component_distribution, prior.base_dist.mixture_distribution.logits
        if not isinstance(halves, Normal) or halves.mean.shape != (1, 2):
            raise InputError(cure)
        m, p = halves.mean.mean(-1), halves.variance[:, :1]
        wanted = torch.stack([m + k * p[0], m - k * p[0]], -1)
        found = torch.cat([halves.mean - wanted, halves.variance - p, odds.diff() + 2 * k * m], -1)
        if found.abs().max() > 1e-6 * (1 + m.abs() + abs(k) * p[0]):
            raise InputError(cure)
        return m.detach(), p.detach()

    def init(self, generator: Generator) -> BenesBelief:
        """The prior."""
        return BenesBelief(0.0, *self._start, self._kappa)

    def predict(self, belief: Belief, duration: float, generator: Generator) -> tuple[BenesBelief, StepInfo]:
        """The law ``duration`` later, exactly.

        Raises:
            InputError: another filter's belief, or a bad duration.
        """
        return predicting(belief, BenesBelief, duration, self._later)

    def _later(self, now: BenesBelief, duration: float) -> tuple[BenesBelief, StepInfo]:
        variance = now.variance + self.model.sde.variance_rate() * duration
        after = BenesBelief(now.time + duration, now.centre, variance, now.kappa, now.log_evidence)
        return after, StepInfo()

    def update(self, belief: Belief, y: Tensor, generator: Generator) -> tuple[BenesBelief, StepInfo]:
        """Condition on the components of ``y`` that are present.

        Raises:
            InputError: another filter's belief, or a bad reading.
        """
        return updating(belief, BenesBelief, y, self.model, self._given)

    def _given(self, now: BenesBelief, reading: Tensor) -> tuple[BenesBelief, StepInfo]:
        observation = self.model.observation
        assert isinstance(observation, LinearGaussian), "construction checked the observation"
        present = present_reading(observation, reading, now.centre)
        matrix = observation.matrix.to(now.centre)[present.mask]
        innovation = present.values - matrix @ now.centre
        spread = matrix @ now.variance @ matrix.mT + present.noise
        weighed = torch.linalg.solve(present.noise, matrix)
        # The information form keeps the variance positive however sharp the reading.
        variance = 1 / (1 / now.variance + matrix.mT @ weighed)
        centre = now.centre + variance[0] * (weighed.mT @ innovation)
        log_evidence = gaussian_log_density(innovation, spread).item() + _log_mass(centre, variance, now.kappa)
        log_evidence -= _log_mass(now.centre, now.variance, now.kappa)
        after = BenesBelief(now.time, centre, variance, now.kappa, now.log_evidence + log_evidence)
        return after, StepInfo(log_evidence=log_evidence)

    def smoothed(self, record: Record, generator: Generator) -> Smoothed:
        """The laws of a record given all its readings, exactly.

        With the change of measure of the filter, all paths together weigh cosh(k X_T) times those of Brownian motion
        from N(m, P), T the end of the record. Given all readings that motion is Gaussian, of means m_t, variances P_t
        and covariances C_t of X_t and X_T, so that X_t has the density cosh(k_t x + k m_T - k_t m_t) N(x; m_t, P_t) up
        to a constant, k_t = k C_t / P_t: two Gaussians.
        """
        laws = self._brownian(record.laws)
        links = [self._linked(now, later.time - now.time) for now, later in pairwise(laws)]
        k, last, log_evidence = self._kappa, laws[-1], record.laws[-1].log_evidence
        cross, smoothed = last.covariance, []
        for law, link in zip(reversed(smoothed_by(laws, links)), [None, *reversed(links)], strict=True):
            cross = cross if link is None else link.gain @ cross
            kappa = (k * cross / law.covariance).item()
            offset = (k * last.mean - kappa * law.mean).item()
            smoothed.append(BenesBelief(law.time, law.mean, law.covariance, kappa, log_evidence, offset))
        return Smoothed(tuple(reversed(smoothed)), (StepInfo(),) * len(laws))

    def paths(self, record: Record, n: int, times: list[float], generator: Generator) -> PathDraws:
        """``n`` independent paths given all readings, exactly: Brownian motion back from draws of the last law."""
        laws = record.laws_with(times, lambda law, duration: self.predict(law, duration, generator)[0])
        last = laws[-1].sample(n, generator)
        paths = backward_simulated(self._brownian(laws), self._linked, last, generator)
        return PathDraws(paths[:, positions(laws, times)])

    def _brownian(self, laws: Sequence[Belief]) -> list[GaussianBelief]:
        """N(m, P) of every law."""
        own = [checked_belief(law, BenesBelief) for law in laws]
        return [GaussianBelief(law.time, law.centre, law.variance) for law in own]

    def _linked(self, now: GaussianBelief, duration: float) -> Link:
        covariance = now.covariance + self.model.sde.variance_rate() * duration
        return Link(now.mean, covariance, now.covariance / covariance)


def _log_mass(centre: Tensor, variance: Tensor, kappa: float) -> float:
    """log of the integral of cosh(k x) N(x; m, P)."""
    return (0.5 * kappa**2 * variance[0, 0] + log_cosh(kappa * centre)[0]).item()
