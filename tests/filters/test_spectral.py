"""The spectral filter against closed forms and dense chains, where laws are easy, narrow, wide, walled and far away."""

import math

import numpy as np
import pytest
import torch
from oracles import Benes, OrnsteinUhlenbeck
from scipy.linalg import expm
from scipy.stats import norm
from torch.distributions import Independent, MultivariateNormal, Normal, Uniform

import jkofilter as jf
from jkofilter.numerics.chang_cooper import ChangCooper

NAN = math.nan


def normal(mean, sd):
    return MultivariateNormal(torch.tensor([mean]).double(), torch.tensor([[sd**2]], dtype=torch.float64))


def model(potential=None, prior=None, noise=1.0, beta=1.0, observation=None):
    sde = jf.LangevinSDE(potential or jf.Quadratic([0.0], [[1.0]]), beta)
    noise = torch.tensor([[noise**2]], dtype=torch.float64)
    return jf.StateSpaceModel(prior or normal(0.0, 1.0), sde, observation or jf.LinearGaussian([[1.0]], noise))


def kalman(times, values, mean=0.0, variance=1.0, noise=1.0):
    return OrnsteinUhlenbeck(1.0, 0.0, 1.0, mean, variance, 1.0, noise**2).kalman(times, values)


def check_against_kalman(times, values, sd, noise, evidence, mean):
    prior = normal(0.25, sd)
    result = jf.SpectralFilter(model(prior=prior, noise=noise)).run(jf.ObservationSeries(times, values, start=0.0))
    means, variances, log_evidence = kalman(times, values, 0.25, sd**2, noise)
    assert result.log_evidence.numpy() == pytest.approx(log_evidence, abs=evidence)
    assert (np.abs(result.means[:, 0].numpy() - means) < mean * np.sqrt(variances)).all()
    assert result.covariances[:, 0, 0].numpy() == pytest.approx(variances, rel=10 * mean)
    return result


@pytest.mark.parametrize(
    ("sd", "gap", "noise"),
    [(1.0, 0.5, 1.0), (1e-4, 0.3, 1.0), (1e-4, 1e-9, 1.0), (1.0, 1e6, 1.0), (1.0, 0.5, 1e-3), (1.0, 1e-6, 1e-3)],
)
def test_priors_readings_and_gaps_of_all_sizes(sd, gap, noise):
    result = check_against_kalman(
        [gap, 2 * gap, 3 * gap, 3 * gap + 0.2], [0.2, 0.201, NAN, 0.25], sd, noise, evidence=1e-6, mean=1e-6
    )
    assert sum(info.details.get("implicit_steps", 0) for info in result.predict_infos) == 0


def test_a_prior_a_hundred_times_wider_than_the_stationary_law_begins_with_implicit_steps():
    result = check_against_kalman([0.5, 1.0], [0.4, 0.1], 100.0, 1.0, evidence=5e-4, mean=1e-4)
    assert result.predict_infos[0].details["implicit_steps"] > 0
    assert result.predict_infos[1].details["implicit_steps"] == 0


def test_a_law_with_edges_ends_there_and_is_right_after_implicit_steps():
    """Uniform on (-10, 10), 50 nats down the stationary law: later it is a difference of normal integrals."""
    m = model(prior=Independent(Uniform(torch.tensor([-10.0]).double(), torch.tensor([10.0]).double()), 1), noise=0.5)
    belief = jf.SpectralFilter(m).init(torch.Generator())
    assert [belief.cdf(x) for x in (-10.01, 0.0, 5.0, 10.01)] == pytest.approx([0.0, 0.5, 0.75, 1.0], abs=1e-6)
    result = jf.SpectralFilter(m).run(jf.ObservationSeries([0.3], [2.0]))
    decay = math.exp(-0.3)
    deviation = math.sqrt(1 - decay**2 + 0.25)
    below = norm.cdf((2.0 + 10 * decay) / deviation) - norm.cdf((2.0 - 10 * decay) / deviation)
    assert result.predict_infos[0].details["implicit_steps"] > 0
    assert result.log_evidence.item() == pytest.approx(math.log(below / (20 * decay)), abs=1e-4)


