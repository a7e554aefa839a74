"""Maximum likelihood, or maximum a posteriori, by the exact gradient of the evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from jkofilter._typing import Array
from jkofilter.errors import FilterError, InputError
from jkofilter.learning.contract import Build
from jkofilter.learning.evidence import ModelEvidence, built, series_list
from jkofilter.learning.fit_result import FitResult
from jkofilter.learning.parameters import Family, family
from jkofilter.models.series import ObservationSeries
from jkofilter.numerics.draws import standard_normal, stream
from jkofilter.numerics.threads import one_thread

_APART = 0.5
"""Spread of further starts in the unconstrained coordinates."""
_STEP = 1e-3
_STEEP = 1.0
_RESTARTS = 5
_LBFGS = {"maxiter": 500, "ftol": 1e-9}
_ARRIVED = 1e-3
"""Nats that an optimum may be off."""
_FLAT = 1e-4
"""Curvature below which, in nats for a unit of an unconstrained coordinate, a direction is not told by the readings."""
_SAME = 0.05
_LEANS = 0.05


@dataclass(eq=False)
class Objective:
    """Minus the log evidence and log prior over unconstrained coordinates, with its gradient.

    Attributes:
        family: of parameters.
        build: models of them.
        series: readings.
        evidence: how evidences are had.
        history: log evidence plus log prior at every point tried where it could be had.
    """

    family: Family
    build: Build
    series: list[ObservationSeries]
    evidence: ModelEvidence
    history: list[float] = field(default_factory=list)

    def value_and_gradient(self, free: Array) -> tuple[float, Array]:
        """At unconstrained coordinates (k,).

        Raises:
            FilterError: the evidence cannot be had, or is not finite.
        """
        leaf = torch.tensor(free, dtype=torch.float64, requires_grad=True)
        parameters = self.family.parameters(leaf)
        found = self.evidence(built(self.build, parameters), self.series)
        with torch.enable_grad():
            log_prior = self.family.log_prior(parameters)
            total = found.surrogate + log_prior
        if not total.requires_grad:
            raise InputError("build makes nothing of its parameters: compute the model from them by torch functions.")
        (gradient,) = torch.autograd.grad(total, leaf)
        value = found.log_evidence + log_prior.item()
        if not (math.isfinite(value) and torch.isfinite(gradient).all()):
            raise FilterError("the log evidence or its gradient is not finite")
        self.history.append(value)
        return -value, -gradient.numpy()

    def bowl(self, free: Array, known: tuple[float, Array, Array]) -> tuple[float, Array]:
        """As ``value_and_gradient``; where the evidence cannot be had, a bowl around where it is known.

        Args:
            free: unconstrained coordinates, (k,).
            known: value, gradient and coordinates of a point where it could be had.
        """
        try:
            return self.value_and_gradient(free)
        except FilterError:
            value, gradient, centre = known
            away = free - centre
            steep = _STEEP * (1.0 + float(np.abs(gradient).sum()))
            return value + steep * float(away @ away), 2.0 * steep * away


@one_thread()
def fit(
    build: Build,
    series: ObservationSeries | Sequence[ObservationSeries],
    start: Mapping[str, Any],
    constraints: Mapping[str, Any] | None = None,
    priors: Mapping[str, Any] | None = None,
    starts: int = 1,
    seed: int = 0,
) -> FitResult:
    """The parameters under which readings are most probable, with standard errors.

    L-BFGS on unconstrained coordinates (torch's ``transform_to``) by the exact gradient of the log evidence; standard
    errors from the observed information, differences of that gradient.

    Args:
        build: the model of given parameters, a dict of torch tensors by name, computed from them by torch.
        series: readings, or several independent series of them.
        start: where to begin: numbers or tensors by name.
        constraints: torch.distributions.constraints by name, such as ``constraints.positive``; the rest are real.
        priors: torch distributions by name: then the mode of the posterior is found instead.
        starts: how many times to begin, the others scattered about ``start``; the best end is kept.
        seed: seeds where the others begin.

    Raises:
        InputError: a start is outside its constraint, a name is unknown, or ``build`` gives no model, or one whose
            evidence has no gradient here.
        FilterError: the evidence cannot be had at the start, or nowhere near it.
    """
    chosen, many = family(start, constraints, priors), series_list(series)
    if isinstance(starts, bool) or not isinstance(starts, int) or starts < 1:
        raise InputError(f"starts must be an integer of 1 or more, got {starts!r}.")
    objective = Objective(chosen, build, many, ModelEvidence(len(many)))
    begin = chosen.free
    try:
        _, first = objective.value_and_gradient(begin.numpy())
    except FilterError as error:
        raise FilterError(f"the evidence cannot be had at the start: {error}; give another start.") from error
    idle = [name for name, slope in zip(chosen.names, first, strict=True) if slope == 0.0]
    best, notes = _best_of(objective, begin, starts, seed)
    if idle:
        notes.append(f"{', '.join(idle)} made no difference at the start")
    return _result(objective, best, notes)


@dataclass(frozen=True, eq=False)
class _End:
    """Where a descent ended: unconstrained coordinates, value and information there, and nats that may be missing."""

    free: Array
    value: float
    information: Array
    decrement: float


def _best_of(objective: Objective, begin: Tensor, starts: int, seed: int) -> tuple[_End, list[str]]:
    """The best end of several descents, the first from ``begin``, and what to note of them.

    Raises:
        FilterError: none comes to an end.
    """
    generator = stream(seed, "fit")
    ends: list[_End] = []
    failures: list[str] = []
    for k in range(starts):
        free = begin if k == 0 else begin + _APART * standard_normal(begin, generator)
        try:
            ends.append(_descended(objective, free.numpy()))
        except FilterError as error:
            # Of a start that was scattered too far, or of an end at the edge of what can be had.
            failures.append(str(error))
    if not ends:
        raise FilterError(
            f"no start comes to an end at which the evidence is smooth: {failures[0]}; give constraints or priors that "
            "keep parameters from the edge."
        )
    best, notes = min(ends, key=lambda end: end.value), []
    if starts > 1:
        agreeing = sum(end.value < best.value + _SAME for end in ends)
        notes.append(f"{agreeing} of {starts} starts end at the best")
    if best.decrement > _ARRIVED:
        notes.append(f"the optimiser stopped some {best.decrement:.2g} nats below the top; begin anew from its end")
    return best, notes


def _descended(objective: Objective, free: Array) -> _End:
    """From a start down to a minimum: L-BFGS, again from its end where it gave up, and Newton steps at the last.

    Raises:
        FilterError: the evidence cannot be had at the start.
    """
    for _ in range(_RESTARTS):
        value, gradient = objective.value_and_gradient(free)
        known = value, gradient, free
        found = minimize(
            lambda u, known=known: objective.bowl(u, known), free, jac=True, method="L-BFGS-B", options=_LBFGS
        )
        better = found.fun < value - _ARRIVED
        free = found.x if found.fun < value else free
        if found.success or not better:
            break
    value, gradient = objective.value_and_gradient(free)
    while True:
        information = observed_information(objective, free)
        values, vectors = np.linalg.eigh(information)
        told = values > _FLAT
        along = (vectors.T @ gradient)[told]
        decrement = 0.5 * float((along**2 / values[told]).sum())
        if decrement < _ARRIVED:
            break
        trial = free - vectors[:, told] @ (along / values[told])
        after, slope = objective.bowl(trial, (value, gradient, free))
        if not after < value - 0.1 * decrement:
            break
        free, value, gradient = trial, after, slope
    return _End(free, value, information, decrement)


def _result(objective: Objective, end: _End, notes: list[str]) -> FitResult:
    chosen, leaf = objective.family, torch.from_numpy(end.free)
    jacobian = torch.autograd.functional.jacobian(lambda u: chosen.flat(chosen.parameters(u)), leaf)
    covariance, flat = _covariance(end.information, jacobian.numpy(), chosen.names)
    parameters = {name: value.detach() for name, value in chosen.parameters(leaf).items()}
    return FitResult(
        parameters=parameters,
        covariance=torch.from_numpy(covariance),
        log_evidence=-end.value - chosen.log_prior(parameters).item(),
        model=built(objective.build, parameters),
        history=tuple(objective.history),
        names=tuple(chosen.names),
        readings=sum(int((~torch.isnan(one.values)).any(1).sum()) for one in objective.series),
        note="; ".join([*notes, *flat]),
        objective=replace(objective, history=[]),
        free=leaf,
    )


def observed_information(objective: Objective, free: Array) -> Array:
    """Minus the Hessian of log evidence and log prior, by central differences of the exact gradient, (k, k)."""
    rows = []
    for i in range(len(free)):
        step = np.zeros_like(free)
        step[i] = _STEP * max(1.0, abs(free[i]))
        ahead, behind = (objective.value_and_gradient(free + sign * step)[1] for sign in (1.0, -1.0))
        rows.append((ahead - behind) / (2.0 * step[i]))
    found = np.array(rows)
    return 0.5 * (found + found.T)


def _covariance(information: Array, jacobian: Array, names: Sequence[str]) -> tuple[Array, list[str]]:
    """Covariance of the parameters, and what to note of directions that readings do not tell; there it is infinite.

    Args:
        information: of the unconstrained coordinates, (k, k).
        jacobian: of the parameters by these, (p, k).
        names: of the parameters, p of them.
    """
    values, vectors = np.linalg.eigh(information)
    told = values > _FLAT
    along = jacobian @ vectors
    covariance = (along[:, told] / values[told]) @ along[:, told].T
    size = np.abs(jacobian).max(1)
    notes = []
    for direction in along[:, ~told].T:
        # Against how far each parameter moves with its own coordinate; what moves none is a coordinate too many.
        share = np.abs(direction) / np.where(size > 0, size, 1.0)
        lost = share > _LEANS
        if not lost.any():
            continue
        covariance[np.ix_(lost, lost)] = np.inf
        concerned = " and ".join(name for name, one in zip(names, lost, strict=True) if one)
        apart = " apart" if lost.sum() > 1 else ""
        notes.append(f"the readings do not tell {concerned}{apart}; fix one, or give a prior")
    return covariance, notes
