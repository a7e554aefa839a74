"""Smoothers of closed form, and Gaussian ones where they are exact, against independent answers."""

import numpy as np
import pytest
import torch

import jkofilter as jf

TIMES = [0.4, 1.0, 1.5]


def benes() -> tuple[jf.StateSpaceModel, jf.ObservationSeries]:
    kappa, beta = 0.8, 1.5
    model = jf.StateSpaceModel(
        jf.benes_prior(0.1, 0.5, kappa),
        jf.LangevinSDE(jf.LogCosh(kappa, beta), beta),
        jf.LinearGaussian([[1.0]], [[0.6]]),
    )
    return model, jf.ObservationSeries(TIMES, [0.6, -0.4, 0.3])


class DenseBenes:
    """The problem on 1,201 points, with the exact transition density (``BenesFilter``)."""

    def __init__(self) -> None:
        self.x = np.linspace(-12.0, 12.0, 1201)
        self.h = self.x[1] - self.x[0]
        prior = np.cosh(0.8 * self.x) * np.exp(-((self.x - 0.1) ** 2) / (2 * 0.5))
        self.prior = prior / prior.sum()

    def move(self, duration: float) -> np.ndarray:
        """Rows of probabilities from each point to all."""
        variance = 2 / 1.5 * duration
        tilt = np.cosh(0.8 * self.x)
        kernel = np.exp(-((self.x[None] - self.x[:, None]) ** 2) / (2 * variance)) * tilt[None] / tilt[:, None]
        return kernel / kernel.sum(1, keepdims=True)

    def likelihood(self, y: float) -> np.ndarray:
        return np.exp(-((y - self.x) ** 2) / (2 * 0.6))

    def smoothed(self, times: list[float]) -> np.ndarray:
        """Smoothing densities at times, forwards times backwards, (k, n)."""
        readings = dict(zip(TIMES, [0.6, -0.4, 0.3], strict=True))
        nodes = sorted({0.0, *times, *TIMES})
        forward, law = [], self.prior
        for before, now in zip([0.0, *nodes], nodes, strict=False):
            law = law @ self.move(now - before) if now > before else law
            law = law * self.likelihood(readings[now]) if now in readings else law
            law = law / law.sum()
            forward.append(law)
        backward, h = [np.ones_like(law)], np.ones_like(law)
        for now, after in zip(reversed(nodes[:-1]), reversed(nodes[1:]), strict=True):
            h = h * self.likelihood(readings[after]) if after in readings else h
            h = self.move(after - now) @ h
            backward.append(h)
        product = np.array(forward) * np.array(backward[::-1])
        product /= product.sum(1, keepdims=True) * self.h
        return product[[nodes.index(t) for t in times]]


def test_benes_smoother_is_that_of_a_dense_chain() -> None:
    model, series = benes()
    times = [0.0, 0.2, 0.4, 0.7, 1.0, 1.5]
    result = jf.BenesFilter(model).smooth(series, at=times)
    dense = DenseBenes()
    exact = dense.smoothed(times)
    for belief, density in zip(result.beliefs, exact, strict=True):
        found = belief.log_prob(torch.from_numpy(dense.x)[:, None]).exp().numpy()
        assert np.abs(found - density).max() < 1e-6
        assert belief.mean.item() == pytest.approx(float((dense.x * density).sum() * dense.h), abs=1e-6)


def test_benes_paths_have_the_smoothed_laws_and_their_correlation() -> None:
    model, series = benes()
    n = 40_000
    paths = jf.BenesFilter(model).smooth(series).sample_paths(n, [0.4, 0.7, 1.5])[..., 0]
    dense = DenseBenes()
    for column, density in zip(paths.T, dense.smoothed([0.4, 0.7, 1.5]), strict=True):
        cdf = np.cumsum(density) * dense.h
        ranks = np.interp(column.numpy(), dense.x + 0.5 * dense.h, cdf)
        assert np.abs(np.sort(ranks) - (np.arange(n) + 0.5) / n).max() < 1.95 / n**0.5
    # Two times at once: E[X_s X_t] by the chain conditioned on both.
    forward = dense.prior @ dense.move(0.4) * dense.likelihood(0.6)
    back = dense.move(0.5) @ dense.likelihood(0.3) * dense.likelihood(-0.4)
    joint = forward[:, None] * dense.move(0.3) * (dense.move(0.3) @ back)[None]
    expected = float((dense.x[:, None] * dense.x[None] * joint).sum() / joint.sum())
    products = paths[:, 0] * paths[:, 1]
    assert abs(products.mean().item() - expected) < 4.5 * products.std().item() / n**0.5


