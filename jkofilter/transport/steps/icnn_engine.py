"""The JKO step over input-convex neural networks: stochastic training, stopped by validation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from jkofilter.errors import FilterError, InputError
from jkofilter.models.checks import require_count, require_positive
from jkofilter.models.sde import LangevinSDE
from jkofilter.numerics.draws import stream
from jkofilter.numerics.threads import blocks, in_threads
from jkofilter.transport.maps.convex import ConvexPotential, Pool, trainable_log_det
from jkofilter.transport.maps.icnn import FLOOR, ICNN, Layer
from jkofilter.transport.maps.icnn_derivatives import softplus_inverse
from jkofilter.transport.maps.ridge import RidgeSpline
from jkofilter.transport.steps.affine import fit_affine
from jkofilter.transport.steps.engine import Solved
from jkofilter.transport.steps.problem import StepProblem
from jkofilter.transport.steps.ridge_engine import RidgeEngine

SHARES = (0.15, 0.3, 0.6, 1.0, 1.5, 2.2, 3.4)
"""How far along the start's own displacement a solve may begin; stages of a scheme differ mostly by such a factor."""
CHECK = 25
"""Iterations between validations."""
_OFF = -12.0


@dataclass(frozen=True)
class ICNNEngine:
    """Steps over dense input-convex networks, trained with Adam on batches of the pool.

    Attributes:
        widths: of the hidden layers.
        rank: of each unit's quadratic skip.
        iterations: most training iterations of a stage.
        batch: particles of an iteration.
        learning_rate: of Adam at the start; it falls to a hundredth along a half cosine.
        held_out: share of the pool that is validated on, never trained on.
        patience: validations without a new best after which training stops.
        refinements: how often a stage is trained on around the map just found, which takes out sampling noise.
        ridge: warm start: the ridge spline that solves the stage, as first layer; None trains the network alone.
    """

    widths: tuple[int, ...] = (64, 64)
    rank: int = 1
    iterations: int = 600
    batch: int = 512
    learning_rate: float = 1e-2
    held_out: float = 0.125
    patience: int = 8
    refinements: int = 1
    ridge: RidgeEngine | None = RidgeEngine(cells=24)

    def __post_init__(self) -> None:
        if not self.widths or any(not isinstance(width, int) or width < 1 for width in self.widths):
            raise InputError(f"widths must be positive integers, one a hidden layer, got {self.widths!r}.")
        for name, least in (("rank", 1), ("iterations", 1), ("batch", 1), ("patience", 1), ("refinements", 0)):
            require_count(name, getattr(self, name), least)
        require_positive("learning_rate", self.learning_rate)
        if not 0 < self.held_out <= 0.9:
            raise InputError(f"held_out must be a share above 0 and up to 0.9, got {self.held_out!r}.")

    def begin(self, sde: LangevinSDE, pool: Pool, previous: ConvexPotential | None) -> ConvexPotential:
        """The last step's network; at the start, or with a ridge warm start, what these begin from."""
        if self.ridge is not None:
            # The ridge engine keeps its directions in a network's first layer only, so it starts afresh.
            return self.ridge.begin(sde, pool, None)
        if isinstance(previous, ICNN):
            return previous
        generator = stream(0, "network", pool.x.device)
        return ICNN.random(pool.x, self.widths, self.rank, 0.5, generator)

    def solve(self, problem: StepProblem, start: ConvexPotential, generator: Generator) -> Solved[ConvexPotential]:
        """Train from ``start``, and again around the map found.

        Raises:
            FilterError: the objective is not finite at the start or in training.
        """
        iterations = 0
        if isinstance(start, ICNN):
            network = self._best_start(problem, start)
        else:
            assert self.ridge is not None
            assert isinstance(start, RidgeSpline)
            solved = self.ridge.solve(problem, start, generator)
            network = network_of(solved.psi, problem.pool.x, self.widths, self.rank, generator)
            problem = problem.around(solved.pushed)
            iterations = solved.iterations
        for attempt in range(1 + self.refinements):
            budget = self.iterations if attempt == 0 else max(CHECK, self.iterations // 2)
            network, loss, used = self._trained(problem, network, budget, generator)
            iterations += used
            pushed, residual = problem.solved_by(network)
            problem = problem.around(pushed)
        return Solved(network, pushed, residual, loss, iterations)

    def _best_start(self, problem: StepProblem, start: ICNN) -> ICNN:
        held = problem.subset(torch.arange(min(1024, problem.pool.x.shape[0]), device=problem.centre.device))
        candidates = [network for share in SHARES if (network := start.rescaled(share)) is not None]
        affine = fit_affine(problem).psi
        if torch.linalg.eigvalsh(affine.quadratic)[0] > 2 * FLOOR:
            candidates.append(start.about(problem.pool.x, affine.quadratic, affine.shift))
        if not candidates:
            candidates.append(start)
        losses = [_validation(held, network) for network in candidates]
        finite = [(value, i) for i, value in enumerate(losses) if math.isfinite(value)]
        if not finite:
            raise FilterError("the step's objective is not finite at its starting network.")
        return candidates[min(finite)[1]]

    def _trained(
        self, problem: StepProblem, network: ICNN, budget: int, generator: Generator
    ) -> tuple[ICNN, float, int]:
        n, device = problem.pool.x.shape[0], problem.pool.x.device
        held = problem.subset(torch.arange(n - max(1, int(self.held_out * n)), n, device=device))
        leaves = {name: value.detach().clone().requires_grad_(True) for name, value in network.parameters().items()}
        optimiser = torch.optim.Adam(leaves.values(), lr=self.learning_rate)
        best, best_loss, stale = network, _validation(held, network), 0
        for iteration in range(1, budget + 1):
            index = torch.randint(n - len(held.centre), (min(self.batch, n),), generator=generator, device=device)
            optimiser.param_groups[0]["lr"] = self.learning_rate * (
                0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * iteration / budget))
            )
            loss, slopes = loss_and_slopes(problem.subset(index), leaves)
            if not math.isfinite(loss):
                break
            for name, leaf in leaves.items():
                leaf.grad = slopes[name]
            optimiser.step()
            if iteration % CHECK == 0 or iteration == budget:
                trained = ICNN.from_parameters({name: value.detach().clone() for name, value in leaves.items()})
                value = _validation(held, trained)
                best, best_loss, stale = (trained, value, 0) if value < best_loss else (best, best_loss, stale + 1)
                if stale >= self.patience:
                    break
        if not math.isfinite(best_loss):
            raise FilterError("the step's objective is not finite on the held-out particles.")
        return best, best_loss, iteration


