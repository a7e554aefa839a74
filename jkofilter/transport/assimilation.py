"""Bayes' rule for a law carried by maps: tempering, resampling and moves in the base space, then a refit.

The base law is carried to u ~ N(0, I), so that a point u is a state x(u) = T_K( ... T_1(z(u))), and the posterior is
N(u; 0, I) p(y | x(u)) / Z: forward pushes only, no determinants (Mokrov et al. 2021, section 4.4, there by plain
Metropolis-Hastings). Tempering spreads the reading over steps that keep the particles effective (Del Moral, Doucet &
Jasra 2006); a law fitted to what they become is one map deep whatever came before, and proposes global moves that are
weighed against the exact product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Generator, Tensor

from jkofilter._typing import Points, Scalars
from jkofilter.errors import FilterError, InputError
from jkofilter.numerics.mcmc import AuxiliaryFunction, independence
from jkofilter.numerics.resampling import resample
from jkofilter.numerics.tempering import next_temperature
from jkofilter.numerics.weights import effective_sample_size, log_mean_exp
from jkofilter.transport.belief import TransportBelief, prior_log_prob
from jkofilter.transport.convex import Pool, pushed_through
from jkofilter.transport.engines import RidgeEngine
from jkofilter.transport.moves import MOVES, Move, Mover
from jkofilter.transport.pulled_back import PulledBack, Refit, refit
from jkofilter.transport.ridge import RidgeSpline

LogLikelihood: TypeAlias = Callable[[Points], Scalars]
MAX_TEMPERATURES = 200
LOST = 0.05
"""Agreement of the refitted law below which a posterior counts as lost."""


@dataclass(frozen=True)
class UpdateSettings:
    """How readings are taken in.

    Attributes:
        moves: kernels, applied in this order at every temperature; "global" once, after the last.
        sweeps: how often the local ones are applied at each temperature, at least; more while particles drift.
        ess: share of the particles that a temperature step keeps effective.
        auxiliary: phi(z, c) of the "auxiliary" kernel.
        agreement: effective share of the particles weighted to the refitted law that is good enough.
        layers: most layers of a refitted law.
        engine: fits the layers.

    Raises:
        InputError: a setting cannot be used.
    """

    moves: tuple[Move, ...] = ("elliptical-slice", "global")
    sweeps: int = 2
    ess: float = 0.5
    auxiliary: AuxiliaryFunction = independence
    agreement: float = 0.9
    layers: int = 3
    engine: RidgeEngine = field(default_factory=lambda: RidgeEngine(cells=16))

    def __post_init__(self) -> None:
        if not isinstance(self.moves, tuple) or not self.moves or set(self.moves) - set(MOVES):
            raise InputError(f"moves must be a tuple of some of {', '.join(MOVES)}, got {self.moves!r}.")
        if not isinstance(self.sweeps, int) or self.sweeps < 1:
            raise InputError(f"sweeps must be a positive integer, got {self.sweeps!r}.")
        if not 0 < self.ess < 1:
            raise InputError(f"ess must be a share between 0 and 1, got {self.ess!r}.")
        if not callable(self.auxiliary):
            raise InputError("auxiliary must be a function phi(z, c).")
        if not 0 < self.agreement <= 1:
            raise InputError(f"agreement must be a share above 0 and up to 1, got {self.agreement!r}.")
        if not isinstance(self.layers, int) or self.layers < 0:
            raise InputError(f"layers must be an integer of zero or more, got {self.layers!r}.")


@dataclass(frozen=True, eq=False)
class Assimilated:
    """A posterior and how it was come by.

    Attributes:
        belief: one map deep.
        log_evidence: of this reading, nats.
        ess: of the particles reweighted in one go, before any tempering.
        details: temperatures, most sweeps at one of them, acceptance of each kernel, agreement of the refit,
            evaluations a particle.
    """

    belief: TransportBelief
    log_evidence: float
    ess: float
    details: dict[str, float]


@dataclass(frozen=True, eq=False)
class BaseSpace:
    """The standard normal u behind a belief.

    Attributes:
        belief: the law before the reading.
        law: carries u to the base points z of the belief.
        exact: whether ``law`` is the belief's own base law; if not, its density ratio is part of every target.
    """

    belief: TransportBelief
    law: PulledBack
    exact: bool

    def states(self, u: Points) -> tuple[Points, Points]:
        """Base points z and states x, (n, d) each."""
        z = self.law.restore(u)
        x = z
        for psi in self.belief.maps:
            x = psi.gradient(x)
        return z, x

    def correction(self, z: Points) -> Scalars:
        """log of the belief's base density over that of ``law``, (n,)."""
        if self.exact:
            return z.new_zeros(len(z))
        return prior_log_prob(self.belief.prior, z) - self.law.log_prob(z)

    def log_prob(self, x: Points) -> Scalars:
        """Log density of the belief at any points."""
        return self.belief.log_prob(x)


