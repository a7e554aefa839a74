"""Backward simulation against the Kalman smoother."""

import pytest
import torch

import jkofilter as jf

SERIES = jf.ObservationSeries([0.5, 1.0, 1.5, 2.0], [0.8, -0.6, float("nan"), 0.4])


def model() -> jf.StateSpaceModel:
    return jf.StateSpaceModel(
        torch.distributions.Normal(torch.zeros(1).double(), 1.0),
        jf.LangevinSDE(jf.Quadratic(0.0, 1.0)),
        jf.LinearGaussian(1.0, 0.3),
    )


def test_smoothed_moments_and_correlations_are_those_of_the_kalman_smoother() -> None:
    exact = jf.KalmanFilter(model()).smooth(SERIES, at=[0.0, 0.7])
    result = jf.ParticleFilter(model(), particles=4000, smoothing=0.05).smooth(SERIES, at=[0.0, 0.7], seed=1)
    deviation = exact.covariances[:, 0, 0].sqrt()
    # 2,000 paths over 4,000 weighted particles, of which some half are effective.
    assert ((result.means - exact.means)[:, 0] / deviation).abs().max() < 4.5 * (1 / 2000 + 2 / 4000) ** 0.5
    assert (result.covariances[:, 0, 0] / deviation.square() - 1).abs().max() < 4.5 * (2 / 2000 + 4 / 4000) ** 0.5
    assert result.note == ""
    paths = result.sample_paths(4000, [0.5, 1.0])[..., 0]
    joint = jf.KalmanFilter(model()).smooth(SERIES).sample_paths(100_000, [0.5, 1.0])[..., 0]
    assert abs(torch.corrcoef(paths.T)[0, 1] - torch.corrcoef(joint.T)[0, 1]) < 4.5 * (2 / 4000) ** 0.5


def test_few_different_particles_are_noted() -> None:
    sharp = jf.ObservationSeries([0.01 * k for k in range(1, 40)], [0.0] * 39)
    result = jf.ParticleFilter(model(), particles=100, smoothing=1e-5).smooth(sharp)
    assert "different particles" in result.note


def test_without_the_last_transition_or_elsewhere_it_is_refused() -> None:
    with pytest.raises(jf.InputError, match="density of the last transition"):
        jf.ParticleFilter(model(), particles=100, density="kde").smooth(SERIES)
    with pytest.raises(jf.InputError, match="takes them there"):
        jf.ParticleFilter(model(), particles=100).smooth(SERIES).sample_paths(3, [0.6])
