"""Bayes' rule for a law carried by maps: tempering, resampling and moves in the base space, then a refit.

The base law is carried to u ~ N(0, I), so that a point u is a state x(u) = T_K( ... T_1(z(u))), and the posterior is
N(u; 0, I) p(y | x(u)) / Z: no determinants, and no inversion of the maps T (Mokrov et al. 2021, section 4.4, there by
plain Metropolis-Hastings); only the law fitted to the posterior before, which makes z of u, is inverted. Tempering
spreads the reading over steps that keep the particles effective. A law fitted to what they become is one map deep
whatever came before; its draws, weighed against the exact product, are global moves, give the evidence, and tell how
well it fits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Generator

from jkofilter._typing import Points, Scalars
from jkofilter.assimilation.base_space import BaseSpace, LogLikelihood, Swarm, base_space
from jkofilter.assimilation.moves import MOVES, Move, Mover
from jkofilter.assimilation.tempering import Tempered, tempered
from jkofilter.errors import FilterError, InputError
from jkofilter.numerics.mcmc import AuxiliaryFunction, independence
from jkofilter.numerics.weights import effective_sample_size, log_mean_exp
from jkofilter.transport.laws.belief import TransportBelief
from jkofilter.transport.laws.fitted import PulledBack, agreement, fitted_laws
from jkofilter.transport.maps.convex import Pool, pushed_through
from jkofilter.transport.maps.ridge import RidgeSpline
from jkofilter.transport.steps.ridge_engine import RidgeEngine

LOST = 0.05
"""Agreement of the fitted law below which a posterior counts as lost."""
FEW = 10
"""Particles for each dimension below which a posterior rests on few."""
DIFFERENCE = 1e-5
"""Half a step of the differences that stand in for gradients, in standard deviations of the belief."""


@dataclass(frozen=True)
class UpdateSettings:
    """How readings are taken in.

    Attributes:
        moves: kernels, applied in this order at every temperature; "global" once, after the last.
        sweeps: how often the local ones are applied at each temperature, at least; more while particles drift.
        ess: share of the particles that a temperature step keeps effective.
        auxiliary: phi(u, c) of the "auxiliary" kernel, the centres (n, d) of its proposals N(phi, I), for points u
            (n, d) of the base space, where the belief is standard normal, and c (n,), minus twice the log of the
            tempered likelihood there (and of what the map that makes a prior of the user's normal leaves over).
        agreement: of the fitted law with the exact posterior that is good enough: effective share of its draws weighed
            against the posterior and of the particles weighed against it, the lesser. StepInfo.note says if it is less.
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
        if not isinstance(self.engine, RidgeEngine):
            raise InputError(f"engine must be a RidgeEngine, got {type(self.engine).__name__}.")


@dataclass(frozen=True, eq=False)
class Assimilated:
    """A posterior and how it was come by.

    Attributes:
        belief: one fitted law deep.
        log_evidence: of this reading, nats.
        ess: of the particles reweighted in one go, before any tempering.
        details: temperatures (how many), sweeps (most at one of them), evaluations a particle, acceptance of each
            kernel, distinct (share of the particles at points of their own), agreement, global_ess and fitted_ess (the
            two shares that it is the lesser of), layers.
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
    swarm = space.swarm_of_belief(log_likelihood)
    if not torch.isfinite(swarm.log_likelihood).any():
        raise FilterError("the likelihood is zero at every particle")
    ess = effective_sample_size(swarm.log_likelihood)
    mover = Mover(settings.moves, settings.sweeps, settings.auxiliary, generator)
    end = tempered(space, swarm, log_likelihood, settings.ess, mover)
    pool = _posterior_pool(space, end.swarm, log_likelihood, end.log_evidence)
    laws = _candidates(pool, ridge_directions(belief), settings, generator)
    trial = _closest(space, pool, laws, log_likelihood, settings, generator)
    if not trial.agreement >= LOST:
        raise FilterError(
            f"no law could be fitted to the posterior (agreement {trial.agreement:.3f}); "
            "give a larger pool or more layers"
        )
    details = mover.counts | {"temperatures": float(len(end.temperatures)), "distinct": end.distinct} | trial.details
    x, log_evidence = pool.x, end.log_evidence
    if trial.draws is not None and trial.log_weights is not None:
        x, details["acceptance_global"] = _moved(pool, end.log_evidence, trial, generator)
        # Importance sampling from a close law knows the evidence better than the product of the tempering steps.
        if trial.global_ess * len(x) > min(end.ess):
            log_evidence = log_mean_exp(trial.log_weights)
    after = TransportBelief(belief.time, trial.law, (), trial.law.pool(x), x, belief.log_evidence + log_evidence)
    return Assimilated(
        after,
        log_evidence,
        ess,
        details,
        {"temperature": end.temperatures, "ess": end.ess},
        _note(ess, end, trial, settings),
    )


def ridge_directions(belief: TransportBelief) -> Points:
    """Ridge directions of the last map, in which the law is likely to be bent still."""
    for psi in reversed(belief.maps):
        if isinstance(psi, RidgeSpline) and len(psi.ridges.directions):
            return psi.ridges.directions
    return belief.origin[:0]


def _posterior_pool(space: BaseSpace, swarm: Swarm, log_likelihood: LogLikelihood, log_evidence: float) -> Pool:
    """The particles with the exact product's log density and score."""
    belief = space.belief
    pool = pushed_through(belief.maps, space.law.pool(swarm.z) if space.exact else belief.base_pool(swarm.z))
    value, force = _value_and_force(log_likelihood, pool.x)
    return Pool(pool.x, pool.log_prob + value - log_evidence, pool.score + force)


def _value_and_force(log_likelihood: LogLikelihood, x: Points) -> tuple[Scalars, Points]:
    """Log likelihood, (n,), and its gradient, (n, d): by torch, or by differences where the likelihood leaves torch."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        try:
            value = log_likelihood(leaf)
        except RuntimeError:
            # What turns states into NumPy arrays refuses those that want a gradient.
            value = log_likelihood(x)
        if value.requires_grad:
            (force,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True, materialize_grads=True)
        else:
            force = _differences(log_likelihood, x)
    # At an edge there is no useful slope.
    return value.detach(), torch.nan_to_num(force, nan=0.0, posinf=0.0, neginf=0.0)


def _differences(log_likelihood: LogLikelihood, x: Points) -> Points:
    steps = torch.diag(DIFFERENCE * x.std(0).clamp(min=torch.finfo(x.dtype).tiny))
    columns = [(log_likelihood(x + step) - log_likelihood(x - step)) / (2 * step.sum()) for step in steps]
    return torch.stack(columns, 1)


def _candidates(pool: Pool, directions: Points, settings: UpdateSettings, generator: Generator) -> Iterator[PulledBack]:
    """Laws to try: one layer with the help of scores, one without, more layers with, and the normal law.

    Scores know the shape of every mode to many digits and nothing of what each weighs, nor of an edge; particles know
    a little of everything.
    """
    engine, most = settings.engine, settings.layers
    smooth = fitted_laws(pool, directions, engine, most, generator)
    rough = fitted_laws(pool, directions, engine, min(most, 1), generator, controlled=False)
    return itertools.chain(itertools.islice(smooth, 1), itertools.islice(rough, 1), smooth)


@dataclass(frozen=True, eq=False)
class _Trial:
    """A law put to the test.

    Attributes:
        law: fitted to the particles.
        fitted_ess: effective share of the particles weighed to the law. It sees modes that the law misses.
        draws: of the law, (n, d), or None where none were asked for.
        log_weights: exact product over law at the draws, (n,).
        global_ess: effective share of the draws weighed to the product. It sees what the particles fitted do not.
    """

    law: PulledBack
    fitted_ess: float
    draws: Points | None = None
    log_weights: Scalars | None = None
    global_ess: float = 1.0

    @property
    def agreement(self) -> float:
        """The lesser share."""
        return min(self.fitted_ess, self.global_ess)

    @property
    def details(self) -> dict[str, float]:
        """Shares and layers by name."""
        found = {"agreement": self.agreement, "fitted_ess": self.fitted_ess, "layers": float(len(self.law.layers))}
        return found if self.draws is None else found | {"global_ess": self.global_ess}


def _closest(
    space: BaseSpace,
    pool: Pool,
    laws: Iterator[PulledBack],
    log_likelihood: LogLikelihood,
    settings: UpdateSettings,
    generator: Generator,
) -> _Trial:
    """The first law that agrees well enough, or the best."""
    best: _Trial | None = None
    for law in laws:
        trial = _Trial(law, agreement(law, pool))
        if "global" in settings.moves:
            trial = _drawn(space, trial, log_likelihood, generator)
        if best is None or trial.agreement > best.agreement:
            best = trial
        if best.agreement >= settings.agreement:
            break
    assert best is not None
    return best


def _drawn(space: BaseSpace, trial: _Trial, log_likelihood: LogLikelihood, generator: Generator) -> _Trial:
    """The trial with draws of its law, weighed against the exact product; no weight where a map is not inverted."""
    like = trial.law.centre
    u = torch.randn(space.belief.origin.shape, generator=generator, dtype=like.dtype, device=like.device)
    draws = trial.law.restore(u, strict=False)
    found = torch.isfinite(draws).all(-1)
    draws[~found] = like
    exact = torch.where(found, space.log_prob(draws) + log_likelihood(draws), -torch.inf)
    log_weights = exact - trial.law.log_prob(draws)
    share = effective_sample_size(log_weights) / len(u) if torch.isfinite(log_weights).any() else 0.0
    return _Trial(trial.law, trial.fitted_ess, draws, log_weights, share)


def _moved(pool: Pool, log_evidence: float, trial: _Trial, generator: Generator) -> tuple[Points, float]:
    """Independence Metropolis-Hastings with the trial's draws: positions (n, d) and acceptance."""
    assert trial.draws is not None
    assert trial.log_weights is not None
    old = pool.log_prob + log_evidence - trial.law.log_prob(pool.x)
    uniform = torch.rand(len(old), generator=generator, dtype=old.dtype, device=old.device)
    accept = uniform.log() < trial.log_weights - old
    return torch.where(accept.unsqueeze(-1), trial.draws, pool.x), accept.double().mean().item()


def _note(ess: float, end: Tempered, trial: _Trial, settings: UpdateSettings) -> str:
    parts, (n, d) = [], end.swarm.u.shape
    if ess < FEW * d:
        parts.append(
            f"the reading leaves {ess:.1f} of {n} particles effective; taken in over "
            f"{len(end.temperatures)} temperatures"
        )
    if trial.agreement < settings.agreement:
        parts.append(f"the fitted law agrees with the posterior to {trial.agreement:.0%}")
    return "; ".join(parts)
