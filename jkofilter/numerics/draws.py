"""Generators from seeds, and draws of the shape, type and device of another tensor from an explicit generator."""

from __future__ import annotations

import operator

import torch
from torch import Generator, Tensor

from jkofilter.errors import InputError


def seeded(seed: int, device: torch.device | str = "cpu") -> Generator:
    """A generator with this seed.

    Raises:
        InputError: ``seed`` is not an integer of 64 bits.
    """
    try:
        number = operator.index(seed)
    except TypeError as error:
        raise InputError(f"seed must be an integer, got {seed!r}.") from error
    if not -(2**63) <= number < 2**64:
        raise InputError(f"seed must fit 64 bits, got {seed!r}.")
    return Generator(device=device).manual_seed(number)


def standard_normal(like: Tensor, generator: Generator) -> Tensor:
    """Independent standard normal numbers."""
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def uniform(like: Tensor, generator: Generator) -> Tensor:
    """Independent numbers from [0, 1)."""
    return torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)
