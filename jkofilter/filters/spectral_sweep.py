"""Many steps of a spectral filter at once, as long as nothing out of the ordinary happens.

Between two readings a law on the nodes of an eigenbasis moves by one or two products with a matrix, and a reading is
one more product with numbers that can be had for hundreds of readings at a time. What has to be watched meanwhile is
looked at afterwards, for all of them together; the first step that cannot vouch for itself and all after it are given
back.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jkofilter._typing import Array
from jkofilter.beliefs.info import StepInfo
from jkofilter.models.observation_tables import log_likelihoods, tail_tables
from jkofilter.models.state_space import StateSpaceModel
from jkofilter.numerics.arrays import as_array
from jkofilter.numerics.eigenbasis import Eigenbasis
from jkofilter.numerics.even_steps import moved_evenly
from jkofilter.numerics.spectral_steps import LARGEST, LONG, ROUNDING, SpectralSteps

_OFTEN = 8


@dataclass(frozen=True, eq=False)
class Swept:
    """Some steps that went well: b of them.

    Attributes:
        masses: of the laws after their readings, (b, N).
        means: (b,).
        variances: (b,).
        increments: of the log evidence, (b,).
        predicted: what the predicts report.
        updated: what the updates report.
    """

    masses: Array
    means: Array
    variances: Array
    increments: Array
    predicted: list[StepInfo]
    updated: list[StepInfo]


def sweep(
    model: StateSpaceModel,
    steps: SpectralSteps,
    basis: Eigenbasis,
    masses: Array,
    gaps: Array,
    values: Float[Tensor, "b p"],
    deep: float,
) -> Swept:
    """As many of some steps as go well, from the first on; it may be none.

    Args:
        model: its sensor is asked for likelihoods.
        steps: of the filter.
        basis: on whose nodes the law is.
        masses: of the law there, (N,).
        gaps: before the readings, positive, (b,).
        values: readings.
        deep: nats below the peak of a posterior above which nodes must know the law that was predicted.
    """
    start = perf_counter()
    x = torch.as_tensor(steps.line.inside(basis.elements.nodes), device=model.device).unsqueeze(-1)
    asked = ~torch.isnan(values).all(-1)
    logs = np.zeros((len(values), basis.elements.size))
    if asked.any():
        with torch.no_grad():
            logs[asked.numpy()] = as_array(log_likelihoods(model.observation, values[asked].to(model.device), x))
    tops = logs.max(-1)
    with np.errstate(invalid="ignore"):
        likelihoods = np.exp(logs - tops[:, None])
    before, predicted, after, sums = _moved(basis, masses, gaps, likelihoods)
    good = _good(steps, basis, gaps, likelihoods, before, predicted, after, sums, deep)
    count = len(good) if good.all() else int(good.argmin())
    after, sums = after[:count], sums[:count]
    nodes = basis.elements.nodes
    means = after @ nodes
    variances = np.maximum(after @ np.square(nodes) - means**2, 0.0) if count else means
    centred = nodes - means[:, None]
    variances = np.einsum("bn,bn->b", after, np.square(centred))
    increments = np.where(asked.numpy()[:count], np.log(sums) + tops[:count], 0.0)
    surprises = _surprises(model, values[:count], asked[:count], x, predicted[:count])
    seconds = (perf_counter() - start) / max(2 * count, 1)
    details = {"exact_steps": 1, "implicit_steps": 0, "nodes": basis.elements.size}
    moved = StepInfo(seconds=seconds, details=details)
    skipped, own = StepInfo(status="skipped"), {"nodes": basis.elements.size}
    updated = [
        StepInfo(log_evidence=increment, seconds=seconds, details=own, surprise=p) if there else skipped
        for increment, p, there in zip(increments.tolist(), surprises, asked[:count].tolist(), strict=True)
    ]
    return Swept(after, means, variances, increments, [moved] * count, updated)


def _moved(basis: Eigenbasis, masses: Array, gaps: Array, likelihoods: Array) -> tuple[Array, Array, Array, Array]:
    """Sizes of the laws in the basis (b,), the laws before and after their readings (b, N), and what they summed to."""
    often = {gap for gap, times in Counter(gaps.tolist()).items() if times >= _OFTEN}
    sizes, sums = np.zeros(len(gaps)), np.zeros(len(gaps))
    predicted, after = np.zeros_like(likelihoods), np.zeros_like(likelihoods)
    inverse, floor = 1.0 / basis.roots, ROUNDING * basis.roots
    k = 0
    while k < len(gaps):
        gap = float(gaps[k])
        if gap in often:
            others = np.flatnonzero(gaps[k:] != gap)
            last = k + int(others[0]) if others.size else len(gaps)
            some = slice(k, last)
            transition = basis.transition(gap)
            moved_evenly(
                transition,
                masses,
                inverse,
                floor,
                likelihoods[some],
                sizes[some],
                predicted[some],
                after[some],
                sums[some],
            )
        else:
            last = k + 1
            sizes[k] = math.sqrt(float(np.square(masses * inverse).sum()))
            law = basis.later(masses, gap)
            predicted[k] = law * (law > sizes[k] * floor)
            joint = predicted[k] * likelihoods[k]
            sums[k] = total = joint.sum()
            after[k] = joint / total if total > 0.0 else 0.0
        masses, k = after[last - 1], last
        if not sums[last - 1] > 0.0:
            break
    return sizes, predicted, after, sums


def _good(
    steps: SpectralSteps,
    basis: Eigenbasis,
    gaps: Array,
    likelihoods: Array,
    sizes: Array,
    predicted: Array,
    after: Array,
    sums: Array,
    deep: float,
) -> Array:
    """Which steps can vouch for themselves, (b,)."""
    weights = basis.elements.weights
    done = len(sums) if (sums > 0.0).all() else int((sums > 0.0).argmin())
    good = np.zeros(len(sums), dtype=bool)
    likelihoods, sizes, predicted, after = likelihoods[:done], sizes[:done], predicted[:done], after[:done]
    joint = predicted * likelihoods / weights
    peak = joint.max(-1)
    # What rounding may hide at every node must be far below the peak.
    hidden = (ROUNDING * sizes[:, None] * basis.roots / weights * likelihoods).max(-1)
    ends = np.array([basis.elements.edges[0] > steps.walls[0], basis.elements.edges[-1] < steps.walls[1]])
    felt = (joint[:, [0, -1]] * ends).max(-1)
    # The first law of a stretch has been looked at by who began it.
    rough = np.append(0.0, steps.roughness(basis, after[:-1])) if done else sizes
    long = basis.resolved_rate(steps.resolved) * gaps[:done] >= LONG
    fits = ((rough <= steps.resolved) | long) & (sizes <= LARGEST)
    kept = np.abs(predicted.sum(-1) - 1.0) <= 1e-2 * steps.tolerance
    resolved = basis.roughness_of_density(after) <= steps.resolved
    good[:done] = np.isfinite(peak) & (np.maximum(hidden, felt) < math.exp(-deep) * peak) & fits & kept & resolved
    return good


def _surprises(
    model: StateSpaceModel, values: Tensor, asked: Tensor, x: Tensor, predicted: Array
) -> list[float | None]:
    """Two-sided predictive p-values, as ``surprise`` gives them."""
    tables = tail_tables(model.observation, values.to(model.device), x) if len(values) else None
    if tables is None:
        return [None] * len(values)
    tails = [np.einsum("bn,bn->b", predicted, as_array(table)) for table in tables]
    smaller = np.minimum(1.0, 2.0 * np.minimum(*tails) / predicted.sum(-1))
    return [p if there else None for p, there in zip(smaller.tolist(), asked.tolist(), strict=True)]
