"""Every refusal is one sentence that names the argument; nothing goes on with NaN in hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from refusals import refused
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

import jkofilter as jf
from jkofilter import FilterError, InputError

INF, NAN = math.inf, math.nan
EYE2 = torch.eye(2).double()


def _normal(mean: float = 0.0, sd: float = 1.0, **kwargs: bool) -> Independent:
    return Independent(Normal(torch.tensor([mean]).double(), torch.tensor([sd]).double(), **kwargs), 1)


def _model(
    dim: int = 1, prior: Any = None, potential: jf.Potential | None = None, observation: Any = None
) -> jf.StateSpaceModel:
    return jf.StateSpaceModel(
        prior or MultivariateNormal(torch.zeros(dim).double(), torch.eye(dim).double()),
        jf.LangevinSDE(potential or jf.DoubleWell(dim)),
        observation or jf.LinearGaussian(torch.eye(dim).double(), torch.eye(dim).double()),
    )


def _ou() -> jf.StateSpaceModel:
    return _model(potential=jf.Quadratic([0.0], [[1.0]]))


def _gen() -> torch.Generator:
    return torch.Generator().manual_seed(0)


SERIES = {
    "unsorted": ("times", [0.0, 2.0, 1.0], [1.0, 2.0, 3.0]),
    "duplicate": ("times", [0.0, 1.0, 1.0], [1.0, 2.0, 3.0]),
    "negative": ("times", [-0.5, 1.0], [1.0, 2.0]),
    "nan-time": ("times", [0.0, NAN], [1.0, 2.0]),
    "infinite-time": ("times", [0.0, INF], [1.0, 2.0]),
    "no-times": ("times", [], []),
    "times-in-a-matrix": ("times", [[0.0], [1.0]], [1.0, 2.0]),
    "times-in-words": ("times", ["monday", "tuesday"], [1.0, 2.0]),
    "ragged-values": ("values", [0.0, 1.0], [[1.0], [1.0, 2.0]]),
    "values-too-few": ("values", [0.0, 1.0], [1.0]),
    "values-in-three-axes": ("values", [0.0], [[[1.0]]]),
    "infinite-reading": ("values", [0.0, 1.0], [1.0, INF]),
    "minus-infinite-reading": ("values", [0.0, 1.0], [[-INF, 0.0], [0.0, 0.0]]),
}


@pytest.mark.parametrize(("name", "times", "values"), SERIES.values(), ids=SERIES.keys())
def test_series(name: str, times: Any, values: Any) -> None:
    refused(lambda: jf.ObservationSeries(times, values), name)


def test_frame_without_the_column() -> None:
    frame = pd.DataFrame({"t": [0.0, 1.0], "y": [1.0, 2.0], "word": ["a", "b"]})
    refused(lambda: jf.ObservationSeries.from_frame(frame, time="age", values=["y"]), "frame")
    refused(lambda: jf.ObservationSeries.from_frame(frame, time="t", values=["z"]), "frame")
    refused(lambda: jf.ObservationSeries.from_frame(frame, time="t", values=["word"]), "values")
    refused(lambda: jf.ObservationSeries.from_frame(frame, time="word", values=["y"]), "times")


CONSTRUCTIONS: dict[str, tuple[str, Callable[[], Any]]] = {
    "precision-asymmetric": ("precision", lambda: jf.Quadratic([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]])),
    "precision-indefinite": ("precision", lambda: jf.Quadratic([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]])),
    "precision-singular": ("precision", lambda: jf.Quadratic([0.0], [[0.0]])),
    "precision-shape": ("precision", lambda: jf.Quadratic([0.0, 0.0], [[1.0]])),
    "precision-nan": ("precision", lambda: jf.Quadratic([0.0], [[NAN]])),
    "mean-nan": ("mean", lambda: jf.Quadratic([NAN], [[1.0]])),
    "covariance-indefinite": ("covariance", lambda: jf.LinearGaussian(EYE2, [[1.0, 2.0], [2.0, 1.0]])),
    "covariance-negative": ("covariance", lambda: jf.LinearGaussian([[1.0]], [[-1.0]])),
    "covariance-shape": ("covariance", lambda: jf.LinearGaussian([[1.0]], EYE2)),
    "covariance-asymmetric": ("covariance", lambda: jf.NonlinearGaussian(lambda x: x, [[1.0, 0.5], [0.0, 1.0]])),
    "covariance-infinite": ("covariance", lambda: jf.NonlinearGaussian(lambda x: x, [[INF]])),
    "matrix-shape": ("matrix", lambda: jf.LinearGaussian([1.0, 2.0], [[1.0]])),
    "matrix-words": ("matrix", lambda: jf.LinearGaussian("identity", [[1.0]])),
    "scale-zero": ("scale", lambda: jf.StudentT(lambda x: x, 0.0, 3.0)),
    "scale-nan": ("scale", lambda: jf.StudentT(lambda x: x, NAN, 3.0)),
    "degrees-zero": ("degrees_of_freedom", lambda: jf.StudentT(lambda x: x, 1.0, 0.0)),
    "degrees-nan": ("degrees_of_freedom", lambda: jf.StudentT(lambda x: x, 1.0, NAN)),
    "rotation-not-orthogonal": ("rotation", lambda: jf.DoubleWell(2, 2.0 * EYE2)),
    "rotation-shape": ("rotation", lambda: jf.SineQuadratic(3, EYE2)),
    "rotated-needs-a-scalar": ("scalar_potential", lambda: jf.Rotated(jf.DoubleWell(2), EYE2)),
    "mixture-means": ("means", lambda: jf.GaussianMixture([[[0.0]]], [[[1.0]]], [1.0])),
    "mixture-covariances": ("covariances", lambda: jf.GaussianMixture([[0.0]], [[1.0]], [1.0])),
    "mixture-not-spd": ("covariances", lambda: jf.GaussianMixture([[0.0]], [[[-1.0]]], [1.0])),
    "mixture-weights": ("weights", lambda: jf.GaussianMixture([[0.0]], [[[1.0]]], [-1.0])),
    "kappa": ("kappa", lambda: jf.LogCosh(NAN)),
    "log-cosh-beta": ("beta", lambda: jf.LogCosh(1.0, beta=0.0)),
    "dim-zero": ("dim", lambda: jf.Potential(lambda x: x.sum(-1), 0)),
    "dim-fraction": ("dim", lambda: jf.DoubleWell(1.5)),
    "potential-shape": ("potential", lambda: jf.Potential(lambda x: x.square(), 1)),
    "potential-total": ("potential", lambda: jf.Potential(lambda x: x.square().sum(), 1)),
    "potential-no-tensor": ("potential", lambda: jf.Potential(lambda x: 1.0, 1)),
    "potential-leaves-torch": (
        "potential",
        lambda: jf.Potential(lambda x: x.detach().sum(-1), 1).gradient(EYE2[:, :1]),
    ),
    "potential-nan": ("potential", lambda: _model(potential=jf.Potential(lambda x: x.sum(-1) * NAN, 1))),
    "sde-potential": ("potential", lambda: jf.LangevinSDE(torch.square)),
    "beta-zero": ("beta", lambda: jf.LangevinSDE(jf.DoubleWell(1), beta=0.0)),
    "beta-negative": ("beta", lambda: jf.LangevinSDE(jf.DoubleWell(1), beta=-1.0)),
    "beta-nan": ("beta", lambda: jf.LangevinSDE(jf.DoubleWell(1), beta=NAN)),
    "beta-infinite": ("beta", lambda: jf.LangevinSDE(jf.DoubleWell(1), beta=INF)),
    "prior-no-distribution": ("prior", lambda: _model(prior="normal")),
    "prior-scalar": ("prior", lambda: _model(2, prior=Normal(0.0, 1.0))),
    "prior-dimension": ("prior", lambda: _model(prior=MultivariateNormal(torch.zeros(2), torch.eye(2)))),
    "prior-batch": ("prior", lambda: _model(prior=MultivariateNormal(torch.zeros(3, 1), torch.eye(1)))),
    "prior-infinite-mvn": (
        "prior",
        lambda: _model(prior=MultivariateNormal(torch.tensor([INF]), torch.eye(1), validate_args=False)),
    ),
    "prior-infinite-independent": ("prior", lambda: _model(prior=_normal(INF))),
    "prior-nan-independent": ("prior", lambda: _model(prior=_normal(NAN, validate_args=False))),
    "prior-infinite-scale": ("prior", lambda: _model(prior=_normal(0.0, INF, validate_args=False))),
    "prior-infinite-mixture": (
        "prior",
        lambda: _model(
            prior=MixtureSameFamily(
                Categorical(torch.ones(2)), Independent(Normal(torch.tensor([[0.0], [INF]]), torch.ones(2, 1)), 1)
            )
        ),
    ),
    "model-sde": ("sde", lambda: jf.StateSpaceModel(_normal(), jf.DoubleWell(1), jf.LinearGaussian([[1.0]], [[1.0]]))),
    "model-observation": ("observation", lambda: _model(observation="thermometer")),
}


@pytest.mark.parametrize(("name", "construct"), CONSTRUCTIONS.values(), ids=CONSTRUCTIONS.keys())
def test_models(name: str, construct: Callable[[], Any]) -> None:
    refused(construct, name)


SETTINGS: dict[str, tuple[str, Callable[[], Any]]] = {
    "scheme": ("scheme", lambda: jf.JKOFilter(_model(), scheme="rk4")),
    "transport": ("transport", lambda: jf.JKOFilter(_model(), transport="teleport")),
    "step-zero": ("step", lambda: jf.JKOFilter(_model(), step=0.0)),
    "step-nan": ("step", lambda: jf.JKOFilter(_model(), step=NAN)),
    "step-in-words": ("step", lambda: jf.GridFilter(_model(), step="short")),
    "step-infinite": ("step", lambda: jf.JKOFilter(_model(), step=INF)),
    "nodes-few": ("nodes", lambda: jf.JKOFilter(_model(), nodes=10)),
    "nodes-fraction": ("nodes", lambda: jf.JKOFilter(_model(), nodes=400.0)),
    "tolerance": ("tolerance", lambda: jf.JKOFilter(_model(), tolerance=0.0)),
    "on-failure": ("on_failure", lambda: jf.JKOFilter(_model(), on_failure="ignore")),
    "jko-model": ("model", lambda: jf.JKOFilter(jf.DoubleWell(1))),
    "jko-2d-transport": ("transport", lambda: jf.JKOFilter(_model(2), transport="teleport")),
    "jko-2d-scheme": ("scheme", lambda: jf.JKOFilter(_model(2), scheme="sdirk4")),
    "jko-2d-pool": ("pool", lambda: jf.JKOFilter(_model(2), pool=10)),
    "jko-2d-assimilation": ("assimilation", lambda: jf.JKOFilter(_model(2), assimilation="ridge")),
    "jko-2d-nodes": ("nodes", lambda: jf.JKOFilter(_model(2), nodes=800)),
    "jko-2d-tolerance": ("tolerance", lambda: jf.JKOFilter(_model(2), tolerance=None)),
    "jko-ridge-nodes": ("nodes", lambda: jf.JKOFilter(_model(), transport="ridge", nodes=800)),
    "jko-1d-pool": ("pool", lambda: jf.JKOFilter(_model(), pool=1000)),
    "jko-1d-assimilation": ("assimilation", lambda: jf.JKOFilter(_model(), assimilation=jf.UpdateSettings(sweeps=3))),
    "update-moves": ("moves", lambda: jf.UpdateSettings(moves=("teleport",))),
    "update-moves-none": ("moves", lambda: jf.UpdateSettings(moves=())),
    "update-moves-text": ("moves", lambda: jf.UpdateSettings(moves="global")),
    "update-sweeps": ("sweeps", lambda: jf.UpdateSettings(sweeps=0)),
    "update-ess": ("ess", lambda: jf.UpdateSettings(ess=1.0)),
    "update-auxiliary": ("auxiliary", lambda: jf.UpdateSettings(auxiliary=0.0)),
    "update-agreement": ("agreement", lambda: jf.UpdateSettings(agreement=1.5)),
    "update-engine": ("engine", lambda: jf.UpdateSettings(engine="ridge")),
    "update-layers": ("layers", lambda: jf.UpdateSettings(layers=-1)),
    "jko-2d-quantile": ("transport", lambda: jf.JKOFilter(_model(2), transport="quantile")),
    "grid-3d": ("model", lambda: jf.GridFilter(_model(3))),
    "grid-model": ("model", lambda: jf.GridFilter(jf.DoubleWell(1))),
    "grid-bounds": ("bounds", lambda: jf.GridFilter(_model(), bounds=(1.0, -1.0))),
    "grid-cells": ("cells", lambda: jf.GridFilter(_model(), cells=0)),
    "dual-3d": ("model", lambda: jf.DualJKOFilter(_model(3))),
    "dual-model": ("model", lambda: jf.DualJKOFilter(jf.DoubleWell(1))),
    "dual-step": ("step", lambda: jf.DualJKOFilter(_model(), step=0.0)),
    "dual-cells": ("cells", lambda: jf.DualJKOFilter(_model(), cells=3)),
    "proximal-3d": ("model", lambda: jf.ProximalFilter(_model(3))),
    "proximal-weighting": (
        "weighting",
        lambda: jf.ProximalFilter(_model(), settings=jf.ProximalSettings(weighting="counting")),
    ),
    "kalman-potential": ("model", lambda: jf.KalmanFilter(_model())),
    "kalman-observation": ("model", lambda: jf.KalmanFilter(_model(observation=jf.StochasticVolatility()))),
    "particles": ("particles", lambda: jf.ParticleFilter(_model(), particles=0)),
    "resampling": ("resampling", lambda: jf.ParticleFilter(_model(), resampling="lottery")),
    "ess-threshold": ("ess_threshold", lambda: jf.ParticleFilter(_model(), ess_threshold=2.0)),
    "particle-substep": ("substep", lambda: jf.ParticleFilter(_model(), substep=-1.0)),
    "members": ("members", lambda: jf.EnsembleKalmanFilter(_ou(), members=1)),
    "simulate-substep": ("substep", lambda: jf.simulate(_model(), [1.0], substep=0.0)),
    "simulate-times": ("times", lambda: jf.simulate(_model(), [1.0, 0.5])),
}


SEEDED: dict[str, Callable[[Any], Any]] = {
    "simulate": lambda seed: jf.simulate(_model(), [1.0], seed=seed),
    "track": lambda seed: jf.KalmanFilter(_ou()).track(seed=seed),
    "solve-jko": lambda seed: jf.solve_jko(_normal(), _ou().sde, 0.1, seed=seed),
    "solve-dual-jko": lambda seed: jf.solve_dual_jko(_normal(), _ou().sde, 0.1, seed=seed),
    "solve-proximal": lambda seed: jf.solve_proximal(_normal(), _ou().sde, 0.1, seed=seed),
    "solve-particles": lambda seed: jf.solve_particles(_normal(), _ou().sde, [0.1], seed=seed),
}


@pytest.mark.parametrize("seed", [0.5, "zero", None, 2**64])
@pytest.mark.parametrize("use", SEEDED.values(), ids=SEEDED.keys())
def test_seeds_that_are_not_integers(use: Callable[[Any], Any], seed: Any) -> None:
    refused(lambda: use(seed), "seed")


@pytest.mark.parametrize(("name", "construct"), SETTINGS.values(), ids=SETTINGS.keys())
def test_settings(name: str, construct: Callable[[], Any]) -> None:
    refused(construct, name)


FILTERS: dict[str, Callable[[jf.StateSpaceModel], jf.Filter]] = {
    "jko": jf.JKOFilter,
    "grid": jf.GridFilter,
    "particle": lambda model: jf.ParticleFilter(model, particles=100, substep=0.05),
    "dual-jko": lambda model: jf.DualJKOFilter(model, settings=jf.DualSettings(points=200)),
    "proximal": lambda model: jf.ProximalFilter(model, settings=jf.ProximalSettings(points=200)),
    "kalman": jf.KalmanFilter,
    "unscented": jf.UnscentedKalmanFilter,
    "ensemble": lambda model: jf.EnsembleKalmanFilter(model, members=50, substep=0.05),
}
every_filter = pytest.mark.parametrize("build", FILTERS.values(), ids=FILTERS.keys())
DENSITIES = ("jko", "grid", "dual-jko", "proximal", "particle")
density_filters = pytest.mark.parametrize("build", [FILTERS[k] for k in DENSITIES], ids=DENSITIES)


@every_filter
@pytest.mark.parametrize("duration", [-0.1, NAN, INF])
def test_duration(build: Callable[..., jf.Filter], duration: float) -> None:
    filter = build(_ou())
    belief = filter.init(_gen())
    refused(lambda: filter.predict(belief, duration, _gen()), "duration")


@every_filter
@pytest.mark.parametrize("value", [INF, -INF])
def test_infinite_reading(build: Callable[..., jf.Filter], value: float) -> None:
    filter = build(_ou())
    belief = filter.init(_gen())
    refused(lambda: filter.update(belief, torch.tensor([value]), _gen()), "y")
    tracker = filter.track()
    refused(lambda: tracker.update(value), "y")
    assert tracker.belief.log_evidence == 0.0


@every_filter
def test_reading_of_the_wrong_length(build: Callable[..., jf.Filter]) -> None:
    filter = build(_ou())
    belief = filter.init(_gen())
    for y in (torch.tensor([1.0, 2.0]).double(), torch.zeros(0).double()):
        refused(lambda y=y: filter.update(belief, y, _gen()), "y")


@every_filter
def test_belief_of_another_filter(build: Callable[..., jf.Filter]) -> None:
    filter = build(_ou())
    other = (
        jf.JKOFilter(_ou())
        if isinstance(filter, jf.KalmanFilter | jf.UnscentedKalmanFilter)
        else jf.KalmanFilter(_ou())
    )
    belief = other.init(_gen())
    refused(lambda: filter.predict(belief, 0.1, _gen()), "belief")
    refused(lambda: filter.update(belief, torch.zeros(1).double(), _gen()), "belief")


@every_filter
def test_points_and_quantiles_asked_of_a_belief(build: Callable[..., jf.Filter]) -> None:
    belief = build(_ou()).init(_gen())
    refused(lambda: belief.log_prob(torch.zeros(3)), "x")
    refused(lambda: belief.log_prob(torch.zeros(3, 2)), "x")
    refused(lambda: belief.quantile(0.0), "q")
    refused(lambda: belief.quantile(1.0), "q")
    refused(lambda: belief.quantile(NAN), "q")
    refused(lambda: belief.quantile(0.5, coordinate=1), "coordinate")


def test_run() -> None:
    filter, series = jf.KalmanFilter(_ou()), jf.ObservationSeries([0.5, 1.0], [0.0, 0.0])
    for until in (0.9, NAN, INF):
        refused(lambda until=until: jf.run_filter(filter, series, until=until), "until")
    refused(lambda: jf.run_filter(filter, [1.0, 2.0]), "series")


def test_draws_of_beliefs_not_kept() -> None:
    result = jf.run_filter(jf.KalmanFilter(_ou()), jf.ObservationSeries([0.5], [0.0]))
    refused(lambda: result.to_xarray(samples=3), "samples")


def test_load(tmp_path: Path) -> None:
    refused(lambda: jf.FilterResult.load(tmp_path / "absent.pt"), "path")
    garbage = tmp_path / "garbage.pt"
    garbage.write_bytes(b"\x00not a result\xff" * 20)
    refused(lambda: jf.FilterResult.load(garbage), "path")
    torch.save({"times": torch.zeros(2)}, tmp_path / "other.pt")
    refused(lambda: jf.FilterResult.load(tmp_path / "other.pt"), "path")


def test_save_to_a_folder_that_is_not_there(tmp_path: Path) -> None:
    result = jf.run_filter(jf.KalmanFilter(_ou()), jf.ObservationSeries([0.5], [0.0]))
    refused(lambda: result.save(tmp_path / "absent" / "result.pt"), "path")
    assert list(tmp_path.iterdir()) == []


def _nan_outside(x: torch.Tensor) -> torch.Tensor:
    return torch.sqrt(0.25 - x.square()).sum(-1)  # its gradient is NaN out there as well


@density_filters
def test_potential_that_is_nan_where_the_law_is(build: Callable[..., jf.Filter]) -> None:
    # No draw of the prior is out there, but the drift leads there.
    model = _model(prior=_normal(sd=0.05), potential=jf.Potential(_nan_outside, 1))

    def use() -> None:
        filter = build(model)
        filter.predict(filter.init(_gen()), 0.3, _gen())

    refused(use, "potential", (InputError, FilterError))


def test_potential_that_is_nan_where_the_prior_is() -> None:
    refused(lambda: _model(potential=jf.Potential(_nan_outside, 1)), "potential")


@density_filters
def test_likelihood_that_is_nan(build: Callable[..., jf.Filter]) -> None:
    filter = build(_model(observation=jf.NonlinearGaussian(lambda x: x * NAN, [[1.0]])))
    belief = filter.init(_gen())
    refused(lambda: filter.update(belief, torch.zeros(1).double(), _gen()), "log_likelihood", FilterError)


@density_filters
def test_likelihood_that_is_zero_everywhere(build: Callable[..., jf.Filter]) -> None:
    class Nowhere:
        def log_likelihood(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return torch.full((x.shape[0],), -INF, dtype=x.dtype)

        def sample(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
            return x

    filter = build(_model(observation=Nowhere()))
    belief = filter.init(_gen())
    refused(lambda: filter.update(belief, torch.zeros(1).double(), _gen()), "likelihood", FilterError)


def test_likelihood_of_the_wrong_shape() -> None:
    class Columns:
        def log_likelihood(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return -x.square()

        def sample(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
            return x

    refused(lambda: _model(observation=Columns()), "log_likelihood")


def test_observation_function_of_the_wrong_shape() -> None:
    refused(lambda: _model(observation=jf.NonlinearGaussian(lambda x: x[:, 0], [[1.0]])), "function")


def test_matrix_for_another_dimension() -> None:
    refused(lambda: _model(observation=jf.LinearGaussian([[1.0, 1.0]], [[1.0]])), "matrix")


def test_a_failed_step_leaves_the_tracker_where_it_was() -> None:
    tracker = jf.JKOFilter(_model(observation=jf.NonlinearGaussian(lambda x: x * NAN, [[1.0]]))).track()
    before = tracker.predict(0.1)
    with pytest.raises(FilterError):
        tracker.update(0.0)
    assert tracker.belief is before


def test_report_keeps_the_belief_and_says_why() -> None:
    filter = jf.JKOFilter(_model(observation=jf.NonlinearGaussian(lambda x: x * NAN, [[1.0]])), on_failure="report")
    belief = filter.init(_gen())
    after, info = filter.update(belief, torch.zeros(1).double(), _gen())
    assert after is belief
    assert "log_likelihood" in info.status
    assert info.log_evidence == 0.0


def test_simulation_that_blows_up() -> None:
    steep = jf.Potential(lambda x: -x.pow(4).sum(-1), 1)
    refused(lambda: jf.simulate(_model(potential=steep), [5.0], substep=0.1), "substep")
