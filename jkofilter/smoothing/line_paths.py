"""Whole paths of a diffusion of the line given all readings, last to first, each step drawn exactly.

Given X_t and the readings before t, X_s has the density rho_s(x) K(x -> X_t) up to a constant, with rho_s the filter's
law and K the transition density: later readings say nothing more (forward filtering, backward sampling;
Fruhwirth-Schnatter 1994, J. Time Ser. Anal. 15, 183-202). K comes from the eigenfunctions, exact over any gap; back to
laws that are so much wider than pi that no eigenbasis holds them, as priors may be, from a chain of cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
import torch
from torch import Generator

from jkofilter._typing import Array
from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.nodal import NodalBelief
from jkofilter.filters.on_grid import location
from jkofilter.models.line import reversible_line
from jkofilter.models.state_space import StateSpaceModel
from jkofilter.numerics.backward_cells import BackwardCells, cells_over
from jkofilter.numerics.backward_draws import BackwardKernel, drawn_nearby, drawn_on
from jkofilter.numerics.eigenbasis import Eigenbasis
from jkofilter.numerics.elements import Elements
from jkofilter.numerics.nodal_fit import Law, fitted
from jkofilter.numerics.spectral_steps import LARGEST, LONG, SpectralSteps
from jkofilter.smoothing.backward import OnLine

_LEVELS = 7
_LOST = 1e-6
_SHORT = 3.0
"""Half lengths of an element, in standard deviations of a kernel that its nodes still resolve."""
_HELD = 1e-9
_CELLS = 600
_BOXES = 4
_RESOLVING = 2.0
"""Cells or nodes that a kernel is wider than."""
_MOST, _DEPTHS, _TOLERANCE = 600, (30.0, 60.0), 1e-6


@dataclass(frozen=True, eq=False)
class LinePaths:
    """Draws paths backwards through laws of one diffusion.

    Attributes:
        steps: of the diffusion.
    """

    steps: SpectralSteps

    def drawn(self, laws: Sequence[NodalBelief], n: int, generator: Generator) -> Array:
        """``n`` paths at the times of the laws, increasing, (n, k).

        Args:
            laws: filtering laws, each with the reading of its time.
            n: how many.
            generator: the source of randomness.
        """
        kernels: dict[object, BackwardKernel] = {}
        states = [laws[-1].law.inverse(_uniform(n, generator)[:, 0])]
        for later, now in pairwise(reversed(laws)):
            u = _uniform(n, generator)
            states.append(self._before(now, later, states[-1], u, kernels))
        return np.stack(states[::-1], -1)

    def _before(
        self, now: NodalBelief, later: NodalBelief, after: Array, u: Array, kernels: dict[object, BackwardKernel]
    ) -> Array:
        duration = later.time - now.time
        line = self.steps.line
        spread = np.sqrt(2.0 * duration * line.diffusivity(line.inside(after)))
        basis = self._basis(now, duration, after, float(spread.max()))
        if basis is None:
            edges = cells_over(later.elements.edges, now.elements.edges, _CELLS)
            widths = np.diff(edges)[np.clip(np.searchsorted(edges, after) - 1, 0, edges.size - 2)]
            if (spread < _RESOLVING * widths).any():
                return self._nearby(now, after, spread, u)
            cells = BackwardCells(line, edges)
            density = np.exp(now.law.log_density(cells.centres))
            return cells.drawn(density, cells.transition(duration), after, u)
        elements, law = self._over_root(now, basis)
        key = (id(basis), elements.edges.tobytes(), duration)
        if key not in kernels:
            kernels[key] = BackwardKernel.of(basis, elements, duration)
        return kernels[key].drawn(law, after, u)

    def _basis(self, now: NodalBelief, duration: float, after: Array, spread: float) -> Eigenbasis | None:
        """The coarsest basis that holds the law, where the paths are, and the kernel; None where none does."""
        law, nodes = Law(now.elements, now.weights), now.elements.nodes
        for box, _ in islice(self.steps.boxes_for(law, duration), _BOXES):
            if after.min() < box[0] or after.max() > box[1]:
                continue
            if float(law.masses[(nodes < box[0]) | (nodes > box[1])].sum()) > _LOST:
                continue
            # Not worth an eigenproblem where its nodes would be further apart than the kernel is wide.
            levels = _LEVELS if spread * self.steps.most > _RESOLVING * (box[1] - box[0]) else 0
            for level in range(levels):
                basis = self.steps.line.basis(*box, level)
                if basis is None:
                    break
                if basis.resolved_rate(self.steps.resolved) * duration < LONG:
                    continue
                if basis.size_of(self.steps.on(basis, law)) > LARGEST:
                    break
                return basis
        return None

    def _over_root(self, now: NodalBelief, basis: Eigenbasis) -> tuple[Elements, Array]:
        """Elements that resolve law and basis, and the law's density there over sqrt(pi), (N,)."""
        own, mine = basis.elements, now.elements
        if np.array_equal(own.edges, mine.edges):
            return own, now.weights / (np.sqrt(own.weights) * basis.roots)
        edges = np.union1d(own.edges, mine.edges)
        low, high = (pick(own.edges[k], mine.edges[k]) for pick, k in ((max, 0), (min, -1)))
        between = Elements(edges[(edges >= low) & (edges <= high)])
        half_pi = 0.5 * (np.log(basis.masses) - np.log(own.weights))
        value = now.law.log_density(between.nodes) - own.value(half_pi, between.nodes)
        return between, np.exp(value - value.max())

    def _nearby(self, now: NodalBelief, after: Array, spread: Array, u: Array) -> Array:
        line = self.steps.line
        held = now.weights[now.elements.by_element].sum(-1) > _HELD
        if (now.elements.halves[held] <= _SHORT * spread.min()).all():
            nodes = now.elements.nodes
            at = line.inside(nodes)
            own = np.log(np.maximum(now.weights / now.elements.weights, 1e-300)) - 0.5 * line.log_speed(at)
            value = own - 0.5 * np.square((nodes - after[:, None]) / spread[:, None])
            return drawn_on(now.elements, np.exp(value - value.max(-1, keepdims=True)), u)

        def log_law(x: Array) -> Array:
            points, back = np.unique(x, return_inverse=True)
            with np.errstate(invalid="ignore"):
                value = now.law.log_density(points) - 0.5 * line.log_speed(line.inside(points))
            return np.where(np.isnan(value), -np.inf, value)[back]

        return np.clip(drawn_nearby(log_law, after, spread, u), *self.steps.walls)


