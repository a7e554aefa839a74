"""Diffusions of the line by their speed density, for methods that go by reversibility."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from jkofilter._typing import Array
from jkofilter.errors import InputError
from jkofilter.models.sde import LangevinSDE
from jkofilter.numerics.arrays import as_array
from jkofilter.numerics.reversible_line import ReversibleLine


def reversible_line(sde: LangevinSDE, device: torch.device, most: int) -> ReversibleLine:
    """A diffusion of one dimension as its speed density exp(-beta V) and diffusivity 1 / beta.

    Args:
        sde: the diffusion.
        device: where its functions are evaluated.
        most: nodes not to be exceeded.
    """
    beta = float(sde.beta)
    low, high = (-math.inf, math.inf) if sde.domain is None else sde.domain.sides[0]

    def log_speed(x: Array) -> Array:
        points = torch.as_tensor(x, dtype=torch.float64, device=device).unsqueeze(-1)
        with torch.no_grad():
            value = sde.potential(points)
        if not isinstance(value, Tensor) or value.shape != points.shape[:1]:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"potential must map points of shape (n, 1) to shape (n,), but {tuple(points.shape)} gave {shape}."
            )
        return -beta * as_array(value)

    return ReversibleLine(log_speed, lambda x: np.full(x.shape, 1.0 / beta), low, high, most)