def dense_chain(potential, low, high, cells, prior, times, values, noise):
    """Log evidence by a chain on cells, from the matrix exponential of its generator."""
    width = (high - low) / cells
    x = low + width * (np.arange(cells) + 0.5)
    operator = ChangCooper(potential(x), width, 1.0)
    generator = np.diag(operator.rightward, -1) + np.diag(operator.leftward, 1) - np.diag(operator.outflow)
    p, evidence, now = np.exp(prior(x)), 0.0, 0.0
    p /= p.sum()
    for time, y in zip(times, values, strict=True):
        p = expm((time - now) * generator) @ p
        joint = p * norm.pdf(y, x, noise)
        evidence += math.log(joint.sum())
        p, now = joint / joint.sum(), time
    return evidence, float(p @ x)


def test_rough_potential_against_dense_chains_extrapolated_in_their_cells():
    times, values = [0.5, 0.7, 2.0], [0.5, 1.0, -0.8]

    def potential(x):
        return np.sin(2 * math.pi * x) / math.pi + x * x / 4

    chains = [
        np.array(dense_chain(potential, -8.0, 8.0, n, lambda x: norm.logpdf(x), times, values, 0.8)) for n in (300, 600)
    ]
    evidence, mean = (4 * chains[1] - chains[0]) / 3
    result = jf.SpectralFilter(model(jf.SineQuadratic(1), noise=0.8)).run(jf.ObservationSeries(times, values))
    # What is left of the chains' error is of fourth order in the cells, a sixteenth of what the two leave apart.
    left = np.abs(chains[1] - chains[0]) / 16
    assert result.log_evidence[-1].item() == pytest.approx(evidence, abs=left[0] + 1e-6)
    assert result.final.mean.item() == pytest.approx(mean, abs=left[1] + 1e-6)


@pytest.mark.parametrize("bounds", [None, (0.0, 2.0)])
def test_walls_reflect(bounds):
    """Brownian motion between walls at 0 and 2: cosines, each falling at its own rate."""
    domain = (0.0, 2.0) if bounds is None else None
    flat = jf.Potential(lambda x: 0.0 * x[..., 0], 1, domain=domain)
    prior = Independent(Uniform(torch.zeros(1).double(), torch.ones(1).double()), 1)
    spectral = jf.SpectralFilter(model(flat, prior), bounds=bounds)
    belief, info = spectral.predict(spectral.init(torch.Generator()), 0.05, torch.Generator())
    x = np.linspace(0.05, 1.95, 39)
    k = np.arange(1, 60)[:, None] * math.pi / 2
    exact = 0.5 + (np.sin(k) / k * np.cos(k * x) * np.exp(-k * k * 0.05)).sum(0)
    assert belief.log_prob(torch.from_numpy(x).unsqueeze(-1)).exp().numpy() == pytest.approx(exact, abs=1e-6)
    assert belief.log_prob(torch.tensor([[-0.1], [2.1]]).double()).tolist() == [-math.inf, -math.inf]
    assert info.details["implicit_steps"] == 0


def test_half_line():
    """Against a constant drift -1 the law on x > 0 settles to exp(-x)."""
    slope = jf.Potential(lambda x: x[..., 0], 1, domain=(0.0, math.inf))
    prior = Independent(Normal(torch.tensor([3.0]).double(), torch.tensor([0.2]).double()), 1)
    spectral = jf.SpectralFilter(model(slope, prior))
    belief, _ = spectral.predict(spectral.init(torch.Generator()), 200.0, torch.Generator())
    x = torch.tensor([[0.0], [0.5], [4.0]]).double()
    assert belief.log_prob(x).numpy() == pytest.approx([0.0, -0.5, -4.0], abs=1e-6)


def test_benes_closed_form_of_a_law_that_runs_away():
    """There is no stationary law: the first gap is exact all the same, the second, of a law too wide, is not."""
    exact = Benes(1.0, 0.3, 0.5)
    spectral = jf.SpectralFilter(model(jf.LogCosh(1.0), exact.prior(), noise=1.0))
    tracker, now = spectral.track(), 0.0
    x = np.linspace(-5, 5, 41)
    for time, y, error in ((0.0, 0.5, 1e-6), (0.5, 1.0, 1e-6), (1.0, -1.0, 5e-5)):
        exact = exact.predict(time - now, 1.0).update(y, 1.0)
        tracker.predict(time - now)
        assert tracker.info.details.get("implicit_steps", 0) == 0 or error > 1e-6
        belief, now = tracker.update(y), time
        assert belief.log_evidence == pytest.approx(exact.log_evidence, abs=error)
        found = belief.log_prob(torch.from_numpy(x).unsqueeze(-1)).exp().numpy()
        assert found == pytest.approx(np.exp(exact.log_density(x)), abs=error)


