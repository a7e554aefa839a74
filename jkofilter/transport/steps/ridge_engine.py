"""The JKO step over convex ridge splines: a convex program, on directions that follow the velocity of the flow."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Generator, Tensor

from jkofilter.models.checks import require_count, require_positive
from jkofilter.models.sde import LangevinSDE
from jkofilter.transport.maps.convex import Pool
from jkofilter.transport.maps.ridge import Ridges, RidgeSpline
from jkofilter.transport.steps.affine import fit_affine, identity
from jkofilter.transport.steps.dictionary import fit_velocity, proposed_directions, tempered_weights, tuned, widened
from jkofilter.transport.steps.engine import Solved
from jkofilter.transport.steps.problem import StepProblem
from jkofilter.transport.steps.ridge_fit import fit_ridge

COEFFICIENTS = 480
"""Coefficients from which the knots of each direction become fewer."""
WORTH, WORTH_LATE, MISSING = 0.7, 0.97, 0.1
"""New directions are taken where they leave less than the first share of the velocity's error; the second, once more
than the third share of the velocity is not captured, as happens near stationarity."""
RESOLVED = 1e-9
"""Share of the mean square velocity that least squares may leave by their own regularisation: no direction mends it,
and in a law that is all but concentrated, with its great velocities, it would look like much."""


@dataclass(frozen=True)
class RidgeEngine:
    """Steps over convex ridge splines.

    Directions persist from step to step. They start as eigenvectors of Hess V; where the velocity -grad V - score/beta
    is not captured to ``fit_tolerance``, some are added along the largest errors and all are turned to lower them.

    Attributes:
        cells: knot intervals of every ridge.
        directions: most directions; None allows 2 d + 24.
        fit_tolerance: uncaptured mean square velocity that is good enough, times beta/4: nats of KL per unit of time.
        refinements: how often a step is solved again around the map just found, which takes out sampling noise.
    """

    cells: int = 24
    directions: int | None = None
    fit_tolerance: float = 1e-3
    refinements: int = 1

    def __post_init__(self) -> None:
        require_count("cells", self.cells, 4)
        if self.directions is not None:
            require_count("directions", self.directions, 1)
        require_positive("fit_tolerance", self.fit_tolerance)
        require_count("refinements", self.refinements, 0)

    def begin(self, sde: LangevinSDE, pool: Pool, previous: RidgeSpline | None) -> RidgeSpline:
        """The identity, on directions that suit the velocity of the flow at this pool."""
        directions = self._dictionary(sde, pool, previous)
        return RidgeSpline.identity(Ridges.spanning(pool.x, directions, self._cells(directions.shape[0])))

    def _cells(self, directions: int) -> int:
        """Fewer knots where there are many directions: together they resolve what each need not."""
        return max(min(self.cells, COEFFICIENTS // max(directions, 1)), min(self.cells, 8))

    def _dictionary(self, sde: LangevinSDE, pool: Pool, previous: RidgeSpline | None) -> Float[Tensor, "k d"]:
        x, d = pool.x, pool.x.shape[1]
        velocity = -sde.potential.gradient(x) - pool.score / float(sde.beta)
        weights = tempered_weights(velocity)
        speed = (velocity.square().sum(-1) * weights).mean().item()
        enough = max(4 * self.fit_tolerance / float(sde.beta), RESOLVED * speed)
        none = x.new_zeros(0, d)
        affine = fit_velocity(x, velocity, weights, Ridges.spanning(x, none, self.cells))
        if affine.mean_square <= enough:
            return none
        most = 2 * d + 24 if self.directions is None else self.directions
        directions = none if previous is None else previous.ridges.directions
        if directions.shape[0] == 0:
            directions = proposed_directions(sde.potential, x, most)
        cells = self._cells(directions.shape[0])
        fit = fit_velocity(x, velocity, weights, Ridges.spanning(x, directions, cells))
        if fit.mean_square <= enough or most <= d:
            return directions
        more = min(most - directions.shape[0], max(4, most // 4))
        richer = widened(directions, x, fit.error, weights, more) if more > 0 else directions
        richer, better = tuned(x, velocity, weights, richer, self._cells(richer.shape[0]))
        # More directions cost time in every solve of the step; they must earn it, the more so where little is missing.
        worth = WORTH if fit.mean_square < MISSING * speed else WORTH_LATE
        return richer if better.mean_square < worth * fit.mean_square else directions

    def solve(self, problem: StepProblem, start: RidgeSpline, generator: Generator) -> Solved[RidgeSpline]:
        """The convex program from the best affine map on the ridges of ``start``, and again around its solution.

        Raises:
            FilterError: the objective is not finite at the identity, or the iteration does not converge.
        """
        # Where there are no ridges to mend it, an affine program without a solution is the end of the matter.
        affine = fit_affine(problem) if len(start.ridges.directions) else fit_ridge(problem, identity(problem))
        psi, iterations = affine.psi.on(start.ridges), affine.iterations
        for attempt in range(1 + self.refinements):
            fit = fit_ridge(problem, psi, warm=attempt > 0)
            psi, iterations = fit.psi, iterations + fit.iterations
            pushed, residual = problem.solved_by(psi)
            problem = problem.around(pushed)
        return Solved(psi, pushed, residual, fit.loss, iterations)
