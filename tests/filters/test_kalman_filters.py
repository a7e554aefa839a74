"""Kalman, unscented and ensemble filters against a recursion written out here."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.stats import multivariate_normal

import jkofilter as jf

F64 = torch.float64
A = np.array([[2.0, 0.7], [0.7, 1.0]])
B = np.array([0.5, -1.0])
H = np.array([[1.0, 0.2], [0.0, 1.0], [1.0, -1.0]])
R = np.array([[0.3, 0.1, 0.0], [0.1, 0.4, 0.0], [0.0, 0.0, 0.2]])
BETA = 1.7
TIMES = [0.0, 0.3, 0.35, 1.2]
VALUES = np.array([[0.1, 0.2, 0.3], [1.0, np.nan, 0.0], [np.nan] * 3, [-1.0, 0.5, np.nan]])


def t(value: object) -> torch.Tensor:
    return torch.tensor(np.asarray(value), dtype=F64)


def model() -> jf.StateSpaceModel:
    prior = torch.distributions.MultivariateNormal(t([1.0, 2.0]), t([[1.0, -0.4], [-0.4, 0.8]]))
    return jf.StateSpaceModel(prior, jf.LangevinSDE(jf.Quadratic(t(B), t(A)), BETA), jf.LinearGaussian(t(H), t(R)))


def series() -> jf.ObservationSeries:
    return jf.ObservationSeries(TIMES, VALUES)


def oracle() -> tuple[np.ndarray, np.ndarray, float]:
    """The recursion of any textbook; the noise covariance by quadrature of its defining integral."""
    m, p, now, evidence = np.array([1.0, 2.0]), np.array([[1.0, -0.4], [-0.4, 0.8]]), 0.0, 0.0
    nodes, weights = np.polynomial.legendre.leggauss(30)
    for time, y in zip(TIMES, VALUES, strict=True):
        dt = time - now
        flow = expm(-A * dt)
        grid = [(dt / 2 * (u + 1), dt / 2 * w) for u, w in zip(nodes, weights, strict=True)]
        noise = 2 / BETA * sum(w * expm(-2 * A * s) for s, w in grid)
        m, p, now = B + flow @ (m - B), flow @ p @ flow + noise, time
        seen = ~np.isnan(y)
        if seen.any():
            h, r = H[seen], R[np.ix_(seen, seen)]
            s = h @ p @ h.T + r
            evidence += multivariate_normal(h @ m, s).logpdf(y[seen])
            gain = p @ h.T @ np.linalg.inv(s)
            m, p = m + gain @ (y[seen] - h @ m), p - gain @ s @ gain.T
    return m, p, evidence


def check(result: jf.FilterResult, tolerance: float) -> None:
    mean, covariance, evidence = oracle()
    assert np.allclose(result.final.mean.numpy(), mean, atol=tolerance)
    assert np.allclose(result.final.covariance.numpy(), covariance, atol=tolerance)
    assert result.final.log_evidence == pytest.approx(evidence, abs=5 * tolerance)
    assert result.infos[2].status == "skipped"
    assert result.infos[1].status == "ok"
    assert sum(info.log_evidence for info in result.infos) == pytest.approx(result.final.log_evidence, abs=1e-10)


def test_kalman_is_exact() -> None:
    check(jf.KalmanFilter(model()).run(series()), 1e-10)


def test_unscented_agrees_on_a_linear_model() -> None:
    check(jf.UnscentedKalmanFilter(model()).run(series()), 1e-6)


def test_ensemble_within_monte_carlo_error() -> None:
    # 5 / sqrt(members) of standard deviations of at most one; Euler-Maruyama at 0.005 adds at most 0.01.
    check(jf.EnsembleKalmanFilter(model(), members=20_000, substep=5e-3).run(series(), seed=3), 0.045)


def test_stationary_law_after_a_long_gap() -> None:
    filter = jf.KalmanFilter(model())
    belief, _ = filter.predict(filter.init(torch.Generator()), 500.0, torch.Generator())
    assert np.allclose(belief.covariance.numpy(), np.linalg.inv(BETA * A), atol=1e-12)
    assert np.allclose(belief.mean.numpy(), B, atol=1e-12)


def test_tiny_noise_keeps_the_covariance_positive() -> None:
    observation = jf.LinearGaussian(t([[1.0, 1.0]]), t([[1e-12]]))
    base = model()
    linear = jf.StateSpaceModel(base.prior, base.sde, observation)
    for filter in (jf.KalmanFilter(linear), jf.UnscentedKalmanFilter(linear)):
        final = filter.run(jf.ObservationSeries([0.1, 0.2, 0.3], [[1.0], [1.1], [1.0]])).final
        assert torch.linalg.eigvalsh(final.covariance).min() > 0
        assert final.mean.sum().item() == pytest.approx(1.0, abs=1e-4)


def test_unscented_and_ensemble_on_a_nonlinear_problem() -> None:
    """One observation of a double well against the exact posterior mean by quadrature: same side, same size."""
    prior = torch.distributions.MultivariateNormal(t([1.0]), t([[0.02]]))
    observation = jf.NonlinearGaussian(torch.sinh, t([[0.01]]))
    well = jf.StateSpaceModel(prior, jf.LangevinSDE(jf.DoubleWell(1), 20.0), observation)
    x = np.linspace(-1, 3, 4001)
    weight = np.exp(-0.5 * (x - 1) ** 2 / 0.02 - 0.5 * (np.sinh(x) - 1.3) ** 2 / 0.01)
    expected = (weight @ x) / weight.sum()
    readings = jf.ObservationSeries([0.0], [[1.3]])
    assert jf.UnscentedKalmanFilter(well).run(readings).final.mean.item() == pytest.approx(expected, abs=0.02)
    found = jf.EnsembleKalmanFilter(well, members=5000).run(readings).final.mean.item()
    assert found == pytest.approx(expected, abs=0.02)


def test_seeds_decide_and_global_generators_rest() -> None:
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    filter = jf.EnsembleKalmanFilter(model(), members=50, substep=0.05)
    one, same, other = (filter.run(series(), seed=s).final.mean for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    jf.UnscentedKalmanFilter(model()).run(series())
    jf.KalmanFilter(model()).run(series())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_zero_duration_is_skipped() -> None:
    for filter in (jf.KalmanFilter(model()), jf.UnscentedKalmanFilter(model()), jf.EnsembleKalmanFilter(model())):
        belief = filter.init(torch.Generator())
        after, info = filter.predict(belief, 0.0, torch.Generator())
        assert after is belief
        assert info.status == "skipped"


def test_what_cannot_be_done_is_said_at_construction() -> None:
    base = model()
    with pytest.raises(jf.InputError, match="needs Quadratic"):
        jf.KalmanFilter(jf.StateSpaceModel(base.prior, jf.LangevinSDE(jf.DoubleWell(2)), base.observation))
    counts = jf.Poisson(torch.exp)
    for kind in (jf.KalmanFilter, jf.UnscentedKalmanFilter, jf.EnsembleKalmanFilter):
        with pytest.raises(jf.InputError, match="observation Poisson"):
            kind(jf.StateSpaceModel(base.prior, base.sde, counts))
    laplace = torch.distributions.Independent(torch.distributions.Laplace(t([0.0, 0.0]), t([1.0, 1.0])), 1)
    with pytest.raises(jf.InputError, match="prior is Independent"):
        jf.KalmanFilter(jf.StateSpaceModel(laplace, base.sde, base.observation))
    with pytest.raises(jf.InputError, match="1 columns"):
        jf.KalmanFilter(jf.StateSpaceModel(base.prior, base.sde, jf.LinearGaussian(t([[1.0]]), t([[1.0]]))))
    for name, value in (("members", 1), ("substep", 0.0), ("substep", math.inf)):
        with pytest.raises(jf.InputError, match=name):
            jf.EnsembleKalmanFilter(base, **{name: value})
    filter = jf.KalmanFilter(base)
    with pytest.raises(jf.InputError, match="3 components"):
        filter.update(filter.init(torch.Generator()), t([1.0]), torch.Generator())


def test_too_long_a_substep_is_a_named_error() -> None:
    hot = jf.StateSpaceModel(
        torch.distributions.MultivariateNormal(t([9.0]), t([[4.0]])),
        jf.LangevinSDE(jf.DoubleWell(1)),
        jf.LinearGaussian(t([[1.0]]), t([[1.0]])),
    )
    for filter in (jf.UnscentedKalmanFilter(hot, substep=0.5), jf.EnsembleKalmanFilter(hot, substep=0.5)):
        with pytest.raises(jf.FilterError, match="substep 0.5 is too long"):
            filter.predict(filter.init(torch.Generator()), 10.0, torch.Generator())
