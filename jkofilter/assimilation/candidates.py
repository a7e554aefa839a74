"""Laws fitted to the particles of a posterior, tried against the exact product, and the global moves they give."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Generator

from jkofilter._typing import Points, Scalars
from jkofilter.assimilation.base_space import BaseSpace, exact_product
from jkofilter.assimilation.likelihood import LogLikelihood
from jkofilter.assimilation.settings import UpdateSettings
from jkofilter.numerics.draws import quasi_normal, uniform
from jkofilter.numerics.resampling import resample
from jkofilter.numerics.weights import effective_sample_size, log_mean_exp
from jkofilter.transport.laws.fitted_law import FittedLaw, fitted_laws
from jkofilter.transport.maps.convex import Pool
from jkofilter.transport.maps.ridge import RidgeSpline

DRAWS = 2
"""Draws of a law for each particle of the belief."""
MOST_ROUNDS = 2
CLOSE = 0.99
"""Agreement from which a law is not refined further."""


def candidate_laws(
    pool: Pool, directions: Points, settings: UpdateSettings, generator: Generator
) -> Iterator[FittedLaw]:
    """Laws to try: one layer with the help of scores, one without, more layers with, and the normal law.

    Scores know the shape of every mode to many digits and nothing of what each weighs, nor of an edge; particles know
    a little of everything.
    """
    engine, most = settings.engine, settings.layers
    smooth = fitted_laws(pool, directions, engine, most, generator)
    rough = fitted_laws(pool, directions, engine, min(most, 1), generator, controlled=False)
    return itertools.chain(itertools.islice(smooth, 1), itertools.islice(rough, 1), smooth)


@dataclass(frozen=True, eq=False)
class WeighedDraws:
    """Draws of a law, weighed against the exact product of belief and likelihood.

    Attributes:
        x: (n, d).
        log_weights: of the product, not normalised, over the law, (n,).
    """

    x: Points
    log_weights: Scalars

    @property
    def share(self) -> float:
        """The effective one of the draws. It sees what the particles that the law was fitted to do not."""
        if not torch.isfinite(self.log_weights).any():
            return 0.0
        return effective_sample_size(self.log_weights) / len(self.x)

    def resampled(self, n: int, generator: Generator) -> Points:
        """``n`` states of the product, (n, d), from the first ``n`` draws."""
        # Every beginning of a quasi-random sequence is one; every second of its points may lie in one half of space.
        return self.x[resample(self.log_weights[:n], "systematic", generator)]


@dataclass(frozen=True, eq=False)
class TriedLaw:
    """A law put to the test.

    Attributes:
        law: fitted to the particles.
        fitted_share: ``share_of_spread`` of the particles' log density over the law's. It sees modes that the
            law misses.
        draws: of the law; None where there are no global moves to propose.
    """

    law: FittedLaw
    fitted_share: float
    draws: WeighedDraws | None

    @cached_property
    def agreement(self) -> float:
        """The lesser share."""
        return self.fitted_share if self.draws is None else min(self.fitted_share, self.draws.share)

    @property
    def details(self) -> dict[str, float]:
        """Shares and layers by name."""
        found = {"agreement": self.agreement, "fitted_share": self.fitted_share, "layers": float(len(self.law.layers))}
        return found if self.draws is None else found | {"global_ess": self.draws.share}


def share_of_spread(log_ratio: Scalars) -> float:
    """exp(-Var): the effective share that weights have whose logarithms are normal and vary so.

    Of particles weighed to a law it tells more than the share itself, which a single one in the law's tail decides.
    """
    return math.exp(-log_ratio.var(correction=0).item())


def closest_law(
    space: BaseSpace,
    pool: Pool,
    laws: Iterator[FittedLaw],
    log_likelihood: LogLikelihood,
    settings: UpdateSettings,
    generator: Generator,
) -> TriedLaw:
    """The first law that agrees well enough, or the best."""
    best: TriedLaw | None = None
    for law in laws:
        draws = weighed_draws(space, law, log_likelihood, generator) if "global" in settings.moves else None
        trial = TriedLaw(law, share_of_spread(pool.log_prob - law.log_prob(pool.x)), draws)
        if best is None or trial.agreement > best.agreement:
            best = trial
        if best.agreement >= settings.agreement:
            break
    assert best is not None
    return best


def weighed_draws(
    space: BaseSpace, law: FittedLaw, log_likelihood: LogLikelihood, generator: Generator
) -> WeighedDraws:
    """DRAWS draws of a law for each particle of the belief; those where a map is not inverted weigh nothing."""
    n, d = space.belief.origin.shape
    x = law.restore(quasi_normal(space.belief.origin.new_empty(DRAWS * n, d), generator), strict=False)
    found = torch.isfinite(x).all(-1)
    x[~found] = law.centre
    exact = torch.where(found, space.log_prob(x) + log_likelihood(x), -torch.inf)
    return WeighedDraws(x, exact - law.log_prob(x))


def refined(
    space: BaseSpace, first: TriedLaw, log_likelihood: LogLikelihood, settings: UpdateSettings, generator: Generator
) -> tuple[TriedLaw, Points]:
    """A law fitted anew to its own draws, weighed to the exact product, as long as that brings it closer.

    The particles of a tempered posterior know the weights of its modes as any sample does; quasi-random draws that are
    nearly of the right law know them far better, and hand them on to the law and to the particles that come after.

    Args:
        space: of the belief before the reading.
        first: with draws, of which a fair share is effective.
        log_likelihood: of the reading.
        settings: how laws are fitted.
        generator: the source of randomness.

    Returns:
        The law, and as many states of the posterior as the belief has particles, (n, d).
    """
    best = first
    for _ in range(MOST_ROUNDS):
        assert best.draws is not None
        x = best.draws.resampled(len(best.draws.x), generator)
        pool = exact_product(space.pool_at(x), log_likelihood, log_mean_exp(best.draws.log_weights))
        laws = candidate_laws(pool, _directions_of(best.law), replace(settings, layers=1), generator)
        trial = closest_law(space, pool, laws, log_likelihood, replace(settings, agreement=CLOSE), generator)
        if trial.agreement <= best.agreement:
            break
        best = trial
        if best.agreement >= CLOSE:
            break
    assert best.draws is not None
    return best, best.draws.resampled(len(space.belief.origin), generator)


def _directions_of(law: FittedLaw) -> Points:
    """Ridge directions of a law's first layer, as it sees states, (k, d)."""
    first = law.layers[0] if law.layers else None
    if not isinstance(first, RidgeSpline) or not len(first.ridges.directions):
        return law.centre.new_zeros(0, law.dim)
    return torch.linalg.solve(law.root, first.ridges.directions.mT).mT


def global_move(
    pool: Pool, log_evidence: float, law: FittedLaw, draws: WeighedDraws, generator: Generator
) -> tuple[Points, float]:
    """Independence Metropolis-Hastings: every particle goes to a draw of the law, or stays.

    Args:
        pool: particles of the posterior, with its normalised log density.
        log_evidence: what it was normalised by, and the draws' weights were not.
        law: proposes.
        draws: of that law, at least one a particle.
        generator: the source of randomness.

    Returns:
        Positions (n, d) and the share that moved.
    """
    here = pool.log_prob + log_evidence - law.log_prob(pool.x)
    chosen = torch.randperm(len(draws.x), generator=generator, device=generator.device)[: len(here)].to(draws.x.device)
    accept = uniform(here, generator).log() < draws.log_weights[chosen] - here
    return torch.where(accept.unsqueeze(-1), draws.x[chosen], pool.x), accept.double().mean().item()
