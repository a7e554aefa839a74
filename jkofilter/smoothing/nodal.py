"""Smoothing of a diffusion of the line by its spectral filter: laws and paths, in the eigenbasis wherever that holds.

On one basis, with masses M of pi at its nodes, mu of the filter's law and r of the backward pass, the law given all
readings is mu r / M: both passes are products with the same symmetric matrices, and agree in the evidence to rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Generator, Tensor

from jkofilter._typing import Array
from jkofilter.beliefs.info import StepInfo
from jkofilter.beliefs.nodal import NodalBelief
from jkofilter.errors import FilterError, InputError
from jkofilter.filters.checks import checked_belief
from jkofilter.filters.contract import Filter, Sweeping
from jkofilter.numerics.arrays import as_array
from jkofilter.numerics.backward_cells import BackwardCells, cells_over
from jkofilter.numerics.eigenbasis import Eigenbasis
from jkofilter.numerics.nodal_fit import Law, fitted
from jkofilter.numerics.reversible_line import ReversibleLine
from jkofilter.numerics.spectral_steps import ROUNDING, SpectralSteps
from jkofilter.smoothing.backward import BackwardFunction, OnLine, last_reading, no_reading, told
from jkofilter.smoothing.contract import Record, Smoothed

_OFTEN = 8
_FELT = 1e-10
_CELLS = 1200


class NodalFilter(Filter, Sweeping, Protocol):
    """A filter of nodal beliefs."""


@dataclass(frozen=True, eq=False)
class LogSpeed:
    """The logarithm of pi with one constant, which the line itself leaves open from call to call.

    Attributes:
        line: the diffusion.
        anchor: a point where pi is large.
        level: log pi there.
    """

    line: ReversibleLine
    anchor: float
    level: float = 0.0

    def __call__(self, x: Array) -> Array:
        """log pi at any points, (n,)."""
        at = np.unique(np.append(x, self.anchor))
        value = self.line.log_speed(self.line.inside(at))
        return np.asarray(value[np.searchsorted(at, x)] - value[np.searchsorted(at, self.anchor)] + self.level)


@dataclass(frozen=True, eq=False)
class NodalSmoother:
    """Goes back over what a filter of nodal beliefs has passed.

    Attributes:
        filter: the filter.
        steps: how it moves laws.
        log_likelihood: of a reading at points (n,), the time given.
        most: elements of a law of its own.
    """

    filter: NodalFilter
    steps: SpectralSteps
    log_likelihood: Callable[[Tensor, float], OnLine]
    most: int

    def smoothed(self, record: Record, laws: Sequence[NodalBelief], generator: Generator) -> Smoothed:
        """The laws of a record given all its readings.

        Raises:
            InputError: pi has no finite mass, and the last reading does not bound the state.
            FilterError: a step of the backward pass failed.
        """
        forward = laws[-1].log_evidence
        last = last_reading(record.readings)
        if last is None:
            return Smoothed(tuple(laws), (StepInfo(),) * len(laws))
        start, log_pi, whole = self._start(laws[last], record.readings[last])
        back = self._back(start, whole, record, last, generator)
        found: list[tuple[NodalBelief, StepInfo]] = [(law, StepInfo()) for law in reversed(laws[last + 1 :])]
        after: OnLine = no_reading
        backward = forward
        times = record.times
        for k in range(last, -1, -1):
            one, backward, h = self._joined(laws[k], back[k], log_pi, after, times[k : k + 2])
            found.append((replace(one, log_evidence=forward), told(backward, forward)))
            after = self._weighed_by(h, record.readings[k], times[k])
        smoothed, infos = zip(*reversed(found), strict=True)
        return Smoothed(smoothed, infos, backward)

    def _weighed_by(self, h: OnLine, y: Tensor | None, time: float) -> OnLine:
        """log h before a reading, from that after it."""
        if y is None:
            return h
        given = self.log_likelihood(y, time)
        return lambda x: h(x) + given(x)

    # --- the pass back ------------------------------------------------------------------------------------------------

    def _start(self, law: NodalBelief, y: Tensor | None) -> tuple[NodalBelief, LogSpeed, bool]:
        """What the pass begins with, log pi, and whether that is pi itself, before the last reading: else after it."""
        assert y is not None, "the last reading was looked for"
        line, basis = self.steps.line, self._home(law)
        if basis is not None:
            top = int(np.argmax(basis.masses / basis.elements.weights))
            level = float(np.log(basis.masses[top] / basis.elements.weights[top]))
            pi = self._belief(law, Law(basis.elements, basis.masses / basis.masses.sum()), 0.0)
            return pi, LogSpeed(line, float(basis.elements.nodes[top]), level), True
        log_pi = LogSpeed(line, float(law.elements.nodes[law.weights.argmax()]))
        given = self.log_likelihood(y, law.time)
        edges = law.elements.edges
        joint, total = fitted(lambda x: log_pi(x) + given(x), edges[0], edges[-1], self.steps.walls, self.most)
        density = joint.masses / joint.elements.weights
        if density[[0, -1]].max() > _FELT * density.max() or not np.isfinite(total):
            raise InputError(
                "potential leaves the stationary density without a finite mass, and the last reading does not bound "
                "the state; give bounds=(low, high)."
            )
        return self._belief(law, joint, total), log_pi, False

    def _home(self, law: NodalBelief) -> Eigenbasis | None:
        """A basis of a box that holds all but nothing of pi, the law's own where it is one; None where there is none.

        The closed interval is one where there are bounds.
        """
        box = self.steps.boxes[0]
        if not all(map(np.isfinite, box)):
            return None
        own = self.steps.basis_of(Law(law.elements, law.weights))
        key = self.steps.line.key_of(own)
        if own is not None and key is not None and key[:2] in self.steps.boxes:
            return own
        return self.steps.line.basis(*box, 0)

    def _belief(self, like: NodalBelief, law: Law, log_evidence: float) -> NodalBelief:
        edges, masses = (torch.from_numpy(values).to(like.masses) for values in (law.elements.edges, law.masses))
        return replace(like, time=0.0, edges=edges, masses=masses, log_evidence=log_evidence)

    def _back(
        self, start: NodalBelief, whole: bool, record: Record, last: int, generator: Generator
    ) -> list[NodalBelief | None]:
        """r at the times up to the last reading, before the reading of each; None for pi itself."""
        times = np.array(record.times)
        order = np.arange(last if whole else last - 1, -1, -1)
        y = record.readings[last]
        assert y is not None, "the last reading was looked for"
        # That of the first time is in the law of that time.
        readings = [record.readings[k] if k > 0 else None for k in order]
        missing = torch.full_like(y, torch.nan)
        values = torch.stack([missing if one is None else one for one in readings]) if readings else y.new_zeros(0)
        found: list[NodalBelief | None] = []
        now = start
        try:
            for stretch in self.filter.sweep(start, times[last] - times[order], values, generator):
                passed = [checked_belief(law, NodalBelief) for law in stretch.beliefs]
                before = [checked_belief(law, NodalBelief) for law in stretch.before]
                found += before or self._before([now, *passed])
                now = passed[-1]
        except FilterError as error:
            raise FilterError(f"on the way back, {times[last]:g} minus the time below: {error}") from error
        return found[::-1] if whole else [*found[::-1], None]

    def _before(self, laws: Sequence[NodalBelief]) -> list[NodalBelief]:
        """The laws before the readings of many steps on one basis, from those after them and the one before all."""
        start, passed = laws[0], laws[:-1]
        basis = self.steps.basis_of(Law(start.elements, start.weights))
        assert basis is not None, "steps are taken together in one basis only"
        gaps = np.diff([law.time for law in laws])
        masses = np.stack([law.weights for law in passed])
        moved = np.empty_like(masses)
        for gap, times in Counter(gaps.tolist()).items():
            rows = gaps == gap
            if times >= _OFTEN:
                moved[rows] = masses[rows] @ basis.transition(gap).T
            else:
                moved[rows] = [basis.later(row, gap) for row in masses[rows]]
        sizes = np.sqrt(np.square(masses / basis.roots).sum(-1, keepdims=True))
        kept = torch.from_numpy(np.where(moved > ROUNDING * sizes * basis.roots, moved, 0.0)).to(start.masses)
        return [
            replace(start, masses=row, log_evidence=law.log_evidence, time=law.time)
            for row, law in zip(kept, passed, strict=True)
        ]

    # --- both passes together -----------------------------------------------------------------------------------------

    def _joined(
        self, law: NodalBelief, r: NodalBelief | None, log_pi: LogSpeed, after: OnLine, times: Sequence[float]
    ) -> tuple[NodalBelief, float, OnLine]:
        """A law given all readings, the log evidence of the record, and log h but for a constant.

        Args:
            law: the filter's.
            r: before the reading of this time; None for pi.
            log_pi: of pi.
            after: log h at the end of the gap that begins here, before the reading there.
            times: when that gap begins, and ends where there is one.
        """
        if r is None:
            return law, law.log_evidence, no_reading
        h = BackwardFunction(r.law.log_density, log_pi, r.elements.nodes[r.weights > 0.0], r.log_evidence)
        basis, mu, back = self._common(law, r)
        if basis is not None:
            masses = mu * back / basis.masses
            total = float(masses.sum())
            if total > 0.0 and basis.elements.roughness(masses / basis.elements.weights) <= self.steps.resolved:
                edges = r.edges if basis.elements.size == r.masses.numel() else law.edges
                values = torch.from_numpy(masses / total).to(law.masses)
                evidence = law.log_evidence + r.log_evidence + float(np.log(total))
                return replace(law, edges=edges, masses=values), evidence, h
        found, log_total = self._weighed(law, h)
        if h.missed(found.elements.nodes, found.masses):
            fine = cells_over(r.elements.edges, law.elements.edges, _CELLS)
            cells = BackwardCells(self.steps.line, fine)
            value = cells.earlier(after(cells.centres), times[1] - times[0])
            h = CubicSpline(cells.centres, value, bc_type="natural")
            found, log_total = self._weighed(law, h)
        if not np.isfinite(log_total):
            raise FilterError(f"at time {law.time:g} the law and what later readings say of it have nothing in common.")
        return replace(self._belief(law, found, 0.0), time=law.time), law.log_evidence + log_total, h

    def _weighed(self, law: NodalBelief, h: OnLine) -> tuple[Law, float]:
        """The law times h, normalised, and the log of what it summed to; on its own elements where they resolve it."""
        elements = law.elements
        value = h(elements.nodes)
        top = float(value[law.weights > 0.0].max())
        masses = law.weights * np.exp(value - top)
        density = masses / elements.weights
        covered = density[[0, -1]].max() <= _FELT * density.max() and (law.weights > 0.0).all()
        if covered and elements.roughness(density) <= self.steps.resolved:
            total = float(masses.sum())
            return Law(elements, masses / total), top + float(np.log(total))
        low, high = elements.edges[[0, -1]]
        return fitted(lambda x: law.law.log_density(x) + h(x), low, high, self.steps.walls, self.most)

    def _common(self, law: NodalBelief, r: NodalBelief) -> tuple[Eigenbasis | None, Array, Array]:
        """The finer of two bases of one box, with both on it; no basis where there is none."""
        mu, back = as_array(law.masses), as_array(r.masses)
        one = self.steps.basis_of(Law(law.elements, mu))
        if law.edges is r.edges or torch.equal(law.edges, r.edges):
            return one, mu, back
        other = self.steps.basis_of(Law(r.elements, back))
        keys = self.steps.line.key_of(one), self.steps.line.key_of(other)
        if keys[0] is None or keys[1] is None or keys[0][:2] != keys[1][:2] or one is None or other is None:
            return None, mu, back
        if one.elements.size > other.elements.size:
            return one, mu, np.maximum(self.steps.on(one, Law(r.elements, back)), 0.0)
        return other, np.maximum(self.steps.on(other, Law(law.elements, mu)), 0.0), back