def paths_of(
    model: StateSpaceModel,
    laws: Sequence[Belief],
    densities: Sequence[OnLine],
    ends: Sequence[tuple[float, float]],
    n: int,
    generator: Generator,
    bounds: tuple[float, float] | None = None,
) -> Array:
    """``n`` paths at the times of any laws of the line, (n, k), by the same exact transition densities.

    Args:
        model: whose diffusion it is.
        laws: filtering laws.
        densities: their log densities.
        ends: where each is down to nothing.
        n: how many.
        generator: the source of randomness.
        bounds: closed ends, where there are some.
    """
    line = reversible_line(model.sde, model.device, _MOST)
    ((centre, scale),) = location(model)
    boxes = tuple(line.confined(centre, scale, depth) for depth in _DEPTHS) if bounds is None else (bounds,)
    steps = SpectralSteps(line, boxes, bounds is not None, _TOLERANCE)
    on_elements = []
    for law, log_density, (low, high) in zip(laws, densities, ends, strict=True):
        found, _ = fitted(log_density, low, high, steps.walls, _MOST)
        edges, masses = torch.from_numpy(found.elements.edges), torch.from_numpy(found.masses)
        on_elements.append(NodalBelief(law.time, edges, masses, 0.0, bounds is not None, model.sde.domain))
    return LinePaths(steps).drawn(on_elements, n, generator)


def _uniform(n: int, generator: Generator) -> Array:
    u = torch.rand(n, 2, generator=generator, dtype=torch.float64, device=generator.device)
    return np.asarray(u.cpu().numpy())
