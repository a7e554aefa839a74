"""One suite that every filter passes, on an Ornstein-Uhlenbeck process seen through two correlated sensors.

Filters with particles miss the exact answers by their Monte Carlo error; EXACT says by how much the others may.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import OrnsteinUhlenbeck, law_of
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

import jkofilter as jf

NAN = math.nan
PARTICLES = 2_000
DRAWS = 20_000


@dataclass(frozen=True)
class Case:
    """A filter, and how far its mean, sd and log evidence may be from the exact ones."""

    build: Callable[[jf.StateSpaceModel], jf.Filter]
    error: float
    inflated: bool = False
    """Whether samples come from a kernel estimate, wider than the particles that mean and covariance describe."""
    seeded: bool = False
    """Whether chance enters although the belief is a table."""


# Monte Carlo: five standard errors at an effective size of half the particles, plus the drift bias of the substep.
MONTE_CARLO = 5 / math.sqrt(PARTICLES / 2) + 0.01

CASES = {
    # Time steps: a local error of up to 5e-5 nats (the default tolerance) in each of the twenty steps between readings.
    "jko-sdirk2": Case(jf.JKOFilter, 1e-3),
    "jko-sdirk4": Case(lambda m: jf.JKOFilter(m, scheme="sdirk4"), 1e-5),
    "jko-bdf2": Case(lambda m: jf.JKOFilter(m, scheme="bdf2"), 1e-3),
    # First order: the local error estimate holds 5e-5 per step, and hundreds of steps add up.
    "jko-implicit-euler": Case(lambda m: jf.JKOFilter(m, scheme="implicit-euler", step=0.02), 2e-2),
    # Brenier maps on a pool of particles, as in any dimension; samples and density are those of the maps.
    "jko-ridge": Case(lambda m: jf.JKOFilter(m, transport="ridge", pool=PARTICLES), MONTE_CARLO, inflated=True),
    "grid": Case(lambda m: jf.GridFilter(m, cells=1_000), 1e-4),
    "grid-bounds": Case(lambda m: jf.GridFilter(m, bounds=(-9.0, 9.0), cells=2_000), 1e-4),
    # First order in the step, one cloud drawn anew after every reading.
    "dual-jko": Case(
        lambda m: jf.DualJKOFilter(m, settings=jf.DualSettings(points=400, centres=20)), 4e-2, seeded=True
    ),
    "proximal": Case(lambda m: jf.ProximalFilter(m), 8e-2, seeded=True),
    "particle": Case(lambda m: jf.ParticleFilter(m, PARTICLES, substep=0.01), MONTE_CARLO, inflated=True),
    "particle-kde": Case(
        lambda m: jf.ParticleFilter(m, PARTICLES, substep=0.01, density="kde", resampling="stratified"),
        MONTE_CARLO,
        inflated=True,
    ),
    "particle-always": Case(
        lambda m: jf.ParticleFilter(m, PARTICLES, substep=0.01, ess_threshold=1.0, resampling="residual"),
        MONTE_CARLO,
        inflated=True,
    ),
    "kalman": Case(jf.KalmanFilter, 1e-10),
    "unscented": Case(jf.UnscentedKalmanFilter, 1e-6),
    "ensemble": Case(lambda m: jf.EnsembleKalmanFilter(m, PARTICLES, substep=0.01), 2 * MONTE_CARLO, inflated=True),
}

RATE, CENTRE, BETA = 1.3, 0.4, 1.7
GAINS = np.array([1.0, 0.5])
NOISE = np.array([[0.3, 0.1], [0.1, 0.4]])
# Zero time, irregular gaps, whole and partly missing readings.
TIMES = [0.0, 0.05, 0.4, 1.3, 1.35, 3.0]
VALUES = np.array([[-0.4, 0.3], [0.2, NAN], [NAN, NAN], [1.5, 0.2], [NAN, 0.9], [0.1, -0.6]])


def _model() -> jf.StateSpaceModel:
    return jf.StateSpaceModel(
        Independent(Normal(torch.tensor([-0.5]).double(), torch.tensor([0.8], dtype=torch.float64)), 1),
        jf.LangevinSDE(jf.Quadratic([CENTRE], [[RATE]]), beta=BETA),
        jf.LinearGaussian(GAINS[:, None], NOISE),
    )


def _scalar(y: np.ndarray) -> tuple[float, float, float]:
    """The reading of x with noise N(0, v) equivalent to ``y``, v, and what the pair says beyond it (log density)."""
    present = ~np.isnan(y)
    gains, noise, values = GAINS[present], NOISE[np.ix_(present, present)], y[present]
    inverse = np.linalg.inv(noise)
    variance = 1.0 / (gains @ inverse @ gains)
    value = variance * (gains @ inverse @ values)
    residual = values - gains * value
    # log N(y; g x, R) = log N(value; x, variance) + rest, whatever x.
    rest = -0.5 * (residual @ inverse @ residual + np.log(np.linalg.det(2 * np.pi * noise)))
    return value, variance, rest + 0.5 * math.log(2 * math.pi * variance)


def _exact(times: list[float], values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means, variances and log evidence after every reading, one scalar Kalman step after another."""
    mean, variance, evidence, now, rows = -0.5, 0.64, 0.0, 0.0, []
    for time, y in zip(times, values, strict=True):
        reading, noise, rest = (NAN, 1.0, 0.0) if np.isnan(y).all() else _scalar(y)
        step = OrnsteinUhlenbeck(RATE, CENTRE, BETA, mean, variance, noise=noise)
        means, variances, increment = step.kalman([time - now], [reading])
        mean, variance, evidence, now = means[0], variances[0], evidence + increment[0] + rest, time
        rows.append((mean, variance, evidence))
    return tuple(np.array(rows).T)  # type: ignore[return-value]


