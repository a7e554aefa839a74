"""Readings with their times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from jkofilter.errors import InputError


def checked_times(times: Any, name: str = "times") -> Tensor:
    """``times`` as a float64 tensor (m,), increasing from zero or later.

    Raises:
        InputError: empty, not one-dimensional, not finite, negative, unsorted or duplicate.
    """
    clock = _float64(times, name)
    if clock.ndim != 1 or clock.numel() == 0:
        raise InputError(f"{name} must be a non-empty sequence of shape (m,), got shape {tuple(clock.shape)}.")
    if not torch.isfinite(clock).all():
        raise InputError(f"{name} must be finite; drop the rows with NaN or infinite times.")
    if clock[0] < 0:
        raise InputError(f"{name} must start at zero or later, got {clock[0].item():g}; subtract the first time.")
    gaps = clock.diff()
    if (gaps == 0).any():
        duplicate = clock[1:][gaps == 0][0].item()
        raise InputError(f"{name} holds {duplicate:g} twice; join readings of one time into one vector, or drop one.")
    if (gaps < 0).any():
        raise InputError(f"{name} must be increasing; sort the readings by time.")
    return clock


def _float64(value: Any, name: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().to(torch.float64)
    try:
        return torch.as_tensor(np.array(value, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be numeric; convert dates to time since the start first.") from error


@dataclass(frozen=True, eq=False)
class ObservationSeries:
    """Readings y_k at times t_k; irregular times are normal, NaN is a missing component.

    Attributes:
        times: increasing, (m,), in the SDE's unit of time; tensors, arrays or lists in.
        values: readings, (m, p), or (m,) for p = 1.

    Raises:
        InputError: shapes disagree, times unsorted or duplicate, or a reading is infinite.
    """

    times: Tensor
    values: Tensor

    def __post_init__(self) -> None:
        times = checked_times(self.times)
        values = _float64(self.values, "values")
        if values.ndim == 1:
            values = values.unsqueeze(-1)
        if values.ndim != 2 or values.shape[0] != times.shape[0]:
            raise InputError(f"values must have shape ({times.shape[0]}, p), got {tuple(values.shape)}.")
        if torch.isinf(values).any():
            row = int(torch.isinf(values).any(1).nonzero()[0])
            raise InputError(f"values holds an infinite reading in row {row}; write NaN where a reading is missing.")
        object.__setattr__(self, "times", times.clone())
        object.__setattr__(self, "values", values.clone())

    def __len__(self) -> int:
        """Number of readings m."""
        return self.times.shape[0]

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, time: str, values: Sequence[str]) -> ObservationSeries:
        """Readings from the columns of a DataFrame.

        Args:
            frame: one row per reading.
            time: column of times (numbers).
            values: columns of the reading, p of them.

        Raises:
            InputError: a column is missing, or what the class itself raises.
        """
        columns = [values] if isinstance(values, str) else list(values)
        missing = [column for column in [time, *columns] if column not in frame.columns]
        if missing:
            raise InputError(f"frame has no column {missing[0]!r}; it has {', '.join(map(repr, frame.columns))}.")
        try:
            numbers = frame[columns].to_numpy(dtype=np.float64, na_value=np.nan)
        except (TypeError, ValueError) as error:
            raise InputError(f"values must name numeric columns, got {', '.join(map(repr, columns))}.") from error
        return cls(_float64(frame[time].to_numpy(), "times"), _float64(numbers, "values"))

    def to_frame(self) -> pd.DataFrame:
        """Columns ``time``, ``y0``, ``y1``, ..."""
        columns = {f"y{i}": self.values[:, i].numpy() for i in range(self.values.shape[1])}
        return pd.DataFrame({"time": self.times.numpy(), **columns})
