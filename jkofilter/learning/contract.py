"""What learning needs to know of a model: its evidence, and a function with the evidence's gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor

from jkofilter.models.series import ObservationSeries
from jkofilter.models.state_space import StateSpaceModel

Parameters: TypeAlias = Mapping[str, Tensor]
"""Parameters by name, each a tensor of any shape."""
Build: TypeAlias = Callable[[dict[str, Tensor]], StateSpaceModel]
"""A family of models: the model of given parameters, differentiable by them."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """How probable readings are under a model.

    Attributes:
        log_evidence: log p(y_1..y_m), nats.
        surrogate: a number that depends on the model's parameters through torch; its gradient by them is that of the
            log evidence, its value has no meaning.
    """

    log_evidence: float
    surrogate: Tensor


class EvidenceOf(Protocol):
    """A way to the evidence of models."""

    def __call__(self, model: StateSpaceModel, series: ObservationSeries) -> Evidence:
        """The log evidence of a series, and its surrogate.

        Raises:
            FilterError: it cannot be had.
        """
        ...