def _series() -> jf.ObservationSeries:
    return jf.ObservationSeries(TIMES, VALUES)


def _gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _state(belief: jf.Belief) -> dict[str, object]:
    """Everything public in a belief, copied; what it is made of taken apart into tensors and numbers."""
    return copy.deepcopy(_parts(belief))


def _parts(thing: Any, name: str = "") -> dict[str, object]:
    if isinstance(thing, tuple):
        return {k: v for i, part in enumerate(thing) for k, v in _parts(part, f"{name}.{i}").items()}
    if is_dataclass(thing) or isinstance(thing, Distribution):
        public = {f.name for f in fields(thing)} if is_dataclass(thing) else {k for k in vars(thing) if k[0] != "_"}
        kind = {f"{name}.kind": type(thing).__name__}
        return kind | {k: v for part in public for k, v in _parts(getattr(thing, part), f"{name}.{part}").items()}
    return {name: thing}


def _same(a: dict[str, object], b: dict[str, object]) -> bool:
    def equal(u: object, v: object) -> bool:
        return torch.equal(u, v) if isinstance(u, torch.Tensor) and isinstance(v, torch.Tensor) else u == v

    return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def filter(case: Case) -> jf.Filter:
    return case.build(_model())


@pytest.fixture(scope="module")
def result(filter: jf.Filter) -> jf.FilterResult:
    return jf.run_filter(filter, _series(), until=3.5, seed=1, keep_beliefs=True)


def test_protocols(filter: jf.Filter, result: jf.FilterResult) -> None:
    assert isinstance(filter, jf.Filter)
    assert isinstance(filter.init(_gen()), jf.Belief)
    assert isinstance(result.final, jf.Belief)
    with pytest.raises(AttributeError):
        filter.model = _model()  # type: ignore[misc]
    with pytest.raises(AttributeError):
        result.final.time = 0.0  # type: ignore[misc]


