"""The eigenbasis of a reversible diffusion of an interval, in which it is exact for every length of time.

A diffusion with diffusivity D and speed density m (stationary density, if it has a mass) moves the ratio f = p / m by

    d/dt int m f g dx = - int m D f' g' dx       for every g,

with no flux through the ends, whatever m does there. On elements, with the quadrature of their nodes, that is
M f' = -G'G f, M the diagonal matrix of masses that m gives the nodes. So M^(-1/2) G'G M^(-1/2) = U l U' is symmetric,
the masses mu = M f of the law at the nodes move by

    mu(t) = M^(1/2) U exp(-l t) U' M^(-1/2) mu(0),

constants are kept (no mass is lost), m is stationary, and detailed balance holds, all to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import eigh, svd

from jkofilter._typing import Array
from jkofilter.numerics.elements import DEGREE, DERIVATIVE, WEIGHTS, Elements

FORGOTTEN = 45.0
"""Nats by which a mode has to fall to be gone."""
_METASTABLE = 1e-8
_MIXED = 1e-13
_KEPT = 4
_KNOWN = 0.05


@dataclass(frozen=True, eq=False)
class Eigenbasis:
    """Elements, the masses of the speed density at their nodes, and the modes of the diffusion.

    Attributes:
        elements: of the interval, N nodes.
        masses: that the speed density gives the nodes, summing to one, (N,).
        rates: at which the modes fall, increasing from zero, (N,).
        modes: orthonormal, of the masses over the root of ``masses``, (N, N); a column each.
    """

    elements: Elements
    masses: Array
    rates: Array
    modes: Array

    @classmethod
    def of(cls, elements: Elements, log_speed: Array, diffusivity: Array) -> Eigenbasis:
        """From the log speed density (any constant) and the diffusivity at the nodes, (N,) each."""
        speed = np.exp(log_speed - log_speed.max())
        parts = elements.halves[:, None] * WEIGHTS
        masses = elements.gathered(parts * speed[elements.by_element])
        total = masses.sum()
        # Where a density vanishes at a wall its node keeps a share of its neighbour's, so that nothing is divided by 0.
        floor = np.finfo(float).tiny * 1e20
        masses = np.maximum(masses / total, floor)
        flow = np.sqrt(parts * (speed * diffusivity)[elements.by_element] / total)
        blocks = flow[:, :, None] * DERIVATIVE / elements.halves[:, None, None]
        blocks = blocks / np.sqrt(masses)[elements.by_element][:, None, :]
        rates, modes = _spectrum(elements, blocks)
        rates[0], modes[:, 0] = 0.0, np.sqrt(masses)
        # Modes that hardly differ in their rates from the stationary one come out mixed with it.
        close = int(np.searchsorted(rates, _MIXED * rates[-1]))
        if close > 1:
            modes[:, :close] = np.linalg.qr(modes[:, :close])[0]
            modes[:, 0] = np.sqrt(masses)
        return cls(elements, masses, np.maximum(rates, 0.0), modes)

    @cached_property
    def roots(self) -> Array:
        """Roots of ``masses``, (N,)."""
        return np.sqrt(self.masses)

    @cached_property
    def _analysis(self) -> Array:
        return np.ascontiguousarray((self.modes / self.roots[:, None]).T)

    @cached_property
    def _synthesis(self) -> Array:
        return np.ascontiguousarray(self.modes * self.roots[:, None])

    @cached_property
    def _transitions(self) -> dict[float, Array]:
        return {}

    def later(self, law: Array, duration: float) -> Array:
        """Masses (N,) at the nodes after ``duration``, of one law with masses (N,)."""
        kept = int(np.searchsorted(self.rates, FORGOTTEN / duration, side="right"))
        spectrum = self._analysis[:kept] @ law
        spectrum *= np.exp(-duration * self.rates[:kept])
        return np.asarray(self._synthesis[:, :kept] @ spectrum)

    def transition(self, duration: float) -> Array:
        """The matrix (N, N) that ``later`` applies, kept for the next time it is wanted."""
        found = self._transitions.get(duration)
        if found is None:
            if len(self._transitions) == _KEPT:
                self._transitions.pop(next(iter(self._transitions)))
            kept = int(np.searchsorted(self.rates, FORGOTTEN / duration, side="right"))
            decay = np.exp(-duration * self.rates[:kept])
            found = self._transitions[duration] = (self._synthesis[:, :kept] * decay) @ self._analysis[:kept]
        return found

    def roughness(self, law: Array) -> Array:
        """What a law, (N,) or (m, N), has in the highest terms of the elements, relative to its size in the basis."""
        return self._rough(law / self.masses, self.roots / np.sqrt(self.elements.weights))

    def roughness_of_density(self, law: Array) -> Array:
        """The same relative to its size as a density."""
        return self._rough(law / self.masses, self.masses / self.elements.weights)

    def _rough(self, ratio: Array, weight: Array) -> Array:
        """Highest terms of the elements in ``ratio`` (..., N), weighed (N,), as a share of its largest value.

        At singular walls and kinks the weight is no polynomial, and in its tails the ratio is none: an element is
        rough where neither the product nor the ratio is one.
        """
        product, elements = ratio * weight, self.elements
        terms = elements.terms(ratio) * weight[elements.by_element].max(-1)
        highest = np.minimum(elements.terms(product), terms).max(-1)
        return np.asarray(highest / np.maximum(np.abs(product).max(-1), np.finfo(float).tiny))

    @cached_property
    def _roughness(self) -> Array:
        """What every mode has in the highest terms of the elements, (N,)."""
        return self.roughness((self.modes * self.roots[:, None]).T)

    def resolved_rate(self, roughness: float) -> float:
        """Rate up to which the elements resolve the modes, to this roughness.

        The rate of a mode that is not resolved is none: it may come out far too high.
        """
        rough = self._roughness > roughness
        return float(self.rates[max(int(rough.argmax()) - 1, 0)] if rough.any() else self.rates[-1])

    @property
    def is_sound(self) -> bool:
        """Whether the slowest mode is a function that the elements know, which across a jump it is not."""
        return self._roughness.size < 2 or bool(self._roughness[1] < _KNOWN)

    def size_of(self, law: Array) -> float:
        """Norm of a law in the basis, one for the stationary law: what rounding is relative to."""
        return float(np.linalg.norm(law / self.roots))


def _spectrum(elements: Elements, blocks: Array) -> tuple[Array, Array]:
    """Rates and modes of the sum of G'G over elements, from their G, (k, DEGREE + 1, DEGREE + 1)."""
    n = elements.size
    matrix = np.zeros((n, n))
    for start, local in enumerate(np.swapaxes(blocks, 1, 2) @ blocks):
        at = slice(start * DEGREE, start * DEGREE + DEGREE + 1)
        matrix[at, at] += local
    rates, modes = eigh(matrix, driver="evd", overwrite_a=True, check_finite=False)
    if n > 1 and rates[1] > _METASTABLE * rates[-1]:
        return rates, modes
    # Rates of escape over high barriers drown in the rounding of G'G, but not as squares of the singular values of G.
    rows = np.zeros((blocks.shape[0] * (DEGREE + 1), n))
    for start, local in enumerate(blocks):
        at = slice(start * DEGREE, start * DEGREE + DEGREE + 1)
        rows[start * (DEGREE + 1) : (start + 1) * (DEGREE + 1), at] = local
    _, values, right = svd(rows, full_matrices=False, overwrite_a=True, check_finite=False)
    return np.square(values[::-1]), np.ascontiguousarray(right[::-1].T)
