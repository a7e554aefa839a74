"""Smoothing on the line against dense chains, Kalman and closed forms."""

import numpy as np
import pytest
import torch

import jkofilter as jf
from tests.line_problems import model_of, normal
from tests.smoothing.dense_chain import DenseChain

TIMES = [0.5, 1.0, 1.5, 2.0, 2.5]
AT = [0.0, 0.7, 1.75]


def barrier(x):
    return 1.5 * (x * x - 1) ** 2 - 0.2 * x


def double_well(variance: float = 0.25) -> tuple[jf.StateSpaceModel, jf.ObservationSeries]:
    model = model_of(barrier, 1.0, 0.3, variance, noise=1.0)
    return model, jf.ObservationSeries(TIMES, [0.9, float("nan"), -0.8, 0.3, 1.4])


@pytest.fixture(scope="module")
def chain() -> DenseChain:
    return DenseChain(double_well()[0], barrier, (-2.9, 3.2), 260)


def present(series: jf.ObservationSeries) -> jf.ObservationSeries:
    """Without the row that is missing, which the chain does not know."""
    kept = ~torch.isnan(series.values[:, 0])
    return jf.ObservationSeries(series.times[kept], series.values[kept])


@pytest.mark.parametrize("kind", [jf.SpectralFilter, jf.JKOFilter])
def test_smoothed_densities_are_those_of_the_dense_chain(kind, chain: DenseChain) -> None:
    model, series = double_well()
    result = kind(model).smooth(series, at=AT)
    exact = chain.smoothed(present(series), [*AT, 1.0])
    for belief in (result.initial, *result.beliefs):
        assert np.abs(chain.divergences(belief, exact[belief.time])).max() < 1e-6
    assert result.backward_log_evidence == pytest.approx(result.log_evidence, abs=1e-4)
    assert all(belief.log_evidence == result.log_evidence for belief in result.beliefs)
    assert result.note == ""


def test_both_passes_agree_to_rounding_in_one_eigenbasis() -> None:
    model, series = double_well()
    result = jf.SpectralFilter(model, bounds=(-2.7, 2.9)).smooth(series)
    assert max(info.details.get("evidence_apart", 0.0) for info in result.infos) < 1e-10
    # On the nodes themselves: the law of the last reading is the filter's.
    torch.testing.assert_close(result.means[-1], result.filtered.means[-1], rtol=0, atol=1e-13)


def ornstein_uhlenbeck() -> tuple[jf.StateSpaceModel, jf.ObservationSeries]:
    sde = jf.LangevinSDE(jf.Quadratic(0.2, 1.3), 1.7)
    model = jf.StateSpaceModel(normal(0.5, 1.5), sde, jf.LinearGaussian([[1.0]], [[0.3]]))
    return model, jf.ObservationSeries([0.3, 0.6, 0.9, 1.2], [0.8, -0.1, 0.5, 1.1])


@pytest.mark.parametrize(
    ("build", "tolerance"), [(lambda m: jf.JKOFilter(m, scheme="sdirk4"), 1e-6), (jf.SpectralFilter, 1e-7)]
)
def test_ornstein_uhlenbeck_is_smoothed_as_by_rauch_tung_and_striebel(build, tolerance: float) -> None:
    model, series = ornstein_uhlenbeck()
    exact = jf.KalmanFilter(model).smooth(series, at=[0.0, 0.1, 0.7])
    found = build(model).smooth(series, at=[0.0, 0.1, 0.7])
    torch.testing.assert_close(found.means, exact.means, rtol=0, atol=tolerance)
    torch.testing.assert_close(found.covariances, exact.covariances, rtol=0, atol=tolerance)


def test_a_prior_far_wider_than_the_wells_is_smoothed_on_cells() -> None:
    model, series = double_well(variance=4.0)
    result = jf.SpectralFilter(model).smooth(present(series))
    assert result.backward_log_evidence == pytest.approx(result.log_evidence, abs=1e-5)
    chain = DenseChain(model, barrier, (-9.0, 9.5), 500)
    p = chain.smoothed(present(series), [])[0.0]
    assert result.initial.mean.item() == pytest.approx(float(p @ chain.x), abs=2e-4)
    variance = float(p @ np.square(chain.x - p @ chain.x))
    assert result.initial.covariance.item() == pytest.approx(variance, rel=2e-4)


