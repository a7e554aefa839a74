"""Laws fitted to the particles of a posterior, tried against the exact product, and the global moves they give."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator

from jkofilter._typing import Points, Scalars
from jkofilter.assimilation.base_space import BaseSpace
from jkofilter.assimilation.likelihood import LogLikelihood
from jkofilter.assimilation.settings import UpdateSettings
from jkofilter.numerics.draws import standard_normal, uniform
from jkofilter.numerics.weights import effective_sample_size
from jkofilter.transport.laws.fitted_law import FittedLaw, agreement, fitted_laws
from jkofilter.transport.maps.convex import Pool


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


@dataclass(frozen=True, eq=False)
class TriedLaw:
    """A law put to the test.

    Attributes:
        law: fitted to the particles.
        fitted_ess: effective share of the particles weighed to the law. It sees modes that the law misses.
        draws: of the law; None where there are no global moves to propose.
    """

    law: FittedLaw
    fitted_ess: float
    draws: WeighedDraws | None

    @cached_property
    def agreement(self) -> float:
        """The lesser share."""
        return self.fitted_ess if self.draws is None else min(self.fitted_ess, self.draws.share)

    @property
    def details(self) -> dict[str, float]:
        """Shares and layers by name."""
        found = {"agreement": self.agreement, "fitted_ess": self.fitted_ess, "layers": float(len(self.law.layers))}
        return found if self.draws is None else found | {"global_ess": self.draws.share}


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
        trial = TriedLaw(law, agreement(law, pool), draws)
        if best is None or trial.agreement > best.agreement:
            best = trial
        if best.agreement >= settings.agreement:
            break
    assert best is not None
    return best


def weighed_draws(
    space: BaseSpace, law: FittedLaw, log_likelihood: LogLikelihood, generator: Generator
) -> WeighedDraws:
    """As many draws of a law as the belief has particles; those where a map is not inverted have no weight."""
    x = law.restore(standard_normal(space.belief.origin, generator), strict=False)
    found = torch.isfinite(x).all(-1)
    x[~found] = law.centre
    exact = torch.where(found, space.log_prob(x) + log_likelihood(x), -torch.inf)
    return WeighedDraws(x, exact - law.log_prob(x))


def global_move(
    pool: Pool, log_evidence: float, law: FittedLaw, draws: WeighedDraws, generator: Generator
) -> tuple[Points, float]:
    """Independence Metropolis-Hastings: every particle goes to a draw of the law, or stays.

    Args:
        pool: particles of the posterior, with its normalised log density.
        log_evidence: what it was normalised by, and the draws' weights were not.
        law: proposes.
        draws: of that law, one a particle.
        generator: the source of randomness.

    Returns:
        Positions (n, d) and the share that moved.
    """
    here = pool.log_prob + log_evidence - law.log_prob(pool.x)
    accept = uniform(here, generator).log() < draws.log_weights - here
    return torch.where(accept.unsqueeze(-1), draws.x, pool.x), accept.double().mean().item()