@dataclass(frozen=True, eq=False)
class _Swarm:
    """Particles on their way to the posterior: u and z (n, d), x (n, d), log likelihood and correction (n,)."""

    u: Points
    z: Points
    x: Points
    log_likelihood: Scalars
    correction: Scalars

    def chosen(self, index: Tensor) -> _Swarm:
        return _Swarm(self.u[index], self.z[index], self.x[index], self.log_likelihood[index], self.correction[index])


def base_space(belief: TransportBelief, settings: UpdateSettings, generator: Generator) -> BaseSpace:
    """The base space of a belief; where its base law is a prior of the user's, a law is fitted to it first."""
    if isinstance(belief.prior, PulledBack):
        return BaseSpace(belief, belief.prior, exact=True)
    pool = belief.base_pool()
    fitted = refit(pool, pool.x[:0], settings.engine, 0.995, settings.layers, generator)
    return BaseSpace(belief, fitted.law, exact=False)


def assimilate(
    belief: TransportBelief, log_likelihood: LogLikelihood, settings: UpdateSettings, generator: Generator
) -> Assimilated:
    """The posterior given a reading.

    Args:
        belief: the law before.
        log_likelihood: of the reading at states (n, d); raises FilterError where it is NaN.
        settings: how.
        generator: the source of randomness.

    Raises:
        FilterError: no particle has a positive likelihood, tempering does not end, or no law fits the posterior.
    """
    space = base_space(belief, settings, generator)
    z = belief.origin
    swarm = _Swarm(space.law.normalise(z), z, belief.pool.x, log_likelihood(belief.pool.x), space.correction(z))
    if not torch.isfinite(swarm.log_likelihood).any():
        raise FilterError("the likelihood is zero at every particle")
    ess = effective_sample_size(swarm.log_likelihood)
    swarm, log_evidence, details = _tempered(space, swarm, log_likelihood, settings, generator)
    pool = _posterior_pool(space, swarm, log_likelihood, log_evidence)
    fitted = refit(pool, _directions(belief), settings.engine, settings.agreement, settings.layers, generator)
    renewed: _Renewed | None = None
    if "global" in settings.moves:
        renewed = _renewed(space, pool, fitted, log_likelihood, log_evidence, generator)
        details |= renewed.details
        log_evidence = renewed.log_evidence
    x = pool.x if renewed is None or renewed.x is None else renewed.x
    # Draws of the fitted law tell more than particles it was fitted to.
    agreement = details.get("global_ess", fitted.ess)
    if not agreement >= LOST:
        raise FilterError(
            f"no law could be fitted to the posterior (agreement {agreement:.3f}); give a larger pool or more layers"
        )
    details["agreement"] = agreement
    details["layers"] = float(len(fitted.law.layers))
    law = fitted.law
    after = TransportBelief(belief.time, law, (), law.pool(x), x, belief.log_evidence + log_evidence)
    return Assimilated(after, log_evidence, ess, details)


def _directions(belief: TransportBelief) -> Points:
    """Ridge directions of the last map, in which the law is likely to be bent still."""
    for psi in reversed(belief.maps):
        if isinstance(psi, RidgeSpline) and len(psi.ridges.directions):
            return psi.ridges.directions
    return belief.origin[:0]


