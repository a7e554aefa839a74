"""Generators from seeds, and draws of the shape, type and device of another tensor from an explicit generator."""

from __future__ import annotations

import math
import operator
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Generator, Tensor

from jkofilter.errors import InputError

Purpose: TypeAlias = Literal[
    "simulation",
    "calibration",
    "filter",
    "smoothing",
    "paths",
    "forecast",
    "pool",
    "fit",
    "particles",
    "baseline",
    "between steps",
    "descent",
    "draws",
    "judging",
    "network",
    "clusters",
    "directions",
    "probe",
    "picture",
]
"""What random numbers are for. A purpose of one's own is added here, so that no two share a stream unawares."""


def stream(seed: int, purpose: Purpose, device: torch.device | str = "cpu", index: int = 0) -> Generator:
    """The generator that this seed gives for the ``index``-th part of one purpose.

    Streams of different purposes or seeds have nothing to do with each other: a simulated truth and the filter that
    tracks it may be given the same seed.

    Raises:
        InputError: ``seed`` is not an integer of 64 bits.
    """
    return Generator(device=device).manual_seed(derived_seed(seed, purpose, index))


def derived_seed(seed: int, purpose: Purpose, index: int = 0) -> int:
    """A seed of its own, of 63 bits, for the ``index``-th part of one purpose (``numpy.random.SeedSequence``).

    Raises:
        InputError: ``seed`` is not an integer of 64 bits.
    """
    try:
        number = operator.index(seed)
    except TypeError as error:
        raise InputError(f"seed must be an integer, got {seed!r}.") from error
    if not -(2**63) <= number < 2**64:
        raise InputError(f"seed must fit 64 bits, got {seed!r}.")
    entropy = [number % 2**64, int.from_bytes(purpose.encode()), index]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def standard_normal(like: Tensor, generator: Generator) -> Tensor:
    """Independent standard normal numbers."""
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def uniform(like: Tensor, generator: Generator) -> Tensor:
    """Independent numbers from [0, 1)."""
    return torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def quasi_normal(like: Tensor, generator: Generator) -> Tensor:
    """Standard normal points of a scrambled Sobol sequence (Owen 1995): means err by far less than 1/sqrt(n).

    Args:
        like: (n, d), gives size, type and device.
        generator: chooses the scrambling.
    """
    n, d = like.shape
    seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device).item())
    unit = torch.quasirandom.SobolEngine(d, scramble=True, seed=seed).draw(n, dtype=torch.float64)
    # The sequence holds zeros; half a cell of its grid of 2^-30 further in is as far out as n points can see.
    inside = unit.clamp(2.0**-31, 1.0 - 2.0**-31)
    return (math.sqrt(2.0) * torch.erfinv(2.0 * inside - 1.0)).to(like)
