"""The log evidence of a model and its exact gradient, by the way that suits the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from jkofilter.errors import FilterError, InputError
from jkofilter.learning.contract import Build, Evidence, EvidenceOf
from jkofilter.learning.gaussian_evidence import gaussian_evidence, is_linear
from jkofilter.learning.line_evidence import LineEvidence
from jkofilter.models.checks import as_tensor
from jkofilter.models.series import ObservationSeries
from jkofilter.models.state_space import StateSpaceModel
from jkofilter.numerics.threads import one_thread


class ModelEvidence:
    """Evidence of models: linear ones by Kalman, those of the line by a chain of its own for each series."""

    def __init__(self, count: int) -> None:
        self._lines = [LineEvidence() for _ in range(count)]

    def __call__(self, model: StateSpaceModel, series: Sequence[ObservationSeries]) -> Evidence:
        """Of all series together, which are independent given the model.

        Raises:
            InputError: a model of several dimensions that is not linear.
            FilterError: the evidence of a series cannot be had.
        """
        found = [self._way(model, k)(model, one) for k, one in enumerate(series)]
        return Evidence(sum(one.log_evidence for one in found), torch.stack([one.surrogate for one in found]).sum())

    def _way(self, model: StateSpaceModel, k: int) -> EvidenceOf:
        if is_linear(model):
            return gaussian_evidence
        if model.dim == 1:
            return self._lines[k]
        raise InputError(
            f"build gives a model of {model.dim} dimensions that is not linear; its evidence has a gradient here for "
            "linear models and on the line."
        )


@one_thread()
def log_evidence_and_gradient(
    build: Build, parameters: Mapping[str, Any], series: ObservationSeries | Sequence[ObservationSeries]
) -> tuple[float, dict[str, Tensor]]:
    """log p(readings) of a family's model, and its gradient by every parameter, exact but for rounding.

    On the line it is the gradient of a Chang-Cooper chain in its eigenbasis, extrapolated to narrow cells, for the
    price of a forward and a backward pass whatever the number of parameters; of linear models, that of Kalman's
    innovations.

    Args:
        build: the model of given parameters, computed from them by torch.
        parameters: by name, numbers or tensors.
        series: readings, or several independent series of them.

    Raises:
        InputError: ``build`` gives no StateSpaceModel, or one of several dimensions that is not linear.
        FilterError: the evidence cannot be had.
    """
    leaves = {
        k: as_tensor(v, f"parameters[{k!r}]").detach().double().requires_grad_(True) for k, v in parameters.items()
    }
    many = series_list(series)
    evidence = ModelEvidence(len(many))(built(build, leaves), many)
    gradients = torch.autograd.grad(
        evidence.surrogate, list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    return evidence.log_evidence, dict(zip(leaves, gradients, strict=True))


def built(build: Build, parameters: Mapping[str, Tensor]) -> StateSpaceModel:
    """The model that a family gives for parameters.

    Raises:
        InputError: it is none.
        FilterError: it cannot be built for these parameters.
    """
    try:
        with torch.enable_grad():
            model = build(dict(parameters))
    except KeyError as error:
        raise InputError(f"build asks for the parameter {error}, which start has not; give it there.") from error
    except (InputError, ValueError) as error:
        shown = ", ".join(f"{name} = {value.tolist()}" for name, value in parameters.items())
        raise FilterError(f"build cannot make a model of {shown}: {str(error).splitlines()[0]}") from error
    if not isinstance(model, StateSpaceModel):
        raise InputError(f"build must return a StateSpaceModel(prior, sde, observation), got {type(model).__name__}.")
    return model


def series_list(series: Any) -> list[ObservationSeries]:
    """One series or several as a list.

    Raises:
        InputError: something else.
    """
    many = [series] if isinstance(series, ObservationSeries) else list(series) if isinstance(series, Sequence) else []
    if not many or not all(isinstance(one, ObservationSeries) for one in many):
        raise InputError("series must be an ObservationSeries(times, values), or a list of them.")
    return many
