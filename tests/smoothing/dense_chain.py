"""Any diffusion of the line as a dense chain in detailed balance: smoothed laws and paths by plain matrices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.linalg import expm

import jkofilter as jf

Array = np.ndarray


class DenseChain:
    """Cells of a box with the rates of Chang and Cooper, seen through the model's own likelihoods."""

    def __init__(self, model: jf.StateSpaceModel, energy: Callable[[Array], Array], box: tuple[float, float], n: int):
        edges = np.linspace(*box, n + 1)
        self.model, self.x, self.width = model, 0.5 * (edges[1:] + edges[:-1]), edges[1] - edges[0]
        beta = float(model.sde.beta)
        rise = np.diff(beta * energy(self.x))
        rate = 1.0 / (beta * self.width**2)
        safe = np.where(rise == 0.0, 1.0, rise)
        right, left = (rate * np.where(rise == 0.0, 1.0, s * safe / np.expm1(s * safe)) for s in (1.0, -1.0))
        outflow = np.append(right, 0.0) + np.append(0.0, left)
        self.generator = np.diag(right, 1) + np.diag(left, -1) - np.diag(outflow)
        self.known: dict[float, Array] = {}
        prior = np.exp(model.prior.log_prob(torch.from_numpy(self.x)[:, None]).numpy())
        self.prior = prior / prior.sum()

    def moves(self, duration: float) -> Array:
        """P(cell j later | cell i now), (n, n)."""
        key = round(duration, 9)
        if key not in self.known:
            self.known[key] = np.maximum(expm(self.generator * duration), 0.0)
        return self.known[key]

    def likelihood(self, y: torch.Tensor) -> Array:
        return np.exp(self.model.observation.log_likelihood(y, torch.from_numpy(self.x)[:, None]).numpy())

    def passes(self, series: jf.ObservationSeries, at: list[float]) -> tuple[list[float], list[Array], list[Array]]:
        """Times, the start among them, with the filter's laws there and the backward functions, each to a factor."""
        readings = dict(zip(series.times.tolist(), series.values, strict=True))
        times = sorted({0.0, *at, *readings})
        given = [self.likelihood(readings[t]) if t in readings else 1.0 for t in times]
        forward = [self.prior * given[0]]
        for k in range(1, len(times)):
            law = (forward[-1] @ self.moves(times[k] - times[k - 1])) * given[k]
            forward.append(law / law.sum())
        backward = [np.ones_like(self.x)]
        for k in range(len(times) - 1, 0, -1):
            h = self.moves(times[k] - times[k - 1]) @ (backward[-1] * given[k])
            backward.append(h / h.max())
        return times, forward, backward[::-1]

    def smoothed(self, series: jf.ObservationSeries, at: list[float]) -> dict[float, Array]:
        """Masses of the cells given all readings, by time."""
        times, forward, backward = self.passes(series, at)
        joint = [f * h for f, h in zip(forward, backward, strict=True)]
        return {t: p / p.sum() for t, p in zip(times, joint, strict=True)}

    def divergences(self, belief: jf.Belief, masses: Array) -> tuple[float, float]:
        """KL of the cells' masses from the belief's, and the other way round."""
        log_q = belief.log_prob(torch.from_numpy(self.x)[:, None]).numpy() + np.log(self.width)
        held = masses > 1e-30
        log_p = np.log(masses[held])
        both = log_p - log_q[held]
        return float(masses[held] @ both), float(-np.exp(log_q[held]) @ both)

    def changes(self, series: jf.ObservationSeries, at: list[float], most: int) -> Array:
        """Probability of each number of changes of sign between the times, readings included, up to ``most``."""
        readings = dict(zip(series.times.tolist(), series.values, strict=True))
        times = sorted({0.0, *at, *readings})
        counts = np.zeros((most + 1, self.x.size))
        counts[0] = self.prior
        sides = (self.x < 0.0, self.x >= 0.0)
        for before, now in zip(times[:-1], times[1:], strict=True):
            P = self.moves(now - before)
            after = np.zeros_like(counts)
            for here in (0, 1):
                moved = (counts * sides[here]) @ P
                after += moved * sides[here]
                after[1:] += (moved * sides[1 - here])[:-1]
            counts = after * self.likelihood(readings[now]) if now in readings else after
            counts /= counts.sum()
        return counts.sum(-1)

    def product_moment(self, series: jf.ObservationSeries, one: float, other: float) -> float:
        """E[X_one X_other | all readings]."""
        readings = dict(zip(series.times.tolist(), series.values, strict=True))
        times, forward, backward = self.passes(series, [one, other])
        first, last = times.index(one), times.index(other)
        law, weighed = forward[first] / forward[first].sum(), forward[first] / forward[first].sum() * self.x
        for k in range(first, last):
            P = self.moves(times[k + 1] - times[k])
            given = self.likelihood(readings[times[k + 1]]) if times[k + 1] in readings else 1.0
            law, weighed = (law @ P) * given, (weighed @ P) * given
        return float((weighed * self.x) @ backward[last] / (law @ backward[last]))
