"""The JKO filter in more than one dimension against exact filters, the grid, and trouble."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import oracles
import pytest
import torch
from filter_problems import EYE, NAN, ZERO, chain, gen, noise_of, normals, seen
from scipy import stats
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal

import jkofilter as jf
from jkofilter.numerics.mcmc import root_of_misfit


def error_of(result: jf.FilterResult, exact: jf.FilterResult) -> tuple[float, float, float]:
    """Worst errors: of means in exact deviations, of whitened covariances, of the log evidence for each reading."""
    sd = exact.covariances.diagonal(dim1=1, dim2=2).sqrt()
    means = ((result.means - exact.means) / sd).abs().max().item()
    root = torch.linalg.inv(torch.linalg.cholesky(exact.covariances))
    white = root @ result.covariances @ root.mT - torch.eye(sd.shape[1]).double()
    count = torch.arange(1, len(exact) + 1)
    return means, white.abs().max().item(), ((result.log_evidence - exact.log_evidence).abs() / count).max().item()


def assert_equal_laws(result: jf.FilterResult, exact: jf.FilterResult, tolerance: float) -> None:
    means, covariances, evidence = error_of(result, exact)
    assert means < tolerance
    # The standard error of a variance is sqrt(2) of that of a mean in these units.
    assert covariances < math.sqrt(2) * tolerance
    assert evidence < tolerance
    assert result.status == "ok"


# --- linear and Gaussian: the Kalman filter --------------------------------------------------------------------------


def ornstein_uhlenbeck(d: int, p: int) -> jf.StateSpaceModel:
    square, gains = normals(d, d, seed=d), normals(p, d, seed=d + 10)
    precision, noise = square @ square.mT / d + 0.4 * torch.eye(d).double(), 0.2 * torch.eye(p).double() + 0.05
    return jf.StateSpaceModel(
        MultivariateNormal(torch.linspace(-1, 1, d).double(), torch.eye(d).double() + 0.3),
        jf.LangevinSDE(jf.Quadratic(0.3 * torch.ones(d).double(), precision), 1.4),
        jf.LinearGaussian(gains, noise),
    )


TIMES = [0.0, 0.3, 0.35, 1.0]
VALUES = np.array([[0.4, -1.0, 0.2], [NAN, 0.8, -0.5], [NAN, NAN, NAN], [1.2, 0.1, NAN]])


@pytest.mark.parametrize(("d", "p"), [(2, 2), (2, 1), (3, 3), (3, 2)])
def test_a_gaussian_problem_is_filtered_as_kalman_does(d: int, p: int) -> None:
    """A reading at time zero, fewer components than the state has, missing ones, a whole reading missing."""
    model, series = ornstein_uhlenbeck(d, p), jf.ObservationSeries(TIMES, VALUES[:, :p])
    if p == 1:
        series = jf.ObservationSeries(TIMES, [0.4, NAN, -0.5, 1.2])
    exact = jf.KalmanFilter(model).run(series, until=1.2)
    result = jf.JKOFilter(model, pool=1000, step=0.1).run(series, until=1.2, seed=3)
    assert_equal_laws(result, exact, noise_of(1000))
    x = exact.final.sample(500, gen(1))
    difference = result.final.log_prob(x) - exact.final.log_prob(x)
    # rms of a log density whose mean and covariance are off by these errors, d (d + 3) / 2 of them.
    assert difference.square().mean().sqrt() < noise_of(1000) * math.sqrt(d * (d + 3) / 2)


def test_sensors_that_report_one_after_the_other_at_one_time() -> None:
    model = ornstein_uhlenbeck(2, 2)
    ours, exact = (f.track(seed=1) for f in (jf.JKOFilter(model, pool=1000, step=0.1), jf.KalmanFilter(model)))
    for tracker in (ours, exact):
        tracker.predict(0.4)
        for reading in ([0.7, NAN], [NAN, -0.4], [0.9, -0.2], [0.9, -0.2]):
            tracker.update(reading)
    sd = exact.belief.covariance.diagonal().sqrt()
    assert ((ours.belief.mean - exact.belief.mean) / sd).abs().max() < noise_of(1000)
    assert ours.belief.log_evidence == pytest.approx(exact.belief.log_evidence, abs=4 * noise_of(1000))
    assert ours.belief.time == 0.4


@dataclass
class Halved:
    """phi of a user's own."""

    def __call__(self, z: Tensor, c: Tensor) -> Tensor:
        return 0.5 * z