def test_a_potential_without_a_finite_stationary_mass_begins_with_the_last_reading() -> None:
    kappa, beta = 0.8, 1.5
    model = jf.StateSpaceModel(
        jf.benes_prior(0.1, 0.5, kappa),
        jf.LangevinSDE(jf.LogCosh(kappa, beta), beta),
        jf.LinearGaussian([[1.0]], [[0.6]]),
    )
    series = jf.ObservationSeries([0.4, 1.0, 1.5, 1.7], [0.6, -0.4, 0.3, float("nan")])
    exact = jf.BenesFilter(model).smooth(series, at=[0.0, 0.7])
    for kind, tolerance in ((jf.SpectralFilter, 1e-7), (jf.JKOFilter, 1e-4)):
        found = kind(model).smooth(series, at=[0.0, 0.7])
        torch.testing.assert_close(found.means, exact.means, rtol=0, atol=tolerance)
        torch.testing.assert_close(found.covariances, exact.covariances, rtol=0, atol=tolerance)


@pytest.mark.slow
def test_noise_that_depends_on_the_state_is_smoothed_as_in_lamperti_coordinates() -> None:
    """Geometric Brownian motion is Gaussian in its logarithm."""
    drift, noise = 0.1, 0.4
    sde = jf.LineDiffusion(lambda x: drift * x, lambda x: noise * x, domain=(0.0, float("inf")))
    prior = torch.distributions.Independent(torch.distributions.LogNormal(torch.zeros(1).double(), 0.3), 1)
    model = jf.StateSpaceModel(prior, sde, jf.NonlinearGaussian(lambda x: torch.log(x), [[0.05]]))
    series = jf.ObservationSeries([0.5, 1.0, 1.5], [0.3, -0.1, 0.2])
    result = jf.SpectralFilter(model).smooth(series, at=[0.2])
    rate = drift - 0.5 * noise**2
    times = np.array([0.0, 0.2, 0.5, 1.0, 1.5])
    mean = rate * times
    cov = 0.09 + noise**2 * np.minimum(times[:, None], times)
    rows, y = [2, 3, 4], np.array([0.3, -0.1, 0.2])
    gain = cov[:, rows] @ np.linalg.inv(cov[np.ix_(rows, rows)] + 0.05 * np.eye(3))
    mean, cov = mean + gain @ (y - mean[rows]), cov - gain @ cov[rows]
    expected = np.exp(mean + 0.5 * np.diag(cov))
    found = [belief.mean.item() for belief in (result.initial, *result.beliefs)]
    assert found == pytest.approx(expected, abs=1e-5)
    n = 20_000
    paths = torch.log(result.sample_paths(n, [0.2, 1.0])[..., 0]).numpy()
    want = cov[np.ix_([1, 3], [1, 3])]
    assert np.abs((paths.mean(0) - mean[[1, 3]]) / np.sqrt(np.diag(want)) * n**0.5).max() < 4.5
    spread = np.sqrt(np.outer(np.diag(want), np.diag(want)) + want**2) / n**0.5
    assert np.abs((np.cov(paths.T) - want) / spread).max() < 4.5


@pytest.mark.parametrize(
    "kind",
    [
        jf.SpectralFilter,
        pytest.param(jf.JKOFilter, marks=pytest.mark.slow),
        pytest.param(lambda m: jf.GridFilter(m, cells=500, step=0.02), marks=pytest.mark.slow),
    ],
)
def test_paths_have_the_joint_laws_of_the_chain(kind, chain: DenseChain) -> None:
    model, series = double_well()
    n, times = 4000, [0.0, 0.25, 0.5, 1.0, 1.5, 1.75, 2.0, 2.5]
    paths = kind(model).smooth(series).sample_paths(n, times, seed=3)[..., 0].numpy()
    exact = chain.smoothed(present(series), [0.0, 0.25, 1.0, 1.75])
    for column, time in zip(paths.T, times, strict=True):
        ranks = np.interp(column, chain.x + 0.5 * chain.width, np.cumsum(exact[time]))
        assert np.abs(np.sort(ranks) - (np.arange(n) + 0.5) / n).max() < 1.95 / n**0.5
    for one, other in ((0.0, 0.25), (0.25, 1.0), (1.5, 1.75), (0.5, 2.5)):
        products = paths[:, times.index(one)] * paths[:, times.index(other)]
        error = products.mean() - chain.product_moment(present(series), one, other)
        assert abs(error) < 4 * products.std() / n**0.5
    counts = np.bincount(np.diff(paths >= 0.0, axis=1).sum(1), minlength=8) / n
    chances = chain.changes(present(series), [0.0, 0.25, 1.0, 1.75], 7)
    assert np.abs(counts - chances).max() < 4 * 0.5 / n**0.5
    assert 0.01 < chances[1] < 0.99


