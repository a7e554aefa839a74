"""The JKO filter on the line: monotone maps carry nodes and masses, and Bayes multiplies masses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Generator, Tensor
from torch.distributions import Distribution

from jkofilter._typing import Array
from jkofilter.beliefs.info import StepInfo
from jkofilter.beliefs.quantile import QuantileBelief
from jkofilter.beliefs.timing import at_time
from jkofilter.errors import FilterError, InputError
from jkofilter.filters.checks import checked_log_likelihood, log_likelihood_without_nan, occasion
from jkofilter.filters.contract import joined
from jkofilter.filters.on_grid import in_support, location, log_prior
from jkofilter.filters.surprise import surprise
from jkofilter.models.line import reversible_line
from jkofilter.models.sde import require_finite_potential
from jkofilter.models.state_space import StateSpaceModel, prior_support
from jkofilter.numerics.arrays import as_array
from jkofilter.numerics.backward_cells import BackwardCells
from jkofilter.smoothing.backward import BackwardFunction, OnLine, last_reading, no_reading, told
from jkofilter.smoothing.contract import Smoothed
from jkofilter.smoothing.line_paths import paths_of
from jkofilter.transport.line.density import MAX_MASS_DEFECT, QuantileDensity, adapted, beyond, normalised
from jkofilter.transport.line.landscape import Landscape
from jkofilter.transport.line.on_cells import carried_on_cells
from jkofilter.transport.line.quantile_flow import MOST_WORK, FlowSettings, FlowStats, flow
from jkofilter.transport.line.witness import Testimony, examined, solves

PRIOR_REACH = 40.0
PRIOR_CORE = 15.0
_PATIENCE = 10.0
_SPREAD = PRIOR_REACH * np.sinh(np.linspace(-6, 6, 1601)) / math.sinh(6)
"""Where a law is looked for, in units of its scale."""
_KNOWN = 40.0
"""Nats below its maximum to which a law that has been moved is relied on."""
_CELLS = 2000
_LEANS = 0.1
"""Share of the mass between the peak of a posterior and an edge on which it leans."""


@dataclass(frozen=True)
class LineCarrier:
    """Carries a law as nodes with log densities, d = 1.

    Attributes:
        model: what is tracked.
        settings: how the flow is stepped, and on how many nodes.
    """

    model: StateSpaceModel
    settings: FlowSettings

    @property
    def kind(self) -> type[QuantileBelief]:
        """Of the beliefs."""
        return QuantileBelief

    def init(self, generator: Generator) -> QuantileBelief:
        """The prior on adapted nodes; nothing is drawn.

        Raises:
            InputError: the prior's log density is NaN, zero all around its mean, or not for these nodes to carry; or
                the potential is not finite where it has mass.
        """
        nodes, prior = self.settings.nodes, self.model.prior
        if prior_support(prior) is None:
            raise InputError("prior must have a support; set that property of the distribution.")
        _require_finite_moments(prior)
        ((centre, scale),) = location(self.model)
        start = centre + scale * _SPREAD

        def log_density(x: Array) -> Array:
            return log_prior(self.model, x[:, None])

        try:
            density, log_total = normalised(adapted(log_density, start, nodes, 3))
        except FloatingPointError as error:
            raise InputError(f"prior cannot be carried by nodes around its mean, since {error}.") from error
        if not abs(log_total) < MAX_MASS_DEFECT:
            raise InputError(
                f"prior comes out with log mass {log_total:.3g}, not 0, on {nodes} nodes; give more nodes, or a "
                "normalised prior without such sharp edges, singularities or long tails."
            )
        core = density.x[density.log_density > density.log_density.max() - PRIOR_CORE]
        require_finite_potential(self.model.sde, self._points(core))
        return self._belief(density, 0.0, 0.0)

    def predict(self, now: QuantileBelief, duration: float, generator: Generator) -> tuple[QuantileBelief, StepInfo]:
        """The law ``duration`` later, by JKO steps, and compared with a second solution.

        Raises:
            FilterError: no step, however short, converges, or not in bounded work; the potential is not finite, jumps,
                or does not keep the law; or the second solution is another.
        """
        before, landscape, instead = _density(now), self._landscape, ""
        try:
            density, stats = flow(before, duration, landscape, self.settings)
        except FilterError as error:
            found = carried_on_cells(before, duration, landscape, self.settings.step, self.settings.nodes)
            if found is None:
                density, stats = self._patiently(before, duration, landscape)
            else:
                density, stats = found, FlowStats(found.x.size)
                instead = f"{error}: the law was carried on cells instead, as by GridFilter"
        second = examined(before.law, density.law, duration, landscape)
        note = joined(instead, _doubt(density, second))
        if second.contradicts and self.settings.tolerance is not None:
            raise FilterError(f"{note}; use GridFilter(model, cells=16000).")
        details = _details(stats) | {"second_solution": second.distance}
        return self._belief(density, now.time + duration, now.log_evidence), StepInfo(details=details, note=note)

    def _patiently(
        self, before: QuantileDensity, duration: float, landscape: Landscape
    ) -> tuple[QuantileDensity, FlowStats]:
        """By JKO steps where there is no other way."""
        try:
            return flow(before, duration, landscape, self.settings, _PATIENCE * MOST_WORK)
        except FilterError as error:
            raise FilterError(f"{error}; {_cure(before, duration, landscape)}.") from error

    def update(self, now: QuantileBelief, reading: Tensor, generator: Generator) -> tuple[QuantileBelief, StepInfo]:
        """The law given a reading, on nodes adapted to it.

        Raises:
            FilterError: the likelihood is NaN, zero everywhere, or too sharp.
        """
        before = _density(now)

        def log_posterior(x: Array) -> Array:
            value = log_likelihood_without_nan(self.model, reading, self._points(x), now.time)
            return in_support(self.model, now.time, x[:, None], before.law(x)) + as_array(value)

        # Asked once of the whole belief: adapting asks for a few points at a time, all of which may be zero.
        checked_log_likelihood(self.model, reading, self._points(before.x), now.time)
        density, increment = _bayes(log_posterior, before.x, self.settings.nodes, occasion(reading, now.time))
        weights = np.exp(before.log_mass)
        info = StepInfo(
            log_evidence=increment,
            note=joined(beyond(before, density), self._pressed(now.time, density)),
            surprise=surprise(self.model, reading, self._points(before.x), weights),
        )
        return self._belief(density, now.time, now.log_evidence + increment), info

    # --- smoothing ----------------------------------------------------------------------------------------------------

    def smoothed(self, laws: Sequence[QuantileBelief], readings: Sequence[Tensor | None]) -> Smoothed:
        """The laws of a record given all its readings: the flow itself, run over the reversed readings from pi.

        Raises:
            FilterError: a step of the backward pass fails, or pi times what the last reading says has no finite mass.
        """
        forward, last = laws[-1].log_evidence, last_reading(readings)
        found: list[tuple[QuantileBelief, StepInfo]] = [(law, StepInfo()) for law in reversed(laws)]
        if last is None:
            return Smoothed(tuple(laws), (StepInfo(),) * len(laws))
        h: OnLine = no_reading
        found, backward = found[: len(laws) - last], forward
        r = self._first(laws[last], readings[last])
        for k in range(last - 1, -1, -1):
            gap, after = laws[k + 1].time - laws[k].time, self._weighed_by(h, readings[k + 1], laws[k + 1].time)
            r = at_time(self.predict(r, gap, Generator())[0], laws[k].time)
            h = self._backward_function(r)
            density, increment = self._given_later(laws[k], h)
            if h.missed(density.x, np.exp(density.log_mass)):
                h = self._from_cells(laws[k], r, after, gap)
                density, increment = self._given_later(laws[k], h)
            backward = laws[k].log_evidence + increment
            found.append((self._belief(density, laws[k].time, forward), told(backward, forward)))
            y = readings[k]
            if k > 0 and y is not None:
                r = self.update(r, y, Generator())[0]
        smoothed, infos = zip(*reversed(found), strict=True)
        return Smoothed(smoothed, infos, backward)

    def paths(self, laws: Sequence[QuantileBelief], n: int, generator: Generator) -> Array:
        """``n`` paths given all readings at the times of the laws, (n, k)."""
        return paths_of(
            self.model, laws, [_density(law).law for law in laws], [_ends(law) for law in laws], n, generator
        )

    def _first(self, law: QuantileBelief, y: Tensor | None) -> QuantileBelief:
        """pi times the likelihood of the last reading, at its time."""
        assert y is not None, "the last reading was looked for"
        given, log_pi = self._log_likelihood(y, law.time), self._log_pi
        start = law.mean.item() + law.covariance.sqrt().item() * _SPREAD
        where = f"of the stationary density and the last reading, at time {law.time:g}"
        density, total = _bayes(lambda x: log_pi(x) + given(x), start, self.settings.nodes, where)
        return self._belief(density, law.time, total)

    def _log_likelihood(self, y: Tensor, time: float) -> OnLine:
        return lambda x: as_array(log_likelihood_without_nan(self.model, y, self._points(x), time))

    def _weighed_by(self, h: OnLine, y: Tensor | None, time: float) -> OnLine:
        if y is None:
            return h
        given = self._log_likelihood(y, time)
        return lambda x: h(x) + given(x)

    @cached_property
    def _log_pi(self) -> OnLine:
        beta, ((centre, _),) = float(self.model.sde.beta), location(self.model)
        level = float(self._energy(np.array([centre]))[0])
        return lambda x: -beta * (self._energy(x) - level)

    def _backward_function(self, r: QuantileBelief) -> BackwardFunction:
        density = _density(r)
        known = density.x[density.log_density > density.log_density.max() - _KNOWN]
        return BackwardFunction(density.law, self._log_pi, known, r.log_evidence)

    def _from_cells(self, law: QuantileBelief, r: QuantileBelief, after: OnLine, gap: float) -> OnLine:
        """log h by the backward equation on cells, where the law reaches to where pi is too deep for r."""
        ends = np.array([_ends(law), _ends(r)])
        edges = np.linspace(ends.min(), ends.max(), _CELLS + 1)
        cells = BackwardCells(reversible_line(self.model.sde, self.model.device, _CELLS), edges)
        return CubicSpline(cells.centres, cells.earlier(after(cells.centres), gap), bc_type="natural")

    def _given_later(self, law: QuantileBelief, h: OnLine) -> tuple[QuantileDensity, float]:
        before = _density(law)

        def log_smoothed(x: Array) -> Array:
            return in_support(self.model, law.time, x[:, None], before.law(x)) + h(x)

        return _bayes(log_smoothed, before.x, self.settings.nodes, f"given all readings, at time {law.time:g}")

    def _pressed(self, time: float, density: QuantileDensity) -> str:
        """What to note of a posterior that leans on the edge of its prior's support, which nodes round off."""
        if time > 0.0:
            return ""
        x, mass = density.x, np.cumsum(np.exp(density.log_mass))
        ends = np.concatenate([[2 * x[0] - x[1]], x, [2 * x[-1] - x[-2]]])
        if np.isfinite(log_prior(self.model, ends[:, None])).all():
            return ""
        below = mass[int(density.log_density.argmax())] / mass[-1]
        leans = min(below, 1 - below) < _LEANS
        return "the posterior leans on an edge of the prior, which nodes round off; use GridFilter" if leans else ""

    def _points(self, x: Array) -> Tensor:
        return torch.from_numpy(x).to(device=self.model.device, dtype=self.model.dtype).unsqueeze(-1)

    @property
    def _landscape(self) -> Landscape:
        return Landscape(self._energy, self._slopes, float(self.model.sde.beta))

    def _energy(self, x: Array) -> Array:
        with torch.no_grad():
            return as_array(self.model.sde.potential(self._points(x)))

    def _slopes(self, x: Array) -> tuple[Array, Array]:
        points, potential = self._points(x), self.model.sde.potential
        return as_array(potential.gradient(points))[:, 0], as_array(potential.hessian(points))[:, 0, 0]

    def _belief(self, density: QuantileDensity, time: float, log_evidence: float) -> QuantileBelief:
        nodes, log_density = self._points(density.x)[:, 0], self._points(density.log_density)[:, 0]
        return QuantileBelief(time, nodes, log_density, log_evidence)


