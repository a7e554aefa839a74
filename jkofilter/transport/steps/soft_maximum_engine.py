"""The JKO step over soft maxima: regions from the drift, then a quasi-Newton fit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from jkofilter._typing import Points
from jkofilter.errors import FilterError
from jkofilter.models.checks import require_count, require_non_negative, require_positive
from jkofilter.models.sde import LangevinSDE
from jkofilter.numerics.draws import stream
from jkofilter.transport.maps.convex import Pool, trainable_log_det
from jkofilter.transport.maps.soft_maximum import FLOOR, SoftMaximum
from jkofilter.transport.steps.dictionary import tempered_weights
from jkofilter.transport.steps.engine import Solved
from jkofilter.transport.steps.problem import StepProblem

NOMINAL = 1e-2
"""Length of the step that ``begin`` supposes, in times a free particle takes to diffuse across the law."""
LLOYD, GATE, HISTORY = 30, 100, 20
"""Iterations of k-means and of the fit of the gates; corrections that L-BFGS keeps."""
TIE = 1e-6
"""Weight of the gates' offsets squared, for labels that they separate completely."""
CANDIDATES = 8
"""Draws of which every centre of the start of k-means takes the best."""
LEAST_STRETCH = 0.05
LEVELS, STEEP = (-2.0, -1.0, 0.0, 1.0, 2.0), 3.0
"""Where the bends of a piece begin, in units of length from its centre, and their steepness, in one over those."""
SHARE = 0.5
"""Share of a piece's curvature that its bends have at the start, in the direction where they have most."""
FIXED = ("centres", "unit", "radii")
"""Parameters that are not trained."""
WALL = 10.0
"""How far above the best objective a failed evaluation counts, in units of 1 + |best|."""


