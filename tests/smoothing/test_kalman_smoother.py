"""Smoothing of linear models against conditioning of the joint Gaussian law of all states and readings."""

from pathlib import Path

import pytest
import torch

import jkofilter as jf

RATES = torch.tensor([[1.3, 0.4], [0.4, 0.7]], dtype=torch.float64)
CENTRE = torch.tensor([0.5, -1.0], dtype=torch.float64)
TIMES = (0.3, 0.7, 1.9, 2.0)
BETA, NOISE = 1.7, 0.3


def problem() -> tuple[jf.StateSpaceModel, jf.ObservationSeries]:
    prior = torch.distributions.MultivariateNormal(torch.zeros(2).double(), 2.0 * torch.eye(2).double())
    model = jf.StateSpaceModel(
        prior, jf.LangevinSDE(jf.Quadratic(CENTRE, RATES), BETA), jf.LinearGaussian([[1.0, 0.5]], [[NOISE]])
    )
    _, series = jf.simulate(model, times=list(TIMES), seed=3)
    return model, series


def joint(times: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (k, 2) and covariance (2k, 2k) of the states at times, from Cov(X_s, X_t) = P_s e^{-A (t - s)}."""
    A = RATES
    stationary = torch.linalg.inv(A) / BETA
    means, variances = [], []
    for t in times:
        flow = torch.matrix_exp(-A * t)
        means.append(CENTRE + flow @ -CENTRE)
        variances.append(flow @ (2.0 * torch.eye(2).double() - stationary) @ flow + stationary)
    k = len(times)
    cov = torch.zeros(k, 2, k, 2).double()
    for i in range(k):
        for j in range(i, k):
            cov[i, :, j] = variances[i] @ torch.matrix_exp(-A * (times[j] - times[i]))
            cov[j, :, i] = cov[i, :, j].mT
    return torch.stack(means), cov.reshape(2 * k, 2 * k)


def conditioned(times: list[float], series: jf.ObservationSeries) -> tuple[torch.Tensor, torch.Tensor]:
    mean, cov = joint(times)
    rows = [times.index(t) for t in series.times.tolist()]
    H = torch.zeros(len(rows), 2 * len(times)).double()
    for row, i in enumerate(rows):
        H[row, 2 * i], H[row, 2 * i + 1] = 1.0, 0.5
    S = H @ cov @ H.mT + NOISE * torch.eye(len(rows)).double()
    gain = cov @ H.mT @ torch.linalg.inv(S)
    after = mean.reshape(-1) + gain @ (series.values[:, 0] - H @ mean.reshape(-1))
    return after.reshape(-1, 2), cov - gain @ H @ cov


def test_smoothed_moments_are_those_of_the_conditioned_joint_law() -> None:
    model, series = problem()
    at = [0.0, 0.1, 0.5, 1.0, 1.95]
    result = jf.KalmanFilter(model).smooth(series, at=at)
    times = sorted([*at, *TIMES])
    mean, cov = conditioned(times, series)
    assert result.times.tolist() == times
    torch.testing.assert_close(result.means, mean, rtol=0, atol=1e-10)
    for i, belief in enumerate(result.beliefs):
        torch.testing.assert_close(belief.covariance, cov[2 * i : 2 * i + 2, 2 * i : 2 * i + 2], rtol=0, atol=1e-10)
    torch.testing.assert_close(result.initial.mean, mean[0], rtol=0, atol=1e-10)


def test_filtered_part_is_what_run_gives() -> None:
    model, series = problem()
    filter = jf.KalmanFilter(model)
    alone, inside = filter.run(series), filter.smooth(series, at=[0.5, 1.0]).filtered
    torch.testing.assert_close(inside.means, alone.means, rtol=0, atol=1e-12)
    torch.testing.assert_close(inside.log_evidence, alone.log_evidence, rtol=0, atol=1e-12)
    assert len(inside.predict_infos) == len(series)


def test_paths_have_the_joint_law_given_all_readings() -> None:
    model, series = problem()
    times, n = [0.0, 0.5, 1.0, 2.0], 40_000
    paths = jf.KalmanFilter(model).smooth(series).sample_paths(n, times)
    assert paths.shape == (n, 4, 2)
    union = sorted({*times, *TIMES})
    mean, cov = conditioned(union, series)
    rows = [union.index(t) for t in times]
    index = torch.tensor([2 * r + c for r in rows for c in (0, 1)])
    flat, want = paths.reshape(n, -1), cov[index][:, index]
    deviation = want.diagonal().sqrt()
    error = (flat.mean(0) - mean.reshape(-1)[index]) / deviation * n**0.5
    assert error.abs().max() < 4.5
    spread = torch.cov(flat.mT)
    scale = (torch.outer(want.diagonal(), want.diagonal()) + want.square()).sqrt() / n**0.5
    assert ((spread - want) / scale).abs().max() < 4.5


def test_a_result_comes_back_from_its_file(tmp_path: Path) -> None:
    model, series = problem()
    result = jf.KalmanFilter(model).smooth(series, at=[1.0])
    result.save(tmp_path / "smoothed.pt")
    again = jf.SmootherResult.load(tmp_path / "smoothed.pt")
    torch.testing.assert_close(again.means, result.means, rtol=0, atol=0)
    assert again.to_frame().equals(result.to_frame())
    with pytest.raises(jf.InputError, match="loaded knows no model"):
        again.sample_paths(3)


@pytest.mark.parametrize("at", [[-0.1], [2.1], [float("nan")]])
def test_times_outside_the_record_are_refused(at: list[float]) -> None:
    model, series = problem()
    with pytest.raises(jf.InputError, match="at must"):
        jf.KalmanFilter(model).smooth(series, at=at)


def test_a_filter_that_cannot_smooth_says_so() -> None:
    model, series = problem()
    with pytest.raises(jf.InputError, match="ProximalFilter cannot smooth"):
        jf.ProximalFilter(model).smooth(series)


def test_an_assumed_start_is_questioned_with_other_times_as_well() -> None:
    model, _ = problem()
    far = jf.ObservationSeries([5e3, 9e3], [[0.0], [0.0]])
    with pytest.raises(jf.InputError, match="relaxation times"):
        jf.KalmanFilter(model).smooth(far, at=[10.0])