def _require_finite_moments(prior: Distribution) -> None:
    """Raise InputError where the prior knows that it has none: nodes cannot carry such tails."""
    try:
        known = torch.cat([prior.mean, prior.variance])
    except NotImplementedError:
        return
    if not torch.isfinite(known).all():
        raise InputError("prior must have a finite mean and variance for the quantile transport; cut off its tails.")


def _ends(belief: QuantileBelief) -> tuple[float, float]:
    """Where a law is down by as many nats as it is known."""
    density = _density(belief)
    held = density.x[density.log_density > density.log_density.max() - _KNOWN]
    return float(held[0]), float(held[-1])


def _density(belief: QuantileBelief) -> QuantileDensity:
    return QuantileDensity(as_array(belief.nodes), as_array(belief.log_density))


def _doubt(density: QuantileDensity, second: Testimony) -> str:
    """What a second solution has to say against a law; empty where it agrees."""
    if second.agrees:
        return ""
    if not second.settled:
        return "the law could not be compared with a second solution, which did not settle"
    return (
        f"mean {density.law.mean:.4g} and sd {math.sqrt(density.law.variance):.4g} come out, but by a second solution, "
        f"on cells, {second.mean:.4g} and {second.deviation:.4g}"
    )


def _cure(before: QuantileDensity, duration: float, landscape: Landscape) -> str:
    """What to do about a prediction that failed, tried."""
    if solves(before.law, duration, landscape):
        return "GridFilter(model) can carry it"
    return "say where the state space ends: GridFilter(model, bounds=(low, high)), or Potential(..., domain=) with it"


def _bayes(log_posterior: Callable[[Array], Array], x: Array, nodes: int, where: str) -> tuple[QuantileDensity, float]:
    """The normalised posterior and the log evidence.

    Raises:
        FilterError: the posterior is too narrow.
    """
    try:
        density, increment = normalised(adapted(log_posterior, x, nodes, 2, likely=x.size // 2))
    except FloatingPointError as error:
        raise FilterError(f"the posterior is narrower than nodes in double precision can resolve {where}.") from error
    if not math.isfinite(increment):
        raise FilterError(f"the posterior has no finite mass {where}; check log_likelihood.")
    return density, increment


def _details(stats: FlowStats) -> dict[str, float]:
    return {
        "nodes": stats.nodes,
        "steps": stats.steps,
        "halvings": stats.halvings,
        "newton_iterations": stats.newton_iterations,
        "remeshes": stats.remeshes,
        "shortest_step": stats.shortest_step,
    }
