"""A filter of coordinates that never meet: exact in any dimension where a problem separates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Generator, Tensor

from jkofilter._typing import Matrix
from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.info import StepInfo
from jkofilter.beliefs.product import ProductBelief
from jkofilter.errors import InputError
from jkofilter.filters.base import Runnable
from jkofilter.filters.checks import checked_belief, predicting, updating
from jkofilter.filters.contract import Filter, failed, joined
from jkofilter.models.checks import require_orthogonal
from jkofilter.models.state_space import StateSpaceModel
from jkofilter.smoothing.contract import PathDraws, Record, Smoothed, Smoother


@dataclass(frozen=True)
class ProductFilter(Runnable):
    """One filter for every coordinate of u = R x, where prior, potential and readings separate in u.

    That they do is for the caller to know: V(x) = sum_i v_i((R x)_i), a prior with independent u_i, and readings
    y_i that depend on u_i alone. With grid filters as ``coordinates`` this is the exact answer that filters in many
    dimensions are measured against.

    Attributes:
        model: the whole model; simulates, and is what other filters get.
        rotation: R, orthogonal, (d, d).
        coordinates: filters of dimension one, the i-th for u_i and y_i.

    Raises:
        InputError: the counts differ, or R is not orthogonal.
    """

    model: StateSpaceModel
    rotation: Matrix
    coordinates: tuple[Filter, ...]

    def __post_init__(self) -> None:
        d = self.model.dim
        if len(self.coordinates) != d or any(one.model.dim != 1 for one in self.coordinates):
            raise InputError(f"coordinates must hold {d} filters of dimension one, got {len(self.coordinates)}.")
        object.__setattr__(self, "rotation", require_orthogonal(self.rotation, "rotation", d))

    @cached_property
    def _rotation(self) -> Matrix:
        return self.rotation.to(dtype=self.model.dtype, device=self.model.device)

    def init(self, generator: Generator) -> ProductBelief:
        """The prior of every coordinate."""
        return ProductBelief(tuple(one.init(generator) for one in self.coordinates), self._rotation)

    def predict(self, belief: Belief, duration: float, generator: Generator) -> tuple[ProductBelief, StepInfo]:
        """Every coordinate ``duration`` later.

        Raises:
            InputError: another filter's belief, or a bad duration.
        """

        def step(now: ProductBelief, duration: float) -> tuple[ProductBelief, StepInfo]:
            return self._each(now, lambda one, law, _: one.predict(law, duration, generator))

        return predicting(belief, ProductBelief, duration, step)

    def update(self, belief: Belief, y: Tensor, generator: Generator) -> tuple[ProductBelief, StepInfo]:
        """Every coordinate given its own component of the reading, (d,).

        Raises:
            InputError: another filter's belief, or the reading has another length.
        """

        def step(now: ProductBelief, reading: Tensor) -> tuple[ProductBelief, StepInfo]:
            if len(reading) != self.model.dim:
                raise InputError(f"y must hold {self.model.dim} components for this filter, got {len(reading)}.")
            return self._each(now, lambda one, law, i: one.update(law, reading[i : i + 1], generator))

        return updating(belief, ProductBelief, y, self.model, step)

    def smoothed(self, record: Record, generator: Generator) -> Smoothed:
        """The laws of a record given all its readings, of every coordinate for itself.

        Raises:
            InputError: a coordinate's filter cannot smooth.
        """
        done = [one.smoothed(self._part(record, i), generator) for i, one in enumerate(self._smoothers)]
        laws = zip(*(each.laws for each in done), strict=True)
        notes = zip(*((info.note for info in each.infos) for each in done), strict=True)
        evidence = [each.log_evidence for each in done if each.log_evidence is not None]
        return Smoothed(
            tuple(ProductBelief(marginals, self._rotation) for marginals in laws),
            tuple(StepInfo(note=joined(*parts)) for parts in notes),
            sum(evidence) if len(evidence) == len(done) else None,
        )

    def paths(self, record: Record, n: int, times: list[float], generator: Generator) -> PathDraws:
        """``n`` paths given all readings, of every coordinate for itself.

        Raises:
            InputError: a coordinate's filter cannot smooth.
        """
        smoothers = enumerate(self._smoothers)
        drawn = [one.paths(self._part(record, i), n, times, generator) for i, one in smoothers]
        return PathDraws(torch.cat([one.states for one in drawn], -1) @ self._rotation)

    @property
    def _smoothers(self) -> list[Smoother]:
        found = [one for one in self.coordinates if isinstance(one, Smoother)]
        if len(found) < len(self.coordinates):
            raise InputError("coordinates hold a filter that cannot smooth; use SpectralFilter or GridFilter for each.")
        return found

    def _part(self, record: Record, i: int) -> Record:
        """The record of the i-th coordinate."""

        def part(laws: tuple[Belief, ...]) -> tuple[Belief, ...]:
            return tuple(checked_belief(law, ProductBelief).marginals[i] for law in laws)

        readings = tuple(_component(reading, i) for reading in record.readings)
        return Record(part(record.predicted), part(record.laws), readings)

    def _each(
        self, now: ProductBelief, step: Callable[[Filter, Any, int], tuple[Belief, StepInfo]]
    ) -> tuple[ProductBelief, StepInfo]:
        done = [step(one, law, i) for i, (one, law) in enumerate(zip(self.coordinates, now.marginals, strict=True))]
        infos = [info for _, info in done]
        statuses = {info.status for info in infos if failed(info)}
        if statuses:
            # Coordinates that went on without the failed one would be at another time.
            return now, StepInfo("; ".join(sorted(statuses)))
        status = "ok" if any(info.status == "ok" for info in infos) else "skipped"
        after = ProductBelief(tuple(law for law, _ in done), self._rotation)
        details = {"kl": sum(info.details["kl"] for info in infos)} if all("kl" in i.details for i in infos) else {}
        notes = joined(*(f"coordinate {i}: {info.note}" for i, info in enumerate(infos) if info.note))
        return after, StepInfo(status, sum(info.log_evidence for info in infos), details=details, note=notes)


def _component(reading: Tensor | None, i: int) -> Tensor | None:
    """The i-th component of a reading, None where it is missing."""
    return None if reading is None or torch.isnan(reading[i]) else reading[i : i + 1]
