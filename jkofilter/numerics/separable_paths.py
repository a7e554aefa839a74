"""Exponential Heun paths of separable potentials whose slope is a cubic, compiled: coordinate by coordinate.

With v'(u) = c0 + c1 u + c2 u^2 + c3 u^3 the change of the slope along a step is its divided difference times the step,
so that a step costs some twenty multiplications, and its derivatives are two numbers a coordinate. Arrays lie
coordinate by coordinate, points next to each other.
"""

from __future__ import annotations

from numba import njit

_FLAGS = {"contract", "reassoc"}
"""Sums may be reordered and fused into products; NaN and infinity keep their meaning."""


@njit(cache=True, nogil=True, fastmath=_FLAGS)
def separable_ends(x, noises, cubic, factors, worst):  # type: ignore[no-untyped-def]
    """Moves points in place.

    Args:
        x: points, (d, n).
        noises: standard normal numbers, (steps, d, n).
        cubic: c0 to c3 of the slope.
        factors: P1, P2, S, A of ``assimilation/paths.py`` and the length, of every step and coordinate, (steps, 5, d).
        worst: is raised to the length of a step times the rate at which the drift, less its linear part, changes, (n,).
    """
    d, n = x.shape
    c0, c1, c2, c3 = cubic[0], cubic[1], cubic[2], cubic[3]
    for i in range(d):
        here = x[i]
        for j in range(noises.shape[0]):
            z = noises[j, i]
            first, second, spread = factors[j, 0, i], factors[j, 1, i], factors[j, 2, i]
            rate, h = factors[j, 3, i], factors[j, 4, i]
            for s in range(n):
                u = here[s]
                a = u - first * (((c3 * u + c2) * u + c1) * u + c0) + spread * z[s]
                rest = c3 * (a * (a + u) + u * u) + c2 * (a + u) + c1 - rate
                worst[s] = max(worst[s], h * abs(rest))
                here[s] = a - second * rest * (a - u)


@njit(cache=True, nogil=True, fastmath=_FLAGS)
def separable_derivatives(x, noises, cubic, factors, worst, by_noise, by_point):  # type: ignore[no-untyped-def]
    """As ``separable_ends``; derivatives of every step by its number and by its start are written, (steps, d, n)."""
    d, n = x.shape
    c0, c1, c2, c3 = cubic[0], cubic[1], cubic[2], cubic[3]
    twice, thrice = c2 + c2, c3 + c3 + c3
    one = x.dtype.type(1)
    for i in range(d):
        here = x[i]
        for j in range(noises.shape[0]):
            z, noise_row, point_row = noises[j, i], by_noise[j, i], by_point[j, i]
            first, second, spread = factors[j, 0, i], factors[j, 1, i], factors[j, 2, i]
            rate, h = factors[j, 3, i], factors[j, 4, i]
            for s in range(n):
                u = here[s]
                a = u - first * (((c3 * u + c2) * u + c1) * u + c0) + spread * z[s]
                rest = c3 * (a * (a + u) + u * u) + c2 * (a + u) + c1 - rate
                worst[s] = max(worst[s], h * abs(rest))
                curved = (thrice * u + twice) * u + c1
                by_ahead = one + second * (rate - ((thrice * a + twice) * a + c1))
                noise_row[s] = by_ahead * spread
                point_row[s] = by_ahead * (one - first * curved) + second * (curved - rate)
                here[s] = a - second * rest * (a - u)


@njit(cache=True, nogil=True, fastmath=_FLAGS)
def pull_back_separable(slope, by_noise, by_point):  # type: ignore[no-untyped-def]
    """Derivatives by the ends (d, n) become those by the starts, in place, and ``by_noise`` those by the numbers."""
    d, n = slope.shape
    for i in range(d):
        row = slope[i]
        for j in range(by_noise.shape[0] - 1, -1, -1):
            noise_row, point_row = by_noise[j, i], by_point[j, i]
            for s in range(n):
                noise_row[s] *= row[s]
                row[s] *= point_row[s]