def test_a_gap_split_by_a_missing_reading_is_the_same_gap():
    m = model(jf.DoubleWell(1), noise=0.3)
    whole = jf.SpectralFilter(m).run(jf.ObservationSeries([0.4, 1.9], [0.8, -0.7]))
    parts = jf.SpectralFilter(m).run(jf.ObservationSeries([0.1, 0.4, 1.0, 1.9], [NAN, 0.8, NAN, -0.7]))
    assert parts.log_evidence[-1].item() == pytest.approx(whole.log_evidence[-1].item(), abs=1e-6)
    assert parts.final.mean.item() == pytest.approx(whole.final.mean.item(), abs=1e-6)


def test_sweeps_are_single_steps():
    """A long run, of which most is taken many steps at a time, against the same steps one by one."""
    rng = np.random.default_rng(4)
    times = np.cumsum(np.where(np.arange(90) % 3, 0.2, rng.exponential(0.3, 90)))
    values = rng.normal(0.0, 1.2, 90)
    values[[5, 40, 41]] = NAN
    values[60] = 3.9
    series = jf.ObservationSeries(times, values)
    spectral = jf.SpectralFilter(model(jf.SineQuadratic(1), noise=0.5))
    run, tracker = spectral.run(series, keep_beliefs=True), spectral.track()
    for k, (time, y) in enumerate(zip(times.tolist(), values, strict=True)):
        tracker.predict(time - tracker.belief.time)
        assert tracker.info.status == run.predict_infos[k].status
        belief = tracker.update(y)
        assert belief.mean.item() == pytest.approx(run.means[k].item(), abs=1e-7)
        assert belief.covariance.item() == pytest.approx(run.covariances[k].item(), rel=1e-6)
        assert belief.log_evidence == pytest.approx(run.log_evidence[k].item(), abs=1e-6)
        assert run.beliefs[k].time == pytest.approx(time, abs=1e-9)
        assert run.beliefs[k].log_evidence == run.log_evidence[k].item()
        assert tracker.info.status == run.infos[k].status
        if tracker.info.surprise is not None:
            assert run.infos[k].surprise == pytest.approx(tracker.info.surprise, rel=1e-6, abs=1e-12)


def test_many_readings_against_kalman():
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.exponential(0.1, 600))
    values = rng.normal(0.0, 1.1, 600)
    result = jf.SpectralFilter(model(noise=0.5)).run(jf.ObservationSeries(times, values))
    means, _, evidence = kalman(times, values, noise=0.5)
    # The tolerance holds for a reading.
    assert result.log_evidence[-1].item() == pytest.approx(evidence[-1], abs=1e-8 * len(times))
    assert np.abs(result.means[:, 0].numpy() - means).max() < 1e-6


def test_both_modes_of_a_sharp_reading():
    square = jf.NonlinearGaussian(lambda x: x * x, torch.tensor([[1e-6]], dtype=torch.float64))
    spectral = jf.SpectralFilter(model(jf.DoubleWell(1), observation=square))
    tracker = spectral.track()
    tracker.predict(0.5)
    belief = tracker.update(1.0)
    assert belief.covariance.item() == pytest.approx(1.0, abs=1e-3)
    assert belief.mean.item() == pytest.approx(0.0, abs=1e-8)
    # Narrow peaks move on: by the chance of a jump over the barrier, both alike.
    belief = tracker.predict(0.3)
    assert belief.mean.item() == pytest.approx(0.0, abs=1e-7)
    assert tracker.info.details["implicit_steps"] == 0