def test_shapes_and_types(result: jf.FilterResult) -> None:
    m = len(TIMES)
    assert len(result) == len(result.times) == len(result.infos) == len(result.beliefs) == m
    assert len(result.predict_infos) == m + 1
    assert result.means.shape == (m, 1)
    assert result.covariances.shape == (m, 1, 1)
    assert result.log_evidence.shape == (m,)
    for belief in (*result.beliefs, result.final):
        assert belief.dim == 1
        assert isinstance(belief.time, float)
        assert isinstance(belief.log_evidence, float)
        assert belief.mean.shape == (1,)
        assert belief.covariance.shape == (1, 1)
        assert belief.log_prob(torch.zeros(7, 1).double()).shape == (7,)
        assert belief.sample(5).shape == (5, 1)
        assert isinstance(belief.quantile(0.3), float)
        for tensor in (belief.mean, belief.covariance, belief.log_prob(torch.zeros(7, 1).double()), belief.sample(5)):
            assert tensor.dtype == torch.float64
            assert not tensor.requires_grad
            assert torch.isfinite(tensor).all()
    assert result.means.dtype == result.covariances.dtype == result.log_evidence.dtype == torch.float64


def test_times(result: jf.FilterResult) -> None:
    assert [belief.time for belief in result.beliefs] == pytest.approx(TIMES, abs=1e-12)
    assert result.final.time == pytest.approx(3.5, abs=1e-12)


def test_against_the_exact_filter(case: Case, result: jf.FilterResult) -> None:
    means, variances, evidence = _exact(TIMES, VALUES)
    sd = np.sqrt(variances)
    assert (np.abs(result.means[:, 0].numpy() - means) < case.error * sd).all()
    assert (np.abs(result.covariances[:, 0, 0].sqrt().numpy() - sd) < case.error * sd).all()
    # Each reading adds its own error to the evidence.
    assert (np.abs(result.log_evidence.numpy() - evidence) < case.error * np.arange(1, len(TIMES) + 1)).all()


def test_prediction_past_the_last_reading(case: Case, result: jf.FilterResult) -> None:
    means, variances, _ = _exact(TIMES, VALUES)
    factor, added = OrnsteinUhlenbeck(RATE, CENTRE, BETA, 0.0, 1.0).transition(0.5)
    sd = math.sqrt(factor**2 * variances[-1] + added)
    assert result.final.mean.item() == pytest.approx(CENTRE + factor * (means[-1] - CENTRE), abs=case.error * sd)
    assert math.sqrt(result.final.covariance.item()) == pytest.approx(sd, abs=case.error * sd)
    assert result.final.log_evidence == result.log_evidence[-1].item()


def test_same_seed_same_result(filter: jf.Filter, result: jf.FilterResult) -> None:
    again = filter.run(_series(), until=3.5, seed=1, keep_beliefs=True)
    assert torch.equal(again.means, result.means)
    assert torch.equal(again.covariances, result.covariances)
    assert torch.equal(again.log_evidence, result.log_evidence)
    assert _same(_state(again.final), _state(result.final))


def test_seed_matters_only_where_chance_does(case: Case, filter: jf.Filter, result: jf.FilterResult) -> None:
    other = jf.run_filter(filter, _series(), until=3.5, seed=2)
    assert torch.equal(other.means, result.means) == (not (case.inflated or case.seeded))


def test_not_keeping_beliefs_changes_nothing(filter: jf.Filter, result: jf.FilterResult) -> None:
    lean = jf.run_filter(filter, _series(), until=3.5, seed=1)
    assert lean.beliefs == ()
    assert torch.equal(lean.means, result.means)
    assert _same(_state(lean.final), _state(result.final))


def test_track_equals_run(filter: jf.Filter, result: jf.FilterResult) -> None:
    tracker = filter.track(seed=1)
    for k, (time, y) in enumerate(zip(TIMES, VALUES, strict=True)):
        tracker.predict(time - tracker.belief.time)
        belief = tracker.update(y)
        assert torch.equal(belief.mean, result.means[k])
        assert torch.equal(belief.covariance, result.covariances[k])
        assert belief.log_evidence == result.log_evidence[k].item()
    tracker.predict(3.5 - tracker.belief.time)
    assert _same(_state(tracker.belief), _state(result.final))


