"""Where a step ends: too long for the potential or its scheme, fitted too poorly, set up in a way that cannot work."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import jkofilter as jf
from jkofilter.errors import FilterError, InputError
from jkofilter.transport import time_steps
from jkofilter.transport.laws.prior_pool import prior_pool
from jkofilter.transport.maps.convex import Pool
from jkofilter.transport.maps.ridge import RidgeSpline
from jkofilter.transport.schemes import PoolScheme
from jkofilter.transport.steps.engine import Solved
from jkofilter.transport.steps.icnn_engine import ICNNEngine
from jkofilter.transport.steps.problem import StepProblem
from jkofilter.transport.steps.ridge_engine import RidgeEngine
from jkofilter.transport.steps.stepping import FlowState, JKOStepper

EYE = torch.eye(2, dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def on_the_barrier(spread: float = 1e-3) -> FlowState:
    law = MultivariateNormal(torch.zeros(2, dtype=torch.float64), spread * EYE)
    return FlowState(0.0, prior_pool(law, math.sqrt(spread) * normals(256, 2)))


def test_a_step_longer_than_the_semiconvexity_allows_raises() -> None:
    state = on_the_barrier()
    sharp = jf.LangevinSDE(jf.Potential(lambda x: -50 * x.square().sum(-1), 2))
    for scheme in ("implicit-euler", "sdirk2"):
        with pytest.raises(FilterError):
            JKOStepper(sharp, RidgeEngine(), scheme).step(state, 0.5, generator())  # type: ignore[arg-type]
    step = JKOStepper(sharp, RidgeEngine(), "implicit-euler").step(state, 0.005, generator())
    # Below the limit the unstable direction spreads: implicit Euler by at least 1/(1 - 0.5).
    assert (step.state.pool.x.std(0) > 2 * state.pool.x.std(0)).all()


def test_an_extrapolation_past_the_centre_raises_under_second_order_schemes_alone() -> None:
    stiff = jf.LangevinSDE(jf.Quadratic(torch.zeros(2, dtype=torch.float64), 200 * EYE), 200.0)
    state = on_the_barrier(1.0)
    with pytest.raises(FilterError, match="not an increasing map"):
        JKOStepper(stiff, RidgeEngine(), "sdirk2").step(state, 1.0, generator())
    step = JKOStepper(stiff, RidgeEngine(), "implicit-euler").step(state, 1.0, generator())
    assert (step.state.pool.x.std(0) < 0.05).all()
    # BDF2 leaves from where the last step came from: one that shrank the law twentyfold is too steep to go on from.
    bdf2 = JKOStepper(stiff, RidgeEngine(), "bdf2")
    with pytest.raises(FilterError, match="not an increasing map"):
        bdf2.step(step.state, 1.0, generator())
    assert bdf2.step(step.state, 0.05, generator()).extrapolated


@dataclass(frozen=True)
class Shift:
    """An engine whose every solution is a small shift: a fit error as large as the motion."""

    length: float

    def begin(self, sde: jf.LangevinSDE, pool: Pool, previous: RidgeSpline | None) -> RidgeSpline:
        return RidgeSpline.affine(EYE, torch.full((2,), self.length, dtype=torch.float64))

    def solve(self, problem: StepProblem, start: RidgeSpline, generator: torch.Generator) -> Solved[RidgeSpline]:
        return Solved(start, *problem.solved_by(start), 0.0, 1)


@pytest.mark.parametrize("scheme", ["sdirk2", "bdf2"])
def test_nothing_is_extrapolated_where_the_fit_error_is_as_large_as_the_motion(scheme: PoolScheme) -> None:
    sde = jf.LangevinSDE(jf.Quadratic(torch.zeros(2, dtype=torch.float64), 3 * EYE))
    started = JKOStepper(sde, RidgeEngine(), scheme).step(on_the_barrier(1.0), 0.1, generator())
    assert started.extrapolated
    assert not JKOStepper(sde, Shift(0.01), scheme).step(started.state, 0.1, generator()).extrapolated
    # Whatever the unit of the state.
    unit, pool = 1e-9, started.state.pool
    tiny = Pool(unit * pool.x, pool.log_prob - 2 * math.log(unit), pool.score / unit)
    assert started.state.before is not None
    state = FlowState(0.0, tiny, started.state.psi, unit * started.state.before, 0.1)
    steep = jf.LangevinSDE(jf.Quadratic(torch.zeros(2, dtype=torch.float64), 3 * EYE), 1 / unit**2)
    assert not JKOStepper(steep, Shift(0.01 * unit), scheme).step(state, 0.1, generator()).extrapolated


class Balking:
    """An engine that stands still, and refuses steps longer than a limit, which every step multiplies by ``shrink``."""

    def __init__(self, limit: float, shrink: float) -> None:
        self.limit, self.shrink = limit, shrink

    def begin(self, sde: jf.LangevinSDE, pool: Pool, previous: RidgeSpline | None) -> RidgeSpline:
        return RidgeSpline.affine(EYE, torch.zeros(2, dtype=torch.float64))

    def solve(self, problem: StepProblem, start: RidgeSpline, generator: torch.Generator) -> Solved[RidgeSpline]:
        if problem.h > self.limit:
            raise FilterError("this step is too long.")
        self.limit *= self.shrink
        return Solved(start, *problem.solved_by(start), 0.0, 1)


def balking(limit: float, shrink: float) -> jf.JKOFlow:
    law = MultivariateNormal(torch.zeros(2).double(), EYE)
    sde = jf.LangevinSDE(jf.DoubleWell(2))
    return jf.solve_jko(law, sde, 0.5, 0.05, "implicit-euler", Balking(limit, shrink), pool=64)  # type: ignore[arg-type]


def test_a_flow_of_ever_shorter_steps_is_given_up() -> None:
    with pytest.raises(FilterError, match=r"^the flow stalls at time 0\.\d+: .*\.$"):
        balking(0.05, 0.8)
    with pytest.raises(FilterError, match=r"^no JKO step succeeds at time 0, even .* long \(this step is too long"):
        balking(1e-9, 1.0)


def test_a_flow_of_too_many_steps_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(balking(0.01, 1.0).maps) >= 50
    monkeypatch.setattr(time_steps, "MAX_STEPS", 20)
    with pytest.raises(FilterError, match=r"^the flow takes more than 20 steps by time 0\.\d+; give a longer step\.$"):
        balking(0.01, 1.0)


@pytest.mark.parametrize(
    ("engine", "settings"),
    [
        *((RidgeEngine, {name: value}) for name in ("cells", "directions") for value in (0, 2.5)),
        *((RidgeEngine, {"fit_tolerance": value}) for value in (0.0, math.nan, math.inf)),
        *((kind, {"refinements": -1}) for kind in (RidgeEngine, ICNNEngine)),
        *((ICNNEngine, {"widths": widths}) for widths in ((), (8, 0), (8.5,))),
        *((ICNNEngine, {name: 0}) for name in ("rank", "iterations", "batch", "patience", "learning_rate", "held_out")),
        (ICNNEngine, {"held_out": 1.0}),
    ],
)
def test_settings_of_engines_that_cannot_be_used_are_refused(
    engine: type[RidgeEngine | ICNNEngine], settings: dict[str, object]
) -> None:
    with pytest.raises(InputError, match=f"^{next(iter(settings))} must be"):
        engine(**settings)  # type: ignore[arg-type]


def test_at_least_one_particle_is_held_out() -> None:
    engine, state = ICNNEngine((4,), iterations=3, held_out=1e-3, ridge=None), on_the_barrier(1.0)
    sde = jf.LangevinSDE(jf.DoubleWell(2))
    step = JKOStepper(sde, engine, "implicit-euler").step(state, 0.05, generator())
    assert math.isfinite(step.solved.loss)
