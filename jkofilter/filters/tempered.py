"""A particle filter that tempers readings and moves the paths of the last gap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from jkofilter._typing import Points, Scalars
from jkofilter.assimilation.likelihood import LogLikelihood
from jkofilter.assimilation.path_moves import PathMove, PathTarget, StartLaw
from jkofilter.assimilation.path_tempering import TemperedPaths, temper
from jkofilter.assimilation.paths import path_map
from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.info import StepInfo
from jkofilter.beliefs.path import Origin, PathBelief
from jkofilter.errors import InputError
from jkofilter.filters.base import Runnable
from jkofilter.filters.checks import (
    log_likelihood_without_nan,
    predicting,
    require_model,
    require_substep,
)
from jkofilter.filters.on_particles import (
    first_with_origin,
    likelihood_of,
    predicted_with_origin,
    require_density,
    updated,
    weighed,
    without_origin,
)
from jkofilter.models.checks import require_count, require_share
from jkofilter.models.motion import planned_steps
from jkofilter.models.state_space import StateSpaceModel, prior_support
from jkofilter.models.turned import cubic_slope, turned
from jkofilter.numerics.linalg import gaussian_prior_moments, safe_cholesky, weighted_moments
from jkofilter.numerics.resampling import resample
from jkofilter.numerics.weights import effective_sample_size

_LOOKED_AT = 128
_AGREES = 1e-3
_COARSE, _COMPILED = (4.5, 3), (3.0, 2)
"""Steps in which paths are moved are so many times coarser than those of predictions, and are cut into so many at the
end: where derivatives are dear, and where compiled code has them for next to nothing."""
_STUCK = 0.1


@dataclass(frozen=True)
class TemperedParticleFilter(Runnable):
    """Particle filter that tempers each reading and moves paths at every temperature (Del Moral, Doucet & Jasra 2006).

    Where weighing keeps the share ``ess`` of the particles effective, the filter is the bootstrap filter. Where it does
    not, paths through the last gap start anew, and the reading is taken in by temperatures chosen to keep that share:
    at each, paths are resampled, are offered another start (Metropolis), and have their driving noise moved, by
    Hilbert-space Hamiltonian moves (Beskos et al. 2011) where potential and sensor can be differentiated by torch,
    else, and between walls, by preconditioned Crank-Nicolson moves (Cotter et al. 2013). In the first gap the start
    moves with the noise. The log evidence is the sum over temperatures of log mean weights. A second reading at the
    same time, with no gap to move in, is weighed as by the bootstrap filter.

    Paths are moved in steps three to five times coarser than those of predictions; at last each is cut up, given its
    noise, and the paths are weighed for the difference. The belief after a tempered reading holds the ends of all paths
    after each of the last ``sweeps``. They are moved in
    single precision where potential and sensor take it and the likelihood does not feel it.

    Attributes:
        model: what to track.
        particles: how many.
        ess: share of the particles that a temperature keeps effective.
        sweeps: of moves at the last temperature.
        moves: "hmc", "pcn", or "auto" to choose.
        substep: longest step, time; None chooses steps from the curvature where the particles are.
        density: of predictions, "transition" or "kde", as of ``ParticleFilter``.
        smoothing: as of ``ParticleFilter``.

    Raises:
        InputError: a setting out of range, or "hmc" between walls.
    """

    model: StateSpaceModel
    particles: int = 4_000
    ess: float = 0.5
    sweeps: int = 2
    moves: Literal["auto", "hmc", "pcn"] = "auto"
    substep: float | None = None
    density: str = "transition"
    smoothing: float = 0.01

    def __post_init__(self) -> None:
        require_model(self.model)
        require_count("particles", self.particles, 2)
        require_share("ess", self.ess)
        require_count("sweeps", self.sweeps, 1)
        if self.moves not in ("auto", "hmc", "pcn"):
            raise InputError(f"moves must be 'auto', 'hmc' or 'pcn', got {self.moves!r}.")
        if self.moves == "hmc" and self.model.sde.domain is not None:
            raise InputError("moves must not be 'hmc' between walls, where paths have corners; use 'pcn'.")
        require_substep(self.substep)
        require_density(self.density, self.smoothing)

    def init(self, generator: Generator) -> PathBelief:
        """Equally weighted draws of the prior; their density is the kernel estimate."""
        return first_with_origin(self.model, self.particles, generator)

    def predict(self, belief: Belief, duration: float, generator: Generator) -> tuple[PathBelief, StepInfo]:
        """Move every particle; resample first where there are more than ``particles`` or weights are uneven.

        Raises:
            InputError: another filter's belief, or a bad duration.
            FilterError: particles reach where the potential is infinite or jumps, or a substep makes them blow up.
        """

        def step(now: PathBelief, duration: float) -> tuple[PathBelief, StepInfo]:
            settings = (self.substep, self.density, self.smoothing)
            return predicted_with_origin(self.model, now, self.particles, self.ess, duration, generator, settings)

        return predicting(belief, PathBelief, duration, step)

    def update(self, belief: Belief, y: Tensor, generator: Generator) -> tuple[PathBelief, StepInfo]:
        """Weigh, or temper and move.

        Raises:
            InputError: another filter's belief, or a bad reading.
            FilterError: every particle's likelihood is zero, or one is NaN; names the time and the reading.
        """

        def step(now: PathBelief, reading: Tensor) -> tuple[PathBelief, StepInfo]:
            value = likelihood_of(self.model, now, reading)
            enough = self.ess * len(now.particles)
            if now.origin is None or effective_sample_size(now.log_weights + value) >= enough:
                after, info = weighed(now, value)
                return without_origin(after), info
            return self._tempered(now, now.origin, reading, generator)

        return updated(belief, PathBelief, y, self.model, step)

    def _tempered(
        self, now: PathBelief, origin: Origin, reading: Tensor, generator: Generator
    ) -> tuple[PathBelief, StepInfo]:
        target, move, dtype = self._target(now, origin, reading, generator)
        x = origin.points
        if not origin.prior or origin.log_weights.max() > origin.log_weights.min():
            x = x[resample(origin.log_weights, "systematic", generator, self.particles)]
        pool = origin.points.to(dtype), origin.log_weights
        pieces = 1 if self.substep is not None or self.model.sde.domain is not None else self._coarse[1]
        done = temper(target, x.to(dtype), pool, move, self.ess, self.sweeps, pieces, generator)
        ends = done.ends.to(x)
        after = PathBelief(
            now.time, ends, done.log_weights.to(ends), now.log_evidence + done.log_evidence, walls=now.walls
        )
        return after, _report(done, move)

    def _target(
        self, now: PathBelief, origin: Origin, reading: Tensor, generator: Generator
    ) -> tuple[PathTarget, PathMove, torch.dtype]:
        """The law of paths given the reading, the move for it, and the precision in which to move."""
        duration = now.time - origin.time
        turn, sde = turned(self.model.sde)
        chosen = origin.points[:: max(1, len(origin.points) // _LOOKED_AT)]
        coarseness = self._coarse[0] if sde.domain is None else 1.0
        chosen = chosen if turn is None else chosen @ turn.to(chosen).mT
        steps = planned_steps(sde, chosen, duration, generator, self.substep, coarseness) if duration > 0 else ()

        def log_likelihood(x: Points) -> Scalars:
            return log_likelihood_without_nan(self.model, reading, x, now.time)

        law = self._start_law(origin) if origin.prior else None
        probes = now.particles[:: max(1, len(now.particles) // _LOOKED_AT)]
        dtype = torch.float32 if _single_will_do(self.model, log_likelihood, probes) else probes.dtype
        like = torch.empty(0, dtype=dtype, device=probes.device)
        target = PathTarget(path_map(sde, steps, turn).to(like), log_likelihood, law.to(like) if law else None)
        move: PathMove = "hmc"
        if self.moves == "pcn" or sde.domain is not None or not _differentiable(self.model, log_likelihood, probes):
            move = "pcn"
        return target, move, dtype

    @property
    def _coarse(self) -> tuple[float, int]:
        """How much coarser paths are moved than predictions, and into how many pieces steps are cut at the end."""
        return _COMPILED if cubic_slope(turned(self.model.sde)[1].potential) else _COARSE

    def _start_law(self, origin: Origin) -> StartLaw | None:
        """The prior around a Gaussian; None where its density is not known."""
        prior = self.model.prior
        moments = gaussian_prior_moments(prior)
        if moments is not None:
            return StartLaw(moments[0].to(origin.points), safe_cholesky(moments[1].to(origin.points))[0], None)
        mean, covariance = weighted_moments(origin.points, origin.log_weights)
        factor = safe_cholesky(covariance)[0]

        support, inside_point = prior_support(prior), origin.points[0]

        def excess(x: Points) -> Scalars:
            u = torch.linalg.solve_triangular(factor.to(x), (x - mean.to(x)).mT, upper=False)
            inside = torch.ones_like(x[:, 0], dtype=torch.bool)
            if support is not None:
                inside = support.check(x.detach()).reshape(len(x), -1).all(-1)
            # A log density is not to be asked for outside of its support, nor is its slope.
            value = prior.log_prob(torch.where(inside.unsqueeze(-1), x, inside_point.to(x))).to(x)
            return torch.where(inside, value, -torch.inf) + 0.5 * u.square().sum(0)

        try:
            excess(origin.points[:2])
        except NotImplementedError:
            return None
        return StartLaw(mean, factor, excess)


def _report(done: TemperedPaths, move: PathMove) -> StepInfo:
    last = {name: shares[-1] for name, shares in done.acceptance.items()}
    details = {f"acceptance_{name}": share for name, share in last.items()} | {"stages": float(len(done.temperatures))}
    note = ""
    if last[move] < _STUCK:
        note = (
            f"only {last[move]:.2g} of the {move} moves were accepted at the last temperature; take more particles or "
            "a lower ess"
        )
    history = {"temperature": done.temperatures, "ess": done.ess}
    return StepInfo(
        log_evidence=done.log_evidence,
        ess=effective_sample_size(done.log_weights),
        details=details,
        note=note,
        history=history,
    )


def _differentiable(model: StateSpaceModel, log_likelihood: LogLikelihood, x: Points) -> bool:
    """Whether torch can differentiate the reading by the state, and the potential twice."""
    try:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            seen = log_likelihood(leaf).requires_grad
        model.sde.potential.linearised(x)[1](torch.ones_like(x))
    except (RuntimeError, InputError):
        return False
    return seen


def _single_will_do(model: StateSpaceModel, log_likelihood: LogLikelihood, x: Points) -> bool:
    """Whether forces and likelihoods in single precision are those in double, as far as a path can feel."""
    if x.dtype != torch.float64:
        return False
    rounded = x.float()
    try:
        force, value = model.sde.drift(rounded), log_likelihood(rounded)
    except RuntimeError:
        return False
    if force.dtype != torch.float32 or value.dtype != torch.float32:
        return False
    exact_force, exact = model.sde.drift(x), log_likelihood(x)
    if not (torch.isfinite(value).all() and torch.isfinite(exact).all() and torch.isfinite(force).all()):
        return False
    # Near the reading a likelihood is flatter than where it is improbable: by the root of how much it falls.
    feels = _AGREES * (1 + 2 * (exact.max() - exact)).sqrt()
    bent = 1e-4 * (1 + exact_force.abs())
    return bool(((value - exact).abs() <= feels).all() and ((force - exact_force).abs() <= bent).all())
