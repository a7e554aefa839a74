"""Diffusions of the line by their speed density, for methods that go by reversibility."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from jkofilter._typing import Array
from jkofilter.errors import InputError
from jkofilter.models.line_diffusion import LineDiffusion, LineFunction
from jkofilter.models.sde import LangevinSDE
from jkofilter.numerics.arrays import as_array
from jkofilter.numerics.reversible_line import ReversibleLine


def reversible_line(sde: LangevinSDE | LineDiffusion, device: torch.device, most: int) -> ReversibleLine:
    """A diffusion of one dimension as its speed density, exp(-beta V) where there is a V, and its diffusivity.

    Args:
        sde: the diffusion.
        device: where its functions are evaluated.
        most: nodes not to be exceeded.
    """
    if isinstance(sde, LineDiffusion):
        return _any_noise(sde, device, most)
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


_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(10)


def _any_noise(sde: LineDiffusion, device: torch.device, most: int) -> ReversibleLine:
    """The speed density exp(int 2 a / s^2) / s^2, integrated from point to point by Gauss's rule."""
    low, high = (-math.inf, math.inf) if sde.domain is None else sde.domain.sides[0]

    def called(function: LineFunction, x: Array) -> Array:
        points = torch.as_tensor(x, dtype=torch.float64, device=device).reshape(-1, 1)
        with torch.no_grad():
            return as_array(function(points)).reshape(x.shape)

    def log_speed(x: Array) -> Array:
        half = 0.5 * np.diff(x)[:, None]
        between = x[:-1, None] + half * (_POINTS + 1.0)
        slope = 2.0 * called(sde.drift, between) / np.square(called(sde.noise, between))
        return np.append(0.0, np.cumsum((half * slope) @ _WEIGHTS)) - 2.0 * np.log(called(sde.noise, x))

    return ReversibleLine(log_speed, lambda x: 0.5 * np.square(called(sde.noise, x)), low, high, most)
