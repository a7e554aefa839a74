"""The JKO step over soft maxima of quadratics: regions from the velocity of the flow, then a quasi-Newton fit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from jkofilter._typing import Points
from jkofilter.errors import FilterError, InputError
from jkofilter.models.sde import LangevinSDE
from jkofilter.transport.convex import Pool, trainable_log_det
from jkofilter.transport.dictionary import tempered_weights
from jkofilter.transport.engines import Solved
from jkofilter.transport.problem import StepProblem
from jkofilter.transport.soft_maximum import FLOOR, SoftMaximum

NOMINAL = 1e-2
"""Length of the step that ``begin`` supposes, in times a free particle takes to diffuse across the law."""
LLOYD, GATE, HISTORY = 30, 100, 20
"""Iterations of k-means and of the fit of the gates; corrections that L-BFGS keeps."""
TIE = 1e-6
"""Weight of the gates' offsets squared, for labels that they separate completely."""
LEAST_STRETCH = 0.05
FIXED = ("centres", "unit")
"""Parameters that are not trained."""
WALL = 10.0
"""How far above the best objective a failed evaluation counts, in units of 1 + |best|."""


@dataclass(frozen=True)
class SoftMaximumEngine:
    """Steps over soft maxima of quadratics: for potentials of several modes, such as Gaussian mixtures.

    The particles are divided into regions, one a piece, by their velocity. A step starts from the maps that carry each
    region along its own mean velocity, and is fitted by L-BFGS on the whole pool.

    Attributes:
        pieces: most pieces. Those that few particles choose are left out.
        iterations: most L-BFGS iterations of a stage.
        refinements: how often a stage is fitted on, with half of that, around the map just found, which takes out
            sampling noise.
        sharpness: of the start, in units of beta/h: at one, gates are as soft as those of an explicit step.
        penalty: weight of the pieces' deviations from their common root, squared, and of log(sharpness / that of the
            start), squared, in units of 1/beta. Gates too sharp for any particle to be in them cost nothing on the
            pool, but the draws that fall into them are lost between the modes.
        fit_tolerance: mean square velocity left by an affine field below which one piece does, times beta/4: nats of
            KL per unit of time.
    """

    pieces: int = 10
    iterations: int = 80
    refinements: int = 1
    sharpness: float = 0.5
    penalty: float = 0.02
    fit_tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if not isinstance(self.pieces, int) or self.pieces < 1:
            raise InputError(f"pieces must be a positive integer, got {self.pieces!r}.")
        if not 0 < self.sharpness < math.inf:
            raise InputError(f"sharpness must be positive and finite, got {self.sharpness!r}.")

    def begin(self, sde: LangevinSDE, pool: Pool, previous: SoftMaximum | None) -> SoftMaximum:
        """A short step on the regions of this pool.

        The last step's regions are no help: as a flow becomes stationary its maps become the identity and tell the
        modes no longer apart, where the velocity still does.
        """
        enough = 4 * self.fit_tolerance / float(sde.beta)
        labels = _settled(-regions(pool.x, _velocity(sde, pool), self.pieces, enough), _fewest(pool))
        spread = (pool.x - pool.x.mean(0)).square().mean().item()
        h = max(NOMINAL * float(sde.beta) * spread, torch.finfo(pool.x.dtype).tiny)
        return self._start(StepProblem.start(sde, pool, pool.x, h), labels)

    def solve(self, problem: StepProblem, start: SoftMaximum, generator: Generator) -> Solved[SoftMaximum]:
        """The fit from a start of the problem's own length on the regions of ``start``, and again around its map.

        Raises:
            FilterError: the objective is not finite at the start, or the residual of the fit is not.
        """
        psi = self._start(problem, _settled(start.pieces(problem.pool.x)[0], _fewest(problem.pool)))
        iterations = 0
        for attempt in range(1 + self.refinements):
            budget = self.iterations if attempt == 0 else max(1, self.iterations // 2)
            fit = fitted(problem, psi, budget, self.penalty / problem.beta)
            psi, iterations = fit.best, iterations + fit.evaluations
            pushed, residual = problem.solved_by(psi)
            if not torch.isfinite(residual).all():
                raise FilterError("the optimality residual of a JKO step is not finite.")
            problem = problem.around(pushed)
        return Solved(psi, pushed, residual, fit.loss, iterations)

    def _start(self, problem: StepProblem, labels: Int[Tensor, " n"]) -> SoftMaximum:
        """Maps that carry each region along its mean velocity and stretch all alike, and gates between them."""
        x, z, h = problem.pool.x, problem.centre, problem.h
        velocity = _velocity(problem.sde, problem.pool)
        belongs = torch.nn.functional.one_hot(labels).to(x)
        average = (belongs / belongs.sum(0)).mT
        centres = average @ x
        around = x - centres[labels]
        spread = average @ around.square().sum(-1, keepdim=True)
        bend = h * (average @ (around * velocity).sum(-1, keepdim=True)) / spread
        # What contracts a region is mostly drift, implicit: T = 1 + bend T. What spreads it is mostly diffusion, whose
        # score falls as the region widens: T = 1 + bend / T.
        contracted, widened = 1 / (1 + (-bend).clamp(min=0)), 0.5 + (0.25 + bend.clamp(min=0)).sqrt()
        stretch = (average @ (around * z).sum(-1, keepdim=True)) / spread * contracted * widened
        images = average @ z + h * contracted * (average @ velocity)
        unit = (spread / x.shape[1]).mean().sqrt()
        eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        root = (stretch.clamp(min=LEAST_STRETCH).mean() - FLOOR).sqrt() * eye
        sharpness = self.sharpness * problem.beta / h * unit.square()
        flat = root.expand(len(centres), -1, -1)
        psi = SoftMaximum(centres, unit, root, 0 * flat, images / unit, 0 * spread.squeeze(-1), sharpness.log())
        if not all(torch.isfinite(value).all() for value in psi.parameters().values()):
            raise FilterError("the regions of a JKO step have no finite moments; the particles have all but collapsed.")
        return _gated(psi, x, labels)


def _velocity(sde: LangevinSDE, pool: Pool) -> Points:
    return -sde.potential.gradient(pool.x) - pool.score / float(sde.beta)


def _fewest(pool: Pool) -> int:
    """Particles that a piece needs for moments of its own."""
    return 2 * pool.x.shape[1] + 4


def _settled(scores: Float[Tensor, "n m"], least: int) -> Int[Tensor, " n"]:
    """The column of the largest score in every row; columns chosen by fewer than ``least`` are left out, (n,)."""
    scores = scores.nan_to_num(nan=-math.inf)
    kept = list(range(scores.shape[1]))
    while True:
        chosen = scores[:, kept].argmax(1)
        counts = torch.bincount(chosen, minlength=len(kept))
        if len(kept) == 1 or int(counts.min()) >= least:
            return chosen
        del kept[int(counts.argmin())]


def regions(x: Points, velocity: Points, count: int, enough: float) -> Float[Tensor, "n m"]:
    """How far the velocity of every particle is from that of every region; one region where an affine field does.

    The velocity is fitted with one slope for all and a level for each region, and every particle goes where its own
    is nearest, by turns: for a mixture of equal covariances with Gaussian particles these are the basins of its modes.
    """
    weights = tempered_weights(velocity).unsqueeze(-1)
    slope, levels = _levels(x, velocity, weights, torch.zeros_like(x[:, :1]) + 1)
    error = velocity - x @ slope - levels
    if count == 1 or (error.square() * weights).sum(-1).mean() <= enough:
        return torch.zeros_like(x[:, :1])
    gaps = torch.cdist(error, clusters(error, count))
    for _ in range(LLOYD):
        belongs = torch.nn.functional.one_hot(gaps.argmin(1), count).to(x)
        slope, levels = _levels(x, velocity, weights, belongs)
        before, gaps = gaps, torch.cdist(velocity - x @ slope, levels)
        if torch.equal(before.argmin(1), gaps.argmin(1)):
            break
    return gaps


def _levels(
    x: Points, velocity: Points, weights: Float[Tensor, "n 1"], belongs: Float[Tensor, "n m"]
) -> tuple[Float[Tensor, "d d"], Float[Tensor, "m d"]]:
    """Common slope and regions' levels by least squares; empty regions are at zero."""
    columns = torch.cat((x, belongs), 1)
    weighted = (columns * weights).mT
    found = torch.linalg.pinv(weighted @ columns, hermitian=True) @ (weighted @ velocity)
    return found[: x.shape[1]], found[x.shape[1] :]


def clusters(points: Points, count: int) -> Points:
    """Centres by k-means from a spread-out start (k-means++), the same for the same points, (count, d)."""
    generator = torch.Generator(device=points.device).manual_seed(0)
    centres = points[:1]
    while len(centres) < count:
        gaps = torch.cdist(points, centres).amin(1).square()
        tiny = torch.finfo(points.dtype).tiny
        chosen = torch.multinomial(gaps + tiny, 1, generator=generator)
        centres = torch.cat((centres, points[chosen]))
    for _ in range(LLOYD):
        belongs = torch.nn.functional.one_hot(torch.cdist(points, centres).argmin(1), count).to(points)
        sizes = belongs.sum(0).unsqueeze(-1)
        centres = torch.where(sizes > 0, (belongs.mT @ points) / sizes.clamp(min=1), centres)
    return centres


def _gated(psi: SoftMaximum, x: Points, labels: Int[Tensor, " n"]) -> SoftMaximum:
    """Offsets by logistic regression: every particle should be where its own piece is the greatest."""
    scores = (psi.sharpness * psi.pieces(x)[0]).detach()
    logits = torch.zeros_like(psi.offsets).requires_grad_(True)
    optimiser = torch.optim.LBFGS([logits], max_iter=GATE, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.cross_entropy(scores + logits, labels) + TIE * logits.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return replace(psi, offsets=logits.detach() / psi.log_sharpness.exp())


class _Search:
    """The objective as L-BFGS calls it, and the best that it has seen.

    Attributes:
        leaves: the parameters in training.
        best: the potential of the least penalised objective.
        loss: the objective of ``best``, without penalties.
        evaluations: so far.
    """

    def __init__(self, problem: StepProblem, start: SoftMaximum, penalty: float) -> None:
        self.best, self.loss, self.evaluations = start, math.inf, 0
        self._problem, self._penalty = problem, penalty
        self._target, self._least = start.log_sharpness, math.inf
        self._tensors = {name: value.detach().clone() for name, value in start.parameters().items()}
        self.leaves = [value.requires_grad_(True) for name, value in self._tensors.items() if name not in FIXED]

    def __call__(self) -> Tensor:
        """The penalised objective, with its gradient in the leaves; where it is not finite, a flat wall.

        An infinite wall would make the line search's interpolation NaN, where a finite one shortens the step.
        """
        self.evaluations += 1
        for leaf in self.leaves:
            leaf.grad = None
        psi = SoftMaximum.from_parameters(self._tensors)
        loss = _objective(self._problem, psi)
        deviations, sharpness = psi.deviations.tril(), psi.log_sharpness - self._target
        value = loss + self._penalty * (sharpness.square() + deviations.square().sum())
        if torch.isfinite(value):
            value.backward()
        if not all(leaf.grad is not None and torch.isfinite(leaf.grad).all() for leaf in self.leaves):
            for leaf in self.leaves:
                leaf.grad = torch.zeros_like(leaf)
            return torch.full_like(value.detach(), self._least + WALL * (1 + abs(self._least)))
        if value.item() < self._least:
            self._least, self.loss = value.item(), loss.item()
            self.best = SoftMaximum.from_parameters({n: v.detach().clone() for n, v in self._tensors.items()})
        return value.detach()


def _objective(problem: StepProblem, psi: SoftMaximum) -> Tensor:
    y, hessian = psi.gradient_and_hessian(problem.pool.x)
    return problem.energies(y, hessian, trainable_log_det(hessian)).mean()


def fitted(problem: StepProblem, start: SoftMaximum, budget: int, penalty: float) -> _Search:
    """The end of a search by L-BFGS from ``start``: the best iterate, its objective, and what it took.

    Raises:
        FilterError: the objective is not finite at the start.
    """
    search = _Search(problem, start, penalty)
    torch.optim.LBFGS(
        search.leaves, max_iter=budget, history_size=HISTORY, line_search_fn="strong_wolfe", tolerance_change=1e-10
    ).step(search)
    if not math.isfinite(search.loss):
        raise FilterError("the step's objective is not finite at its starting map.")
    return search