def test_log_prob_integrates_to_one(result: jf.FilterResult) -> None:
    for belief in (result.beliefs[0], result.beliefs[1], result.beliefs[4], result.final):
        sd = math.sqrt(belief.covariance.item())
        law = law_of(belief.log_prob, belief.mean.item() - 9 * sd, belief.mean.item() + 9 * sd, 801)
        assert law.mass == pytest.approx(1.0, abs=1e-6)


def test_log_prob_has_the_mean_and_covariance(case: Case, result: jf.FilterResult) -> None:
    """A kernel estimate is wider than its particles: by Silverman's rule 0.9 n^(-1/5) sd at most, n above 200."""
    room = 0.9**2 * 200 ** (-2 / 5) if case.inflated else 0.0
    for belief in (result.beliefs[0], result.beliefs[3], result.final):
        mean, variance = belief.mean.item(), belief.covariance.item()
        sd = math.sqrt(variance)
        law = law_of(belief.log_prob, mean - 9 * sd, mean + 9 * sd, 801)
        # The transition mixture is smoothed over the noise of the last lag, not over the particles' own draws of it.
        error = 5 / math.sqrt(PARTICLES / 4) if case.inflated else 1e-6
        assert abs(law.mean - mean) < error * sd
        assert -error < law.variance / variance - 1 < room + error


def test_samples_follow_log_prob(result: jf.FilterResult) -> None:
    """Kolmogorov-Smirnov at level 1e-6, against the density's own distribution function."""
    bound = math.sqrt(math.log(2 / 1e-6) / 2 / DRAWS)
    for belief in (result.beliefs[3], result.final):
        x = np.sort(belief.sample(DRAWS, _gen(7)).numpy()[:, 0])
        sd = math.sqrt(belief.covariance.item())
        law = law_of(belief.log_prob, belief.mean.item() - 9 * sd, belief.mean.item() + 9 * sd, 801)
        gap = np.abs(law.cdf(x) - (np.arange(DRAWS) + 0.5) / DRAWS).max()
        assert gap < bound + 1e-4


def test_quantiles(case: Case, result: jf.FilterResult) -> None:
    """The law is Gaussian, so its quantiles are mean + z sd."""
    means, variances, _ = _exact(TIMES, VALUES)
    for k in (0, 3, 5):
        sd = math.sqrt(variances[k])
        for q, z, hardness in ((0.025, -1.959964, 3.0), (0.5, 0.0, 1.3), (0.9, 1.281552, 2.0)):
            # A sample quantile's standard error is sqrt(q (1 - q)) / pdf(z) in units of that of the mean.
            assert result.beliefs[k].quantile(q) == pytest.approx(
                means[k] + z * sd, abs=(hardness * case.error + 3e-6) * sd
            )


def test_sampling_is_determined_by_its_generator(result: jf.FilterResult) -> None:
    belief = result.final
    assert torch.equal(belief.sample(50, _gen(3)), belief.sample(50, _gen(3)))
    assert not torch.equal(belief.sample(50, _gen(3)), belief.sample(50, _gen(4)))
    assert torch.equal(belief.sample(50), belief.sample(50))


def test_global_generators_are_untouched(filter: jf.Filter) -> None:
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    result = jf.run_filter(filter, _series(), until=3.2)
    result.final.sample(10)
    result.final.log_prob(torch.zeros(2, 1).double())
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_inputs_are_not_mutated(filter: jf.Filter) -> None:
    series = _series()
    times, values = series.times.clone(), series.values.clone()
    jf.run_filter(filter, series)
    assert torch.equal(series.times, times)
    np.testing.assert_array_equal(series.values.numpy(), values.numpy())
    belief = filter.init(_gen())
    before = _state(belief)
    y = torch.tensor([0.5, NAN]).double()
    moved, _ = filter.predict(belief, 0.3, _gen())
    assert _same(_state(belief), before)
    before = _state(moved)
    filter.update(moved, y, _gen())
    assert _same(_state(moved), before)
    np.testing.assert_array_equal(y.numpy(), np.array([0.5, NAN]))


