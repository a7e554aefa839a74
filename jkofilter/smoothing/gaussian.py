"""Rauch-Tung-Striebel smoothing of Gaussian laws, and paths by backward simulation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Generator

from jkofilter._typing import Matrix, Paths, Points, State
from jkofilter.beliefs.gaussian import GaussianBelief
from jkofilter.beliefs.info import StepInfo
from jkofilter.numerics.draws import standard_normal
from jkofilter.numerics.linalg import safe_cholesky, symmetrised
from jkofilter.smoothing.contract import PathDraws, Smoothed, positions


@dataclass(frozen=True, eq=False)
class Link:
    """A state and the one some time later, as jointly Gaussian: what leads from the later one back.

    Attributes:
        mean: of the later state, predicted, (d,).
        covariance: of the later state, predicted, (d, d).
        gain: covariance of the two states times the inverse of ``covariance``, (d, d).
    """

    mean: State
    covariance: Matrix
    gain: Matrix


Linked: TypeAlias = Callable[[GaussianBelief, float], Link]
"""How a filter predicts a law over a duration."""


def gain_of(cross: Matrix, covariance: Matrix) -> Matrix:
    """Cov(X, Y) Cov(Y)^-1 of ``cross`` = Cov(X, Y), (d, d)."""
    factor, _ = safe_cholesky(covariance)
    return torch.cholesky_solve(cross.mT, factor).mT


def rauch_tung_striebel(laws: Sequence[GaussianBelief], linked: Linked) -> Smoothed:
    """Smoothed laws, last to first (Rauch, Tung & Striebel 1965; Sarkka 2013, theorems 8.2 and 9.4).

    Args:
        laws: the filtering laws at increasing times.
        linked: joint law of a filtering law's state and the one ``duration`` later.
    """
    links = [linked(now, later.time - now.time) for now, later in pairwise(laws)]
    return Smoothed(tuple(smoothed_by(laws, links)), (StepInfo(),) * len(laws))


def smoothed_by(laws: Sequence[GaussianBelief], links: Sequence[Link]) -> list[GaussianBelief]:
    """The filtering laws given all readings, from the links between one and the next."""
    log_evidence = laws[-1].log_evidence
    smoothed = [laws[-1]]
    for now, link in zip(reversed(laws[:-1]), reversed(links), strict=True):
        later = smoothed[-1]
        mean = now.mean + link.gain @ (later.mean - link.mean)
        covariance = now.covariance + link.gain @ (later.covariance - link.covariance) @ link.gain.mT
        smoothed.append(GaussianBelief(now.time, mean, symmetrised(covariance), log_evidence))
    return smoothed[::-1]


def gaussian_paths(
    laws: Sequence[GaussianBelief], linked: Linked, n: int, times: Sequence[float], generator: Generator
) -> PathDraws:
    """``n`` paths at some of the times of the laws, from draws of the last of them back."""
    last = laws[-1].sample(n, generator)
    return PathDraws(backward_simulated(laws, linked, last, generator)[:, positions(laws, times)])


def backward_simulated(laws: Sequence[GaussianBelief], linked: Linked, last: Points, generator: Generator) -> Paths:
    """Paths at the times of the laws, last to first (Fruhwirth-Schnatter 1994), (n, k, d).

    Args:
        laws: the filtering laws at increasing times, k of them.
        linked: joint law of a filtering law's state and the one ``duration`` later.
        last: where the paths end, (n, d).
        generator: the source of randomness.
    """
    states = [last]
    for later, now in pairwise(reversed(laws)):
        link = linked(now, later.time - now.time)
        mean = now.mean + (states[-1] - link.mean) @ link.gain.mT
        rest = symmetrised(now.covariance - link.gain @ link.covariance @ link.gain.mT)
        states.append(mean + standard_normal(last, generator) @ safe_cholesky(rest)[0].mT)
    return torch.stack(states[::-1], 1)