@dataclass(frozen=True)
class SoftMaximumEngine:
    """Steps over soft maxima of quadratics, plain or bent: for potentials of several modes, such as Gaussian mixtures.

    The particles are divided into regions, one a piece, by their drift. A step starts from the maps that carry each
    region along its own mean velocity, and is fitted by L-BFGS on the whole pool.

    Attributes:
        pieces: most pieces. Those that few particles choose are left out.
        iterations: most L-BFGS iterations of a stage.
        refinements: how often a stage is fitted on, with half of that, around the map just found, which takes out
            sampling noise.
        sharpness: of the start, in units of beta/h: at one, gates are as soft as those of an explicit step.
        penalty: weight of the pieces' deviations from their common root, squared, and of log(sharpness), squared, both
            less those of the start, in units of 1/beta. Gates too sharp for any particle to be in them cost nothing
            on the pool, but the draws that fall into them are lost between the modes.
        bends: to how many of the nearest other regions a piece may bend, which lets it mend the shape of its region:
            shoulders, and draws lost between the modes. Zero takes quadratics; bends cost several times as much.
        fit_tolerance: mean square drift left by an affine field below which one piece does, times beta/4.
    """

    pieces: int = 10
    iterations: int = 80
    refinements: int = 1
    sharpness: float = 0.5
    penalty: float = 0.02
    bends: int = 0
    fit_tolerance: float = 1e-3

    def __post_init__(self) -> None:
        for name, least in (("pieces", 1), ("iterations", 1), ("refinements", 0), ("bends", 0)):
            require_count(name, getattr(self, name), least)
        for name in ("sharpness", "fit_tolerance"):
            require_positive(name, getattr(self, name))
        require_non_negative("penalty", self.penalty)

    def begin(self, sde: LangevinSDE, pool: Pool, previous: SoftMaximum | None) -> SoftMaximum:
        """A short step on the regions of this pool.

        The last step's regions are no help: as a flow becomes stationary its maps become the identity and tell the
        modes no longer apart. Nor does its velocity, which goes to zero, where the drift still does.
        """
        enough = 4 * self.fit_tolerance / float(sde.beta)
        labels = _settled(-regions(pool.x, -sde.potential.gradient(pool.x), self.pieces, enough), _fewest(pool))
        spread = (pool.x - pool.x.mean(0)).square().mean().item()
        h = max(NOMINAL * float(sde.beta) * spread, torch.finfo(pool.x.dtype).tiny)
        return self._start(StepProblem.start(sde, pool, pool.x, h), labels)

    def solve(self, problem: StepProblem, start: SoftMaximum, generator: Generator) -> Solved[SoftMaximum]:
        """The fit from a start of the problem's own length on the regions of ``start``, and again around its map.

        Raises:
            FilterError: the objective is not finite at the start, or the residual of the fit is not.
        """
        psi = self._start(
            problem, _settled(start.pieces(problem.pool.x).values_and_gradients()[0], _fewest(problem.pool))
        )
        iterations = 0
        for attempt in range(1 + self.refinements):
            budget = self.iterations if attempt == 0 else max(1, self.iterations // 2)
            fit = fitted(problem, psi, budget, self.penalty / problem.beta)
            psi, iterations = fit.best, iterations + fit.evaluations
            pushed, residual = problem.solved_by(psi)
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
        tensors = {
            "centres": centres,
            "unit": unit,
            "root": (stretch.clamp(min=LEAST_STRETCH).mean() - FLOOR).sqrt() * eye,
            "deviations": x.new_zeros(len(centres), *eye.shape),
            "slopes": images / unit,
            "offsets": x.new_zeros(len(centres)),
            "log_sharpness": (self.sharpness * problem.beta / h * unit.square()).log(),
        }
        psi = SoftMaximum.from_parameters(tensors)
        if not all(torch.isfinite(value).all() for value in psi.parameters().values()):
            raise FilterError("the regions of a JKO step have no finite moments; the particles have all but collapsed.")
        return _gated(psi if self.bends == 0 else bent(psi, x, labels, self.bends), x, labels)


def bent(psi: SoftMaximum, x: Points, labels: Int[Tensor, " n"], count: int) -> SoftMaximum:
    """Quadratic pieces bent about their centres and towards ``count`` of the others.

    The quadratics give way to the bends, such that map and Jacobian are the same on average over each region.
    """
    m, d = psi.slopes.shape
    ahead = psi.centres.unsqueeze(0) - psi.centres.unsqueeze(1)
    nearest = ahead.norm(dim=-1).argsort(1)[:, 1 : 1 + count]
    towards = torch.nn.functional.normalize(ahead.take_along_dim(nearest.unsqueeze(-1), 1), dim=-1)
    levels = torch.tensor(LEVELS).to(x)
    shape = SoftMaximum.from_parameters(
        {name: 0 * value for name, value in psi.parameters().items()}
        | {
            "centres": psi.centres,
            "unit": psi.unit,
            "radii": x.new_full((1,), math.sqrt(d)),
            "radial": x.new_ones(m, 1),
            "linear": STEEP * towards.repeat_interleave(len(LEVELS), 1),
            "bias": -STEEP * levels.repeat(nearest.shape[1]).expand(m, -1),
            "ridge": x.new_ones(m, nearest.shape[1] * len(LEVELS)),
        }
    )
    belongs = torch.nn.functional.one_hot(labels, m).to(x)
    average = (belongs / belongs.sum(0)).mT
    pieces = shape.pieces(x)
    floor = FLOOR * torch.eye(d, dtype=x.dtype, device=x.device)
    bends = (average @ pieces.mean_hessian(belongs).flatten(1)).unflatten(-1, (d, d)) - floor
    gradients = average @ (belongs.unsqueeze(1) @ pieces.values_and_gradients()[1]).squeeze(1) / psi.unit
    off_centre = ((average @ x - psi.centres) / psi.unit).unsqueeze(-1)
    curvatures = psi.curvatures
    least, most = torch.linalg.eigvalsh(curvatures)[:, 0], torch.linalg.eigvalsh(bends)[:, -1]
    share = (SHARE * least / most).unsqueeze(-1)
    roots = torch.linalg.cholesky(curvatures - share.unsqueeze(-1) * bends - floor)
    return replace(
        shape,
        root=psi.root,
        deviations=(roots - psi.root).contiguous(),
        slopes=psi.slopes - share * (gradients - (bends @ off_centre).squeeze(-1)),
        offsets=psi.offsets,
        log_sharpness=psi.log_sharpness,
        radial=share.sqrt() * shape.radial,
        ridge=share.sqrt() * shape.ridge,
    )


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


def regions(x: Points, drift: Points, count: int, enough: float) -> Float[Tensor, "n m"]:
    """How far the drift of every particle is from that of every region; one region where an affine field does.

    The drift is fitted with one slope for all and a level for each region, and every particle goes where its own
    is nearest, by turns: for a mixture of equal covariances these are the basins of its modes.
    """
    weights = tempered_weights(drift).unsqueeze(-1)
    slope, levels = _levels(x, drift, weights, torch.zeros_like(x[:, :1]) + 1)
    error = drift - x @ slope - levels
    if count == 1 or (error.square() * weights).sum(-1).mean() <= enough:
        return torch.zeros_like(x[:, :1])
    # Far from equilibrium the drift tells basins apart that positions do not, at equilibrium it is the other way round.
    starts = [torch.cdist(points, clusters(points, count)) for points in (error, x)]
    found = [_basins(x, drift, weights, start) for start in starts]
    return min(found, key=lambda gaps: (gaps.amin(1, keepdim=True).square() * weights).mean().item())


def _basins(
    x: Points, drift: Points, weights: Float[Tensor, "n 1"], gaps: Float[Tensor, "n m"]
) -> Float[Tensor, "n m"]:
    """Fits and assignments by turns, until nothing changes."""
    for _ in range(LLOYD):
        belongs = torch.nn.functional.one_hot(gaps.argmin(1), gaps.shape[1]).to(x)
        slope, levels = _levels(x, drift, weights, belongs)
        before, gaps = gaps, torch.cdist(drift - x @ slope, levels)
        if torch.equal(before.argmin(1), gaps.argmin(1)):
            break
    return gaps


def _levels(
    x: Points, drift: Points, weights: Float[Tensor, "n 1"], belongs: Float[Tensor, "n m"]
) -> tuple[Float[Tensor, "d d"], Float[Tensor, "m d"]]:
    """Common slope and regions' levels by least squares; empty regions are at zero."""
    columns = torch.cat((x, belongs), 1)
    weighted = (columns * weights).mT
    found = torch.linalg.pinv(weighted @ columns, hermitian=True) @ (weighted @ drift)
    return found[: x.shape[1]], found[x.shape[1] :]


def clusters(points: Points, count: int) -> Points:
    """Centres by k-means from a spread-out start (greedy k-means++), the same for the same points, (count, d)."""
    generator = stream(0, "clusters", points.device)
    centres = points[:1]
    while len(centres) < count:
        gaps = torch.cdist(points, centres).amin(1).square()
        tiny = torch.finfo(points.dtype).tiny
        drawn = points[torch.multinomial(gaps + tiny, CANDIDATES, True, generator=generator)]
        left = torch.minimum(gaps.unsqueeze(1), torch.cdist(points, drawn).square()).sum(0)
        centres = torch.cat((centres, drawn[left.argmin()].unsqueeze(0)))
    for _ in range(LLOYD):
        belongs = torch.nn.functional.one_hot(torch.cdist(points, centres).argmin(1), count).to(points)
        sizes = belongs.sum(0).unsqueeze(-1)
        centres = torch.where(sizes > 0, (belongs.mT @ points) / sizes.clamp(min=1), centres)
    return centres


def _gated(psi: SoftMaximum, x: Points, labels: Int[Tensor, " n"]) -> SoftMaximum:
    """Offsets by logistic regression: every particle should be where its own piece is the greatest."""
    scores = (psi.sharpness * psi.pieces(x).values_and_gradients()[0]).detach()
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
        self._start, self._least = start, math.inf
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
        deviations = (psi.deviations - self._start.deviations).tril()
        sharpness = psi.log_sharpness - self._start.log_sharpness
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