def test_missing_reading_is_no_update(filter: jf.Filter) -> None:
    belief, _ = filter.predict(filter.init(_gen()), 0.2, _gen())
    generator = _gen(5)
    after, info = filter.update(belief, torch.tensor([NAN, NAN]).double(), generator)
    assert _same(_state(after), _state(belief))
    assert info.status == "skipped"
    assert info.log_evidence == 0.0
    assert torch.equal(generator.get_state(), _gen(5).get_state())


def test_zero_duration_is_no_prediction(filter: jf.Filter) -> None:
    belief = filter.init(_gen())
    after, info = filter.predict(belief, 0.0, _gen())
    assert _same(_state(after), _state(belief))
    assert info.status == "skipped"


def test_evidence_is_the_sum_of_its_increments(result: jf.FilterResult) -> None:
    increments = np.cumsum([info.log_evidence for info in result.infos])
    np.testing.assert_allclose(result.log_evidence.numpy(), increments, rtol=1e-12, atol=1e-12)
    assert all(info.log_evidence == 0.0 for info in result.predict_infos)
    assert [info.status for info in result.infos] == ["ok", "ok", "skipped", "ok", "ok", "ok"]


def test_two_readings_at_one_time(case: Case, filter: jf.Filter) -> None:
    """Told one after the other, as two sensors report: the exact filter with a gap of zero."""
    tracker = filter.track(seed=3)
    tracker.predict(0.4)
    tracker.update([0.9, NAN])
    belief = tracker.update([NAN, -0.2])
    tracker.update([0.3, 0.3])
    means, variances, evidence = _exact([0.4, 0.4, 0.4], np.array([[0.9, NAN], [NAN, -0.2], [0.3, 0.3]]))
    assert belief.time == pytest.approx(0.4)
    assert belief.mean.item() == pytest.approx(means[1], abs=2 * case.error * math.sqrt(variances[1]))
    assert tracker.belief.mean.item() == pytest.approx(means[2], abs=2 * case.error * math.sqrt(variances[2]))
    assert tracker.belief.log_evidence == pytest.approx(evidence[2], abs=4 * case.error)


def test_one_reading_at_time_zero(case: Case, filter: jf.Filter) -> None:
    result = jf.run_filter(filter, jf.ObservationSeries([0.0], [[0.7, 0.1]]))
    means, variances, evidence = _exact([0.0], np.array([[0.7, 0.1]]))
    assert len(result) == 1
    assert result.predict_infos[0].status == "skipped"
    assert result.final.mean.item() == pytest.approx(means[0], abs=2 * case.error * math.sqrt(variances[0]))
    assert result.final.log_evidence == pytest.approx(evidence[0], abs=2 * case.error)


def test_nothing_but_missing_readings_is_a_prediction(case: Case, filter: jf.Filter) -> None:
    result = jf.run_filter(filter, jf.ObservationSeries([0.3, 1.0], np.full((2, 2), NAN)))
    means, variances, _ = _exact([0.3, 1.0], np.full((2, 2), NAN))
    assert result.log_evidence.tolist() == [0.0, 0.0]
    assert result.means[:, 0].numpy() == pytest.approx(means, abs=2 * case.error)
    assert result.covariances[:, 0, 0].numpy() == pytest.approx(variances, rel=3 * case.error)


def test_frame(result: jf.FilterResult) -> None:
    frame = result.to_frame()
    assert len(frame) == len(result)
    np.testing.assert_array_equal(frame["time"], TIMES)
    np.testing.assert_array_equal(frame["mean0"], result.means[:, 0])
    np.testing.assert_allclose(frame["sd0"] ** 2, result.covariances[:, 0, 0])
    np.testing.assert_array_equal(frame["log_evidence"], result.log_evidence)
    assert (frame["seconds"] >= 0).all()


