"""What a fit found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import ndtri
from torch import Tensor

from jkofilter.errors import InputError
from jkofilter.models.state_space import StateSpaceModel


@dataclass(frozen=True, eq=False)
class FitResult:
    """The parameters under which readings are most probable.

    Attributes:
        parameters: by name.
        covariance: of the numbers in ``names``, (k, k), from the observed information; infinite where the readings do
            not tell.
        log_evidence: log p of the readings at these parameters, nats.
        model: of these parameters.
        history: log evidence plus log prior at every point tried.
        names: one for each number.
        readings: how many were there.
        note: what a user should know; may be empty.
        objective: what was maximised, for profiles and posteriors.
        free: where, in unconstrained coordinates, (k,).
    """

    parameters: dict[str, Tensor]
    covariance: Tensor
    log_evidence: float
    model: StateSpaceModel
    history: tuple[float, ...]
    names: tuple[str, ...]
    readings: int
    note: str
    objective: Any
    free: Tensor

    @property
    def estimates(self) -> dict[str, float]:
        """Every number by its name."""
        flat = torch.cat([value.reshape(-1) for value in self.parameters.values()])
        return dict(zip(self.names, flat.tolist(), strict=True))

    @property
    def standard_errors(self) -> dict[str, float]:
        """By name, one for each number."""
        return dict(zip(self.names, self.covariance.diagonal().clamp(min=0).sqrt().tolist(), strict=True))

    @property
    def correlation(self) -> pd.DataFrame:
        """Between the numbers, (k, k)."""
        deviation = self.covariance.diagonal().sqrt()
        found = (self.covariance / torch.outer(deviation, deviation)).numpy()
        return pd.DataFrame(found, index=list(self.names), columns=list(self.names))

    @property
    def aic(self) -> float:
        """2 k - 2 log p (Akaike 1974)."""
        return 2.0 * len(self.names) - 2.0 * self.log_evidence

    @property
    def bic(self) -> float:
        """k log m - 2 log p (Schwarz 1978)."""
        return len(self.names) * math.log(max(self.readings, 1)) - 2.0 * self.log_evidence

    def interval(self, name: str, level: float = 0.9) -> tuple[float, float]:
        """Interval of a number: estimate plus and minus standard errors, as of a normal law.

        Raises:
            InputError: no such number, or a level not between 0 and 1.
        """
        if name not in self.names:
            raise InputError(f"name must be one of {', '.join(self.names)}, got {name!r}.")
        if not 0 < level < 1:
            raise InputError(f"level must lie strictly between 0 and 1, got {level!r}.")
        reach = float(ndtri(0.5 + 0.5 * level)) * self.standard_errors[name]
        return self.estimates[name] - reach, self.estimates[name] + reach

    def to_frame(self, level: float = 0.9) -> pd.DataFrame:
        """One row a number: estimate, standard error, interval."""
        rows = {name: self.interval(name, level) for name in self.names}
        return pd.DataFrame(
            {
                "estimate": list(self.estimates.values()),
                "standard error": list(self.standard_errors.values()),
                f"{level:.0%} low": [low for low, _ in rows.values()],
                f"{level:.0%} high": [high for _, high in rows.values()],
            },
            index=list(self.names),
        )

    def summary(self, level: float = 0.9) -> str:
        """The table of ``to_frame``, with log evidence, AIC and BIC."""
        lines = [
            f"log evidence {self.log_evidence:.3f} of {self.readings} readings; AIC {self.aic:.1f}, BIC {self.bic:.1f}",
            self.to_frame(level).to_string(float_format=lambda value: f"{value:.4g}"),
        ]
        return "\n".join([*lines, self.note] if self.note else lines)

    def __str__(self) -> str:
        """The summary."""
        return self.summary()

    def z_values(self, truth: dict[str, float]) -> dict[str, float]:
        """How many standard errors each of some numbers is from the estimate."""
        errors = self.standard_errors
        return {name: (self.estimates[name] - value) / errors[name] for name, value in truth.items()}

    @property
    def evaluations(self) -> int:
        """How often the evidence was had."""
        return int(np.size(self.history))
