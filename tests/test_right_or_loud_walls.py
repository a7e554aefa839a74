"""Right or loud, kinds 2 and 7: walls are not walked through, jumps are not overlooked, and steps follow the curvature.

Every row is an input, the right value, and where it comes from.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

import jkofilter as jf

F64 = torch.float64
INF = math.inf


def t(value: object) -> torch.Tensor:
    return torch.tensor(value, dtype=F64)


def model(v, beta=1.0, m=0.0, var=1.0, r=0.1, domain=None, d=1) -> jf.StateSpaceModel:
    potential = v if isinstance(v, jf.Potential) else jf.Potential(v, d, domain=domain)
    prior = torch.distributions.MultivariateNormal(torch.full((d,), m, dtype=F64), var * torch.eye(d, dtype=F64))
    return jf.StateSpaceModel(prior, jf.LangevinSDE(potential, beta), jf.LinearGaussian(np.eye(d), r * np.eye(d)))


def flat(x: torch.Tensor) -> torch.Tensor:
    return 0 * x.sum(-1)


def well(x: torch.Tensor) -> torch.Tensor:
    return torch.where((x[..., 0] > 0) & (x[..., 0] < 3), 0 * x[..., 0], torch.inf)


def high_jump(x: torch.Tensor) -> torch.Tensor:
    return torch.where((x[..., 0] > 0) & (x[..., 0] < 3), 0 * x[..., 0], 20.0)


def step_of_one(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x[..., 0] > 0, 1.0, 0.0) + x[..., 0].square()


def stationary(v: Callable[[torch.Tensor], torch.Tensor], low: float, high: float, beta: float = 1.0):
    """Mean and deviation of exp(-beta V) / Z by the midpoint rule."""
    edges = torch.linspace(low, high, 400_001, dtype=F64)
    x = 0.5 * (edges[1:] + edges[:-1])
    p = torch.exp(-beta * v(x[:, None]))
    p = p / p.sum()
    mean = (p * x).sum()
    return mean.item(), (p * (x - mean).square()).sum().sqrt().item()


def boxed_gaussian(time: float, length: float, mean: float, variance: float, beta: float):
    """Mean and deviation of a Brownian motion in [0, length], by mirror images of the Gaussian it starts from."""
    x = (np.arange(60_000) + 0.5) / 60_000 * length
    spread = math.sqrt(variance + 2 / beta * time)
    images = range(-12, 13)
    p = sum(norm.pdf(x, 2 * k * length + s * mean, spread) for k in images for s in (1, -1))
    p = p / p.sum()
    return float(p @ x), float(math.sqrt(p @ x**2 - (p @ x) ** 2))


def predicted(filter, duration: float, seed: int = 0):
    start = filter.init(torch.Generator().manual_seed(seed))
    return filter.predict(start, duration, torch.Generator().manual_seed(seed + 1))


WALLS = {
    "a box, before it is full": (flat, (0, 3), 1.5, 0.04, 0.3, boxed_gaussian(0.3, 3.0, 1.5, 0.04, 1.0)),
    "a box, full": (flat, (0, 3), 1.5, 0.04, 20.0, (1.5, math.sqrt(0.75))),
    "infinite outside, and the domain says so": (well, (0, 3), 1.5, 0.04, 20.0, (1.5, math.sqrt(0.75))),
    "a parabola that pushes against a wall": (
        lambda x: 2 * (x[..., 0] + 1) ** 2,
        (0, INF),
        0.5,
        0.005,
        2.5,
        stationary(lambda x: 2 * (x[..., 0] + 1) ** 2, 0, 5),
    ),
    "a parabola centred beside a wall": (
        lambda x: 2 * (x[..., 0] - 1) ** 2,
        (0, INF),
        0.5,
        0.005,
        4.0,
        stationary(lambda x: 2 * (x[..., 0] - 1) ** 2, 0, 8),
    ),
    "a steep slope into a wall": (lambda x: 20 * x[..., 0], (0, 3), 0.5, 0.005, 1.0, (0.05, 0.05)),
    "a half-line from above": (lambda x: -3 * x[..., 0], (-INF, 2), 1.0, 0.02, 5.0, (2 - 1 / 3, 1 / 3)),
}


@pytest.mark.parametrize("name", WALLS)
def test_grid_and_particles_are_reflected(name: str) -> None:
    v, domain, m, var, duration, (mean, sd) = WALLS[name]
    walled = model(v, m=m, var=var, domain=domain)
    grid, _ = predicted(jf.GridFilter(walled), duration)
    assert grid.mean.item() == pytest.approx(mean, abs=2e-3 * sd)
    assert grid.covariance.sqrt().item() == pytest.approx(sd, rel=2e-3)
    n = 10_000
    particles, info = predicted(jf.ParticleFilter(walled, n), duration)
    assert walled.sde.domain.contains(particles.particles).all()
    # Five standard errors, and a hundredth for the scheme, which is of first order at a wall.
    assert particles.mean.item() == pytest.approx(mean, abs=(5 / math.sqrt(n) + 0.01) * sd)
    assert particles.covariance.sqrt().item() == pytest.approx(sd, rel=8 / math.sqrt(2 * n) + 0.01)
    assert info.status == "ok"


@pytest.mark.parametrize("alpha", [2.0, 0.5])
def test_a_log_barrier_on_a_half_line(alpha: float) -> None:
    """V = x - alpha log x: Gamma(alpha + 1) in the end; at .5 the barrier is too weak to keep paths from zero."""
    walled = model(lambda x: x[..., 0] - alpha * x[..., 0].log(), m=1.5, var=0.04, domain=(0, INF))
    grid = jf.GridFilter(walled)
    early = predicted(grid, 1.0)[0]
    late = predicted(grid, 40.0)[0]
    assert late.mean.item() == pytest.approx(alpha + 1, rel=5e-3)
    assert late.covariance.item() == pytest.approx(alpha + 1, rel=1e-2)
    n = 2_000
    particles = predicted(jf.ParticleFilter(walled, n), 1.0)[0]
    sd = early.covariance.sqrt().item()
    assert particles.mean.item() == pytest.approx(early.mean.item(), abs=(5 / math.sqrt(n) + 0.01) * sd)
    assert particles.covariance.sqrt().item() == pytest.approx(sd, rel=8 / math.sqrt(2 * n) + 0.01)


def test_a_simulated_path_stays_inside_and_fills_the_box() -> None:
    """1,000 coordinates in the box stand for as many paths."""
    n = 1_000
    walled = jf.StateSpaceModel(
        torch.distributions.Independent(torch.distributions.Uniform(torch.full((n,), 1.4).double(), 1.6), 1),
        jf.LangevinSDE(jf.Potential(flat, n, domain=(0, 3))),
        jf.NonlinearGaussian(lambda x: x[:, :1], [[1.0]]),
    )
    path, _ = jf.simulate(walled, [0.3, 5.0])
    assert path.min() >= 0
    assert path.max() <= 3
    for row, (mean, sd) in zip(path, (boxed_gaussian(0.3, 3, 1.5, 0.04 / 12, 1), (1.5, math.sqrt(0.75))), strict=True):
        assert row.mean().item() == pytest.approx(mean, abs=5 * sd / math.sqrt(n))
        assert row.std().item() == pytest.approx(sd, rel=5 / math.sqrt(2 * n))


def test_walls_of_the_plane() -> None:
    """V = x + y^2/2 + x y on (0, 2) x (-1, inf): stationary moments by the midpoint rule."""

    def v(x: torch.Tensor) -> torch.Tensor:
        return x[..., 0] + 0.5 * x[..., 1] ** 2 + x[..., 0] * x[..., 1]

    x, y = (torch.arange(800, dtype=F64) + 0.5) / 400, -1 + (torch.arange(2400, dtype=F64) + 0.5) / 400
    points = torch.cartesian_prod(x, y)
    p = torch.exp(-v(points))
    p = p / p.sum()
    mean = p @ points
    sd = (p @ (points - mean).square()).sqrt()
    prior = torch.distributions.MultivariateNormal(t([1.0, 0.5]), 0.01 * torch.eye(2, dtype=F64))
    sde = jf.LangevinSDE(jf.Potential(v, 2, domain=((0, 2), (-1, INF))))
    walled = jf.StateSpaceModel(prior, sde, jf.LinearGaussian(np.eye(2), np.eye(2)))
    n = 10_000
    for filter, slack in ((jf.GridFilter(walled, cells=100), 5e-3), (jf.ParticleFilter(walled, n), 0.06)):
        belief = predicted(filter, 5.0)[0]
        assert torch.allclose(belief.mean, mean, atol=slack * sd.min().item())
        assert torch.allclose(belief.covariance.diagonal().sqrt(), sd, rtol=slack)
        outside = belief.log_prob(t([[-0.1, 0.0], [1.0, -1.1], [2.1, 0.0]]))
        assert (outside == -INF).all()


def test_a_reading_moves_a_law_beside_a_wall() -> None:
    """Bayes by the midpoint rule: the full box, seen at -.2 with variance .1."""
    walled = model(flat, m=1.5, var=0.04, domain=(0, 3))
    x = (np.arange(300_000) + 0.5) / 100_000
    likelihood = norm.pdf(-0.2, x, math.sqrt(0.1))
    evidence, mean = math.log(likelihood.mean()), float(likelihood @ x / likelihood.sum())
    series = jf.ObservationSeries([20.0], [[-0.2]])
    for filter, slack in ((jf.GridFilter(walled), 1e-3), (jf.ParticleFilter(walled, 20_000), 0.08)):
        found = filter.run(series).final
        assert found.log_evidence == pytest.approx(evidence, abs=slack)
        assert found.mean.item() == pytest.approx(mean, abs=0.2 * slack)


@pytest.mark.parametrize("domain", [None, (0, 3)])
def test_particles_are_draws_of_the_density_they_report(domain: tuple[float, float] | None) -> None:
    """Kolmogorov-Smirnov of the particles against the mixture of the last step, folded at the walls."""
    belief, _ = predicted(jf.ParticleFilter(model(lambda x: 3 * x[..., 0], m=0.6, var=0.01, domain=domain), 4_000), 0.4)
    assert belief.density == "transition"
    low, high = (0.0, 3.0) if domain else (-6.0, 3.0)
    x = torch.linspace(low, high, 20_001, dtype=F64)
    p = belief.log_prob(x[:, None]).exp().numpy()
    cdf = np.concatenate([[0.0], np.cumsum(0.5 * (p[1:] + p[:-1]) * np.diff(x.numpy()))])
    assert cdf[-1] == pytest.approx(1.0, abs=1e-5)
    assert kstest(belief.particles[:, 0].numpy(), lambda y: np.interp(y, x.numpy(), cdf)).pvalue > 1e-3
    draws = belief.sample(4_000, torch.Generator().manual_seed(5))[:, 0].numpy()
    assert kstest(draws, lambda y: np.interp(y, x.numpy(), cdf)).pvalue > 1e-3


UNSEEN = jf.ObservationSeries(np.arange(1, 200) * 0.01, [[math.nan]] * 199)
MOVERS = {
    "particles": lambda m: predicted(jf.ParticleFilter(m, 2_000), 20.0),
    "particles, short": lambda m: jf.ParticleFilter(m, 2_000).run(UNSEEN),
    "particles, own substep": lambda m: predicted(jf.ParticleFilter(m, 2_000, substep=1e-2), 5.0),
    "ensemble": lambda m: predicted(jf.EnsembleKalmanFilter(m, 1_000), 20.0),
    "ensemble, own substep": lambda m: predicted(jf.EnsembleKalmanFilter(m, 1_000, substep=1e-2), 5.0),
    "unscented": lambda m: predicted(jf.UnscentedKalmanFilter(m), 20.0),
    "simulate": lambda m: jf.simulate(m, np.arange(1.0, 40.0)),
    "simulate, own substep": lambda m: jf.simulate(m, np.arange(1.0, 40.0), substep=1e-2),
    "particle flow": lambda m: jf.solve_particles(m.prior, m.sde, [20.0], particles=1_000),
    "JKO flow": lambda m: jf.solve_jko(m.prior, m.sde, 5.0, step=0.25, pool=128),
}
LOUD = [(well, r"infinite.*domain="), (high_jump, "jumps by 20"), (step_of_one, "jumps by 1")]


@pytest.mark.parametrize("mover", MOVERS)
@pytest.mark.parametrize(("v", "words"), LOUD, ids=["wall", "high jump", "low jump"])
def test_an_unstated_wall_or_a_jump_is_an_error(mover: str, v: Callable, words: str) -> None:
    m = model(v, m=1.5, var=0.04) if v is not step_of_one else model(v, m=0.5, var=0.04)
    with pytest.raises((jf.FilterError, jf.InputError), match=words):
        MOVERS[mover](m)


@pytest.mark.parametrize(
    ("v", "m", "low", "high"), [(high_jump, 1.5, 0.0, 3.0), (step_of_one, 0.5, -6.0, 6.0)], ids=["high", "low"]
)
def test_the_cures_of_a_jump_work(v: Callable, m: float, low: float, high: float) -> None:
    """Cells resolve it; particles do once it is smoothed over a width (here .2; the well then has soft walls)."""
    mean, sd = stationary(v, low, high)
    found = predicted(jf.GridFilter(model(v, m=m, var=0.04)), 20.0)[0]
    assert found.mean.item() == pytest.approx(mean, abs=2e-3)
    assert found.covariance.sqrt().item() == pytest.approx(sd, rel=2e-3)

    def smooth(x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x[..., 0] / 0.2) + x[..., 0].square()

    if v is step_of_one:
        mean, sd = stationary(smooth, -6, 6)
        particles = predicted(jf.ParticleFilter(model(smooth, m=m, var=0.04), 5_000), 6.0)[0]
        assert particles.mean.item() == pytest.approx(mean, abs=5 * sd / math.sqrt(5_000))
        assert particles.covariance.sqrt().item() == pytest.approx(sd, rel=5 / math.sqrt(10_000))


REFUSED = {
    "kalman": lambda m: jf.KalmanFilter(m),
    "unscented": lambda m: jf.UnscentedKalmanFilter(m),
    "ensemble": lambda m: jf.EnsembleKalmanFilter(m),
    "proximal": lambda m: jf.ProximalFilter(m),
    "dual": lambda m: jf.DualJKOFilter(m),
    "ridge": lambda m: jf.JKOFilter(m, transport="ridge"),
    "solve_jko": lambda m: jf.solve_jko(m.prior, m.sde, 1.0),
    "grid with bounds beyond": lambda m: jf.GridFilter(m, bounds=(-1.0, 2.0)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_methods_that_know_no_walls_refuse_them_and_name_one_that_does(name: str) -> None:
    walled = model(jf.Quadratic(t([1.0]), t([[1.0]]), domain=(0, 3)), m=1.5, var=0.04)
    with pytest.raises(jf.InputError, match=r"domain \(0, 3\)"):
        REFUSED[name](walled)


def test_a_prior_with_mass_outside_is_refused_with_its_mass() -> None:
    with pytest.raises(jf.InputError, match=r"prior has 0\.16 of its mass outside the domain \(0, 3\)"):
        model(flat, m=0.2, var=0.04, domain=(0, 3))
    with pytest.raises(jf.InputError, match=r"prior has 0\.5 of its mass outside the domain \(0, inf\)"):
        jf.StateSpaceModel(
            torch.distributions.Laplace(t(0.0), t(1.0)),
            jf.LangevinSDE(jf.Potential(flat, 1, domain=(0, INF))),
            jf.LinearGaussian(1.0, 1.0),
        )
    for inside in (torch.distributions.LogNormal(t(0.0), t(1.0)), torch.distributions.Gamma(t(2.0), t(1.0))):
        jf.StateSpaceModel(inside, jf.LangevinSDE(jf.Potential(flat, 1, domain=(0, INF))), jf.LinearGaussian(1.0, 1.0))


# --- kind 7: steps follow the curvature ------------------------------------------------------------------------------


def sharp(x: torch.Tensor) -> torch.Tensor:
    return 500 * x[..., 0].square()


@pytest.mark.parametrize("duration", [1.0, 1e-3])
def test_a_sharp_well_keeps_its_width(duration: float) -> None:
    """V'' = 1000: the variance is .001 + (v - .001) exp(-2000 t)."""
    variance = 1e-3 + (4e-3 - 1e-3) * math.exp(-2000 * duration)
    n = 20_000
    narrow = model(sharp, var=4e-3)
    for filter, slack in (
        (jf.ParticleFilter(narrow, n), 5 * math.sqrt(2 / n) + 3e-3),
        (jf.EnsembleKalmanFilter(narrow, n), 5 * math.sqrt(2 / n)),
        (jf.UnscentedKalmanFilter(narrow), 1e-6),
    ):
        belief, info = predicted(filter, duration)
        assert belief.covariance.item() == pytest.approx(variance, rel=slack)
        assert info.note == ""


def test_a_simulated_path_in_a_sharp_well_has_its_width() -> None:
    path, _ = jf.simulate(model(sharp, var=1e-3), 0.05 * np.arange(1, 2_001))
    assert path.var().item() == pytest.approx(1e-3, rel=5 * math.sqrt(2 / 2_000))


def test_sharp_and_slow_directions_together() -> None:
    """A rotated precision of 1 and 1e4: both variances right, in a few steps."""
    rotation = np.array([[0.8, -0.6], [0.6, 0.8]])
    precision = rotation @ np.diag([1.0, 1e4]) @ rotation.T
    potential = jf.Potential(lambda x: 0.5 * ((x @ t(precision).to(x)) * x).sum(-1), 2)
    n = 20_000
    belief, info = predicted(jf.EnsembleKalmanFilter(model(potential, d=2), n), 0.7)
    own = rotation.T @ belief.covariance.numpy() @ rotation
    # Started at variance 1, which is the slow direction's own in the end.
    assert np.diag(own) == pytest.approx([1.0, 1e-4], rel=5 * math.sqrt(2 / n))
    assert info.details["steps"] < 100


def test_superlinear_drifts_come_in_from_far() -> None:
    """V = x^4 from 50, where V'' = 30000: at rest after 3 units; and the flow down to where noise matters, by time."""
    mean, sd = stationary(lambda x: x[..., 0] ** 4, -4, 4)
    n = 5_000
    quartic = model(lambda x: x[..., 0] ** 4, m=50.0, var=1.0)
    for filter in (jf.ParticleFilter(quartic, n), jf.EnsembleKalmanFilter(quartic, n)):
        belief, _ = predicted(filter, 3.0)
        assert belief.mean.item() == pytest.approx(mean, abs=5 * sd / math.sqrt(n))
        assert belief.covariance.sqrt().item() == pytest.approx(sd, rel=5 / math.sqrt(2 * n))
    path, _ = jf.simulate(quartic, [1e-3, 3.0])
    # x' = -4 x^3 from x_0: x^-2 = x_0^-2 + 8 t, 11.1 after .001 for x_0 within a few of 50.
    assert path[0].item() == pytest.approx(11.1, abs=0.4)
    assert abs(path[1].item()) < 2.5


def test_a_double_well_from_an_uneven_start() -> None:
    """Against the grid while it still is on its way."""
    m = model(jf.DoubleWell(1), beta=2.0, m=0.5, var=0.1)
    exact = predicted(jf.GridFilter(m), 0.6)[0]
    n, sd = 40_000, exact.covariance.sqrt().item()
    belief = predicted(jf.ParticleFilter(m, n), 0.6)[0]
    assert belief.mean.item() == pytest.approx(exact.mean.item(), abs=5 * sd / math.sqrt(n) + 2e-3)
    assert belief.covariance.sqrt().item() == pytest.approx(sd, rel=5 / math.sqrt(2 * n) + 3e-3)
    assert jf.metrics.kl(belief, exact) < 3e-3


def test_a_substep_of_the_users_that_is_too_long_is_noted() -> None:
    narrow = model(lambda x: 50 * x[..., 0].square(), var=0.01)
    for filter in (
        jf.ParticleFilter(narrow, 1_000, substep=5e-3),
        jf.EnsembleKalmanFilter(narrow, 1_000, substep=5e-3),
        jf.UnscentedKalmanFilter(narrow, substep=1e-2),
    ):
        assert "substep" in predicted(filter, 0.5)[1].note
    for filter in (jf.ParticleFilter(narrow, 1_000, substep=1e-3), jf.UnscentedKalmanFilter(narrow, substep=5e-3)):
        assert predicted(filter, 0.5)[1].note == ""
    with pytest.raises(jf.InputError, match=r"substep 0\.005 is too long"):
        jf.simulate(narrow, [1.0, 2.0], substep=5e-3)
    jf.simulate(narrow, [1.0, 2.0], substep=1e-3)


def test_a_known_curvature_costs_few_evaluations() -> None:
    """The sine problem: a unit of time took 1,000 gradients a particle at the old substep of .001."""
    seen = 0

    class Counted(jf.SineQuadratic):
        def gradient(self, x: torch.Tensor) -> torch.Tensor:
            nonlocal seen
            seen += len(x)
            return super().gradient(x)

    n = 5_000
    filter = jf.ParticleFilter(model(Counted(1)), n)
    seen = 0
    start = time.process_time()
    predicted(filter, 2.0)
    assert seen < 2 * 400 * n
    assert time.process_time() - start < 20


def test_unscented_filter_says_when_its_law_meets_a_wall_or_a_jump_only_if_it_does() -> None:
    far = model(high_jump, m=1.5, var=1e-4)
    predicted(jf.UnscentedKalmanFilter(far), 0.01)
    with pytest.raises(jf.FilterError, match="jumps by 20"):
        predicted(jf.UnscentedKalmanFilter(far), 3.0)


def test_calibrate_does_not_convict_an_exact_filter_in_a_sharp_well() -> None:
    """90% intervals of the Kalman filter hold the truth 90 times of 100: within four standard errors of 400 cases."""
    exact = jf.KalmanFilter(model(jf.Quadratic(t([0.0]), t([[1000.0]])), var=1e-3, r=1e-3))
    found = jf.calibrate(exact, [0.01, 0.02, 0.03, 0.04], 100)
    assert found.coverage(0.9) == pytest.approx(0.9, abs=4 * math.sqrt(0.09 / 400))
