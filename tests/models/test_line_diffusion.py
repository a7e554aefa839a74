"""Diffusions of the line with noise that depends on the state: exact laws, moments of second weak order, refusals."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import beta as beta_law
from scipy.stats import gamma, lognorm, ncx2, norm
from torch.distributions import Beta, Gamma, LogNormal, Normal

import jkofilter as jf
from jkofilter.models.line_motion import LineMover

RATE, MEAN, SIGMA = 1.0, 0.5, 0.6
CIR = jf.LineDiffusion(lambda x: RATE * (MEAN - x), lambda x: SIGMA * x.sqrt(), (0.0, math.inf))
SHAPE = 2 * RATE * MEAN / SIGMA**2
NOISE = 0.2


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


def seen(sde, prior, noise=NOISE):
    return jf.StateSpaceModel(prior, sde, jf.LinearGaussian([[1.0]], tensor([[noise**2]])))


def cir_model(sde=CIR):
    return seen(sde, Gamma(tensor(SHAPE), tensor(2 * RATE / SIGMA**2)))


def quadrature(times, values, n=400, high=5.0):
    """Log evidence and last mean with the noncentral chi-squared law of transition (Cox, Ingersoll & Ross 1985)."""
    u, weights = np.polynomial.legendre.leggauss(n)
    root = 0.5 * math.sqrt(high) * (u + 1)
    x, weights = root**2, 0.5 * math.sqrt(high) * weights * 2 * root
    p, evidence, now = gamma.pdf(x, SHAPE, scale=SIGMA**2 / (2 * RATE)), 0.0, 0.0
    for time, y in zip(times, values, strict=True):
        decay = math.exp(-RATE * (time - now))
        c = 2 * RATE / (SIGMA**2 * (1 - decay))
        p = 2 * c * ncx2.pdf(2 * c * x[:, None], 2 * SHAPE, 2 * c * decay * x) @ (weights * p)
        joint = p * norm.pdf(y, x, NOISE)
        total = weights @ joint
        evidence, p, now = evidence + math.log(total), joint / total, time
    return evidence, float(weights @ (p * x))


def test_cox_ingersoll_ross_against_the_exact_transition_law():
    times, values = [0.3, 0.5, 1.6, 1.65], [0.7, 0.2, 0.9, 0.6]
    result = jf.SpectralFilter(cir_model()).run(jf.ObservationSeries(times, values))
    evidence, mean = quadrature(times, values)
    assert result.log_evidence[-1].item() == pytest.approx(evidence, abs=5e-6)
    assert result.final.mean.item() == pytest.approx(mean, abs=1e-6)
    assert sum(info.details["implicit_steps"] for info in result.predict_infos) == 0


def test_cox_ingersoll_ross_settles_to_its_gamma_law_also_where_zero_is_reached():
    """At 2 k m / s^2 = 1/2 the path comes to zero and is reflected, and the density is infinite there."""
    strong = jf.LineDiffusion(lambda x: 0.25 - x, lambda x: x.sqrt(), (0.0, math.inf))
    spectral = jf.SpectralFilter(seen(strong, Gamma(tensor(2.0), tensor(4.0))))
    belief, _ = spectral.predict(spectral.init(torch.Generator()), 40.0, torch.Generator())
    assert belief.mean.item() == pytest.approx(0.25, abs=1e-5)
    x = np.array([0.01, 0.2, 1.5])
    exact = gamma.logpdf(x, 0.5, scale=0.5)
    assert belief.log_prob(torch.from_numpy(x).unsqueeze(-1)).numpy() == pytest.approx(exact, abs=1e-4)


def test_jacobi_settles_to_its_beta_law():
    jacobi = jf.LineDiffusion(lambda x: 0.8 * (0.6 - x), lambda x: 0.5 * (x * (1 - x)).sqrt(), (0.0, 1.0))
    spectral = jf.SpectralFilter(seen(jacobi, Beta(tensor(3.0), tensor(4.0))))
    belief, _ = spectral.predict(spectral.init(torch.Generator()), 40.0, torch.Generator())
    x = np.array([0.1, 0.5, 0.95])
    exact = beta_law.logpdf(x, 2 * 0.8 * 0.6 / 0.25, 2 * 0.8 * 0.4 / 0.25)
    assert belief.log_prob(torch.from_numpy(x).unsqueeze(-1)).numpy() == pytest.approx(exact, abs=1e-5)


def test_geometric_brownian_motion_is_normal_in_the_logarithm():
    """It has no stationary law; log X gains (r - s^2/2) t and the variance s^2 t."""
    geometric = jf.LineDiffusion(lambda x: 0.1 * x, lambda x: 0.3 * x, (0.0, math.inf))
    spectral = jf.SpectralFilter(seen(geometric, LogNormal(tensor(0.2), tensor(0.25))))
    belief, _ = spectral.predict(spectral.init(torch.Generator()), 0.5, torch.Generator())
    x = np.array([0.5, 1.0, 1.3, 3.0])
    deviation = math.sqrt(0.25**2 + 0.09 * 0.5)
    exact = lognorm.pdf(x, deviation, scale=math.exp(0.2 + (0.1 - 0.045) * 0.5))
    assert belief.log_prob(torch.from_numpy(x).unsqueeze(-1)).exp().numpy() == pytest.approx(exact, abs=1e-5)


def test_constant_noise_is_the_langevin_diffusion():
    line = jf.LineDiffusion(lambda x: -x, lambda x: torch.full_like(x, math.sqrt(2.0)))
    langevin = jf.LangevinSDE(jf.Quadratic([0.0], [[1.0]]))
    series = jf.ObservationSeries([0.3, 0.9], [0.4, -0.1])
    prior = Normal(tensor(0.0), tensor(1.0))
    first, second = (jf.SpectralFilter(seen(sde, prior)).run(series) for sde in (line, langevin))
    assert first.log_evidence.numpy() == pytest.approx(second.log_evidence.numpy(), abs=1e-7)


def test_moments_of_paths_are_of_second_weak_order():
    """E X and E X^2 of Cox, Ingersoll & Ross after one unit of time from 1, in one and in two steps."""
    decay = math.exp(-RATE)
    mean = MEAN + (1.0 - MEAN) * decay
    variance = SIGMA**2 / RATE * (decay - decay**2 + MEAN * (1 - decay) ** 2 / 2)
    n, errors, noise = 400_000, [], 0.0
    for steps in (1, 2):
        x = LineMover(CIR, torch.Generator().manual_seed(1)).move(torch.ones(n, 1).double(), 1.0, 1.0 / steps).points
        assert (x >= 0).all()
        errors.append([abs(x.mean().item() - mean), abs(x.square().mean().item() - variance - mean**2)])
        noise = 3 * x.square().std().item() / math.sqrt(n)
    # A quarter of the error with half the step, but for the noise of the means.
    assert (np.array(errors[1]) < 0.4 * np.array(errors[0]) + noise).all()
    assert (np.array(errors[1]) < 0.01).all()


def test_simulated_paths_and_particles_agree_with_the_exact_law():
    path, series = jf.simulate(cir_model(), torch.linspace(0.5, 2.0, 4).double(), seed=2)
    assert (path > 0).all()
    exact = jf.SpectralFilter(cir_model()).run(series)
    particles = jf.ParticleFilter(cir_model(), 20_000).run(series, seed=1)
    # Four standard errors of mean likelihoods at a share of .4 of the particles, four readings.
    assert particles.log_evidence[-1].item() == pytest.approx(
        exact.log_evidence[-1].item(), abs=4 * 2 * math.sqrt(1.5 / 20_000)
    )
    assert particles.final.mean.item() == pytest.approx(exact.final.mean.item(), abs=0.01)


@pytest.mark.parametrize(
    "build",
    [
        jf.GridFilter,
        jf.JKOFilter,
        jf.KalmanFilter,
        jf.UnscentedKalmanFilter,
        jf.EnsembleKalmanFilter,
        jf.BenesFilter,
        jf.DualJKOFilter,
        jf.ProximalFilter,
    ],
)
def test_filters_that_cannot_take_it_say_so(build):
    with pytest.raises(jf.InputError, match="LineDiffusion.*use SpectralFilter or ParticleFilter"):
        build(cir_model())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((lambda x: -x, lambda x: -torch.ones_like(x)), "noise must be positive inside the domain"),
        ((lambda x: -x, lambda x: x.sqrt()), "noise is NaN inside the domain"),
        ((lambda x: -x.mean() + 0 * x, torch.ones_like), "drift must act on each point by itself"),
        ((lambda x: -x, 1.0), "noise must be a function"),
        ((lambda x: x.sum(-1), torch.ones_like), "drift must map points"),
        ((lambda x: -x, torch.ones_like, (1.0, 0.0)), "domain must have low < high"),
    ],
)
def test_what_is_no_diffusion(arguments, message):
    with pytest.raises(jf.InputError, match=message):
        jf.LineDiffusion(*arguments)


def test_priors_outside_the_domain_and_flows_refuse():
    with pytest.raises(jf.InputError, match="prior"):
        seen(CIR, Normal(tensor(0.5), tensor(0.5)))
    with pytest.raises(jf.InputError, match="LineDiffusion is for SpectralFilter"):
        jf.solve_jko(Gamma(tensor(2.0), tensor(4.0)), CIR, 1.0, 0.1)