def test_xarray(result: jf.FilterResult) -> None:
    pytest.importorskip("xarray")
    data = result.to_xarray(samples=6, seed=2)
    assert data["draws"].dims == ("time", "sample", "state")
    assert data["draws"].shape == (len(TIMES), 6, 1)
    np.testing.assert_array_equal(data["mean"], result.means)


def test_save_and_load(result: jf.FilterResult, tmp_path: Path) -> None:
    result.save(tmp_path / "result.pt")
    back = jf.FilterResult.load(tmp_path / "result.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["result.pt"]
    for name in ("times", "means", "covariances", "log_evidence"):
        assert torch.equal(getattr(back, name), getattr(result, name))
    assert back.infos == result.infos
    assert back.predict_infos == result.predict_infos
    assert len(back.beliefs) == len(result.beliefs)
    assert type(back.final) is type(result.final)
    assert _same(_state(back.final), _state(result.final))
    x = torch.linspace(-2, 2, 9).double().unsqueeze(-1)
    assert torch.equal(back.beliefs[2].log_prob(x), result.beliefs[2].log_prob(x))
    assert torch.equal(back.final.sample(5), result.final.sample(5))


@pytest.mark.parametrize("name", ["jko-ridge", "dual-jko", "particle", "kalman", "unscented", "ensemble"])
def test_two_dimensions_against_the_exact_filter(name: str) -> None:
    """Two independent OU coordinates turned by 30 degrees: filters that take d > 1 against two scalar Kalman runs."""
    cosine, sine = math.cos(math.pi / 6), 0.5
    turn = torch.tensor([[cosine, -sine], [sine, cosine]]).double()
    precision = turn.mT @ torch.diag(torch.tensor([0.8, 2.0]).double()) @ turn
    model = jf.StateSpaceModel(
        MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double()),
        jf.LangevinSDE(jf.Quadratic([0.0, 0.0], 0.5 * (precision + precision.mT))),
        jf.LinearGaussian(turn, 0.25 * torch.eye(2).double()),
    )
    times, values = [0.2, 0.9], np.array([[0.5, -0.3], [1.0, 0.4]])
    result = jf.run_filter(CASES[name].build(model), jf.ObservationSeries(times, values), seed=4, keep_beliefs=True)
    error = 2 * CASES[name].error
    rotated = result.final.mean @ turn.mT
    spread = turn @ result.final.covariance @ turn.mT
    evidence = 0.0
    for i, rate in enumerate((0.8, 2.0)):
        exact = OrnsteinUhlenbeck(rate, 0.0, 1.0, 0.0, 1.0, noise=0.25).kalman(times, values[:, i])
        sd = math.sqrt(exact[1][-1])
        # turn was rounded to single precision on its way in, hence the 1e-6.
        assert rotated[i].item() == pytest.approx(exact[0][-1], abs=(error + 1e-6) * sd)
        assert spread[i, i].item() == pytest.approx(sd**2, rel=2 * error + 1e-6)
        evidence += exact[2][-1]
    assert result.final.log_evidence == pytest.approx(evidence, abs=2 * error + 1e-6)
    draws = result.final.sample(DRAWS, _gen(3))
    root = torch.linalg.cholesky(result.final.covariance)
    white = torch.linalg.solve_triangular(root, (draws - result.final.mean).mT, upper=False).mT
    assert white.mean(0).abs().max() < 5 / math.sqrt(DRAWS) + error
    # Silverman's factor in two dimensions, n^(-1/6) squared, is at most 0.16 at an effective size of 250.
    inflation = 0.16 if CASES[name].inflated else 0.0
    eigenvalues = torch.linalg.eigvalsh(torch.cov(white.mT))
    assert eigenvalues.min() > 1 - 5 * math.sqrt(2 / DRAWS) - error
    assert eigenvalues.max() < 1 + inflation + 5 * math.sqrt(2 / DRAWS) + error
