"""The flow: exact laws, orders of convergence, the law as a density, and what bad input says."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, MultivariateNormal, constraints

import jkofilter as jf
from jkofilter.transport.steps.engine import Engine

EYE = torch.eye(2, dtype=torch.float64)
NORMAL = MultivariateNormal(torch.zeros(2, dtype=torch.float64), EYE)
PRECISION = torch.tensor([[2.0, 0.6], [0.6, 0.8]], dtype=torch.float64)
CENTRE = torch.tensor([0.5, -1.0], dtype=torch.float64)
SPREAD = torch.tensor([[0.6, -0.3], [-0.3, 1.4]], dtype=torch.float64)
ENGINES = (
    pytest.param(jf.RidgeEngine(), id="ridge"),
    pytest.param(jf.ICNNEngine(ridge=None, widths=(16,), iterations=50), id="icnn"),
)
OU = jf.LangevinSDE(jf.Quadratic(CENTRE, PRECISION), 2.0)


def coupled() -> jf.LangevinSDE:
    return jf.LangevinSDE(
        jf.Potential(lambda u: (u.square() - 1).square().sum(-1) + 2 * (u[..., 0] - u[..., 1]) ** 2, 2)
    )


def ou_law(time: float, sde: jf.LangevinSDE = OU) -> MultivariateNormal:
    decay = torch.linalg.matrix_exp(-PRECISION * time)
    stationary = torch.linalg.inv(float(sde.beta) * PRECISION)
    covariance = decay @ SPREAD @ decay + stationary - decay @ stationary @ decay
    return MultivariateNormal(CENTRE - decay @ CENTRE, 0.5 * (covariance + covariance.mT))


def ou_flow(step: float, scheme: str, **settings: object) -> jf.JKOFlow:
    prior = MultivariateNormal(torch.zeros(2, dtype=torch.float64), SPREAD)
    return jf.solve_jko(prior, OU, 0.6, step, scheme, pool=512, **settings)  # type: ignore[arg-type]


def gap(flow: jf.JKOFlow) -> float:
    x = ou_law(0.6).sample(torch.Size([200]))
    return (flow.final.log_prob(x) - ou_law(0.6).log_prob(x)).square().mean().sqrt().item()


@pytest.mark.parametrize(("scheme", "order"), [("implicit-euler", 1), ("sdirk2", 2), ("bdf2", 2)])
def test_order_of_convergence_on_an_ornstein_uhlenbeck_process(scheme: str, order: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        coarse, fine = gap(ou_flow(0.1, scheme)), gap(ou_flow(0.025, scheme))
    assert math.log(coarse / fine, 4) == pytest.approx(order, abs=0.25)


def test_moments_and_density_of_an_ornstein_uhlenbeck_process() -> None:
    belief, law = ou_flow(0.05, "sdirk2").final, ou_law(0.6)
    torch.testing.assert_close(belief.mean, law.mean, rtol=0, atol=1e-3)
    torch.testing.assert_close(belief.covariance, law.covariance_matrix, rtol=0, atol=2e-3)
    assert belief.quantile(0.5, 1) == pytest.approx(law.mean[1].item(), abs=0.1)
    x, log_prob = belief.sample_with_log_prob(300, torch.Generator().manual_seed(1))
    torch.testing.assert_close(log_prob, law.log_prob(x), rtol=0, atol=5e-3)


def test_a_flow_is_carried_on_with_other_settings_and_another_pool() -> None:
    prior = MultivariateNormal(torch.zeros(2, dtype=torch.float64), SPREAD)
    first = jf.solve_jko(prior, OU, 0.2, 0.05, pool=512)
    flow = jf.solve_jko(first, OU, 0.4, 0.1, transport=jf.RidgeEngine(directions=3), pool=700, seed=1)
    assert flow.times == pytest.approx([0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert flow.maps[:4] == first.maps
    assert flow.infos[:4] == first.infos
    assert flow.base.x.shape == (700, 2)
    assert gap(flow) < 2 * gap(ou_flow(0.1, "sdirk2"))
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(flow.at(0.2).log_prob(x), first.final.log_prob(x))
    with pytest.raises(jf.InputError, match="event_shape"):
        jf.solve_jko(first, jf.LangevinSDE(jf.DoubleWell(3)), 0.1)


def test_draws_know_their_own_density() -> None:
    belief = jf.solve_jko(NORMAL, coupled(), 0.2, 0.05, pool=512).final
    x, log_prob = belief.sample_with_log_prob(200, torch.Generator().manual_seed(1))
    torch.testing.assert_close(belief.log_prob(x), log_prob, rtol=0, atol=1e-7)
    torch.testing.assert_close(belief.sample(200, torch.Generator().manual_seed(1)), x)
    torch.testing.assert_close(belief.log_prob(belief.pool.x), belief.pool.log_prob, rtol=0, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_the_density_integrates_to_one(engine: Engine) -> None:
    belief = jf.solve_jko(NORMAL, coupled(), 0.3, 0.05, transport=engine, pool=512).final
    axis = torch.linspace(-6, 6, 241, dtype=torch.float64)
    density = belief.log_prob(torch.cartesian_prod(axis, axis)).exp()
    assert density.sum().item() * (12 / 240) ** 2 == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_a_coupled_flow_agrees_with_the_two_dimensional_grid() -> None:
    sde = coupled()
    model = jf.StateSpaceModel(NORMAL, sde, jf.LinearGaussian(EYE, EYE))
    grid, generator = jf.GridFilter(model, bounds=(-4.5, 4.5), cells=200, step=0.01), torch.Generator()
    exact = grid.predict(grid.init(generator), 0.3, generator)[0]
    belief = jf.solve_jko(NORMAL, sde, 0.3, 0.1, pool=2048).final
    assert jf.metrics.kl(belief, exact, 4000) < 1e-3
    assert jf.metrics.kl(exact, belief, 4000) < 1e-3


def test_one_dimension_agrees_with_the_grid() -> None:
    one = torch.eye(1, dtype=torch.float64)
    prior, sde = MultivariateNormal(torch.zeros(1, dtype=torch.float64), one), jf.LangevinSDE(jf.DoubleWell(1))
    model = jf.StateSpaceModel(prior, sde, jf.LinearGaussian(one, one))
    grid, generator = jf.GridFilter(model), torch.Generator()
    exact = grid.predict(grid.init(generator), 0.5, generator)[0]
    assert jf.metrics.symmetric_kl(jf.solve_jko(prior, sde, 0.5, 0.05, pool=1024).final, exact) < 1e-3


@pytest.mark.parametrize("engine", ENGINES)
def test_a_stationary_law_stays_put(engine: Engine) -> None:
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5]], dtype=torch.float64)
    law = MixtureSameFamily(
        Categorical(torch.ones(2, dtype=torch.float64)), MultivariateNormal(means, EYE.expand(2, 2, 2))
    )
    sde = jf.LangevinSDE(jf.GaussianMixture(means, EYE.expand(2, 2, 2), torch.full((2,), 0.5, dtype=torch.float64)))
    belief = jf.solve_jko(law, sde, 0.5, 0.25, transport=engine, pool=512).final
    x, log_prob = belief.sample_with_log_prob(1000)
    assert (log_prob - law.log_prob(x)).square().mean().sqrt() < 0.02


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_seed_gives_the_same_flow_and_leaves_the_global_generator_alone(engine: Engine) -> None:
    state = torch.get_rng_state()
    flows = [jf.solve_jko(NORMAL, coupled(), 0.1, 0.05, transport=engine, pool=256, seed=seed) for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(flows[0].base.x, flows[1].base.x)
    assert torch.equal(flows[0].final.pool.log_prob, flows[1].final.pool.log_prob)
    assert not torch.equal(flows[0].base.x, flows[2].base.x)


def test_between_steps_the_law_follows_the_particles() -> None:
    flow = ou_flow(0.1, "sdirk2")
    law = ou_law(0.35)
    x, log_prob = flow.at(0.35).sample_with_log_prob(200)
    torch.testing.assert_close(log_prob, law.log_prob(x), rtol=0, atol=0.1)
    torch.testing.assert_close(flow.at(0.0).log_prob(x), flow.prior.log_prob(x))
    torch.testing.assert_close(flow.at(0.35).log_prob(x), log_prob, rtol=0, atol=1e-7)
    for time in (-0.1, 0.7, math.nan):
        with pytest.raises(jf.InputError, match="time must be between"):
            flow.at(time)


def test_a_tolerance_chooses_the_steps() -> None:
    loose, tight = (ou_flow(0.6, "sdirk2", tolerance=tolerance) for tolerance in (1e-3, 1e-5))
    assert len(tight.maps) > len(loose.maps)
    assert gap(tight) < gap(loose)


@pytest.mark.slow
def test_a_tolerance_below_the_error_of_the_fit_does_not_shorten_steps_for_nothing() -> None:
    # Two pieces cannot follow the double wells: their residual moves particles by more than the time step errs.
    engine = jf.SoftMaximumEngine(pieces=2, iterations=10)
    flow = jf.solve_jko(NORMAL, coupled(), 0.1, 0.05, transport=engine, tolerance=1e-6, pool=128)
    assert len(flow.maps) < 60
    # Where the fit is exact the tolerance is kept, however many steps of the longest it takes.
    steps = [info.details["step"] for info in ou_flow(0.6, "sdirk2", tolerance=1e-7).infos]
    assert len(steps) > 100
    assert max(steps) < 0.02


@pytest.mark.parametrize("unit", [1e-9, 1e6])
def test_the_unit_of_the_state_makes_no_difference(unit: float) -> None:
    wells = jf.Potential(lambda x: ((x / unit).square() - 1).square().sum(-1) * unit**2, 2)
    prior = MultivariateNormal(torch.zeros(2, dtype=torch.float64), unit**2 * EYE)
    ours, plain = (
        jf.solve_jko(law, jf.LangevinSDE(potential, beta), 0.1, 0.05, pool=256).final
        for law, potential, beta in ((prior, wells, unit**-2), (NORMAL, jf.DoubleWell(2), 1.0))
    )
    x, log_prob = plain.sample_with_log_prob(100)
    torch.testing.assert_close(ours.log_prob(unit * x) + 2 * math.log(unit), log_prob, rtol=0, atol=1e-6)


@pytest.mark.parametrize("deviation", [1e-3, 1e-6])
def test_a_start_that_is_all_but_known_spreads_like_any_other(deviation: float) -> None:
    prior = MultivariateNormal(torch.ones(2, dtype=torch.float64), deviation**2 * EYE)
    flow = jf.solve_jko(prior, OU, 0.1, 0.02, pool=512)
    decay = torch.linalg.matrix_exp(-PRECISION * 0.1)
    stationary = torch.linalg.inv(2.0 * PRECISION)
    covariance = stationary - decay @ (stationary - deviation**2 * EYE) @ decay
    torch.testing.assert_close(flow.final.covariance, covariance, rtol=0.05, atol=1e-3)
    assert all(info.details["kl_rate"] < 1e-2 for info in flow.infos)


def test_a_step_that_fits_badly_says_so_and_a_good_one_does_not() -> None:
    sde = jf.LangevinSDE(jf.DoubleWell(2, rotation=torch.tensor([[0.6, 0.8], [-0.8, 0.6]]).double()))
    one = jf.RidgeEngine(directions=1)
    poor = jf.solve_jko(NORMAL, sde, 0.4, 0.2, "implicit-euler", one, pool=512).infos
    good = jf.solve_jko(NORMAL, sde, 0.4, 0.2, "implicit-euler", pool=2048).infos
    for info in (*poor, *good):
        nats = info.details["kl_rate"] * info.details["step"]
        assert (f"up to {nats:.2g} nats" in info.note) == (nats > 0.05)
    assert poor[0].note
    assert not any(info.note for info in good)
    model = jf.StateSpaceModel(NORMAL, sde, jf.LinearGaussian(EYE, EYE))
    poor_filter = jf.JKOFilter(model, transport=one, scheme="implicit-euler", step=0.2, pool=512)
    source = torch.Generator().manual_seed(0)
    _, info = poor_filter.predict(poor_filter.init(source), 0.4, source)
    assert "nats of KL" in info.note


def test_every_step_reports_what_it_did() -> None:
    beta = 2.5
    sde = jf.LangevinSDE(coupled().potential, beta)
    flow = jf.solve_jko(NORMAL, sde, 0.1, 0.05, "implicit-euler", pool=512)
    assert len(flow.infos) == len(flow.maps) == len(flow.times) - 1 > 1
    x = flow.base.x
    for before, time, psi, info in zip(flow.times, flow.times[1:], flow.maps, flow.infos, strict=False):
        pool, tau = flow.at(time).pool, time - before
        residual = (pool.x - x) / tau + sde.potential.gradient(pool.x) + pool.score / beta
        assert info.details["residual"] == pytest.approx(residual.square().sum(-1).mean().item(), rel=1e-6)
        assert info.details["kl_rate"] == pytest.approx(beta / 4 * info.details["residual"])
        assert info.details["kl"] == pytest.approx(tau * info.details["kl_rate"])
        assert info.details["step"] == pytest.approx(tau)
        assert (info.details["halvings"], info.details["extrapolated"]) == (0, 0)
        assert info.details["iterations"] >= 1
        assert math.isfinite(info.details["loss"])
        weights = (-beta * sde.potential(pool.x) - pool.log_prob).softmax(0)
        assert info.ess == pytest.approx(1 / weights.square().sum().item())
        torch.testing.assert_close(psi.gradient(x), pool.x)
        x = pool.x


def test_marginals_are_those_of_the_pool() -> None:
    belief = ou_flow(0.1, "sdirk2").final
    marginal = belief.marginal(1)
    assert marginal.dim == 1
    torch.testing.assert_close(marginal.mean, belief.mean[1:])
    for coordinates in ((), (2,), (-1,), (0.5,)):
        with pytest.raises(jf.InputError, match="coordinates"):
            belief.marginal(*coordinates)  # type: ignore[arg-type]


class Unfit(Distribution):
    """A law that lacks one of the two things a flow needs."""

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    support = constraints.real_vector

    def __init__(self, lacks: str) -> None:
        super().__init__(event_shape=torch.Size([2]), validate_args=False)
        self.lacks = lacks

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        if self.lacks == "sample":
            raise NotImplementedError
        return NORMAL.sample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if self.lacks == "log_prob":
            raise NotImplementedError
        return NORMAL.log_prob(value.detach())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scheme": "rk4"}, "scheme must be one of"),
        ({"transport": "spline"}, "transport must be"),
        ({"transport": jf.RidgeEngine}, r"give RidgeEngine\(\)"),
        ({"transport": 3}, "transport must be"),
        ({"step": 1e-6}, "step must be at least duration"),
        ({"step": 0.0}, "step must be positive"),
        ({"step": math.nan}, "step must be positive"),
        ({"duration": -1.0}, "duration must be"),
        ({"duration": math.inf}, "duration must be"),
        ({"tolerance": 0.0}, "tolerance must be"),
        ({"pool": 10}, "pool must be"),
        ({"prior": "normal"}, "prior must be"),
        ({"prior": MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())}, "event_shape"),
        ({"prior": Unfit("sample")}, "cannot be sampled"),
        ({"prior": Unfit("log_prob")}, "cannot be evaluated"),
        ({"prior": Unfit("gradient")}, "differentiable"),
        ({"sde": "ou"}, "sde must be"),
    ],
    ids=str,
)
def test_bad_input_is_named(change: dict[str, object], message: str) -> None:
    settings = {"prior": NORMAL, "sde": OU, "duration": 0.1, "step": 0.05} | change
    with pytest.raises(jf.InputError, match=message):
        jf.solve_jko(**settings)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_potential_without_a_bottom_ends_in_an_error_that_names_the_time() -> None:
    sde = jf.LangevinSDE(jf.Potential(lambda x: -(x.square().sum(-1) ** 2), 2))
    with pytest.raises(jf.FilterError, match="at time"):
        jf.solve_jko(NORMAL, sde, 2.0, 0.1, pool=64)


def test_a_flow_carried_on_that_fails_names_its_own_time() -> None:
    past = jf.solve_jko(NORMAL, OU, 0.2, 0.1, pool=64)
    wild = jf.LangevinSDE(jf.Potential(lambda x: -1e6 * x.square().sum(-1), 2))
    with pytest.raises(jf.FilterError, match=r"^no JKO step succeeds at time 0\.2, "):
        jf.solve_jko(past, wild, 0.5, 0.5, "implicit-euler", pool=64)


def test_a_flow_is_carried_on_where_the_law_is_now() -> None:
    """The new potential has to be finite there, not where the prior was."""
    prior, end = MultivariateNormal(-6 * CENTRE, 1e-4 * EYE), 4 * CENTRE
    past = jf.solve_jko(prior, jf.LangevinSDE(jf.Quadratic(end, 9 * EYE), 1e4), 0.5, 0.1, pool=64)
    away = jf.Potential(lambda x: torch.where(x[..., 0] < -1, torch.nan, 0.0) + (x - end).square().sum(-1), 2)
    back = jf.Potential(lambda x: torch.where(x[..., 0] > 1, torch.nan, 0.0) + x.square().sum(-1), 2)
    assert jf.solve_jko(past, jf.LangevinSDE(away, 1e4), 0.1, 0.1, pool=64).times[-1] == pytest.approx(0.6)
    with pytest.raises(jf.InputError, match="where the law has mass"):
        jf.solve_jko(past, jf.LangevinSDE(back, 1e4), 0.1, 0.1, pool=64)


def test_a_hessian_that_is_not_finite_is_an_error_that_names_it() -> None:
    # The gradient of max(x, 0)^1.5 is continuous; automatic differentiation makes its second derivative NaN below zero.
    kinked = jf.Potential(lambda x: (x * (x > 0)).pow(1.5).sum(-1) + x.square().sum(-1), 2)
    with pytest.raises(jf.FilterError, match=r"Hessian of the potential is NaN or infinite at time 0 "):
        jf.solve_jko(NORMAL, jf.LangevinSDE(kinked), 0.1, 0.1, pool=64)


@pytest.mark.slow
def test_a_gradient_that_turns_nan_midway_ends_in_an_error() -> None:
    wall = jf.Potential(
        lambda x: torch.where(x[..., 0] > 5, torch.nan, 0.0) - 8 * x[..., 0] + 0.5 * x.square().sum(-1), 2
    )
    with pytest.raises(jf.FilterError, match="at time"):
        jf.solve_jko(NORMAL, jf.LangevinSDE(wall), 2.0, 0.1, pool=256)


def test_a_step_too_long_for_the_potential_is_halved_and_says_so() -> None:
    # On top of the barrier the curvature is -4: steps of more than a quarter are not convex.
    sde, prior = jf.LangevinSDE(jf.DoubleWell(2)), MultivariateNormal(torch.zeros(2, dtype=torch.float64), 1e-3 * EYE)
    flow = jf.solve_jko(prior, sde, 0.6, 0.6, "implicit-euler", pool=256)
    assert any(info.details["halvings"] > 0 for info in flow.infos)
    # Taken all the same: nothing failed.
    assert {info.status for info in flow.infos} == {"ok"}
    assert torch.isfinite(flow.final.log_prob(flow.final.pool.x)).all()


def test_a_zero_duration_is_the_prior() -> None:
    flow = jf.solve_jko(NORMAL, OU, 0.0)
    x = torch.ones(1, 2, dtype=torch.float64)
    assert flow.maps == ()
    torch.testing.assert_close(flow.final.log_prob(x), NORMAL.log_prob(x))


def test_points_of_the_wrong_shape_or_nan_are_refused() -> None:
    belief = jf.solve_jko(NORMAL, OU, 0.1, 0.1, pool=128).final
    with pytest.raises(jf.InputError, match="shape"):
        belief.log_prob(torch.zeros(3, dtype=torch.float64))
    with pytest.raises(jf.InputError, match="NaN"):
        belief.log_prob(torch.full((1, 2), math.nan, dtype=torch.float64))
    assert belief.log_prob(torch.full((1, 2), math.inf, dtype=torch.float64)).item() == -math.inf
    # Newton's iterations are not differentiated: no gradient is better than a wrong one.
    assert not belief.log_prob(torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)).requires_grad
