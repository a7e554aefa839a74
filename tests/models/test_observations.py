"""Observation models against torch.distributions and scipy.stats, and their samplers against their moments."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import MultivariateNormal

import jkofilter as jf
from jkofilter import InputError

NAN = math.nan
COVARIANCE = torch.tensor([[0.5, 0.2, 0.0], [0.2, 0.4, -0.1], [0.0, -0.1, 0.3]]).double()
MATRIX = torch.tensor([[1.0, 0.3], [0.0, -2.0], [0.7, 0.7]]).double()
DRAWS = 200_000
SIGMAS = 5.0
"""Sampler moments may miss by this many standard errors: a right sampler fails one check in two million."""


def _x(n: int, d: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def _curve(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([x[:, 0].square(), torch.sin(x[:, 1]), x[:, 0] * x[:, 1]], dim=1)


MODELS = {
    "linear": jf.LinearGaussian(MATRIX, COVARIANCE),
    "nonlinear": jf.NonlinearGaussian(_curve, COVARIANCE),
    "student": jf.StudentT(_curve, [0.5, 1.0, 2.0], 3.5),
    "poisson": jf.Poisson(lambda x: torch.exp(x)),
    "volatility": jf.StochasticVolatility(),
}


def test_linear_gaussian_log_likelihood() -> None:
    x, y = _x(7, 2), torch.tensor([0.3, -1.0, 2.0]).double()
    expected = MultivariateNormal(x @ MATRIX.mT, COVARIANCE).log_prob(y)
    torch.testing.assert_close(MODELS["linear"].log_likelihood(y, x), expected, rtol=1e-11, atol=1e-11)


def test_nonlinear_gaussian_log_likelihood() -> None:
    x, y = _x(7, 2), torch.tensor([0.3, -1.0, 2.0]).double()
    expected = MultivariateNormal(_curve(x), COVARIANCE).log_prob(y)
    torch.testing.assert_close(MODELS["nonlinear"].log_likelihood(y, x), expected, rtol=1e-11, atol=1e-11)


def test_scalar_gaussian_log_likelihood() -> None:
    x = _x(9, 1)
    value = jf.LinearGaussian([[2.0]], [[0.09]]).log_likelihood(torch.tensor([1.1]), x)
    np.testing.assert_allclose(value, stats.norm.logpdf(np.float32(1.1), 2 * x[:, 0], 0.3), rtol=1e-11)


def test_student_log_likelihood() -> None:
    x, y = _x(7, 2), np.array([0.3, -40.0, 2.0])
    expected = stats.t.logpdf(y, 3.5, _curve(x).numpy(), np.array([0.5, 1.0, 2.0])).sum(1)
    np.testing.assert_allclose(MODELS["student"].log_likelihood(torch.from_numpy(y), x), expected, rtol=1e-11)


def test_poisson_log_likelihood() -> None:
    x, y = _x(7, 2), np.array([0.0, 12.0])
    expected = stats.poisson.logpmf(y, np.exp(x.numpy())).sum(1)
    np.testing.assert_allclose(MODELS["poisson"].log_likelihood(torch.from_numpy(y), x), expected, rtol=1e-11)


def test_volatility_log_likelihood() -> None:
    x, y = _x(7, 2), np.array([0.01, -3.0])
    expected = stats.norm.logpdf(y, 0.0, np.exp(0.5 * x.numpy())).sum(1)
    np.testing.assert_allclose(MODELS["volatility"].log_likelihood(torch.from_numpy(y), x), expected, rtol=1e-11)


@pytest.mark.parametrize("name", ["linear", "nonlinear"])
@pytest.mark.parametrize("present", [[0], [1, 2], [0, 2]])
def test_missing_components_of_correlated_noise_are_marginalised(name: str, present: list[int]) -> None:
    x, full = _x(7, 2), torch.tensor([0.3, -1.0, 2.0]).double()
    y = torch.full((3,), NAN).double()
    y[present] = full[present]
    mean = (x @ MATRIX.mT if name == "linear" else _curve(x))[:, present]
    expected = MultivariateNormal(mean, COVARIANCE[present][:, present]).log_prob(full[present])
    torch.testing.assert_close(MODELS[name].log_likelihood(y, x), expected, rtol=1e-11, atol=1e-11)


def test_missing_components_of_independent_noise_are_left_out() -> None:
    x = _x(7, 2)
    student = stats.t.logpdf(2.0, 3.5, _curve(x).numpy()[:, 2], 2.0)
    value = MODELS["student"].log_likelihood(torch.tensor([NAN, NAN, 2.0]).double(), x)
    np.testing.assert_allclose(value, student, rtol=1e-11)
    poisson = stats.poisson.logpmf(4, np.exp(x[:, 0].numpy()))
    np.testing.assert_allclose(
        MODELS["poisson"].log_likelihood(torch.tensor([4.0, NAN]).double(), x), poisson, rtol=1e-11
    )
    volatility = stats.norm.logpdf(0.4, 0.0, np.exp(0.5 * x[:, 1].numpy()))
    np.testing.assert_allclose(
        MODELS["volatility"].log_likelihood(torch.tensor([NAN, 0.4], dtype=torch.float64), x), volatility, rtol=1e-11
    )


def _moments(name: str, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a reading at ``x`` (2,), by hand."""
    u, v = x.tolist()
    curve = np.array([u * u, math.sin(v), u * v])
    if name == "linear":
        return MATRIX.numpy() @ x.numpy(), COVARIANCE.numpy()
    if name == "nonlinear":
        return curve, COVARIANCE.numpy()
    if name == "student":
        return curve, np.diag(np.array([0.5, 1.0, 2.0]) ** 2 * 3.5 / 1.5)
    if name == "poisson":
        return np.exp([u, v]), np.diag(np.exp([u, v]))
    return np.zeros(2), np.diag(np.exp([u, v]))


