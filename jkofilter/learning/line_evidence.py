"""The evidence of a diffusion of the line and its exact gradient, from a Chang-Cooper chain in its eigenbasis."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jkofilter._typing import Array, Points
from jkofilter.errors import FilterError, NumericalError
from jkofilter.filters.on_grid import location
from jkofilter.learning.contract import Evidence
from jkofilter.models.line_diffusion import LineDiffusion
from jkofilter.models.observation_tables import log_likelihood_graph
from jkofilter.models.series import ObservationSeries
from jkofilter.models.state_space import StateSpaceModel, prior_support
from jkofilter.numerics.arrays import as_array
from jkofilter.numerics.reversible_chain import ChainSolution, solve_chain

DEPTH = 32.0
"""Nats below the peak of the speed density at which cells end: beyond twice that its root leaves no digits."""
DEEPEST, DIGITS = 60.0, 18.0
"""Where they end at the latest, to hold the prior, and log of the largest p / sqrt(pi) of a law with digits left."""
_PRIOR_WIDTHS, _PRIOR_TAILS, _MOST_BEYOND = 6.5, 8.0, 5000
_LOOKED_AT, _REACH = 4001, 60.0
_CELLS, _MOST_CELLS = 200, 800
_RESOLVED = 0.5
"""Difference of the log evidence on so many cells and on twice as many, in nats, which is then extrapolated."""
_OUTSIDE = 0.2
_DEEPER, _SHALLOWER, _BOTTOM = 6.0, 12.0, 1e6
_FAR = 10.0


@dataclass(frozen=True)
class Cells:
    """Equal cells of the line.

    Attributes:
        low: left end of the first.
        high: right end of the last.
        count: how many, n.
    """

    low: float
    high: float
    count: int

    @property
    def width(self) -> float:
        """Of a cell."""
        return (self.high - self.low) / self.count

    def centres(self, like: Tensor) -> Points:
        """(n, 1)."""
        steps = torch.arange(self.count, dtype=torch.float64, device=like.device)
        return (self.low + self.width * (steps + 0.5)).unsqueeze(-1)


class LineEvidence:
    """Evidence of models of the line; it keeps its cells from one call to the next, so that the evidence is smooth.

    Args:
        cells: fewest cells; the evidence is extrapolated from so many and twice as many, and they are doubled where the
            two differ by more than .1 nats.
    """

    def __init__(self, cells: int = _CELLS) -> None:
        self._least = cells
        self._cells: Cells | None = None
        self._best = -math.inf

    def __call__(self, model: StateSpaceModel, series: ObservationSeries) -> Evidence:
        """The log evidence of a series, and a surrogate whose gradient by the model's parameters is that of it.

        Raises:
            FilterError: the prior reaches far beyond where the diffusion lives, or a reading is impossible.
        """
        home, kept = _home(model), self._cells
        if kept is None or not home.fits(kept):
            kept = Cells(home.low, home.high, self._least)
        while True:
            coarse, fine = (_on_cells(model, series, replace(kept, count=k * kept.count)) for k in (1, 2))
            rough = abs(fine.log_evidence - coarse.log_evidence) > _RESOLVED
            # Of parameters far from any good ones, the first figure will do to turn back by.
            if not rough or fine.log_evidence < self._best - _FAR or 2 * kept.count > _MOST_CELLS:
                break
            kept = replace(kept, count=2 * kept.count)
        if rough and fine.log_evidence >= self._best - _FAR:
            raise FilterError(
                f"the evidence is not resolved by {2 * kept.count} cells of width {kept.width / 2:.2g}, as where "
                "readings are sharper; give the noise a lower bound or a prior."
            )
        self._cells = kept
        if rough:
            return fine
        self._best = max(self._best, fine.log_evidence)
        # Both errors are of second order in the width of a cell.
        return Evidence(
            (4.0 * fine.log_evidence - coarse.log_evidence) / 3.0, (4.0 * fine.surrogate - coarse.surrogate) / 3.0
        )


def _on_cells(model: StateSpaceModel, series: ObservationSeries, cells: Cells) -> Evidence:
    x = cells.centres(_like(model))
    values, gaps = series.values.to(x.device), np.diff(series.times.numpy(), prepend=series.start)
    at_once = gaps[0] == 0.0 and not torch.isnan(values[0]).all()
    later = values[1:] if at_once else values
    asked = ~torch.isnan(later).all(-1)
    with torch.enable_grad():
        rightward, leftward = chain_rates(model, cells)
        start = _start(model, cells, values[0] if at_once else None)
        logs = log_likelihood_graph(model.observation, later[asked], x)
    table = np.zeros((len(later), cells.count))
    table[asked.cpu().numpy()] = as_array(logs.detach())
    rates = as_array(rightward.detach()), as_array(leftward.detach())
    try:
        found = solve_chain(*rates, as_array(start.detach()), gaps[1:] if at_once else gaps, table)
    except (NumericalError, np.linalg.LinAlgError) as error:
        where = f"on cells between {cells.low:g} and {cells.high:g}"
        raise FilterError(f"the evidence cannot be had {where}: {error}") from error
    with torch.enable_grad():
        surrogate = _surrogate(found, rightward, leftward, start, logs, asked.cpu().numpy())
    return Evidence(found.log_evidence, surrogate)


def _surrogate(
    found: ChainSolution, rightward: Tensor, leftward: Tensor, start: Tensor, logs: Tensor, asked: Array
) -> Tensor:
    """A function of the parameters whose gradient is that of the log evidence (``numerics/reversible_chain.py``)."""
    by_right, by_left, begun, at_readings = (
        torch.from_numpy(part).to(rightward)
        for part in (found.by_rightward, found.by_leftward, found.smoothed[0], found.smoothed[1:][asked])
    )
    # Where a likelihood is zero its logarithm is no number, and has no weight.
    seen = torch.where(at_readings > 0, logs, 0.0)
    from_start = begun / torch.where(start > 0, start, 1.0).detach() * start
    return (by_right * rightward).sum() + (by_left * leftward).sum() + from_start.sum() + (at_readings * seen).sum()


def _start(model: StateSpaceModel, cells: Cells, reading: Tensor | None) -> Float[Tensor, " n"]:
    """Masses of the prior in the cells, given a reading (p,) at once; what lies beyond their ends is in the end cells.

    There the drift is so strong that mass comes back at once, and the eigenbasis has no digits for it.
    """
    x = cells.centres(_like(model))
    ((centre, scale),) = location(model)
    low, high = centre - _PRIOR_TAILS * scale, centre + _PRIOR_TAILS * scale
    left = min(max(math.ceil((cells.low - low) / cells.width), 0), _MOST_BEYOND)
    right = min(max(math.ceil((high - cells.high) / cells.width), 0), _MOST_BEYOND)
    steps = torch.arange(1, 1 + max(left, right), dtype=x.dtype, device=x.device).unsqueeze(-1) * cells.width
    wide = torch.cat([(x[:1] - steps[:left]).flip(0), x, x[-1:] + steps[:right]])
    log_mass = _log_prior(model, wide) + math.log(cells.width)
    domain = model.sde.domain
    if domain is not None:
        log_mass = torch.where(domain.contains(wide), log_mass, -math.inf)
    if reading is not None:
        log_mass = log_mass + log_likelihood_graph(model.observation, reading.unsqueeze(0), wide)[0]
    below, inside, above = log_mass.exp().split([left, len(x), right])
    return torch.cat([inside[:1] + below.sum(), inside[1:-1], inside[-1:] + above.sum()])


def chain_rates(model: StateSpaceModel, cells: Cells) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
    """Chang-Cooper rates to the right and to the left between neighbouring cells, differentiable, (n - 1,) each."""
    x = cells.centres(_like(model))
    climb, diffusivity = _climbs(model, x, cells.width)
    scale = diffusivity / cells.width**2
    down = _bernoulli(climb.abs())
    up = down + climb.abs()
    return scale * torch.where(climb > 0, down, up), scale * torch.where(climb > 0, up, down)


def _climbs(model: StateSpaceModel, x: Points, width: float) -> tuple[Tensor, Tensor]:
    """How much -log of the speed density climbs from each point (n, 1) to the next, and the diffusivity between."""
    sde = model.sde
    if not isinstance(sde, LineDiffusion):
        beta = torch.as_tensor(sde.beta, dtype=x.dtype, device=x.device)
        return beta * sde.potential(x).diff(), 1.0 / beta
    inside, faces = sde.inside(x), sde.inside(x[:-1] + 0.5 * width)
    squared, between = sde.noise(inside)[:, 0].square(), sde.noise(faces)[:, 0].square()
    pull, middle = 2.0 * sde.drift(inside)[:, 0] / squared, 2.0 * sde.drift(faces)[:, 0] / between
    drifted = width * (pull[:-1] + 4.0 * middle + pull[1:]) / 6.0
    return squared.log().diff() - drifted, 0.5 * between


def _bernoulli(z: Tensor) -> Tensor:
    """z / (exp(z) - 1) for z >= 0, differentiable also at zero."""
    small = z < 1e-2
    series = 1.0 - z / 2.0 + z.square() / 12.0 - z.pow(4) / 720.0
    away = torch.where(small, 1.0, z)
    # exp(-z) / (1 - exp(-z)) does not overflow.
    return torch.where(small, series, away * torch.exp(-away) / -torch.expm1(-away))


@dataclass(frozen=True, eq=False)
class _Home:
    """Where cells of a model should end, and how deep the speed density is there.

    Attributes:
        low: lower end.
        high: upper end.
        at: places looked at, increasing, (n,).
        depth: nats below the peak of the speed density there, (n,).
    """

    low: float
    high: float
    at: Array
    depth: Array

    def fits(self, cells: Cells) -> bool:
        """Whether cells of another model do for this one: as deep at both ends, give or take some nats."""
        wanted, found = (
            np.interp(ends, self.at, self.depth) for ends in ((self.low, self.high), (cells.low, cells.high))
        )
        same = np.array([cells.low == self.low, cells.high == self.high])
        seen = np.array([self.at[0] <= cells.low, cells.high <= self.at[-1]])
        return bool((same | (seen & (found < wanted + _DEEPER) & (found > wanted - _SHALLOWER))).all())


def _home(model: StateSpaceModel) -> _Home:
    """Where the cells of a model lie: its diffusion's home, and the prior.

    Raises:
        FilterError: the prior reaches far beyond.
    """
    ((centre, scale),) = location(model)
    walls = (-math.inf, math.inf) if model.sde.domain is None else model.sde.domain.sides[0]
    reach = _REACH * scale
    for _ in range(6):
        low, high = max(centre - reach, walls[0]), min(centre + reach, walls[1])
        x = torch.linspace(low, high, _LOOKED_AT, dtype=torch.float64, device=model.device)[1:-1].unsqueeze(-1)
        with torch.no_grad():
            climb, _ = _climbs(model, x, float(x[1, 0] - x[0, 0]))
        log_speed = np.append(0.0, -np.cumsum(as_array(climb)))
        depth = np.nanmax(log_speed) - np.where(np.isfinite(log_speed), log_speed, -np.inf)
        at = as_array(x)[:, 0]
        ends_low, ends_high = depth[0] > DEPTH or low == walls[0], depth[-1] > DEPTH or high == walls[1]
        if ends_low and ends_high:
            break
        reach *= 4.0
    with torch.no_grad():
        log_prior = as_array(_log_prior(model, x))
    # A law is carried as p / sqrt(pi), whose largest entry says how many digits are left.
    safe = (log_prior + 0.5 * depth < DIGITS) & (depth <= DEEPEST)
    home = at[depth <= DEPTH]
    wanted = centre - _PRIOR_WIDTHS * scale, centre + _PRIOR_WIDTHS * scale
    wide = at[safe] if safe.any() else home
    ends = min(home[0], max(wanted[0], wide[0])), max(home[-1], min(wanted[1], wide[-1]))
    step = at[1] - at[0]
    box = walls[0] if ends[0] - step <= walls[0] else ends[0], walls[1] if ends[1] + step >= walls[1] else ends[1]
    mass = np.exp(log_prior)
    outside = float(mass[(at < box[0]) | (at > box[1])].sum() / mass.sum())
    if outside > _OUTSIDE:
        raise FilterError(
            f"a share of {outside:.2g} of the prior lies so far out that the eigenbasis of the diffusion has no digits "
            "there; give a prior nearer to the stationary law."
        )
    return _Home(float(box[0]), float(box[1]), at, np.minimum(depth, _BOTTOM))


def _log_prior(model: StateSpaceModel, x: Points) -> Tensor:
    """Log density of the prior at points (n, 1), (n,), differentiable; minus infinity outside its support."""
    support = prior_support(model.prior)
    if support is None or not len(x):
        return model.prior.log_prob(x) if len(x) else x.new_zeros(0)
    inside = support.check(x).reshape(len(x), -1).all(-1)
    value = x.new_full((len(x),), -math.inf)
    return value.index_put((inside,), model.prior.log_prob(x[inside]).to(x)) if inside.any() else value


def _like(model: StateSpaceModel) -> Tensor:
    return torch.zeros((), dtype=torch.float64, device=model.device)
