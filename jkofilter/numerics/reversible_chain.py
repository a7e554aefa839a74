"""A reversible chain on cells of the line, seen through likelihoods: evidence, marginals, and the exact gradient.

With s = sqrt(pi) the generator L is S T S^-1 with T symmetric and tridiagonal, T = U diag(l) U'. The laws f_k and the
backward functions w_k at the two ends of gap k give, for any change dL of the rates,

    d log p = < S^-1 U M U' S, dL >,
    M_ij = sum_k (U' S w_k)_i (U' S^-1 f_k)_j (e^{l_i t_k} - e^{l_j t_k}) / (l_i - l_j),

of which dL meets three diagonals only (Daleckii & Krein's formula for the derivative of the matrix exponential).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh_tridiagonal

from jkofilter._typing import Array
from jkofilter.errors import NumericalError

_CLOSE = 1e-3
"""Difference of two rates times the longest gap below which their quotient is taken by its limit."""
_GONE = -42.0
"""Exponent below which a mode has died."""
_TOGETHER = 4096


@dataclass(frozen=True, eq=False)
class ChainSolution:
    """What a chain makes of readings.

    Attributes:
        log_evidence: of all readings, nats.
        filtered: laws after each reading, (m, n).
        smoothed: laws given all readings, at the start and at each reading, (m + 1, n).
        by_rightward: gradient of the log evidence by the rate from each cell to the one on its right, (n - 1,).
        by_leftward: by the rate from each cell's right neighbour to it, (n - 1,).
    """

    log_evidence: float
    filtered: Array
    smoothed: Array
    by_rightward: Array
    by_leftward: Array


def solve_chain(rightward: Array, leftward: Array, start: Array, gaps: Array, log_likelihood: Array) -> ChainSolution:
    """Filter, smoother and gradient of one chain.

    Args:
        rightward: rate from each cell to the one on its right, positive, (n - 1,).
        leftward: rate from each cell's right neighbour to it, positive, (n - 1,).
        start: masses of the prior, (n,); their sum counts.
        gaps: before each reading, not negative, (m,).
        log_likelihood: of each reading in each cell, (m, n).

    Raises:
        NumericalError: a reading is impossible in every cell that has mass, or digits have gone.
    """
    half_log = 0.5 * np.append(0.0, np.cumsum(np.log(rightward) - np.log(leftward)))
    root = np.exp(half_log - half_log.max())
    outflow = np.append(rightward, 0.0) + np.append(0.0, leftward)
    rates, vectors = eigh_tridiagonal(-outflow, np.sqrt(rightward * leftward))
    rates = np.minimum(rates, 0.0)
    tops = log_likelihood.max(1)
    likelihood = np.exp(log_likelihood - tops[:, None])
    if not (np.isfinite(rates).all() and np.isfinite(likelihood).all()):
        raise NumericalError("rates or likelihoods are not finite on the cells")
    if not 0.0 < start.sum() < np.inf:
        raise NumericalError("the prior has no mass on the cells")
    basis = _Basis(rates, vectors, root)
    laws, norms = _forward(basis, start / start.sum(), gaps, likelihood)
    back, weighed = _backward(basis, gaps, likelihood, norms)
    log_evidence = float(np.log(norms).sum() + tops.sum() + np.log(start.sum()))
    smoothed = np.maximum(laws * back, 0.0)
    if not (smoothed.sum(1) > 0.0).all():
        raise NumericalError("laws given all readings have lost their mass")
    by_right, by_left = _gradient(basis, gaps, laws[:-1], weighed)
    return ChainSolution(log_evidence, laws[1:], smoothed / smoothed.sum(1, keepdims=True), by_right, by_left)


@dataclass(frozen=True, eq=False)
class _Basis:
    """L = S U diag(l) U' S^-1."""

    rates: Array
    vectors: Array
    root: Array

    def lasting(self, gaps: Array) -> _Basis:
        """What is left of it after the shortest of some gaps."""
        if not (gaps > 0).any():
            return self
        shortest = gaps[gaps > 0].min()
        kept = self.rates * shortest > _GONE
        return _Basis(self.rates[kept], np.ascontiguousarray(self.vectors[:, kept]), self.root)


def _forward(basis: _Basis, law: Array, gaps: Array, likelihood: Array) -> tuple[Array, Array]:
    """Laws at the start and after each reading, (m + 1, n), and what each reading's sum was, (m,)."""
    lasting = basis.lasting(gaps)
    laws, norms = [law], []
    for gap, given in zip(gaps, likelihood, strict=True):
        if gap > 0.0:
            modes = np.exp(lasting.rates * gap) * (lasting.vectors.T @ (law / basis.root))
            law = np.maximum(basis.root * (lasting.vectors @ modes), 0.0)
            if not law.sum() > 0.0:
                raise NumericalError("a law has lost its mass between readings")
            law = law / law.sum()
        joint = law * given
        norms.append(float(joint.sum()))
        if not norms[-1] > 0.0:
            raise NumericalError(f"reading {len(norms)} is impossible wherever the law has mass")
        law = joint / norms[-1]
        laws.append(law)
    return np.array(laws), np.array(norms).reshape(-1)


def _backward(basis: _Basis, gaps: Array, likelihood: Array, norms: Array) -> tuple[Array, Array]:
    """Backward functions after the start and each reading, (m + 1, n), and at the end of each gap, (m, n)."""
    lasting = basis.lasting(gaps)
    back, weighed = [np.ones(len(basis.root))], []
    for gap, given, norm in zip(gaps[::-1], likelihood[::-1], norms[::-1], strict=True):
        with np.errstate(over="ignore", invalid="ignore"):
            w = given * back[-1] / norm
        if not np.isfinite(w).all():
            raise NumericalError("backward functions overflow: readings are all but impossible")
        weighed.append(w)
        if gap > 0.0:
            modes = np.exp(lasting.rates * gap) * (lasting.vectors.T @ (w * basis.root))
            w = (lasting.vectors @ modes) / basis.root
        back.append(w)
    return np.array(back[::-1]), np.array(weighed[::-1]).reshape(-1, len(basis.root))


def _gradient(basis: _Basis, gaps: Array, laws: Array, weighed: Array) -> tuple[Array, Array]:
    """Gradient by the rates to the right and to the left, (n - 1,) each."""
    rates, vectors, root = basis.rates, basis.vectors, basis.root
    before, after = (laws / root) @ vectors, (weighed * root) @ vectors
    decay = np.exp(np.outer(gaps, rates))
    apart = rates[:, None] - rates[None, :]
    close = np.abs(apart) * max(float(gaps.max(initial=0.0)), 1e-300) < _CLOSE
    middle = ((decay * after).T @ before - after.T @ (decay * before)) / np.where(close, 1.0, apart)
    i, j = np.nonzero(close)
    for part in range(0, len(i), _TOGETHER):
        a, b = i[part : part + _TOGETHER], j[part : part + _TOGETHER]
        between = gaps[:, None] * np.exp(0.5 * np.outer(gaps, rates[a] + rates[b]))
        middle[a, b] = (after[:, a] * before[:, b] * between).sum(0)
    turned = vectors @ middle
    here = (turned * vectors).sum(1)
    up = (turned[1:] * vectors[:-1]).sum(1) * root[:-1] / root[1:]
    down = (turned[:-1] * vectors[1:]).sum(1) * root[1:] / root[:-1]
    return up - here[:-1], down - here[1:]