def test_sharp_wells_from_a_wide_prior():
    """N(0.2, 1) over two wells 50 nats deep: the trap of p / sqrt(pi), which overflows; against a fine grid."""
    wells = jf.Potential(lambda x: 50 * (x[..., 0] ** 2 - 1) ** 2, 1)
    m, series = model(wells, normal(0.2, 1.0), noise=0.2), jf.ObservationSeries([0.01, 0.3], [0.9, 1.1])
    result = jf.SpectralFilter(m).run(series)
    grid = jf.GridFilter(m, bounds=(-4.0, 4.0), cells=4000, step=2e-4).run(series)
    assert result.log_evidence.numpy() == pytest.approx(grid.log_evidence.numpy(), abs=2e-4)
    assert result.note == ""


@pytest.mark.parametrize(("y", "note"), [(-1.1, "nats below the peak"), (-0.5, "may lie where rounding hides the law")])
def test_a_reading_in_a_well_that_rounding_hides_is_noted(y, note):
    wells = jf.Potential(lambda x: 50 * (x[..., 0] ** 2 - 1) ** 2, 1)
    series = jf.ObservationSeries([0.3, 1.0], [1.0, y])
    result = jf.SpectralFilter(model(wells, normal(1.0, 0.05), noise=0.15)).run(series)
    assert result.infos[0].note == ""
    assert "lies beyond what the belief resolves" in result.infos[1].note
    assert note in result.infos[1].note


def test_readings_beyond_the_box_are_noted_and_roughly_right():
    # Of a law that has settled; its tail is the parabola that continues it.
    result = jf.SpectralFilter(model(noise=0.5)).run(jf.ObservationSeries([50.0], [14.0]))
    assert "lies beyond what the belief resolves" in result.note
    assert result.log_evidence.item() == pytest.approx(norm.logpdf(14.0, 0.0, math.sqrt(1.25)), abs=0.1)
    assert result.infos[0].surprise == pytest.approx(2 * norm.sf(14.0 / math.sqrt(1.25)), rel=1e-2, abs=1e-30)


def test_finer_tolerance_is_closer():
    times, values = [0.5, 0.55, 1.5], [0.4, 0.9, -0.2]
    exact = kalman(times, values, noise=0.3)[2][-1]
    found = [
        abs(
            jf.SpectralFilter(model(noise=0.3), tolerance=tolerance)
            .run(jf.ObservationSeries(times, values))
            .log_evidence[-1]
            .item()
            - exact
        )
        for tolerance in (1e-2, 1e-6)
    ]
    assert found[1] < 1e-7
    assert found[0] < 1e-2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bounds": (1.0, -1.0)}, "bounds must be finite with low < high"),
        ({"bounds": 3.0}, "bounds must be two numbers"),
        ({"tolerance": 0.0}, "tolerance must lie between"),
        ({"tolerance": "fine"}, "tolerance must be one number"),
        ({"nodes": 10}, "nodes must be an integer of at least 130"),
        ({"model": jf.DoubleWell(1)}, "model must be a StateSpaceModel"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(jf.InputError, match=message):
        jf.SpectralFilter(**{"model": model(), **options})


def test_bad_priors_readings_and_likelihoods():
    far = Independent(Uniform(torch.zeros(1).double(), torch.ones(1).double()), 1)
    with pytest.raises(jf.InputError, match="bounds hold no mass of the prior"):
        jf.SpectralFilter(model(prior=far), bounds=(2.0, 3.0)).init(torch.Generator())
    walled = model(jf.Quadratic([0.5], [[1.0]], domain=(0.0, 1.0)), prior=far)
    with pytest.raises(jf.InputError, match="bounds .* reach beyond the domain"):
        jf.SpectralFilter(walled, bounds=(-1.0, 1.0))
    plane = jf.StateSpaceModel(
        MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double()),
        jf.LangevinSDE(jf.DoubleWell(2)),
        jf.LinearGaussian(torch.eye(2).double(), torch.eye(2).double()),
    )
    with pytest.raises(jf.InputError, match="SpectralFilter handles dim 1"):
        jf.SpectralFilter(plane)

    class Window:
        def log_likelihood(self, y, x):
            return torch.where((x[:, 0] - y).abs() < 1e-3, 0.0, -torch.inf)

        def sample(self, x, generator):
            return x

    spectral = jf.SpectralFilter(model(observation=Window()), bounds=(-2.0, 2.0))
    with pytest.raises(jf.FilterError, match="zero"):
        spectral.update(spectral.init(torch.Generator()), torch.tensor([5.0]), torch.Generator())
