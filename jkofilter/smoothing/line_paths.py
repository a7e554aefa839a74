"""Whole paths of a diffusion of the line given all readings, last to first, each step drawn exactly.

Given X_t and the readings before t, X_s has the density rho_s(x) K(x -> X_t) up to a constant, with rho_s the filter's law
and K the transition density: later readings say nothing more (forward filtering, backward sampling; Fruhwirth-Schnatter
1994, J. Time Ser. Anal. 15, 183-202). There is one eigenproblem for all, so K is exact over any gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Generator

from jkofilter._typing import Array
from jkofilter.beliefs.nodal import NodalBelief
from jkofilter.errors import FilterError
from jkofilter.numerics.backward_draws import BackwardKernel, drawn_nearby, drawn_on
from jkofilter.numerics.eigenbasis import Eigenbasis
from jkofilter.numerics.elements import Elements
from jkofilter.numerics.nodal_fit import Law
from jkofilter.numerics.spectral_steps import LARGEST, LONG, SpectralSteps

_LEVELS = 7
_LOST = 1e-6
_SHORT = 3.0
"""Half lengths of an element, in standard deviations of a kernel that its nodes still resolve."""
_HELD = 1e-9


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

        Raises:
            FilterError: no eigenbasis holds the transition density of a gap.
        """
        kernels: dict[object, BackwardKernel] = {}
        states = [laws[-1].law.inverse(_uniform(n, generator)[:, 0])]
        for later, now in pairwise(reversed(laws)):
            u = _uniform(n, generator)
            states.append(self._before(now, later.time - now.time, states[-1], u, kernels))
        return np.stack(states[::-1], -1)

    def _before(
        self, now: NodalBelief, duration: float, after: Array, u: Array, kernels: dict[object, BackwardKernel]
    ) -> Array:
        basis = self._basis(now, duration, after)
        if basis is None:
            return self._nearby(now, duration, after, u)
        elements, law = self._over_root(now, basis)
        key = (id(basis), elements.edges.tobytes(), duration)
        if key not in kernels:
            kernels[key] = BackwardKernel.of(basis, elements, duration)
        return kernels[key].drawn(law, after, u)

    def _basis(self, now: NodalBelief, duration: float, after: Array) -> Eigenbasis | None:
        """The coarsest basis that holds the law, where the paths are, and the kernel; None where none is fine enough."""
        law, narrow = Law(now.elements, now.weights), False
        for box, _ in self.steps.boxes_for(law, duration):
            if after.min() < box[0] or after.max() > box[1]:
                continue
            nodes = law.elements.nodes
            if float(law.masses[(nodes < box[0]) | (nodes > box[1])].sum()) > _LOST:
                continue
            for level in range(_LEVELS):
                basis = self.steps.line.basis(*box, level)
                if basis is None:
                    narrow = narrow or level > 0
                    break
                if basis.resolved_rate(self.steps.resolved) * duration < LONG:
                    continue
                if basis.size_of(self.steps.on(basis, law)) > LARGEST:
                    break
                return basis
        if narrow:
            return None
        raise FilterError(
            f"paths cannot be drawn back to time {now.time:g}: the law there is so much wider than the stationary "
            "density that no eigenbasis holds both; ask for paths from a later time on."
        )

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

    def _nearby(self, now: NodalBelief, duration: float, after: Array, u: Array) -> Array:
        line = self.steps.line
        spread = np.sqrt(2.0 * duration * line.diffusivity(line.inside(after)))
        held = now.weights[now.elements.by_element].sum(-1) > _HELD
        if (now.elements.halves[held] <= _SHORT * spread.min()).all():
            nodes = now.elements.nodes
            at = line.inside(nodes)
            log_law = np.log(np.maximum(now.weights / now.elements.weights, 1e-300)) - 0.5 * line.log_speed(at)
            value = log_law - 0.5 * np.square((nodes - after[:, None]) / spread[:, None])
            return drawn_on(now.elements, np.exp(value - value.max(-1, keepdims=True)), u)

        def log_law(x: Array) -> Array:
            points, back = np.unique(x, return_inverse=True)
            with np.errstate(invalid="ignore"):
                value = now.law.log_density(points) - 0.5 * line.log_speed(line.inside(points))
            return np.where(np.isnan(value), -np.inf, value)[back]

        return drawn_nearby(log_law, after, spread, u)


def _uniform(n: int, generator: Generator) -> Array:
    u = torch.rand(n, 2, generator=generator, dtype=torch.float64, device=generator.device)
    return np.asarray(u.cpu().numpy())
