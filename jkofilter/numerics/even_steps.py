"""Steps of one length and the readings between them, compiled: a loop of small products that Python would only slow."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from jkofilter._typing import Array


@njit(cache=True)
def moved_evenly(
    transition: Array,
    masses: Array,
    inverse: Array,
    floor: Array,
    likelihoods: Array,
    sizes: Array,
    predicted: Array,
    after: Array,
    sums: Array,
) -> None:
    """A law moved by one matrix and multiplied by likelihoods, time after time, until nothing is left of it.

    Args:
        transition: of one gap, (N, N).
        masses: of the law at N nodes, (N,).
        inverse: of the roots of the speed density's masses, (N,).
        floor: below ``floor`` times the size of the law, masses are not known and count as zero, (N,).
        likelihoods: of the readings at the nodes, (b, N).
        sizes: norms of the laws in the eigenbasis before every step, (b,): filled in, as are
        predicted: laws before the readings, (b, N),
        after: laws after the readings, normalised, (b, N), and
        sums: what those summed to before, (b,); zero from the step on at which nothing was left.
    """
    for k in range(likelihoods.shape[0]):
        size = 0.0
        for i in range(masses.shape[0]):
            size += (masses[i] * inverse[i]) ** 2
        size = math.sqrt(size)
        sizes[k] = size
        law = np.dot(transition, masses)
        total = 0.0
        for i in range(masses.shape[0]):
            known = law[i] if law[i] > size * floor[i] else 0.0
            predicted[k, i] = known
            after[k, i] = known * likelihoods[k, i]
            total += after[k, i]
        sums[k] = total
        if not total > 0.0:
            return
        for i in range(masses.shape[0]):
            after[k, i] /= total
        masses = after[k]
