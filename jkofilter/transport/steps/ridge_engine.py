"""The JKO step over convex ridge splines: a convex program, on directions that follow the velocity of the flow."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Generator, Tensor

from jkofilter._typing import Points
from jkofilter.errors import FilterError
from jkofilter.models.checks import require_count, require_positive
from jkofilter.models.sde import LangevinSDE
from jkofilter.transport.maps.convex import Pool
from jkofilter.transport.maps.ridge import Ridges, RidgeSpline
from jkofilter.transport.steps.affine import fit_affine, identity
from jkofilter.transport.steps.dictionary import proposed_directions, tempered_weights, tuned, widened
from jkofilter.transport.steps.engine import Solved
from jkofilter.transport.steps.families import CELLS, SPREAD, Flow, crossed, potential_ridges, resolving
from jkofilter.transport.steps.problem import StepProblem
from jkofilter.transport.steps.ridge_fit import best_start, fit_ridge

DEFAULT_CELLS = 24
"""Knot intervals where no setting gives them: of directions that are tuned, and to start a choice from."""
COEFFICIENTS = 480
"""Coefficients from which the knots of each direction become fewer."""
WORTH, WORTH_LATE, MISSING = 0.7, 0.97, 0.1
"""New directions are taken where they leave less than the first share of the velocity's error; the second, once more
than the third share of the velocity is not captured, as happens near stationarity."""
REACHES = (1.0, 3.4)
"""How far along the map that it is given a solve may begin; the second stage of SDIRK2 goes 3.4 times as far."""
JUDGES, LOST_SHARE, LOST_NATS = 1024, 0.3, 1.0
"""Particles that judge a family, and as many others; share of the mean square velocity that its maps may miss, and nats
that this adds up to by the end, or while the law moves by its own width: beyond both of them it is refused."""
RESOLVED = 1e-9
"""Share of the mean square velocity that least squares may leave by their own regularisation: no direction mends it,
and in a law that is all but concentrated, with its great velocities, it would look like much."""


@dataclass(frozen=True)
class RidgeEngine:
    """Steps over convex ridge splines.

    Directions persist from step to step. They start as the ridges of the potential where it has some, else in up to
    four dimensions as directions spread evenly over the sphere, and in more as eigenvectors of Hess V. Where the
    velocity -grad V - score/beta is not captured to ``fit_tolerance``, directions become more, in many dimensions along
    the largest errors, and all are turned to lower them. The first step also chooses the knots.

    Attributes:
        cells: knot intervals of every ridge; None lets the velocity choose.
        directions: most directions; None allows what the velocity asks for in up to four dimensions, 2 d + 24 in more.
        fit_tolerance: uncaptured mean square velocity that is good enough, times beta/4: nats of KL per unit of time.
        refinements: how often a step is solved again around the map just found, which takes out sampling noise.
    """

    cells: int | None = None
    directions: int | None = None
    fit_tolerance: float = 1e-3
    refinements: int = 1

    def __post_init__(self) -> None:
        if self.cells is not None:
            require_count("cells", self.cells, 4)
        if self.directions is not None:
            require_count("directions", self.directions, 1)
        require_positive("fit_tolerance", self.fit_tolerance)
        require_count("refinements", self.refinements, 0)

    def begin(self, sde: LangevinSDE, pool: Pool, previous: RidgeSpline | None) -> RidgeSpline:
        """The identity, on directions and knots that suit the velocity of the flow at this pool."""
        return RidgeSpline.identity(self._dictionary(sde, pool, previous))

    def require_captured(self, sde: LangevinSDE, pool: Pool, duration: float) -> None:
        """Raise FilterError where the velocity is far from any sum of so many ridges, judged on particles of their own.

        In few dimensions sums of ridges come to any smooth function.
        """
        d, beta = pool.x.shape[1], float(sde.beta)
        if d in SPREAD or len(pool.x) < 2 * JUDGES:
            return
        parts = [slice(0, JUDGES), slice(JUDGES, 2 * JUDGES)]
        few, judges = (Pool(pool.x[part], pool.log_prob[part], pool.score[part]) for part in parts)
        ridges = self._dictionary(sde, few, None)
        velocity, (ours, theirs) = _velocity(sde, pool), parts
        weights = tempered_weights(velocity)
        psi = Flow(few.x, velocity[ours], weights[ours], 0.0).fit(ridges).psi
        missed, speed = (
            (part.square().sum(-1) * weights[theirs]).mean().item()
            for part in (velocity[theirs] - psi.gradient(judges.x), velocity[theirs])
        )
        width = (pool.x - pool.x.mean(0)).square().sum(-1).mean().item() ** 0.5
        nats = 0.25 * beta * missed * min(duration, width / max(speed, 1e-300) ** 0.5)
        if missed > LOST_SHARE * speed and nats > LOST_NATS:
            raise FilterError(
                f"maps of {len(ridges.directions)} ridges miss {missed / speed:.0%} of the velocity of the law, which "
                f"adds some {nats:.0f} nats of error; take a filter by particles."
            )

    def spanning(self, x: Points, directions: Float[Tensor, "k d"]) -> Ridges:
        """A dictionary of these directions."""
        return Ridges.spanning(x, directions, self._cells(directions.shape[0]))

    def _cells(self, directions: int) -> int:
        """Fewer knots where there are many directions: together they resolve what each need not."""
        cells = DEFAULT_CELLS if self.cells is None else self.cells
        return max(min(cells, COEFFICIENTS // max(directions, 1)), min(cells, 8))

    def _dictionary(self, sde: LangevinSDE, pool: Pool, previous: RidgeSpline | None) -> Ridges:
        x, d = pool.x, pool.x.shape[1]
        velocity = _velocity(sde, pool)
        weights = tempered_weights(velocity)
        speed = (velocity.square().sum(-1) * weights).mean().item()
        flow = Flow(x, velocity, weights, max(4 * self.fit_tolerance / float(sde.beta), RESOLVED * speed))
        none = self.spanning(x, x.new_zeros(0, d))
        if flow.fit(none).mean_square <= flow.enough:
            return none
        last = none if previous is None else previous.ridges
        if self.cells is None and (d in SPREAD or self._few(last)):
            first = len(last.directions) == 0
            finest = CELLS[-1] if first else last.cells
            if first:
                last = Ridges.spanning(x, potential_ridges(sde.potential, x)[: self.directions], DEFAULT_CELLS)
            if d in SPREAD or len(last.directions):
                last = resolving(flow, last.directions, last.cells, self.directions, finest)
            if d in SPREAD:
                return last
            if len(last.directions) and flow.fit(last).mean_square <= flow.enough:
                return crossed(flow, last) if first and self.directions is None else last
            # More directions would leave each with fewer knots than it was found to need.
            if not first and last.cells > self._cells(len(last.directions) + 1):
                return last
        return self._tuned(flow, sde, last, speed)

    def _few(self, ridges: Ridges) -> bool:
        """Whether these may be the ridges of a potential, not many that stand in for something else."""
        return len(ridges.directions) <= 4 * ridges.directions.shape[1]

    def _tuned(self, flow: Flow, sde: LangevinSDE, last: Ridges, speed: float) -> Ridges:
        """Directions of the last step or of Hess V, with more along the largest errors, turned to lower them."""
        x, d = flow.x, flow.x.shape[1]
        most = 2 * d + 24 if self.directions is None else self.directions
        directions = last.directions
        if directions.shape[0] == 0:
            directions = proposed_directions(sde.potential, x, most)
        fit = flow.fit(self.spanning(x, directions))
        if fit.mean_square <= flow.enough or most <= d:
            return self.spanning(x, directions)
        more = min(most - directions.shape[0], max(4, most // 4))
        richer = widened(directions, x, fit.error, flow.weights, more) if more > 0 else directions
        richer, better = tuned(x, flow.velocity, flow.weights, richer, self._cells(richer.shape[0]))
        # More directions cost time in every solve of the step; they must earn it, the more so where little is missing.
        worth = WORTH if fit.mean_square < MISSING * speed else WORTH_LATE
        return self.spanning(x, richer if better.mean_square < worth * fit.mean_square else directions)

    def solve(self, problem: StepProblem, start: RidgeSpline, generator: Generator) -> Solved[RidgeSpline]:
        """The convex program from the best affine map on the ridges of ``start``, and again around its solution.

        Raises:
            FilterError: the objective is not finite at the identity, or the iteration does not converge.
        """
        # Where there are no ridges to mend it, an affine program without a solution is the end of the matter.
        affine = fit_affine(problem) if len(start.ridges.directions) else fit_ridge(problem, identity(problem))
        psi, iterations = affine.psi.on(start.ridges), affine.iterations
        ahead = [start.ahead(reach) for reach in REACHES] if len(start.ridges.directions) else []
        psi, warm = best_start(problem, psi, ahead)
        for attempt in range(1 + self.refinements):
            fit = fit_ridge(problem, psi, warm or attempt > 0)
            psi, iterations = fit.psi, iterations + fit.iterations
            pushed, residual = problem.solved_by(psi)
            problem = problem.around(pushed)
        return Solved(psi, pushed, residual, fit.loss, iterations)


def _velocity(sde: LangevinSDE, pool: Pool) -> Points:
    """-grad V - score / beta."""
    return -sde.potential.gradient(pool.x) - pool.score / float(sde.beta)
