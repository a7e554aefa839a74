"""A diffusion of the line as its speed density and diffusivity, on elements that resolve them.

Every diffusion dX = a(X) dt + s(X) dW of an interval is reversible: with D = s^2 / 2 and the speed density
m = exp(int 2 a / s^2) / s^2 its law p obeys p_t = (m D (p / m)_x)_x (Karlin & Taylor, A Second Course in Stochastic
Processes, 1981, section 15.3). Where m has a finite mass it is stationary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from jkofilter._typing import Array
from jkofilter.numerics.eigenbasis import Eigenbasis
from jkofilter.numerics.elements import DEGREE, Elements, refined

DEPTH = 30.0
"""Nats below its maximum to which a speed density is carried: rounding leaves nothing of laws that reach deeper."""
_NUDGE = 1e-12
_SPEED_RESOLVED = 1e-4
_WALL_MASS = 1e-9
_WALL_STEP = 3.0
_LEAST_WEIGHT = -12.0
_STEEPEST = 5.0
_LOOKED_AT, _NEAR, _FAR = 1201, 24.0, 1e5
_COARSEST = 12
_KEPT = 12

LogSpeed = Callable[[Array], Array]


@dataclass(frozen=True, eq=False)
class ReversibleLine:
    """What moves laws on an interval.

    Attributes:
        log_speed: of the speed density, at increasing points (n,) strictly inside the walls, any constant; minus
            infinity or NaN where it cannot be told.
        diffusivity: D at those points, (n,).
        low: lower wall, or minus infinity.
        high: upper wall, or infinity.
        most: nodes not to be exceeded, N.
    """

    log_speed: LogSpeed
    diffusivity: Callable[[Array], Array]
    low: float
    high: float
    most: int
    _bases: dict[tuple[float, float, int], Eigenbasis | None] = field(default_factory=dict)

    def inside(self, x: Array) -> Array:
        """Points (n,) of the closed interval moved off its walls by a trifle: there densities may be infinite."""
        if np.isfinite(self.low) and np.isfinite(self.high):
            nudge = _NUDGE * (self.high - self.low)
        else:
            nudge = _NUDGE * (float(x.max() - x.min()) or float(np.abs(x).max()))
        return np.clip(x, self.low + nudge, self.high - nudge)

    def key_of(self, basis: Eigenbasis | None) -> tuple[float, float, int] | None:
        """Ends and level of a basis that is known."""
        return next((key for key, one in self._bases.items() if one is basis and one is not None), None)

    def finer(self, basis: Eigenbasis) -> Eigenbasis | None:
        """The basis on elements half as long; None where it takes too many."""
        key = self.key_of(basis)
        found = None if key is None else self.basis(key[0], key[1], key[2] + 1)
        # Where the speed density asks for the very same elements, the next level is the finer one.
        same = found is not None and found.elements.size == basis.elements.size
        return self.finer(found) if found is not None and same else found

    @property
    def known(self) -> list[Eigenbasis]:
        """The eigenbases that have been wanted of late."""
        return [basis for basis in self._bases.values() if basis is not None]

    def confined(self, centre: float, scale: float, depth: float = DEPTH) -> tuple[float, float]:
        """Where the speed density is within ``depth`` of its maximum, sought from ``centre`` in units of ``scale``.

        Ends are infinite where the search finds none.
        """
        far = np.geomspace(_NEAR, _FAR, _LOOKED_AT) * scale
        near = np.linspace(-_NEAR, _NEAR, _LOOKED_AT) * scale
        x = centre + np.concatenate([-far[::-1], near, far])
        x = np.unique(self.inside(np.clip(x, self.low, self.high)))
        value = self.log_speed(x)
        value = np.where(np.isnan(value), -np.inf, value)
        held = np.flatnonzero(value > value.max() - depth)
        # A point further out on each side, so that the ends are not missed. The outermost point is a wall's, if there
        # is one: a box that ended beside the wall would not know of it.
        first, last = int(held[0]) - 1, int(held[-1]) + 1
        low = self.low if first < np.isfinite(self.low) else float(x[first])
        high = self.high if last > x.size - 1 - np.isfinite(self.high) else float(x[last])
        return max(low, self.low), min(high, self.high)

    def basis(self, low: float, high: float, level: int) -> Eigenbasis | None:
        """The eigenbasis on [low, high], on elements that halve from one level to the next; None where too many.

        It also is None where the speed density cannot be told.
        """
        key = (low, high, level)
        if key not in self._bases:
            while len(self._bases) >= _KEPT:
                self._bases.pop(next(iter(self._bases)))
            self._bases[key] = self._built(low, high, level)
        return self._bases[key]

    def _built(self, low: float, high: float, level: int) -> Eigenbasis | None:
        most = self.most // DEGREE
        if _COARSEST << level > most:
            return None
        edges = np.linspace(low, high, (_COARSEST << level) + 1)
        with np.errstate(all="ignore"):
            elements, smooth = refined(edges, self._is_rough, most, self._wall_ends(low, high))
            at = self.inside(elements.nodes)
            log_speed, diffusivity = self.log_speed(at), self.diffusivity(at)
        if not smooth or not (np.isfinite(log_speed).all() and np.isfinite(diffusivity).all()):
            return None
        # Nodes at walls, where m may vanish or grow without bound, stand for little mass, and must not be stiff.
        log_speed[0] = np.clip(log_speed[0], log_speed[1] - _WALL_STEP, log_speed[1] + _WALL_STEP)
        log_speed[-1] = np.clip(log_speed[-1], log_speed[-2] - _WALL_STEP, log_speed[-2] + _WALL_STEP)
        return Eigenbasis.of(elements, log_speed, diffusivity)

    def _wall_ends(self, low: float, high: float) -> tuple[bool, bool]:
        return low <= self.low, high >= self.high

    def _is_rough(self, elements: Elements) -> Array:
        """Elements on which the root of the speed density, or the diffusivity, is no polynomial yet."""
        nodes = elements.by_element
        at = self.inside(elements.nodes)
        log_speed, diffusivity = self.log_speed(at)[nodes], self.diffusivity(at)[nodes]
        top = log_speed.max(-1, keepdims=True)
        peak = float(np.nanmax(top[np.isfinite(top)])) if np.isfinite(top).any() else 0.0
        # Deep in the tails a little less will do.
        weight = np.exp(0.25 * np.clip(top[:, 0] - peak, _LEAST_WEIGHT, 0.0))
        roots = np.exp(0.5 * (log_speed - top))
        # So short an element as one at a kink may be rough: its share of the error falls with its length once more.
        length = elements.halves / (0.5 * (elements.edges[-1] - elements.edges[0]) / _COARSEST)
        # At a wall a power of the distance is no polynomial on any element; the last one may hold a trifle of mass.
        masses = elements.halves * np.exp(np.median(log_speed, -1) - peak)
        trifle = masses < _WALL_MASS * masses.sum()
        for end, wall in ((0, elements.edges[0] <= self.low), (-1, elements.edges[-1] >= self.high)):
            if wall:
                length[end] = 0.0 if trifle[end] else 1.0
        tails = np.maximum(elements.tails(roots) * weight, elements.tails(diffusivity))
        rough = tails * np.minimum(length, 1.0) > _SPEED_RESOLVED
        # Across a steeper element the modes of laws that come down from the tails would be false.
        rough |= (np.ptp(log_speed, -1) > _STEEPEST) & (length > 0.0)
        return np.asarray(rough | np.isnan(roots).any(-1))