@pytest.mark.slow
def test_paths_over_times_too_short_for_any_basis_have_the_noise_of_the_diffusion() -> None:
    model, series = ornstein_uhlenbeck()
    n, times = 20_000, [0.6, 0.60001, 0.60004, 0.9]
    paths = jf.SpectralFilter(model).smooth(series).sample_paths(n, times)[..., 0].numpy()
    for k, gap in ((0, 1e-5), (1, 3e-5)):
        jumps = np.diff(paths, axis=1)[:, k] / np.sqrt(2 / 1.7 * gap)
        assert jumps.mean() == pytest.approx(0.0, abs=4.5 / n**0.5 + 0.02)
        assert jumps.var() == pytest.approx(1.0, abs=4.5 * (2 / n) ** 0.5)
    exact = jf.KalmanFilter(model).smooth(series)
    mean, variance = exact.means[1].item(), exact.covariances[1].item()
    assert paths[:, 0].mean() == pytest.approx(mean, abs=4.5 * (variance / n) ** 0.5)
    assert paths[:, 0].var() == pytest.approx(variance, abs=4.5 * variance * (2 / n) ** 0.5)


def test_a_sharp_prior_and_a_wide_one_are_reached_back_to() -> None:
    for variance in (1e-6, 4.0):
        model, series = double_well(variance)
        result = jf.SpectralFilter(model).smooth(series)
        n = 4000
        start = result.sample_paths(n, [0.0, 0.5])[:, 0, 0].numpy()
        mean, spread = result.initial.mean.item(), result.initial.covariance.item() ** 0.5
        assert start.mean() == pytest.approx(mean, abs=4.5 * spread / n**0.5)
        assert start.std() == pytest.approx(spread, rel=4.5 / n**0.5)


def test_the_last_reading_must_bound_a_state_without_a_stationary_law() -> None:
    class Blind(jf.LinearGaussian):
        def log_likelihood(self, y, x):
            return 0.0 * x[:, 0]

    model = jf.StateSpaceModel(normal(0.0, 1.0), jf.LangevinSDE(jf.LogCosh(0.8, 1.5), 1.5), Blind([[1.0]], [[1.0]]))
    series = jf.ObservationSeries([1.0], [0.3])
    with pytest.raises(jf.InputError, match="give bounds"):
        jf.SpectralFilter(model).smooth(series)
    assert jf.SpectralFilter(model, bounds=(-8.0, 8.0)).smooth(series).note == ""


@pytest.mark.slow
def test_jko_in_more_dimensions_says_what_smooths() -> None:
    prior = torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    model = jf.StateSpaceModel(prior, jf.LangevinSDE(jf.DoubleWell(2)), jf.LinearGaussian(torch.eye(2), torch.eye(2)))
    series = jf.ObservationSeries([0.1], [[0.3, 0.1]])
    with pytest.raises(jf.InputError, match="smooths in one dimension"):
        jf.JKOFilter(model, pool=256, step=0.1).smooth(series)


def test_closed_cells_are_smoothed_as_their_own_chain() -> None:
    model, series = double_well()
    box, n = (-2.7, 2.9), 120
    filter = jf.GridFilter(model, bounds=box, cells=n, step=1e-3)
    result = filter.smooth(series, at=AT)
    exact = DenseChain(model, barrier, box, n).smoothed(present(series), [*AT, 1.0])
    for belief in (result.initial, *result.beliefs):
        # TR-BDF2 with 250 and more steps a gap.
        assert np.abs(belief.masses - exact[belief.time]).max() < 2e-6
    assert result.backward_log_evidence == pytest.approx(result.log_evidence, abs=1e-6)


@pytest.mark.slow
def test_the_plane_is_smoothed_as_by_rauch_tung_and_striebel() -> None:
    rates = torch.tensor([[1.3, 0.4], [0.4, 0.7]], dtype=torch.float64)
    prior = torch.distributions.MultivariateNormal(torch.zeros(2).double(), 0.8 * torch.eye(2).double())
    sde = jf.LangevinSDE(jf.Quadratic(torch.tensor([0.5, -0.5], dtype=torch.float64), rates), 1.7)
    model = jf.StateSpaceModel(prior, sde, jf.LinearGaussian([[1.0, 0.5]], [[0.3]]))
    series = jf.ObservationSeries([0.2, 0.4], [0.6, -0.4])
    exact = jf.KalmanFilter(model).smooth(series)
    for bounds, tolerance in ((None, 2e-3), ((-6.0, 6.0), 2e-3)):
        found = jf.GridFilter(model, bounds=bounds, cells=90, step=0.02).smooth(series)
        torch.testing.assert_close(found.means, exact.means, rtol=0, atol=tolerance)
        torch.testing.assert_close(found.covariances, exact.covariances, rtol=0, atol=tolerance)
        torch.testing.assert_close(found.initial.mean, exact.initial.mean, rtol=0, atol=tolerance)
        assert found.backward_log_evidence == pytest.approx(found.log_evidence, abs=1e-3)
    with pytest.raises(jf.InputError, match="on the line only"):
        found.sample_paths(3)
