"""Paths of separable potentials with cubic slopes, by the kernels of ``numerics/separable_paths.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jkofilter._typing import Points, Scalars
from jkofilter.models.turned import Cubic
from jkofilter.numerics.separable_paths import pull_back_separable, separable_derivatives, separable_ends


@dataclass(frozen=True, eq=False)
class CompiledPaths:
    """Paths of u in R^d, every coordinate by itself.

    Attributes:
        cubic: slope of the potential.
        factors: of every step and coordinate P1, P2, S, A and the length, (steps, 5, d).
    """

    cubic: Cubic
    factors: Tensor

    def ends(self, u: Points, noises: Tensor) -> tuple[Points, Scalars]:
        """Ends (n, d), and the most that a step times the rate at which the drift changes comes to, (n,)."""
        after, z, worst, tables = self._arrays(u, noises)
        separable_ends(after, z, *tables, worst)
        return torch.from_numpy(after).mT, torch.from_numpy(worst)

    def linearised(
        self, u: Points, noises: Tensor
    ) -> tuple[Points, Scalars, Callable[[Points], tuple[Points, Tensor]]]:
        """As ``ends``, and what pulls derivatives back, once."""
        after, z, worst, tables = self._arrays(u, noises)
        by_noise, by_point = np.empty_like(z), np.empty_like(z)
        separable_derivatives(after, z, *tables, worst, by_noise, by_point)

        def pull_back(slope: Points) -> tuple[Points, Tensor]:
            carried = slope.mT.contiguous().numpy().copy()
            pull_back_separable(carried, by_noise, by_point)
            return torch.from_numpy(carried).mT, torch.from_numpy(by_noise).mT

        return torch.from_numpy(after).mT, torch.from_numpy(worst), pull_back

    def _arrays(
        self, u: Points, noises: Tensor
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
        after, z = u.detach().mT.contiguous().numpy().copy(), noises.detach().mT.contiguous().numpy()
        return after, z, np.zeros_like(after[0]), (np.array(self.cubic, after.dtype), self.factors.numpy())
