"""The spectral filter: every gap exactly, in the eigenbasis of a diffusion of the line; the tool for d = 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Generator, Tensor

from jkofilter._typing import Array
from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.info import StepInfo
from jkofilter.beliefs.nodal import NodalBelief
from jkofilter.errors import FilterError, InputError
from jkofilter.filters.base import Runnable
from jkofilter.filters.checks import (
    checked_belief,
    checked_log_likelihood,
    occasion,
    predicting,
    require_model,
    updating,
)
from jkofilter.filters.contract import Stretch, stepped
from jkofilter.filters.on_grid import in_support, location, log_prior, prior_on_grid
from jkofilter.filters.spectral_sweep import Swept, sweep
from jkofilter.filters.surprise import surprise
from jkofilter.models.checks import as_number, require_count
from jkofilter.models.line import reversible_line
from jkofilter.models.state_space import StateSpaceModel
from jkofilter.numerics.arrays import as_array
from jkofilter.numerics.eigenbasis import Eigenbasis
from jkofilter.numerics.grid_following import Reach
from jkofilter.numerics.nodal_fit import Law, fitted
from jkofilter.numerics.reversible_line import ReversibleLine
from jkofilter.numerics.spectral_steps import ROUNDING, SpectralSteps
from jkofilter.smoothing.contract import PathDraws, Record, Smoothed, positions
from jkofilter.smoothing.line_paths import LinePaths
from jkofilter.smoothing.nodal import NodalSmoother

_PRIOR_CELLS = 400
_PRIOR_REACH = Reach(90.0, 70.0, 45.0, 8, 20.0, 20.0, 50.0)
_FEWEST_NODES = 130
_DEPTHS = (30.0, 60.0)
"""Nats below the maximum of the speed density to which boxes go: one for most laws, one for those wider than it."""
_FELT = 7.0
"""Nats below the evidence from which on what may be hidden does not change it."""
_ALMOST = 0.1
"""Roughness of a posterior that the next finer basis may resolve: every halving takes three digits."""
_TOGETHER, _WORTH = 256, 8
"""Steps that are tried together, at most and at least."""
_DEEP = 25.0
"""Nats below the peak of a posterior above which every node must know the law that was predicted."""


_HIDDEN = (
    "the reading lies beyond what the belief resolves: more of the posterior may lie where rounding hides the law that "
    "was predicted, so that its shape and the evidence are rough"
)


@dataclass(frozen=True)
class SpectralFilter(Runnable):
    """Filter of a diffusion on the line that moves laws exactly over gaps of any length; no time step, no particles.

    A diffusion of the line is reversible, so that its generator is symmetric after scaling and one eigenproblem gives
    all of its transition laws (``numerics/eigenbasis.py``). It is solved on polynomial elements, which resolve smooth
    laws to the tolerance with some two hundred nodes; how many, and where, is found from the speed density and the laws
    met, also near walls, singular or not. A law that no eigenbasis holds (much wider than the stationary one, or
    narrower than any element) begins with implicit steps on cells that follow it, as GridFilter's do.

    Attributes:
        model: what is tracked, d = 1: a LangevinSDE or a LineDiffusion.
        bounds: (low, high) in units of the state, closed at both ends; None finds out how far laws reach.
        tolerance: of the log evidence of a reading, nats; the density is as good.
        nodes: not to be exceeded; the cost of the eigenproblem grows with their third power, that of a step with their
            second.

    Raises:
        InputError: a setting cannot be used.
    """

    model: StateSpaceModel
    bounds: tuple[float, float] | None = None
    tolerance: float = 1e-6
    nodes: int = 600

    def __post_init__(self) -> None:
        require_model(self.model, any_noise=True)
        if self.model.dim != 1:
            raise InputError(
                f"SpectralFilter handles dim 1, but model has dim {self.model.dim}; use GridFilter for dim 2, else "
                "ParticleFilter or JKOFilter."
            )
        if not 1e-10 <= as_number(self.tolerance, "tolerance") <= 1e-2:
            raise InputError(f"tolerance must lie between 1e-10 and 1e-2, got {self.tolerance!r}.")
        require_count("nodes", self.nodes, _FEWEST_NODES)
        if self.bounds is not None:
            object.__setattr__(self, "bounds", self._checked_bounds())

    def init(self, generator: Generator) -> NodalBelief:
        """The prior at nodes that resolve it.

        Raises:
            InputError: the prior's log density is NaN, or zero throughout the bounds or all around its mean.
        """

        return self._belief(self._prior, 0.0, 0.0)

    def predict(self, belief: Belief, duration: float, generator: Generator) -> tuple[NodalBelief, StepInfo]:
        """The law ``duration`` later.

        Raises:
            InputError: another filter's belief, a bad duration, or a potential that is not finite where the law has
                arrived.
        """
        return predicting(belief, NodalBelief, duration, self._later)

    def sweep(self, belief: Belief, times: Array, values: Tensor, generator: Generator) -> Iterator[Stretch]:
        """All steps of a series, many at a time: what ``predict`` and ``update`` give, but for rounding.

        Args:
            belief: the law before the first of them.
            times: of the readings, not before the belief's, (m,).
            values: readings (m, p), NaN where missing.
            generator: not used.
        """
        done, together = 0, _TOGETHER
        while done < len(times):
            after, one = stepped(self, belief, float(times[done]), values[done], generator)
            yield one
            done, belief = done + 1, checked_belief(after, NodalBelief)
            law = Law(belief.elements, belief.weights)
            basis = self._steps.basis_of(law)
            ahead = times[done : done + together]
            gaps = np.diff(ahead, prepend=belief.time)
            if basis is None or len(ahead) < _WORTH or not (gaps > 0.0).all():
                continue
            there = values[done : done + together]
            swept = sweep(self.model, self._steps, basis, law.masses, gaps, there, _DEEP)
            count = len(swept.means)
            # Where few go well, few are tried.
            together = min(_TOGETHER, max(2 * count, 2 * _WORTH))
            if count == 0:
                continue
            beliefs = self._swept_beliefs(belief, ahead, swept)
            like = belief.masses
            yield Stretch(
                torch.from_numpy(swept.means).to(like).unsqueeze(-1),
                torch.from_numpy(swept.variances).to(like).reshape(-1, 1, 1),
                [one.log_evidence for one in beliefs],
                swept.predicted,
                swept.updated,
                beliefs,
            )
            belief, done = beliefs[-1], done + count

    def _later(self, now: NodalBelief, duration: float) -> tuple[NodalBelief, StepInfo]:
        law, tally = self._steps.later(Law(now.elements, now.weights), duration)
        details = {"exact_steps": tally.exact, "implicit_steps": tally.implicit, "nodes": tally.nodes}
        return self._belief(law, now.time + duration, now.log_evidence), StepInfo(details=details)

    def update(self, belief: Belief, y: Tensor, generator: Generator) -> tuple[NodalBelief, StepInfo]:
        """The law given a reading; on elements of its own where those it comes with do not resolve it.

        Raises:
            FilterError: the likelihood is NaN, or zero wherever the law has mass.
        """
        return updating(belief, NodalBelief, y, self.model, self._given)

    def _given(self, now: NodalBelief, reading: Tensor) -> tuple[NodalBelief, StepInfo]:
        log_likelihood = self._log_likelihood(reading, now.time)
        law, increment, hidden = self._on_its_elements(now, log_likelihood)
        note = ""
        if law is None:
            low, high = float(now.elements.edges[0]), float(now.elements.edges[-1])
            law, increment = fitted(
                lambda x: in_support(self.model, now.time, x[:, None], now.law.log_density(x)) + log_likelihood(x),
                low,
                high,
                self._walls,
                self.nodes,
            )
            if not math.isfinite(increment):
                raise FilterError(
                    f"the likelihood is zero wherever the belief has mass {occasion(reading, now.time)}; "
                    "check the reading, or leave bounds out."
                )
            note = self._unsure(now, law, hidden > increment - _FELT)
        after = self._belief(law, now.time, now.log_evidence + increment)
        return after, StepInfo(
            log_evidence=increment,
            details={"nodes": law.elements.size},
            note=note,
            surprise=surprise(self.model, reading, self._points(self._line.inside(now.elements.nodes)), now.weights),
        )

    def smoothed(self, record: Record, generator: Generator) -> Smoothed:
        """The laws of a record given all its readings: forth and back in one eigenbasis wherever that holds both.

        Raises:
            InputError: another filter's beliefs; or the speed density has no finite mass, and the last reading does
                not bound the state.
            FilterError: a step of the backward pass failed.
        """
        laws = [checked_belief(law, NodalBelief) for law in record.laws]
        return self._smoother.smoothed(record, laws, generator)

    def paths(self, record: Record, n: int, times: list[float], generator: Generator) -> PathDraws:
        """``n`` independent paths given all readings, by exact transition densities.

        Raises:
            InputError: another filter's beliefs.
        """
        laws = record.laws_with(times, lambda law, duration: self.predict(law, duration, generator)[0])
        states = LinePaths(self._steps).drawn([checked_belief(law, NodalBelief) for law in laws], n, generator)
        chosen = torch.from_numpy(states[:, positions(laws, times)]).to(self.model.device, self.model.dtype)
        return PathDraws(chosen.unsqueeze(-1))

    def _log_likelihood(self, reading: Tensor, time: float) -> Callable[[Array], Array]:
        def log_likelihood(x: Array) -> Array:
            points = self._points(self._line.inside(x))
            with torch.no_grad():
                return as_array(checked_log_likelihood(self.model, reading, points, time))

        return log_likelihood

    def _on_its_elements(
        self, now: NodalBelief, log_likelihood: Callable[[Array], Array]
    ) -> tuple[Law | None, float, float]:
        """The posterior on the elements of the law, or of a finer basis, its evidence, and what may be hidden from it.

        No posterior where all these are too rough, or the law is not known where it counts.
        """
        law, basis = Law(now.elements, now.weights), self._steps.basis_of(Law(now.elements, now.weights))
        value = log_likelihood(now.elements.nodes)
        joint = now.law.values + value
        hidden = self._hidden(now, basis, value)
        if not math.isfinite(float(joint.max())) or not self._known(now, joint, hidden):
            return None, -math.inf, hidden
        while True:
            top = float(value[law.masses > 0.0].max())
            masses = law.masses * np.exp(value - top)
            total = float(masses.sum())
            elements = law.elements
            rough = elements.roughness(masses / elements.weights)
            if basis is not None:
                rough = basis.roughness_of_density(masses)
            if rough <= self._steps.resolved:
                return Law(elements, masses / total), top + math.log(total), hidden
            basis = self._line.finer(basis) if basis is not None and rough < _ALMOST else None
            if basis is None:
                return None, -math.inf, hidden
            law = Law(basis.elements, np.maximum(self._steps.on(basis, law), 0.0))
            value = log_likelihood(law.elements.nodes)

    def _known(self, now: NodalBelief, joint: Array, hidden: float) -> bool:
        """Whether the law is known wherever it and a reading together have mass, from its log density with that."""
        floor = float(joint.max()) - _DEEP
        low, high = self._walls
        edges = now.elements.edges
        inside = (edges[0] <= low or joint[0] < floor) and (edges[-1] >= high or joint[-1] < floor)
        return bool(inside and hidden < floor and (joint[now.weights <= 0.0] < floor).all())

    def _hidden(self, now: NodalBelief, basis: Eigenbasis | None, value: Array) -> float:
        """What rounding may hide at nodes whose mass is not known, at most: log density with that of a reading."""
        unknown = now.weights <= 0.0
        if basis is None or not unknown.any():
            return -math.inf
        bound = ROUNDING * max(basis.size_of(now.weights), 1.0) * basis.roots / basis.elements.weights
        return float((np.log(bound) + value)[unknown].max())

    def _unsure(self, before: NodalBelief, law: Law, hidden: bool) -> str:
        """What to note where a posterior sits where the law predicted is continued, not known; empty elsewhere.

        Or where more of it may be ``hidden``.
        """
        peak = law.elements.nodes[int((law.masses / law.elements.weights).argmax())]
        known = before.elements.nodes[before.weights > 0.0]
        element, _ = before.elements.locate(np.array([peak]))
        around = before.weights[before.elements.by_element[element[0]]]
        if known[0] <= peak <= known[-1] and (around > 0.0).any():
            return _HIDDEN if hidden else ""
        depth = float(before.law.values.max() - before.law.log_density(np.array([peak]))[0])
        return (
            f"the reading lies beyond what the belief resolves: the posterior sits {depth:.3g} nats below the peak of "
            "the predicted law, so that its shape and the evidence are rough"
        )

    @cached_property
    def _prior(self) -> Law:
        def log_density(x: Array) -> Array:
            return log_prior(self.model, self._line.inside(x)[:, None])

        if self.bounds is not None:
            low, high = self.bounds
            cure = "bounds hold no mass of the prior; choose bounds around it."
        else:
            grid, _ = prior_on_grid(self.model, (_PRIOR_CELLS,), _PRIOR_REACH)
            low, high = grid.axes[0].low, grid.axes[0].high
            cure = "prior has zero density all around its mean; give one that can be evaluated."
        law, total = fitted(log_density, low, high, self._walls, self.nodes)
        if not math.isfinite(total):
            raise InputError(cure)
        return law

    @cached_property
    def _line(self) -> ReversibleLine:
        return reversible_line(self.model.sde, self.model.device, self.nodes)

    @cached_property
    def _walls(self) -> tuple[float, float]:
        return (self._line.low, self._line.high) if self.bounds is None else self.bounds

    @cached_property
    def _steps(self) -> SpectralSteps:
        ((centre, scale),) = location(self.model)
        line, closed = self._line, self.bounds is not None
        homes = tuple(line.confined(centre, scale, depth) for depth in _DEPTHS)
        boxes = homes if self.bounds is None else (self.bounds,)
        return SpectralSteps(line, boxes, closed, self.tolerance)

    @cached_property
    def _smoother(self) -> NodalSmoother:
        return NodalSmoother(self, self._steps, self._log_likelihood, self.nodes)

    def _belief(self, law: Law, time: float, log_evidence: float) -> NodalBelief:
        model = self.model
        # In double precision, whatever the model's: single would not tell narrow elements apart.
        edges, masses = (torch.from_numpy(values).to(model.device) for values in (law.elements.edges, law.masses))
        return NodalBelief(time, edges, masses, log_evidence, self.bounds is not None, model.sde.domain)

    def _swept_beliefs(self, before: NodalBelief, times: Array, swept: Swept) -> list[NodalBelief]:
        evidence = np.add.accumulate([before.log_evidence, *swept.increments])[1:].tolist()
        masses = torch.from_numpy(swept.masses).to(before.masses)
        closed, walls = before.closed, before.walls
        return [
            NodalBelief(time, before.edges, row, log_evidence, closed, walls)
            for time, row, log_evidence in zip(times.tolist(), masses, evidence, strict=False)
        ]

    def _points(self, x: Array) -> Tensor:
        return torch.as_tensor(x, dtype=torch.float64, device=self.model.device).unsqueeze(-1)

    def _checked_bounds(self) -> tuple[float, float]:
        """``bounds`` as two numbers within the domain."""
        try:
            low, high = (float(end) for end in self.bounds)  # type: ignore[union-attr]
        except (TypeError, ValueError) as error:
            raise InputError(f"bounds must be two numbers (low, high) or None, got {self.bounds!r}.") from error
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(f"bounds must be finite with low < high, got {self.bounds!r}.")
        domain = self.model.sde.domain
        if domain is not None and not (domain.sides[0][0] <= low and high <= domain.sides[0][1]):
            raise InputError(
                f"bounds ({low:g}, {high:g}) reach beyond the domain {domain} of the model; leave them out, and laws "
                "end at its walls."
            )
        return low, high
