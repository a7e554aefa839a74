"""Laws of the line moved exactly in eigenbases, and by implicit steps as long as no eigenbasis holds them.

An eigenbasis divides a law by the root of the speed density. Where a law is much wider than that density nothing would
be left of its digits, and where it is narrower than the elements it could not be told; a prior or a sharp reading makes
such laws, and a while later they are gone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from jkofilter._typing import Array
from jkofilter.errors import FilterError, InputError
from jkofilter.numerics.chang_cooper import ChangCooper, Progress
from jkofilter.numerics.domain import Domain
from jkofilter.numerics.eigenbasis import Eigenbasis
from jkofilter.numerics.elements import Elements
from jkofilter.numerics.grid_ends import LEFT, ends_of
from jkofilter.numerics.grid_following import Reach, fit, follow, local_scale, log
from jkofilter.numerics.grids import Axis, Grid, interpolant
from jkofilter.numerics.nodal_fit import Law, fitted
from jkofilter.numerics.nodal_law import NodalLaw
from jkofilter.numerics.reversible_line import DEPTH, ReversibleLine

LARGEST = 1e6
"""Norm in an eigenbasis up to which laws keep eight digits."""
ROUNDING = 1e-14
"""What two products with orthogonal matrices of some hundred rows leave unknown, of the norm."""
_LEVELS = 7
_SPREADS = 6.0
_WIDENINGS = 5
_CARRIES = 16
_CELLS = 2000
_STAGE = 4.0
_STEPS = 80
LONG = 20.0
_IMPLICIT = Reach(90.0, 70.0, 45.0, 8, 20.0, 20.0, 50.0)
_MOST_STAGES = 20


Cells: TypeAlias = tuple[Grid, Array]
"""A law as log densities at the centres of cells."""


@dataclass
class Tally:
    """What a prediction took: exact steps, implicit ones, and the nodes or cells of the last of them."""

    exact: int = 0
    implicit: int = 0
    nodes: int = 0
    lost: float = 0.0


@dataclass(frozen=True, eq=False)
class SpectralSteps:
    """Moves laws by a diffusion.

    Attributes:
        line: the diffusion.
        boxes: within which its speed density is less and less deep, or bounds; infinite ends where it has none.
        closed: whether laws must stay within the one box, and are cut off there.
        tolerance: of the evidence of a reading.
        most: elements of a law of its own.
    """

    line: ReversibleLine
    boxes: tuple[tuple[float, float], ...]
    closed: bool
    tolerance: float
    most: int = 600

    @property
    def resolved(self) -> float:
        """Roughness up to which a law on elements is taken to be resolved: errors are its square."""
        return 0.6 * math.sqrt(self.tolerance)

    def later(self, law: Law, duration: float) -> tuple[Law, Tally]:
        """The law ``duration`` later, and what that took."""
        tally, remaining, cells = Tally(), duration, None
        for stage in range(_MOST_STAGES + 1):
            moved = self._exact(law, remaining, tally)
            if moved is not None:
                return moved, tally
            # The cells go on as they are: a law fitted to them has ripples in its troughs, which pass for its scale.
            cells = cells or self._on_cells(law)
            law, cells, taken = self._implicit(cells, remaining, tally, whole=stage == _MOST_STAGES)
            remaining -= taken
            if remaining <= 0.0:
                break
        return law, tally

    def basis_of(self, law: Law) -> Eigenbasis | None:
        """The eigenbasis on whose elements a law is; None where it is on elements of its own."""
        edges = law.elements.edges
        return next((one for one in self.line.known if np.array_equal(one.elements.edges, edges)), None)

    def on(self, basis: Eigenbasis, law: Law) -> Array:
        """Masses at the nodes of a basis that stand for the law there, (N,)."""
        if basis.elements is law.elements or np.array_equal(basis.elements.edges, law.elements.edges):
            return law.masses
        edges = np.union1d(basis.elements.edges, law.elements.edges)
        low, high = (pick(basis.elements.edges[k], law.elements.edges[k]) for pick, k in ((max, 0), (min, -1)))
        # Elements that neither law nor basis changes its polynomials in.
        between = Elements(edges[(edges >= low) & (edges <= high)])
        if between.edges.size < 2:
            return np.zeros(basis.elements.size)
        # By its logarithm, of which a law's tails keep all digits.
        value = NodalLaw(law.elements, law.masses, *self.walls).log_density(between.nodes)
        return basis.elements.deposited(between.nodes, between.weights * np.exp(value))

    def roughness(self, basis: Eigenbasis, masses: Array) -> Array:
        """What a law, (N,) or (m, N), has in the highest terms of the elements, relative to its size in the basis."""
        # In the basis, and as a density: where the two are large need not be the same place.
        return np.maximum(basis.roughness(masses), basis.roughness_of_density(masses))

    def _exact(self, law: Law, duration: float, tally: Tally) -> Law | None:
        """In the coarsest eigenbasis that holds the law; None where none does."""
        own = self.line.key_of(self.basis_of(law))
        for box, ends in self.boxes_for(law, duration):
            # A law that once needed finer elements is likely to need them again.
            for level in range(own[2] if own is not None and own[:2] == box else 0, _LEVELS):
                basis = self.line.basis(*box, level)
                if basis is None:
                    break
                if not basis.is_sound:
                    continue
                masses = self.on(basis, law)
                lost = abs(1.0 - float(masses.sum()))
                if (lost > 1e-2 * self.tolerance and not self.closed) or basis.size_of(masses) > LARGEST:
                    break
                resolved = self.roughness(basis, masses) <= self.resolved
                if not resolved and basis.resolved_rate(self.resolved) * duration < LONG:
                    continue
                after = self.cleaned(basis, basis.later(masses, duration), basis.size_of(masses))
                if after is None:
                    continue
                if self._felt(basis, after, ends):
                    break
                tally.exact, tally.nodes, tally.lost = tally.exact + 1, basis.elements.size, tally.lost + lost
                return Law(basis.elements, after)
        return None

    def cleaned(self, basis: Eigenbasis, masses: Array, size: float) -> Array | None:
        """Masses with what rounding leaves unknown set to zero; None where more than that is negative."""
        known = masses > ROUNDING * size * basis.roots
        if float(masses[~known].sum()) < -self.tolerance:
            return None
        kept = np.where(known, masses, 0.0)
        return np.asarray(kept / kept.sum())

    def boxes_for(self, law: Law, duration: float) -> Iterator[tuple[tuple[float, float], tuple[bool, bool]]]:
        """Intervals to try, and which of their ends the law must not have come to."""
        for box in self.boxes:
            if all(math.isfinite(end) for end in box):
                yield box, (False, False)
        if self.closed:
            return
        nodes = law.elements.nodes[law.masses > 1e-12 * law.masses.max()]
        low, high = float(nodes[0]), float(nodes[-1])
        walls, noise = self.walls, _SPREADS * math.sqrt(duration)
        for _ in range(_WIDENINGS):
            # At least by a quarter, against a drift.
            spare = 0.25 * (high - low)
            left = min(self._carried(low, -noise), low - spare if low - spare > walls[0] else low)
            right = max(self._carried(high, noise), high + spare if high + spare < walls[1] else high)
            # Ends on a lattice, so that the basis of one law will do for the next.
            cell = 2.0 ** math.floor(math.log2((right - left) / 4.0))
            ends = (cell * math.floor(left / cell), cell * math.ceil(right / cell))
            box = (ends[0] if ends[0] > walls[0] else left, ends[1] if ends[1] < walls[1] else right)
            if not self._is_flat(box):
                return
            yield box, (box[0] > walls[0], box[1] < walls[1])
            low, high, noise = left, right, 2.0 * noise

    def _carried(self, x: float, noise: float) -> float:
        """Where so much noise alone would carry a point, not through walls."""
        for _ in range(_CARRIES):
            at = self.line.inside(np.array([x]))
            x += noise / _CARRIES * math.sqrt(2.0 * float(self.line.diffusivity(at)[0]))
            x = min(max(x, self.walls[0]), self.walls[1])
        return x

    def _is_flat(self, box: tuple[float, float]) -> bool:
        """Whether the speed density spans few enough nats in a box."""
        value = self.line.log_speed(self.line.inside(np.linspace(*box, 101)))
        return bool(np.isfinite(value).all() and np.ptp(value) < 1.2 * DEPTH)

    def _felt(self, basis: Eigenbasis, masses: Array, ends: tuple[bool, bool]) -> bool:
        """Whether a law has come to an end of its basis that is no end of the line."""
        density = masses / basis.elements.weights
        return any(
            end and density[k] > 1e-4 * self.tolerance * density.max() for end, k in zip(ends, (0, -1), strict=True)
        )

    # --- implicit steps -----------------------------------------------------------------------------------------------

    def _on_cells(self, law: Law) -> Cells:
        """A law on cells that cover and resolve it."""
        density, edges = NodalLaw(law.elements, law.masses, *self.walls), law.elements.edges
        start = Grid((Axis(float(edges[0]), float(edges[-1]), _CELLS),))
        return fit(lambda x: density.log_density(x[:, 0]), start, (_CELLS,), _IMPLICIT, self._domain)

    def _implicit(self, cells: Cells, remaining: float, tally: Tally, whole: bool = False) -> tuple[Law, Cells, float]:
        """The law a stage later by Chang-Cooper and TR-BDF2 on cells that follow it, and how long that was."""
        grid, value = cells
        age = self._age(grid, value)
        stage = remaining if whole else min(remaining, _STAGE * age)
        progress = Progress.start(stage, stage / _STEPS, age, 0.02)
        p = np.exp(value - value.max())
        grid, p, _ = follow(grid, p, progress, self._operator, (_CELLS,), _IMPLICIT, self._domain)
        self._require_held(grid, p)
        tally.implicit, tally.nodes = tally.implicit + progress.steps, grid.shape[0]
        (axis,) = grid.axes
        between = interpolant(grid, log(p), closed=False)
        after, _ = fitted(lambda x: between(x[:, None]), axis.low, axis.high, self.walls, self.most)
        return after, (grid, log(p)), stage

    def _require_held(self, grid: Grid, p: Array) -> None:
        """Raise FilterError if the law has left through an end of its cells, beyond which its speed density rises."""
        for end in ends_of(grid, p, lambda x: -self.line.log_speed(self.line.inside(x[:, 0])), self._domain):
            if end.share > LEFT and end.falls:
                raise FilterError(end.told)

    @property
    def _domain(self) -> Domain | None:
        return Domain((self.walls,)) if any(map(math.isfinite, self.walls)) else None

    @property
    def walls(self) -> tuple[float, float]:
        """Beyond which there is no mass; infinite where there are none."""
        return self.boxes[0] if self.closed else (self.line.low, self.line.high)

    def _age(self, grid: Grid, value: Array) -> float:
        """Time in which noise doubles the width of a law, or drift carries it as far, whichever is shorter."""
        (axis,) = grid.axes
        scale = max(local_scale(value, 0, axis.width), axis.width)
        mass = np.exp(value - value.max())
        mass /= mass.sum()
        at = self.line.inside(axis.centres)
        diffusivity = self.line.diffusivity(at)
        with np.errstate(invalid="ignore"):
            slope = np.abs(np.gradient(self.line.log_speed(at), axis.width)) * diffusivity
        slope = float(mass @ np.where(np.isfinite(slope), slope, 0.0))
        spread = 0.5 * scale**2 / float(mass @ diffusivity)
        return min(spread, scale / slope if slope > 0.0 else math.inf)

    def _operator(self, grid: Grid) -> ChangCooper:
        (axis,) = grid.axes
        at = self.line.inside(axis.centres)
        faces = self.line.inside(axis.low + axis.width * np.arange(1, axis.cells))
        log_speed = self.line.log_speed(at)
        if not np.isfinite(log_speed).all():
            raise InputError(
                f"potential is not finite at x = {at[~np.isfinite(log_speed)][0]:g}; give Potential(..., domain=(low, "
                "high)) within which it is."
            )
        return ChangCooper(-log_speed, axis.width, 1.0, self.line.diffusivity(faces))
