"""How improbable a reading was before it came, for alarms."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from jkofilter._typing import Array, Points, Reading
from jkofilter.models.observations import TailedObservation
from jkofilter.models.state_space import StateSpaceModel
from jkofilter.numerics.arrays import as_array


def surprise(model: StateSpaceModel, reading: Reading, x: Points, weights: Array) -> float | None:
    """Twice the smaller predictive probability of a reading as low, or as high, as this one; at most 1.

    Args:
        model: its observation has to know its ``tails`` given the state.
        reading: (p,), of which one component is present.
        x: states, (n, d).
        weights: of the predicted law there, (n,), up to a factor.

    Returns:
        The two-sided predictive p-value; None for sensors that do not know it, or where several components are present.
    """
    present: Tensor = ~reading.isnan()
    if not isinstance(model.observation, TailedObservation) or int(present.sum()) != 1:
        return None
    component = int(present.int().argmax())
    tails = [weights @ as_array(tail)[:, component] for tail in model.observation.tails(reading, x)]
    return float(min(1.0, 2.0 * min(tails) / np.sum(weights)))
