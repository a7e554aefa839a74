"""Prior, diffusion and sensor together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from jkofilter._typing import Points, Scalars
from jkofilter.errors import InputError
from jkofilter.models.line_diffusion import LineDiffusion
from jkofilter.models.observation_checks import check_observation, checked_log_likelihood_shape
from jkofilter.models.observations import ObservationModel
from jkofilter.models.potential_checks import check_potential
from jkofilter.models.priors import as_vector_prior, require_inside
from jkofilter.models.sde import LangevinSDE, relaxation_rate
from jkofilter.numerics.draws import stream

_PROBES = 64
"""Draws of a prior that a model is tried out at."""

_MANY = 20_000
"""Draws of which none may lie outside the domain of the potential."""


@dataclass(frozen=True)
class StateSpaceModel:
    """A hidden diffusion and how it is seen.

    Attributes:
        prior: law of X when the clock starts (at time zero, or the ``start`` of a series), a torch Distribution with
            event_shape (d,), or of independent coordinates, which are joined: Normal(0.0, 1.0) will do for d = 1.
        sde: the diffusion; for d = 1 it may be a LineDiffusion, which some filters take.
        observation: the sensor.

    Raises:
        InputError: event shape and potential disagree, the prior has non-finite parameters, ``observation`` lacks
            ``log_likelihood`` or ``sample``; or, tried out at draws of the prior, potential or sensor couple the points
            of a batch, are NaN, or the potential's derivatives are not its own.
    """

    prior: Distribution
    sde: LangevinSDE
    observation: ObservationModel

    def __post_init__(self) -> None:
        line = self.sde if isinstance(self.sde, LineDiffusion) else None
        prior = require_prior_and_sde(self.prior, self.sde) if line is None else _inside(self.prior, line)
        object.__setattr__(self, "prior", prior)
        if not isinstance(self.observation, ObservationModel):
            raise InputError("observation must have the methods log_likelihood(y, x) and sample(x, generator).")
        draws = probed_prior(self.prior)
        if line is None:
            check_potential(self.sde.potential, draws)
        else:
            line.check(draws)
        check_observation(self.observation, draws, stream(0, "probe", draws.device))

    @property
    def dim(self) -> int:
        """State dimension d."""
        return self.sde.dim

    @cached_property
    def dtype(self) -> torch.dtype:
        """Floating type of the prior's draws."""
        return self._example().dtype

    @cached_property
    def device(self) -> torch.device:
        """Where the prior's draws live."""
        return self._example().device

    @cached_property
    def relaxation_rate(self) -> float:
        """How fast the drift forgets the prior, per unit of time: E[(X - m) . drift] / E|X - m|^2 under it, as a size.

        Exact for an isotropic quadratic; elsewhere an order of magnitude, for questions of units.
        """
        return relaxation_rate(self.sde, probed_prior(self.prior))

    def _example(self) -> Tensor:
        return sample_prior(self.prior, 1, stream(0, "probe"))

    def log_likelihood(self, y: Tensor, x: Tensor) -> Tensor:
        """log p(y | x) with its shape checked, (n,).

        Raises:
            InputError: the observation model returns another shape.
        """
        return checked_log_likelihood_shape(self.observation.log_likelihood(y, x), x)


def require_prior_and_sde(prior: Distribution, sde: LangevinSDE) -> Distribution:
    """``prior`` with event_shape (d,), once it and ``sde`` fit together.

    Raises:
        InputError: they are something else, of different dimensions, or the prior has mass outside the walls.
    """
    if isinstance(sde, LineDiffusion):
        raise InputError("sde must be a LangevinSDE(potential, beta) here; a LineDiffusion is for SpectralFilter.")
    if not isinstance(sde, LangevinSDE):
        raise InputError("sde must be a LangevinSDE(potential, beta).")
    return _inside(prior, sde)


def _inside(prior: Distribution, sde: LangevinSDE | LineDiffusion) -> Distribution:
    """``prior`` with event_shape (d,), once it has no mass outside the walls."""
    vector = as_vector_prior(prior, sde.dim)
    if sde.domain is not None:
        require_inside(vector, probed_prior(vector, _MANY), sde.domain)
    return vector


def probed_prior(prior: Distribution, n: int = _PROBES) -> Points:
    """Some draws of a prior to try a model out with, (n, d).

    Raises:
        InputError: it cannot be sampled, or its draws are not finite.
    """
    return finite_draws(prior, n, stream(0, "probe"))


def finite_draws(prior: Distribution, n: int, generator: Generator) -> Points:
    """``n`` draws of ``prior``, (n, d).

    Raises:
        InputError: it cannot be sampled, or not to finite numbers.
    """
    try:
        draws = sample_prior(prior, n, generator)
    except NotImplementedError as error:
        raise InputError("prior cannot be sampled: it has no sample.") from error
    if not torch.isfinite(draws).all():
        raise InputError("prior draws are not finite; give finite parameters.")
    return draws


def sample_prior(prior: Distribution, n: int, generator: Generator) -> Tensor:
    """``n`` draws of ``prior``, (n, d), from an explicit generator.

    torch.distributions draws from the global generators only, so their states are set for the draw and put back. A
    prior on a GPU, whose generator that is only its draws tell, has initialised CUDA; else CUDA is left alone.
    """
    gpus = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device).item())
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        if gpus:
            torch.cuda.manual_seed_all(seed)
        return prior.sample(torch.Size([n])).detach()


def prior_support(prior: Distribution) -> Constraint | None:
    """Where a prior has mass, or None where it does not tell."""
    # NotImplementedError is how torch says that a distribution has none.
    try:
        return prior.support
    except NotImplementedError:
        return None


def prior_log_prob(prior: Distribution, x: Points) -> Scalars:
    """Log density of a prior at any points, (n,): minus infinity outside its support, if it tells it."""
    support = prior_support(prior)
    if support is None:
        return prior.log_prob(x).detach()
    # constraints.real takes a state for d numbers, constraints.real_vector for one.
    inside = support.check(x).reshape(len(x), -1).all(-1)
    value = x.new_full((len(x),), -torch.inf)
    if inside.any():
        value[inside] = prior.log_prob(x[inside]).detach().to(value)
    return value