def _tempered(
    space: BaseSpace, swarm: _Swarm, log_likelihood: LogLikelihood, settings: UpdateSettings, generator: Generator
) -> tuple[_Swarm, float, dict[str, float]]:
    """Particles of the posterior, the log evidence, and what it took."""
    temperature, log_evidence, count = 0.0, 0.0, 0
    mover = Mover(settings.moves, settings.sweeps, settings.auxiliary, generator)
    while temperature < 1:
        after = next_temperature(swarm.log_likelihood, temperature, settings.ess)
        weights = (after - temperature) * swarm.log_likelihood
        log_evidence += log_mean_exp(weights)
        swarm = swarm.chosen(resample(weights, "systematic", generator))
        temperature, count = after, count + 1

        def target(u: Points, heat: float = temperature) -> Scalars:
            z, x = space.states(u)
            return heat * log_likelihood(x) + space.correction(z)

        u, _ = mover.settled(swarm.u, temperature * swarm.log_likelihood + swarm.correction, target)
        z, x = space.states(u)
        swarm = _Swarm(u, z, x, log_likelihood(x), space.correction(z))
        if count == MAX_TEMPERATURES and temperature < 1:
            raise FilterError(f"tempering reaches {temperature:.3g} of the reading in {count} steps and is given up")
    details = {"temperatures": float(count), "sweeps": float(mover.most), "evaluations": mover.evaluations + count}
    details |= {f"acceptance_{move}": sum(values) / len(values) for move, values in mover.acceptance.items()}
    return swarm, log_evidence, details


def _posterior_pool(space: BaseSpace, swarm: _Swarm, log_likelihood: LogLikelihood, log_evidence: float) -> Pool:
    """The particles with the exact product's log density and score."""
    belief = space.belief
    pool = pushed_through(belief.maps, space.law.pool(swarm.z) if space.exact else belief.base_pool(swarm.z))
    with torch.enable_grad():
        leaf = pool.x.detach().requires_grad_(True)
        try:
            value = log_likelihood(leaf)
        except RuntimeError:
            # A likelihood that leaves torch cannot be differentiated, but it can be asked for values.
            value = log_likelihood(leaf.detach())
        force = torch.zeros_like(leaf)
        if value.requires_grad:
            (force,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True, materialize_grads=True)
    # A likelihood with an edge has no useful slope there; the fit's control variate does without it.
    force = torch.nan_to_num(force, nan=0.0, posinf=0.0, neginf=0.0)
    return Pool(pool.x, pool.log_prob + value.detach() - log_evidence, pool.score + force)


@dataclass(frozen=True, eq=False)
class _Renewed:
    """Global moves: new positions (None where nothing could be moved), log evidence, and what happened."""

    x: Points | None
    log_evidence: float
    details: dict[str, float]


def _renewed(
    space: BaseSpace,
    pool: Pool,
    fitted: Refit,
    log_likelihood: LogLikelihood,
    log_evidence: float,
    generator: Generator,
) -> _Renewed:
    """Independent draws of the refitted law, weighed against the exact product; they also give the evidence."""
    law = fitted.law
    u = torch.randn(pool.x.shape, generator=generator, dtype=pool.x.dtype, device=pool.x.device)
    try:
        proposal = law.restore(u)
        exact = space.log_prob(proposal) + log_likelihood(proposal)
    except FilterError:
        return _Renewed(None, log_evidence, {"acceptance_global": 0.0})
    new = exact - law.log_prob(proposal)
    old = pool.log_prob + log_evidence - law.log_prob(pool.x)
    accept = torch.rand(len(new), generator=generator, dtype=new.dtype, device=new.device).log() < new - old
    x = torch.where(accept.unsqueeze(-1), proposal, pool.x)
    if not torch.isfinite(new).any():
        return _Renewed(None, log_evidence, {"acceptance_global": 0.0})
    share = effective_sample_size(new) / len(new)
    details = {"acceptance_global": accept.double().mean().item(), "global_ess": share}
    # Importance sampling from a close law knows the evidence better than the product of the tempering steps.
    return _Renewed(x, log_mean_exp(new) if share > 0.5 else log_evidence, details)
