"""The protocol of engines: how one JKO step is solved over one family of convex potentials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

from torch import Generator

from jkofilter._typing import Points
from jkofilter.models.sde import LangevinSDE
from jkofilter.transport.maps.convex import ConvexPotential, Pool, Pushed
from jkofilter.transport.steps.problem import StepProblem

P = TypeVar("P", bound=ConvexPotential)


@dataclass(frozen=True, eq=False)
class Solved(Generic[P]):
    """A step problem solved.

    Attributes:
        psi: the potential found.
        pushed: the pool after its map.
        residual: optimality residual at every particle, (n, d), in units of velocity.
        loss: the objective.
        iterations: Newton or gradient steps taken.
    """

    psi: P
    pushed: Pushed
    residual: Points
    loss: float
    iterations: int


class Engine(Protocol[P]):
    """A family of potentials and its solver; settings only, no state."""

    def begin(self, sde: LangevinSDE, pool: Pool, previous: P | None) -> P:
        """A feasible potential to start a time step from, made fit for the pool; ``previous`` is the last step's."""
        ...

    def solve(self, problem: StepProblem, start: P, generator: Generator) -> Solved[P]:
        """The step's solution near ``start``.

        Raises:
            FilterError: no convergence.
        """
        ...


@runtime_checkable
class SelectiveEngine(Engine[P], Protocol[P]):
    """An engine that knows which flows are beyond its family."""

    def require_captured(self, sde: LangevinSDE, pool: Pool, duration: float) -> None:
        """Raise FilterError where steps would miss so much of the velocity that nothing is gained by taking them."""
        ...
