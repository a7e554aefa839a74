"""Whether a sensor is one: a likelihood and a sampler that act on each point by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from jkofilter._typing import Points, Reading
from jkofilter.errors import InputError
from jkofilter.models.observations import ObservationModel
from jkofilter.models.probes import SINGLES, TORCH_ONLY

_BATCH = 9


def check_observation(observation: ObservationModel, draws: Points, generator: Generator) -> None:
    """Try a sensor out at draws of the prior, (n, d), n of at least ten.

    A sensor whose ``sample`` says NotImplementedError can filter, not simulate; there is no reading to try it with.

    Raises:
        InputError: it fails, returns other shapes than (n, p) and (n,), or couples the points of a batch.
    """
    points = draws[:_BATCH]
    try:
        y = _sample(observation, points, generator)
        one = _sample(observation, points[:1], generator)
    except NotImplementedError:
        return
    if y.shape[1:] != one.shape[1:]:
        raise InputError(
            f"observation.sample must return shape (n, p) with one p, but {len(points)} points gave {tuple(y.shape)} "
            f"and one gave {tuple(one.shape)}; reduce over the last axis only."
        )
    reading = next((row for row in y if torch.isfinite(row).all()), None)
    if reading is None:
        return
    whole = checked_log_likelihood_shape(observation.log_likelihood(reading, points), points)
    size = whole[torch.isfinite(whole)].abs().amax() if torch.isfinite(whole).any() else whole.new_zeros(())
    slack = size * (1e-7 if whole.dtype == torch.float64 else 1e-4)
    single = torch.cat([_single(observation, reading, points[i : i + 1]) for i in range(SINGLES)])
    known = torch.isfinite(whole[:SINGLES])
    if not ((single - whole[:SINGLES]).abs()[known] <= slack).all() and _repeats(observation, reading, points, whole):
        raise InputError(
            "observation.log_likelihood must act on each point by itself, but a point's value depends on which others "
            "come with it; reduce over the last axis only."
        )


def checked_log_likelihood_shape(value: Any, x: Points) -> Tensor:
    """``value`` once it is one number for each point of ``x`` (n, d).

    Raises:
        InputError: it is something else.
    """
    if not isinstance(value, Tensor):
        raise InputError(
            f"observation.log_likelihood must return a tensor, got {type(value).__name__}; {TORCH_ONLY}, or wrap the "
            "result in torch.as_tensor."
        )
    if value.shape != (x.shape[0],):
        raise InputError(
            f"observation.log_likelihood must return shape ({x.shape[0]},), got {tuple(value.shape)}; sum over "
            "components, the last axis."
        )
    return value


def _single(observation: ObservationModel, y: Reading, x: Points) -> Tensor:
    return checked_log_likelihood_shape(observation.log_likelihood(y, x), x).detach()


def _repeats(observation: ObservationModel, y: Reading, x: Points, whole: Tensor) -> bool:
    """Whether the likelihood is the same when asked again: one that is estimated by chance is not compared."""
    again = observation.log_likelihood(y, x)
    return torch.equal(torch.nan_to_num(again), torch.nan_to_num(whole))


def _sample(observation: ObservationModel, x: Points, generator: Generator) -> Tensor:
    y: Any = observation.sample(x, generator)
    if not isinstance(y, Tensor):
        raise InputError(
            f"observation.sample must return a tensor, got {type(y).__name__}; {TORCH_ONLY}, or wrap the result in "
            "torch.as_tensor."
        )
    if y.ndim != 2 or len(y) != len(x):
        raise InputError(
            f"observation.sample must return shape (n, p), but {tuple(x.shape)} gave {tuple(y.shape)}; keep the last "
            "axis, as in x[:, :1]."
        )
    return y.detach()