MOVES: dict[str, jf.UpdateSettings] = {
    "elliptical slice": jf.UpdateSettings(moves=("elliptical-slice",)),
    "crank-nicolson": jf.UpdateSettings(moves=("crank-nicolson",), sweeps=6),
    "independence": jf.UpdateSettings(moves=("auxiliary",), sweeps=6),
    "root of misfit": jf.UpdateSettings(moves=("auxiliary", "crank-nicolson"), auxiliary=root_of_misfit, sweeps=4),
    "user's phi": jf.UpdateSettings(moves=("auxiliary",), auxiliary=Halved(), sweeps=6),
    "global": jf.UpdateSettings(moves=("global",)),
    "all": jf.UpdateSettings(moves=("elliptical-slice", "crank-nicolson", "auxiliary", "global"), sweeps=1),
}


@pytest.mark.parametrize("name", MOVES)
def test_every_choice_of_moves_agrees_with_kalman(name: str) -> None:
    model, series = (
        ornstein_uhlenbeck(2, 2),
        jf.ObservationSeries([0.0, 0.3, 0.7], [[0.4, -1.0], [0.9, 0.8], [1.2, 0.1]]),
    )
    exact = jf.KalmanFilter(model).run(series)
    result = jf.JKOFilter(model, pool=1000, step=0.1, assimilation=MOVES[name]).run(series, seed=2)
    assert_equal_laws(result, exact, noise_of(1000))
    for info in result.infos:
        assert {f"acceptance_{move}" for move in MOVES[name].moves} <= set(info.details)
        assert all(0 < info.details[f"acceptance_{move}"] <= 1 for move in MOVES[name].moves)
        assert info.details["temperatures"] >= 1
        assert 1 <= info.ess <= 1000


def test_the_effective_size_reported_is_that_of_the_particles_before_tempering() -> None:
    model = ornstein_uhlenbeck(2, 2)
    filter = jf.JKOFilter(model, pool=1000)
    belief = filter.init(gen())
    y = torch.tensor([3.0, -2.0]).double()
    _, info = filter.update(belief, y, gen())
    w = model.log_likelihood(y, belief.pool.x).exp().numpy()
    assert info.ess == pytest.approx(w.sum() ** 2 / (w**2).sum(), rel=1e-9)
    assert info.details["temperatures"] > 1


# --- exact answers that are not Gaussian -----------------------------------------------------------------------------


def turn(d: int) -> Tensor:
    return torch.linalg.qr(normals(d, d, seed=5))[0]


def benes_model(d: int, kappa: float, m: list[float], P: float, noise: float) -> jf.StateSpaceModel:
    """A product of Benes diffusions, rotated; the prior is the product of two-component mixtures, 2^d of them."""
    R, start = turn(d), torch.tensor(m).double()

    def potential(x: Tensor) -> Tensor:
        u = 2 * kappa * (x @ R.mT)
        return -(torch.nn.functional.softplus(u) - 0.5 * u - math.log(2)).sum(-1)

    signs = torch.tensor(list(itertools.product([1.0, -1.0], repeat=d))).double()
    components = MultivariateNormal((start + kappa * P * signs) @ R, P * torch.eye(d).double().expand(2**d, d, d))
    prior = MixtureSameFamily(Categorical(logits=kappa * signs @ start), components)
    return jf.StateSpaceModel(
        prior, jf.LangevinSDE(jf.Potential(potential, d), 2.0), jf.LinearGaussian(R, noise * torch.eye(d).double())
    )


