"""Draws of the shape, type and device of another tensor, from an explicit generator."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def standard_normal(like: Tensor, generator: Generator) -> Tensor:
    """Independent standard normal numbers."""
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def uniform(like: Tensor, generator: Generator) -> Tensor:
    """Independent numbers from [0, 1)."""
    return torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)