def linear() -> tuple[jf.StateSpaceModel, jf.ObservationSeries]:
    rates = torch.tensor([[1.3, 0.4], [0.4, 0.7]], dtype=torch.float64)
    prior = torch.distributions.MultivariateNormal(torch.zeros(2).double(), 2.0 * torch.eye(2).double())
    sde = jf.LangevinSDE(jf.Quadratic(torch.tensor([0.5, -1.0], dtype=torch.float64), rates), 1.7)
    return jf.StateSpaceModel(prior, sde, jf.LinearGaussian([[1.0, 0.5]], [[0.3]])), jf.ObservationSeries(
        TIMES, [0.6, -0.4, 0.3]
    )


def test_unscented_smoother_is_exact_on_a_linear_model() -> None:
    model, series = linear()
    exact = jf.KalmanFilter(model).smooth(series, at=[0.0, 0.7])
    found = jf.UnscentedKalmanFilter(model).smooth(series, at=[0.0, 0.7])
    torch.testing.assert_close(found.means, exact.means, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.covariances, exact.covariances, rtol=0, atol=1e-6)


def test_ensemble_smoother_comes_to_the_kalman_smoother_with_many_members() -> None:
    model, series = linear()
    exact = jf.KalmanFilter(model).smooth(series, at=[0.0, 0.7])
    members = 20_000
    found = jf.EnsembleKalmanFilter(model, members=members).smooth(series, at=[0.0, 0.7], seed=1)
    deviation = torch.diagonal(exact.covariances, dim1=1, dim2=2).sqrt()
    # Each mean errs by a member's deviation over root n, times up to two: predicted and shifted members both do.
    assert ((found.means - exact.means) / deviation).abs().max() < 4.5 * 2 / members**0.5
    variance = torch.diagonal(found.covariances, dim1=1, dim2=2)
    assert (variance / deviation.square() - 1).abs().max() < 4.5 * 2 * (2 / members) ** 0.5
    paths = jf.EnsembleKalmanFilter(model, members=500).smooth(series).sample_paths(7, [0.0, 1.0])
    assert paths.shape == (7, 2, 2)
    with pytest.raises(jf.InputError, match="takes them there"):
        jf.EnsembleKalmanFilter(model, members=500).smooth(series).sample_paths(7, [0.3])


def test_product_smoother_is_that_of_the_rotated_whole() -> None:
    angle = 0.6
    R = torch.tensor([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    rates = torch.diag(torch.tensor([0.5, 2.0], dtype=torch.float64))
    whole = jf.StateSpaceModel(
        torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double()),
        jf.LangevinSDE(jf.Quadratic(torch.zeros(2).double(), R.mT @ rates @ R), 1.0),
        jf.LinearGaussian(R, 0.3 * torch.eye(2).double()),
    )
    parts = tuple(
        jf.KalmanFilter(
            jf.StateSpaceModel(
                torch.distributions.Normal(torch.zeros(1).double(), torch.ones(1).double()),
                jf.LangevinSDE(jf.Quadratic(0.0, rate), 1.0),
                jf.LinearGaussian(1.0, 0.3),
            )
        )
        for rate in (0.5, 2.0)
    )
    series = jf.ObservationSeries(TIMES, [[0.6, 0.1], [-0.4, float("nan")], [0.3, -1.0]])
    exact = jf.KalmanFilter(whole).smooth(series, at=[0.7])
    found = jf.ProductFilter(whole, R, parts).smooth(series, at=[0.7])
    torch.testing.assert_close(found.means, exact.means, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.covariances, exact.covariances, rtol=0, atol=1e-10)
    paths = jf.ProductFilter(whole, R, parts).smooth(series).sample_paths(20_000, [0.7])[:, 0]
    error = (paths.mean(0) - exact.means[1]) / exact.covariances[1].diagonal().sqrt()
    assert error.abs().max() < 4.5 / 20_000**0.5