def benes_draws(laws: list[oracles.Benes], n: int) -> np.ndarray:
    """Draws of u: completing the square, N(m + kappa P, P) or N(m - kappa P, P) with odds exp(2 kappa m)."""
    rng, columns = np.random.default_rng(7), []
    for law in laws:
        up = rng.random(n) < 1 / (1 + math.exp(-2 * law.kappa * law.m))
        columns.append(law.m + np.where(up, 1, -1) * law.kappa * law.P + math.sqrt(law.P) * rng.normal(size=n))
    return np.stack(columns, 1)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.5, 3.0])
def test_benes_in_two_dimensions_is_its_closed_form(noise: float) -> None:
    """Log density within .05 rms on posterior draws, evidence within .02 a reading."""
    kappa, m, P, times = 1.5, [-0.3, 0.4], 0.6, [0.5, 1.0, 1.5, 2.0]
    model = benes_model(2, kappa, m, P, noise)
    _, series = jf.simulate(model, times, seed=3)
    result = jf.JKOFilter(model, pool=8000, step=0.1).run(series, seed=0, keep_beliefs=True)
    laws, now = [oracles.Benes(kappa, start, P) for start in m], 0.0
    for k, (time, y) in enumerate(zip(times, series.values, strict=True)):
        laws = [law.predict(time - now, 2.0).update(float(yi), noise) for law, yi in zip(laws, y, strict=True)]
        now = time
        u = benes_draws(laws, 4000)
        exact = sum(law.log_density(u[:, i]) for i, law in enumerate(laws))
        ours = result.beliefs[k].log_prob(torch.from_numpy(u) @ turn(2)).numpy()
        assert np.sqrt(np.mean((ours - exact) ** 2)) < 0.05
        evidence = sum(law.log_evidence for law in laws)
        assert abs(result.log_evidence[k].item() - evidence) < 0.02 * (k + 1)


@pytest.mark.slow
def test_a_coupled_chain_is_filtered_as_on_the_grid() -> None:
    """One site of two seen, ten readings: KL each way at most 1e-2."""
    model = seen(chain(1.0), jf.LinearGaussian([[1.0, 0.0]], [[0.25]]))
    _, series = jf.simulate(model, [0.3 * k for k in range(1, 11)], seed=4)
    exact = jf.GridFilter(model, cells=200, step=0.01).run(series)
    result = jf.JKOFilter(model, pool=4096, step=0.1).run(series)
    assert jf.metrics.kl(exact.final, result.final) < 1e-2
    assert jf.metrics.kl(result.final, exact.final) < 1e-2
    assert abs(result.log_evidence[-1] - exact.log_evidence[-1]) < 0.02 * 10


def range_and_bearing(x: Tensor) -> Tensor:
    from_here = x - torch.tensor([-3.0, 0.5]).to(x)
    return torch.stack((from_here.norm(dim=-1), torch.atan2(from_here[:, 1], from_here[:, 0])), -1)


SENSORS: dict[str, tuple[jf.ObservationModel, list[list[float]]]] = {
    "poisson": (jf.Poisson(lambda x: torch.exp(1 + x)), [[4.0, 1.0], [6.0, NAN]]),
    "student-t": (jf.StudentT(lambda x: x, 0.4, 3.0), [[0.8, -0.5], [1.0, 4.0]]),
    "range and bearing": (
        jf.NonlinearGaussian(range_and_bearing, torch.diag(torch.tensor([0.1, 0.02]).double())),
        [[3.6, -0.1], [3.9, -0.3]],
    ),
    "volatility": (jf.StochasticVolatility(), [[0.5, 2.0], [-1.5, 0.1]]),
}


@pytest.mark.parametrize("name", SENSORS)
def test_readings_of_other_kinds_are_taken_in_as_on_the_grid(name: str) -> None:
    sensor, values = SENSORS[name]
    model, series = seen(chain(1.0), sensor), jf.ObservationSeries([0.0, 0.2], values)
    exact = jf.GridFilter(model, cells=100, step=0.02).run(series)
    result = jf.JKOFilter(model, pool=1000, step=0.1).run(series)
    assert_equal_laws(result, exact, noise_of(1000))
    assert jf.metrics.kl(exact.final, result.final, samples=4000) < 0.05
    assert jf.metrics.kl(result.final, exact.final, samples=4000) < 0.05


