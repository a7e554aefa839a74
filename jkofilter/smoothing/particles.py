"""Backward simulation of particles (Godsill, Doucet & West 2004), through the last transition of every gap."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from jkofilter._typing import Paths, Points
from jkofilter.beliefs.particle import ParticleBelief
from jkofilter.errors import InputError
from jkofilter.numerics.draws import uniform
from jkofilter.numerics.resampling import resample

_PAIRS = 1 << 21
"""Pairs of a path and a particle that are weighed together."""
_FEW = 30


def backward_simulated(
    laws: Sequence[ParticleBelief], predicted: Sequence[ParticleBelief], n: int, generator: Generator
) -> tuple[Paths, list[int]]:
    """``n`` paths at the times of the laws, last to first, (n, k, d), and how many different particles each time has.

    Given where a path is at the end of a gap, the particle that it came by is drawn with probability proportional to
    its weight and its last transition's density there; the path was then where that particle had set out. The rest of
    the particle's way is kept, so that nothing is asked of the transition density of the whole gap, which no one knows.

    Args:
        laws: filtering laws, k of them.
        predicted: the laws before each reading, with the means of their last transitions and the particles before that
            they came from; the first is the prior's.
        n: how many paths.
        generator: the source of randomness.

    Raises:
        InputError: a law knows no last transition.
    """
    states = [laws[-1].particles[resample(laws[-1].log_weights, "systematic", generator, n)]]
    distinct = [len(torch.unique(states[-1], dim=0))]
    for now, later in zip(reversed(laws[:-1]), reversed(predicted), strict=False):
        if later.kernel_means is None or later.ancestors is None or later.walls is not None:
            raise InputError(
                "a particle filter smooths by the density of the last transition, which is not known with "
                "density='kde', walls or a LineDiffusion; use density='transition', or SpectralFilter on the line."
            )
        chosen = later.ancestors[_came_by(states[-1], later, generator)]
        states.append(now.particles[chosen])
        distinct.append(len(torch.unique(chosen)))
    return torch.stack(states[::-1], 1), distinct[::-1]


def _came_by(x: Points, later: ParticleBelief, generator: Generator) -> Tensor:
    """For every state (n, d) the particle whose last transition led there, drawn from the posterior, (n,)."""
    means, log_weights = later.kernel_means, later.log_weights
    assert means is not None, "checked before"
    precision = 1.0 / later.kernel_variance
    # Distances by matrix products lose digits far from the origin; centring keeps the squares small.
    centre = means.mean(0)
    scaled = (means - centre) * math.sqrt(precision)
    bias = log_weights - 0.5 * scaled.square().sum(-1)

    chosen = []
    for block in x.split(max(1, _PAIRS // len(means))):
        joint = torch.addmm(bias, (block - centre) * math.sqrt(precision), scaled.mT)
        weights = (joint - joint.amax(1, keepdim=True)).exp()
        cumulative = weights.cumsum(1)
        levels = uniform(cumulative[:, :1], generator) * cumulative[:, -1:]
        chosen.append(torch.searchsorted(cumulative, levels, right=True)[:, 0].clamp(max=len(means) - 1))
    return torch.cat(chosen)


def few_ancestors(distinct: int) -> str:
    """What to note of paths that share so many different particles; empty where they are enough."""
    if distinct >= _FEW:
        return ""
    return (
        f"paths share {distinct} different particles: their law is rough here; use more particles, or a filter that "
        "carries a density"
    )
