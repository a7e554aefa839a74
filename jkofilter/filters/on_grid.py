"""Laws on grids of the line and the plane: priors, and beliefs of log densities; where to look for a prior."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import torch

from jkofilter._typing import Array
from jkofilter.beliefs.grid import GridBelief
from jkofilter.beliefs.grid_2d import GridBelief2D
from jkofilter.errors import InputError
from jkofilter.models.state_space import StateSpaceModel, prior_log_prob, sample_prior
from jkofilter.numerics.arrays import as_array
from jkofilter.numerics.draws import stream
from jkofilter.numerics.grid_following import Reach, fit
from jkofilter.numerics.grids import Axis, Grid, log_mass

OnGrid: TypeAlias = GridBelief | GridBelief2D

Bounds: TypeAlias = tuple[float, float] | tuple[tuple[float, float], tuple[float, float]]

_PRIOR_REACH = 40.0


def prior_on_grid(model: StateSpaceModel, cells: tuple[int, ...], reach: Reach) -> tuple[Grid, Array]:
    """The prior's log density on a grid fitted to it; -inf throughout where the search found no mass.

    Raises:
        InputError: the prior's log density is NaN.
    """
    start = [
        Axis(centre - _PRIOR_REACH * scale, centre + _PRIOR_REACH * scale, count)
        for (centre, scale), count in zip(location(model), cells, strict=True)
    ]
    return fit(lambda x: log_prior(model, x), Grid(tuple(start)), cells, reach, model.sde.domain)


def kind_of_belief(model: StateSpaceModel) -> type[OnGrid]:
    """Of the beliefs on grids in as many dimensions as the model has."""
    return GridBelief if model.dim == 1 else GridBelief2D


def log_prior(model: StateSpaceModel, x: Array) -> Array:
    """Log density of the prior at points (n, d), -inf outside its support.

    Raises:
        InputError: it is NaN somewhere.
    """
    with torch.no_grad():
        value = prior_log_prob(model.prior, torch.as_tensor(x, dtype=model.dtype, device=model.device))
    if torch.isnan(value).any():
        raise InputError("prior.log_prob returns NaN; give a prior that can be evaluated.")
    return as_array(value)


def in_support(model: StateSpaceModel, time: float, x: Array, log_density: Array) -> Array:
    """``log_density`` at points (n, d), -inf where a law that is still the prior has no support.

    Beyond the edge of a uniform prior there would else be a tail, where a sharp reading finds it.
    """
    if time > 0.0:
        return log_density
    return np.where(np.isfinite(log_prior(model, x)), log_density, -np.inf)


def belief_on_grid(
    model: StateSpaceModel, grid: Grid, log_density: Array, time: float, log_evidence: float, closed: bool = False
) -> tuple[OnGrid, float]:
    """A belief with these log densities, normalised, and the log of what they summed to before."""
    total = log_mass(grid, log_density)
    values = torch.as_tensor(log_density - total).to(device=model.device, dtype=model.dtype)
    if len(grid.axes) == 1:
        return GridBelief(
            time, grid.axes[0].low, grid.axes[0].high, values, log_evidence, closed, model.sde.domain
        ), total
    first, second = grid.axes
    low, high = (first.low, second.low), (first.high, second.high)
    return GridBelief2D(time, low, high, values, log_evidence, closed, model.sde.domain), total


def location(model: StateSpaceModel) -> list[tuple[float, float]]:
    """Centre and scale of each coordinate of the prior: where to look for it, not what it is.

    Mean and standard deviation where the prior tells them and they are of use, else median and quartile range of a
    thousand draws.
    """
    try:
        centres, scales = model.prior.mean, model.prior.stddev
        if torch.isfinite(centres).all() and torch.isfinite(scales).all() and (scales > 0).all():
            return list(zip(centres.tolist(), scales.tolist(), strict=True))
    except NotImplementedError:
        pass
    draws = sample_prior(model.prior, 1001, stream(0, "probe")).double().cpu()
    low, middle, high = torch.quantile(draws, draws.new_tensor([0.25, 0.5, 0.75]), dim=0)
    return list(zip(middle.tolist(), (high - low).clamp(min=1e-12).tolist(), strict=True))


def _checked_side(side: object, bounds: object, form: str) -> tuple[float, float]:
    """One (low, high) of ``bounds`` as two numbers.

    Raises:
        InputError: it is none; ``form`` says what bounds should be.
    """
    try:
        low, high = (float(bound) for bound in side)  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise InputError(f"bounds must be {form} or None, got {bounds!r}.") from error
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"bounds must be finite with low < high, got {bounds!r}.")
    return low, high


def checked_bounds(bounds: Bounds, dim: int) -> Bounds:
    """One (low, high) for d = 1, a pair of them for d = 2."""
    if dim == 1:
        return _checked_side(bounds, bounds, "two numbers (low, high)")
    form = "two numbers (low, high), or ((low1, high1), (low2, high2)),"
    try:
        first, second = bounds
    except (TypeError, ValueError) as error:
        raise InputError(f"bounds must be {form} or None, got {bounds!r}.") from error
    if np.ndim(first) == 0 and np.ndim(second) == 0:
        side = _checked_side(bounds, bounds, form)
        return side, side
    return _checked_side(first, bounds, form), _checked_side(second, bounds, form)