# --- habits ----------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_laws_and_another_seed_others() -> None:
    model = seen(jf.DoubleWell(2), jf.LinearGaussian(EYE, 0.25 * EYE))
    series = jf.ObservationSeries([0.0, 0.1], [[1.0, -0.3], [0.8, -0.9]])
    filter, x = jf.JKOFilter(model, pool=128, step=0.1), normals(20, 2)
    one, two, other = (filter.run(series, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(one.means, two.means)
    assert torch.equal(one.log_evidence, two.log_evidence)
    assert torch.equal(one.final.log_prob(x), two.final.log_prob(x))
    assert not torch.equal(one.means, other.means)


def test_beliefs_after_readings_and_predictions_are_saved_and_read_back(tmp_path: Path) -> None:
    model = seen(jf.DoubleWell(2), jf.LinearGaussian(EYE, 0.25 * EYE))
    series = jf.ObservationSeries([0.1, 0.2], [[NAN, NAN], [0.8, -0.9]])
    result = jf.JKOFilter(model, pool=128, step=0.1).run(series, until=0.3, keep_beliefs=True)
    file = tmp_path / "result.pt"
    result.save(file)
    back, x = jf.FilterResult.load(file), normals(20, 2)
    for before, after in zip((*result.beliefs, result.final), (*back.beliefs, back.final), strict=True):
        assert type(after) is jf.TransportBelief
        assert after.time == before.time
        assert len(after.maps) == len(before.maps)
        torch.testing.assert_close(after.log_prob(x), before.log_prob(x), rtol=1e-12, atol=1e-12)
        assert torch.equal(after.mean, before.mean)
        assert torch.equal(after.sample(9, gen(2)), before.sample(9, gen(2)))
    # What was read back can be filtered on.
    filter = jf.JKOFilter(model, pool=128, step=0.1)
    one, two = (filter.update(b, torch.tensor([0.0, 0.1]).double(), gen(3))[0] for b in (result.final, back.final))
    torch.testing.assert_close(one.mean, two.mean, rtol=1e-9, atol=1e-9)


def test_a_prior_that_cannot_be_stored_is_refused_by_name_and_no_file_is_left(tmp_path: Path) -> None:
    prior = Independent(torch.distributions.Laplace(ZERO, torch.ones(2).double()), 1)
    model = seen(jf.DoubleWell(2), jf.LinearGaussian(EYE, EYE), prior)
    result = jf.JKOFilter(model, pool=100).run(jf.ObservationSeries([0.0], [[NAN, NAN]]))
    with pytest.raises(jf.InputError, match="prior of type Independent cannot be saved"):
        result.save(tmp_path / "result.pt")
    assert not list(tmp_path.iterdir())


# --- honesty ---------------------------------------------------------------------------------------------------------

RUNS = 200


@pytest.mark.slow
def test_truths_are_spread_evenly_over_the_beliefs_that_cover_them() -> None:
    """Simulation-based calibration (Cook, Gelman & Rubin 2006): PITs uniform, 90 % intervals covering 87 to 93 %."""
    model = seen(chain(1.0), jf.LinearGaussian([[1.0, 0.0]], [[0.25]]))
    steps = jf.RidgeEngine(cells=12, directions=4, refinements=0)
    filter = jf.JKOFilter(model, pool=500, step=0.25, transport=steps, assimilation=jf.UpdateSettings(engine=steps))
    found = jf.calibrate(filter, [0.25, 0.5], RUNS, substep=0.005)
    assert 0.87 <= found.coverage(0.9) <= 0.93
    # Runs are independent, times and coordinates of one run are not.
    for column in found.levels.reshape(RUNS, -1).mT.numpy():
        assert stats.kstest(column, "uniform").pvalue > 1e-3
