"""Bayes' rule for a law carried by maps: tempering, resampling and moves in the base space, then a refit.

The base law is carried to u ~ N(0, I), so that a point u is a state x(u) = T_K( ... T_1(z(u))), and the posterior is
N(u; 0, I) p(y | x(u)) / Z: no determinants, and no inversion of the maps T (Mokrov et al. 2021, section 4.4, there by
plain Metropolis-Hastings); only the law fitted to the posterior before, which makes z of u, is inverted. Tempering
spreads the reading over steps that keep the particles effective. A law fitted to what they become is one map deep
whatever came before; its quasi-random draws, weighed against the exact product, are global moves, give the evidence,
tell how well it fits, and are what the law is fitted to anew: of modes they know the weights far better than particles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator

from jkofilter.assimilation.base_space import base_space, exact_product
from jkofilter.assimilation.candidates import TriedLaw, candidate_laws, closest_law, global_move, refined
from jkofilter.assimilation.likelihood import LogLikelihood
from jkofilter.assimilation.moves import Kernels
from jkofilter.assimilation.settings import UpdateSettings
from jkofilter.assimilation.tempering import Tempered, tempered
from jkofilter.errors import FilterError
from jkofilter.numerics.weights import effective_sample_size, log_mean_exp
from jkofilter.transport.laws.belief import TransportBelief, ridge_directions

LOST = 0.05
"""Agreement of the fitted law below which a posterior counts as lost."""
FAIR = 0.3
"""Share of a law's draws from which on they, weighed, stand for the posterior better than moved particles do."""
FEW = 10
"""Particles for each dimension below which a posterior rests on few."""


@dataclass(frozen=True, eq=False)
class Assimilated:
    """A posterior and how it was come by.

    Attributes:
        belief: one fitted law deep.
        log_evidence: of this reading, nats.
        ess: of the particles reweighted in one go, before any tempering.
        details: temperatures (how many), sweeps (most at one of them), evaluations a particle, acceptance of each
            kernel, distinct (share of the particles at points of their own), agreement, global_ess and fitted_share
            (the two shares that it is the lesser of), layers.
        history: temperature and ess of every tempering step.
        note: what a user should know; may be empty.
    """

    belief: TransportBelief
    log_evidence: float
    ess: float
    details: Mapping[str, float]
    history: Mapping[str, tuple[float, ...]]
    note: str


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
        FilterError: no particle has a positive likelihood, tempering does not end or collapses, or no law fits the
            posterior.
    """
    space = base_space(belief, settings.engine, settings.layers, generator)
    particles = space.particles_of_belief(log_likelihood)
    if not torch.isfinite(particles.log_likelihood).any():
        raise FilterError("the likelihood is zero at every particle")
    ess = effective_sample_size(particles.log_likelihood)
    kernels = Kernels(settings.moves, settings.sweeps, settings.auxiliary, generator)
    end = tempered(space, particles, log_likelihood, settings.ess, kernels)
    pool = exact_product(space.pool_of(end.particles.z), log_likelihood, end.log_evidence)
    laws = candidate_laws(pool, ridge_directions(belief), settings, generator)
    trial = closest_law(space, pool, laws, log_likelihood, settings, generator)
    if not trial.agreement >= LOST:
        raise FilterError(
            f"no law could be fitted to the posterior (agreement {trial.agreement:.3f}); "
            "give a larger pool or more layers"
        )
    details = kernels.counts | {"temperatures": float(len(end.temperatures)), "distinct": end.distinct} | trial.details
    x, log_evidence = pool.x, end.log_evidence
    if trial.draws is not None:
        x, details["acceptance_global"] = global_move(pool, end.log_evidence, trial.law, trial.draws, generator)
        if trial.draws.share >= FAIR:
            trial, x = refined(space, trial, log_likelihood, settings, generator)
        assert trial.draws is not None
        # Importance sampling from a close law knows the evidence better than the product of the tempering steps.
        if trial.draws.share * len(x) > min(end.ess):
            log_evidence = log_mean_exp(trial.draws.log_weights)
        details |= trial.details
    after = TransportBelief(belief.time, trial.law, (), trial.law.pool(x), x, belief.log_evidence + log_evidence)
    history = {"temperature": end.temperatures, "ess": end.ess}
    return Assimilated(after, log_evidence, ess, details, history, _note(ess, end, trial, settings))


def _note(ess: float, end: Tempered, trial: TriedLaw, settings: UpdateSettings) -> str:
    parts, (n, d) = [], end.particles.u.shape
    if ess < FEW * d:
        parts.append(
            f"the reading leaves {ess:.1f} of {n} particles effective; taken in over "
            f"{len(end.temperatures)} temperatures"
        )
    if trial.agreement < settings.agreement:
        parts.append(f"the fitted law agrees with the posterior to {trial.agreement:.0%}")
    return "; ".join(parts)
