"""From tensors to NumPy."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from jkofilter._typing import Array


def as_array(value: Tensor) -> Array:
    """A tensor of any device and precision in NumPy, float64."""
    return np.asarray(value.detach().cpu().double().numpy())