def _loss(problem: StepProblem, network: ICNN) -> Tensor:
    y, hessian = network.gradient_and_hessian(problem.pool.x)
    return problem.energies(y, hessian, trainable_log_det(hessian)).mean()


def loss_and_slopes(problem: StepProblem, leaves: Mapping[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
    """The mean energy over the problem's particles, and its gradient by every parameter.

    Args:
        problem: a batch of it.
        leaves: the network's parameters, which require gradients.
    """
    n, tensors = len(problem.centre), list(leaves.values())

    def work(block: slice) -> tuple[Tensor, tuple[Tensor, ...]]:
        part = problem.subset(block)
        loss = _loss(part, ICNN.from_parameters(leaves)) * (len(part.centre) / n)
        return loss.detach(), torch.autograd.grad(loss, tensors)

    found = in_threads(work, blocks(problem.centre))
    slopes = [torch.stack(parts).sum(0) for parts in zip(*(slope for _, slope in found), strict=True)]
    return sum(loss.item() for loss, _ in found), dict(zip(leaves, slopes, strict=True))


def _validation(problem: StepProblem, network: ICNN) -> float:
    with torch.no_grad():
        return _loss(problem, network).item()


def network_of(psi: RidgeSpline, x: Tensor, widths: tuple[int, ...], rank: int, generator: Generator) -> ICNN:
    """A network close to a ridge spline: its first layer has a unit for every knot, further layers start almost silent.

    A unit s softplus((a . x - o)/s) bends by 1/s times a logistic bump about o; with s near half the distance of the
    knots it stands in for the B-spline centred there.
    """
    ridges = psi.ridges
    k, j = psi.coefficients.shape
    # Coefficient i of a direction belongs to the spline centred on knot i, the first and last to the ends.
    centres = ridges.lower[:, None] + ridges.width[:, None] * torch.arange(1, j + 1).to(x)
    smoothing = (0.55 * ridges.width)[:, None].expand(k, j)
    linear = ridges.directions[:, None, :] / smoothing.unsqueeze(-1)
    bias = -(centres / smoothing)
    output = psi.coefficients * ridges.width[:, None] * smoothing
    fresh = ICNN.random(x, (k * j, *widths[1:]), rank, 0.5, generator).layers
    width = k * j
    raw = softplus_inverse((output.reshape(-1) * width).clamp(min=1e-10))
    first = Layer(linear.reshape(width, -1), bias.reshape(-1), 0.0 * fresh[0].skip, raw)
    silent = [replace(layer, output=layer.output + _OFF) for layer in fresh[1:]]
    target, bend = psi.gradient_and_hessian(x)
    bare = ICNN((first, *silent), torch.zeros_like(psi.quadratic), torch.zeros_like(psi.shift))
    missing = (bend - bare.hessian(x)).mean(0)
    values, vectors = torch.linalg.eigh(0.5 * (missing + missing.mT))
    root = vectors * values.clamp(min=0.01).sqrt()
    network = ICNN(bare.layers, root, bare.shift)
    return ICNN(bare.layers, root, (target - network.gradient(x)).mean(0))