@pytest.mark.parametrize("name", MODELS)
def test_sampler_has_the_moments_of_the_model(name: str, generator: torch.Generator) -> None:
    x = torch.tensor([0.6, -0.9]).double()
    y = MODELS[name].sample(x.expand(DRAWS, 2), generator).numpy()
    mean, covariance = _moments(name, x)
    assert y.shape == (DRAWS, mean.size)
    assert y.dtype == np.float64
    error = np.sqrt(np.diag(covariance) / DRAWS)
    assert (np.abs(y.mean(0) - mean) < SIGMAS * error).all()
    if name == "student":  # no fourth moment, so no standard error for the covariance: test the law instead
        for i, scale in enumerate((0.5, 1.0, 2.0)):
            assert stats.kstest(y[:20_000, i], stats.t(3.5, mean[i], scale).cdf).pvalue > 1e-5
        return
    products = (y - mean)[:, :, None] * (y - mean)[:, None, :]
    error = products.std(0) / math.sqrt(DRAWS)
    assert (np.abs(products.mean(0) - covariance) < SIGMAS * error).all()


@pytest.mark.parametrize("name", MODELS)
def test_sampler_follows_its_generator_alone(name: str) -> None:
    x = _x(5, 2)
    before = torch.random.get_rng_state()
    first, again, other = (MODELS[name].sample(x, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("name", MODELS)
def test_log_likelihood_leaves_its_inputs_alone(name: str) -> None:
    x = _x(5, 2)
    y = torch.tensor([1.0, NAN, 2.0][: 2 if name in ("poisson", "volatility") else 3]).double()
    x_before, y_before = x.clone(), y.clone()
    value = MODELS[name].log_likelihood(y, x)
    assert value.shape == (5,)
    assert torch.isfinite(value).all()
    assert torch.equal(x, x_before)
    assert torch.equal(y.nan_to_num(), y_before.nan_to_num())


@pytest.mark.parametrize("name", MODELS)
def test_every_sensor_is_an_observation_model(name: str) -> None:
    assert isinstance(MODELS[name], jf.ObservationModel)


@pytest.mark.parametrize("count", [-1.0, 0.5])
def test_poisson_refuses_what_is_no_count(count: float) -> None:
    with pytest.raises(InputError, match=r"^y must hold whole counts"):
        jf.Poisson(torch.exp).log_likelihood(torch.tensor([count]), _x(3, 1))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("length", [0, 1, 4, 5])
def test_reading_of_the_wrong_length_is_refused_not_broadcast(name: str, length: int) -> None:
    with pytest.raises(InputError, match=r"^y must hold [23] components"):
        MODELS[name].log_likelihood(torch.ones(length).double(), _x(5, 2))


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("function", jf.StudentT(lambda x: x[:, 0], 1.0, 3.0)),
        ("rate", jf.Poisson(lambda x: x[:, 0].exp())),
        ("scale", jf.StudentT(_curve, [0.5, 1.0], 3.5)),
    ],
)
def test_functions_and_scales_that_do_not_fit_are_refused(name: str, model: jf.ObservationModel) -> None:
    with pytest.raises(InputError, match=rf"^{name} must "):
        model.log_likelihood(torch.ones(3).double(), _x(3, 2))
