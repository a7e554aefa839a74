"""The grid filter on the plane: belief and GridFilter against exact answers."""

import math

import numpy as np
import pytest
import torch
from plane_problems import (
    EYE,
    PRIOR_COVARIANCE,
    PRIOR_MEAN,
    coupled,
    coupled_filter,
    gen,
    kalman,
    moments,
    ou,
    plane,
    tensor,
    transition,
)
from scipy import stats
from torch.distributions import Independent, MultivariateNormal, Uniform

import jkofilter as jf

NAN = math.nan


# --- Ornstein-Uhlenbeck with a correlated precision ----------------------------------------------------------------

TIMES = [0.0, 0.2, 0.5, 1.1, 1.3]
VALUES = [[0.5, -0.9], [NAN, 0.3], [NAN, NAN], [1.2, NAN], [-0.4, 0.1]]


@pytest.mark.parametrize("options", [{"bounds": (-5.0, 5.0)}, {"bounds": ((-4.5, 5.0), (-5.5, 5.0))}, {}])
def test_ou_with_missing_readings_matches_kalman(options):
    options = {"cells": 160 if options else 200, "step": 0.02, **options}
    result = jf.GridFilter(ou(), **options).run(jf.ObservationSeries(TIMES, VALUES), keep_beliefs=True)
    mean, covariance, evidence = kalman(TIMES, VALUES)
    # Between readings the scheme's error is about a tenth of the square of a cell, relative to the law's variance.
    width = max(max(belief.grid.widths) for belief in result.beliefs)
    tolerance = 0.25 * width**2 / covariance.diagonal().min().item()
    sd = covariance.diagonal().sqrt()
    assert ((result.final.mean - mean).abs() / sd).max() < tolerance
    assert ((result.final.covariance - covariance).abs() / torch.outer(sd, sd)).max() < tolerance
    assert result.log_evidence[-1].item() == pytest.approx(evidence, abs=len(TIMES) * tolerance)
    assert [info.status for info in result.infos] == ["ok", "ok", "skipped", "ok", "ok"]
    law = MultivariateNormal(mean, covariance)
    x = law.mean + EYE.new_tensor(np.random.default_rng(0).normal(size=(500, 2))) @ law.scale_tril.T
    gap = law.log_prob(x) - result.final.log_prob(x)
    assert gap.mean().abs() < tolerance
    assert gap.abs().max() < 20 * tolerance


@pytest.mark.parametrize(
    ("mean", "covariance"),
    [
        (tensor([1.0, -1.0]), 1e-4 * EYE),
        (tensor([1.0, 2.0]), tensor([[1.0, 0.97], [0.97, 1.0]])),
        (tensor([0.0, 4.0]), tensor([[1e-2, 0.0], [0.0, 1.0]])),
    ],
    ids=["narrow", "correlated", "thin"],
)
def test_free_grid_follows_narrow_and_tilted_laws(mean, covariance):
    filter_ = jf.GridFilter(ou(MultivariateNormal(mean, covariance)), cells=120, step=0.02)
    belief, info = filter_.predict(filter_.init(gen()), 0.4, gen())
    exact_mean, exact_covariance = transition(mean, covariance, 0.4)
    sd = exact_covariance.diagonal().sqrt()
    # Cells of a sixth of the law's width.
    assert ((belief.mean - exact_mean).abs() / sd).max() < 2e-2
    assert ((belief.covariance - exact_covariance).abs() / torch.outer(sd, sd)).max() < 3e-2
    assert info.status == "ok"


def test_sharp_reading_needs_no_bounds():
    sharp = jf.LinearGaussian(EYE, 1e-6 * EYE)
    filter_ = jf.GridFilter(ou(observation=sharp), cells=100, step=0.02)
    belief, info = filter_.update(filter_.init(gen()), tensor([0.5, 0.4]), gen())
    total = PRIOR_COVARIANCE + 1e-6 * EYE
    y = tensor([0.5, 0.4])
    assert info.log_evidence == pytest.approx(MultivariateNormal(PRIOR_MEAN, total).log_prob(y).item(), abs=1e-6)
    # Covariance of a product of Gaussians: (S^-1 + 1e6)^-1.
    exact = torch.linalg.inv(torch.linalg.inv(PRIOR_COVARIANCE) + 1e6 * EYE)
    torch.testing.assert_close(belief.covariance, exact, rtol=1e-4, atol=1e-11)
    belief, info = filter_.predict(belief, 0.1, gen())
    mean, covariance = transition(y, exact, 0.1)
    torch.testing.assert_close(belief.covariance, covariance, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(belief.mean, mean, rtol=0, atol=1e-3)
    assert info.details["regrids"] > 0


# --- double wells ---------------------------------------------------------------------------------------------------


def rotation(angle: float) -> torch.Tensor:
    return tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def test_rotated_double_well_is_a_product_of_two_lines():
    turn = rotation(0.6)
    two = jf.StateSpaceModel(
        MultivariateNormal(tensor([0.0, 0.0]), EYE),
        jf.LangevinSDE(jf.DoubleWell(2, turn)),
        jf.LinearGaussian(turn, 0.25 * EYE),
    )
    one = jf.StateSpaceModel(
        MultivariateNormal(tensor([0.0]), tensor([[1.0]])),
        jf.LangevinSDE(jf.DoubleWell(1)),
        jf.LinearGaussian([[1.0]], [[0.25]]),
    )
    times, values = [0.3, 0.6, 0.9], np.array([[0.6, -0.3], [0.9, NAN], [-0.2, -1.1]])
    lines = [
        jf.GridFilter(one, bounds=(-5.0, 5.0), cells=2000).run(jf.ObservationSeries(times, values[:, k]), until=1.2)
        for k in range(2)
    ]
    result = jf.GridFilter(two, bounds=(-4.0, 4.0), cells=160, step=0.01).run(
        jf.ObservationSeries(times, values), until=1.2
    )
    x = result.final.sample(2000, gen(1))
    product = sum(line.final.log_prob((x @ turn.T)[:, k : k + 1]) for k, line in enumerate(lines))
    gap = result.final.log_prob(x) - product
    # Cells of 1/20, wells of width 0.35: squared, a fiftieth; a tenth of it in the variance, more in the tails.
    assert gap.mean().abs() < 1e-4
    assert gap.abs().max() < 1e-2
    evidence = lines[0].log_evidence + lines[1].log_evidence
    assert (result.log_evidence - evidence).abs().max() < 2e-3
    means = torch.cat([line.final.mean for line in lines])
    assert (turn @ result.final.mean - means).abs().max() < 1e-3


@pytest.mark.parametrize("bounds", [(-3.5, 3.5), None])
def test_coupled_wells_relax_to_their_boltzmann_law(bounds):
    filter_ = coupled_filter(bounds=bounds, cells=60, step=0.05)
    belief, info = filter_.predict(filter_.init(gen()), 40.0, gen())
    log_boltzmann = -coupled(belief.grid.points)
    log_boltzmann -= np.log(np.exp(log_boltzmann).sum() * belief.grid.volume)
    bulk = log_boltzmann > log_boltzmann.max() - 20
    difference = belief.log_density.numpy().reshape(-1) - log_boltzmann
    assert np.abs(difference[bulk]).max() < 1e-6
    # 800 steps of 0.05 would be right as well; the law is stationary long before.
    assert info.details["steps"] < 600


# --- the belief ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[(-4.0, 4.0), None], ids=["bounds", "free"])
def law(request) -> jf.GridBelief2D:
    filter_ = coupled_filter(bounds=request.param, cells=160, step=0.02)
    belief, _ = filter_.predict(filter_.init(gen()), 0.3, gen())
    return filter_.update(belief, tensor([0.2]), gen())[0]


def test_log_prob_integrates_to_one_with_the_mean_and_covariance(law):
    reach = 4.0 if law.closed else 7.0
    grid = plane(-reach, reach, 800, 800)
    density = law.log_prob(torch.as_tensor(grid.points)).exp().numpy()
    assert density.sum() * grid.volume == pytest.approx(1.0, abs=1e-6)
    expected = np.append(law.mean.numpy(), law.covariance.numpy())
    np.testing.assert_allclose(moments(grid, density), expected, atol=1e-6)


def test_shapes_types_and_protocol(law):
    assert isinstance(law, jf.Belief)
    assert law.dim == 2
    assert law.mean.shape == (2,)
    assert law.covariance.shape == (2, 2)
    assert law.sample(5).shape == (5, 2)
    assert law.log_prob(torch.zeros(7, 2).double()).shape == (7,)
    assert law.log_prob(torch.zeros(0, 2).double()).shape == (0,)
    assert all(t.dtype == torch.float64 for t in (law.mean, law.covariance, law.sample(2), law.log_prob(law.sample(2))))
    assert torch.equal(law.sample(50, gen(3)), law.sample(50, gen(3)))
    assert not torch.equal(law.sample(50, gen(3)), law.sample(50, gen(4)))


def test_beyond_the_cells(law):
    far = law.log_prob(tensor([[50.0, 0.0], [-50.0, 70.0], [math.inf, 0.0], [NAN, 0.0]]))
    assert torch.isnan(far[3])
    assert far[2] == -math.inf
    if law.closed:
        assert (far[:2] == -math.inf).all()
        assert torch.isfinite(law.log_prob(tensor([[3.999, -3.999]]))).all()
    else:
        assert (torch.isfinite(far[:2]) & (far[:2] < -60)).all()


def test_samples_follow_the_marginals_and_the_coupling(law):
    draws = law.sample(20_000, gen(7))
    level = math.sqrt(math.log(2 / 1e-6) / 2 / 20_000)
    for k in range(2):
        levels = np.array([law.quantile(q, k) for q in np.linspace(0.05, 0.95, 19)])
        below = (draws[:, k].numpy() <= levels[:, None]).mean(axis=1)
        assert np.abs(below - np.linspace(0.05, 0.95, 19)).max() < level
    error = (torch.cov(draws.T) - law.covariance).abs() / law.covariance.diagonal().max()
    assert error.max() < 5 * math.sqrt(2 / 20_000)
    # The mean log density of draws is minus the entropy: draws smeared over cells would lie lower.
    cells = law.masses * np.where(law.masses > 0, law.log_density.numpy(), 0.0)
    log_prob = law.log_prob(draws)
    assert log_prob.mean().item() == pytest.approx(cells.sum(), abs=5 * log_prob.std().item() / math.sqrt(20_000))


def test_quantiles_are_those_of_the_marginals():
    belief = jf.GridFilter(ou(), bounds=(-6.0, 6.0), cells=200).init(gen())
    for k in range(2):
        sd = PRIOR_COVARIANCE[k, k].sqrt().item()
        for q in (0.01, 0.3, 0.5, 0.9):
            expected = PRIOR_MEAN[k].item() + stats.norm.ppf(q) * sd
            assert belief.quantile(q, k) == pytest.approx(expected, abs=2e-5)
        x = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64)
        exact = stats.norm.logpdf(x.numpy(), PRIOR_MEAN[k].item(), sd)
        np.testing.assert_allclose(belief.marginal(k).log_prob(x[:, None]).numpy(), exact, atol=1e-6)


def test_gaussian_is_interpolated_and_continued_as_itself():
    belief = jf.GridFilter(ou(), cells=100).init(gen())
    exact = MultivariateNormal(PRIOR_MEAN, PRIOR_COVARIANCE)
    low, high, _ = belief.grid.axes[0]
    x = tensor([[0.123, 0.456], [low - 2.0, 0.3], [high + 1.0, -0.4], [-1.0, 8.0], [4.0, -3.3]])
    torch.testing.assert_close(belief.log_prob(x), exact.log_prob(x), rtol=1e-6, atol=1e-6)


def test_hard_edges_do_not_ring():
    square = Independent(Uniform(tensor([0.0, -1.0]), tensor([1.0, 0.5])), 1)
    for bounds in ((-3.0, 3.0), None):
        filter_ = jf.GridFilter(ou(prior=square), bounds=bounds, cells=150, step=0.02)
        belief = filter_.init(gen())
        inside = tensor([0.05, -0.95]) + torch.rand(500, 2, generator=gen(), dtype=torch.float64) * tensor([0.9, 1.4])
        # One cell of the edges is in or out.
        assert (belief.log_prob(inside) + math.log(1.5)).abs().max() < 0.08
        assert belief.log_prob(tensor([[1.2, 0.0], [0.5, 0.8]])).max() < -100
        belief, _ = filter_.predict(belief, 0.3, gen())
        mean, covariance = transition(tensor([0.5, -0.25]), torch.diag(tensor([1.0, 1.5**2]) / 12), 0.3)
        torch.testing.assert_close(belief.mean, mean, rtol=0, atol=2e-2)
        torch.testing.assert_close(belief.covariance, covariance, rtol=0, atol=1e-2)


# --- the filter's habits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [(-5.0, 5.0), None])
def test_track_equals_run_and_results_are_kept_on_disk(bounds, tmp_path):
    filter_ = jf.GridFilter(ou(), bounds=bounds, cells=(60, 80), step=0.05)
    series = jf.ObservationSeries(TIMES, VALUES)
    result = filter_.run(series, seed=1, keep_beliefs=True)
    tracker = filter_.track(seed=2)
    for k, (time, y) in enumerate(zip(TIMES, VALUES, strict=True)):
        tracker.predict(time - tracker.belief.time)
        belief = tracker.update(y)
        assert torch.equal(belief.mean, result.means[k])
        assert belief.log_evidence == result.log_evidence[k].item()
        if bounds:
            assert belief.grid.shape == (60, 80)
            assert abs(belief.masses.sum() - 1.0) < 1e-12
    result.save(tmp_path / "result.pt")
    loaded = jf.FilterResult.load(tmp_path / "result.pt").final
    assert isinstance(loaded, jf.GridBelief2D)
    assert torch.equal(loaded.log_density, result.final.log_density)
    assert (loaded.grid, loaded.closed) == (result.final.grid, result.final.closed)


def test_missing_reading_and_zero_duration_change_nothing():
    filter_ = jf.GridFilter(ou(), bounds=(-5.0, 5.0), cells=60)
    belief = filter_.init(gen())
    before = belief.log_density.clone()
    for after, info in (filter_.update(belief, tensor([NAN, NAN]), gen()), filter_.predict(belief, 0.0, gen())):
        assert after is belief
        assert info.status == "skipped"
    filter_.update(filter_.predict(belief, 0.1, gen())[0], tensor([0.1, NAN]), gen())
    assert torch.equal(belief.log_density, before)


def test_defaults():
    assert jf.GridFilter(ou()).cells == (300, 300)
    filter_ = jf.GridFilter(ou(), bounds=[-5, 5], cells=80)
    assert (filter_.bounds, filter_.cells) == (((-5.0, 5.0), (-5.0, 5.0)), (80, 80))
    with pytest.raises(AttributeError):
        filter_.cells = 90


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bounds": (1.0, -1.0)}, "bounds must be finite with low < high"),
        ({"bounds": ((-1.0, 1.0), (2.0, 2.0))}, "bounds must be finite with low < high"),
        ({"bounds": ((-1.0, 1.0), (0.0, math.inf))}, "bounds must be finite"),
        ({"bounds": 3.0}, "bounds must be two numbers"),
        ({"bounds": ((-1.0, 1.0), 2.0)}, "bounds must be two numbers"),
        ({"bounds": ((-1.0, 1.0), (-1.0, 0.0, 1.0))}, "bounds must be two numbers"),
        ({"bounds": ((-1.0, 1.0),) * 3}, "bounds must be two numbers"),
        ({"cells": 3}, "cells must be an integer of at least"),
        ({"cells": (100, 3)}, "cells must be an integer of at least"),
        ({"cells": (100, 100, 100)}, "cells must be an integer"),
        ({"cells": (100.0, 100)}, "cells must be an integer"),
        ({"cells": True}, "cells must be an integer"),
        ({"step": 0.0}, "step must be positive"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(jf.InputError, match=message):
        jf.GridFilter(**{"model": ou(), **options})


def test_pairs_are_refused_on_the_line_and_three_dimensions_altogether():
    prior = MultivariateNormal(torch.zeros(1).double(), tensor([[1.0]]))
    line = jf.StateSpaceModel(prior, jf.LangevinSDE(jf.DoubleWell(1)), jf.LinearGaussian([[1.0]], [[1.0]]))
    assert jf.GridFilter(line).cells == 2000
    with pytest.raises(jf.InputError, match="cells must be an integer of at least 50, got"):
        jf.GridFilter(line, cells=(100, 100))
    with pytest.raises(jf.InputError, match="bounds must be two numbers"):
        jf.GridFilter(line, bounds=((-1.0, 1.0), (-1.0, 1.0)))
    prior = MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    space = jf.StateSpaceModel(prior, jf.LangevinSDE(jf.DoubleWell(3)), jf.LinearGaussian(torch.eye(3), torch.eye(3)))
    with pytest.raises(jf.InputError, match="GridFilter handles dim 1 and 2, but model has dim 3"):
        jf.GridFilter(space)


def test_bad_potentials_priors_readings_and_beliefs():
    def within(potential, **options):
        model = jf.StateSpaceModel(ou().prior, jf.LangevinSDE(potential), ou().observation)
        return jf.GridFilter(model, cells=60, **options)

    undefined = jf.Potential(lambda x: torch.where(x[..., 1].abs() < 1, x.sum(-1), NAN), 2)
    with pytest.raises(jf.InputError, match="potential is NaN where the law has mass"):
        within(undefined)
    broken = jf.Potential(lambda x: torch.where(x[..., 1].abs() < 1, x.sum(-1), torch.inf), 2)
    with pytest.raises(jf.InputError, match=r"potential is not finite at x = \(-2.9\d*, -2.9\d*\)"):
        within(broken, bounds=(-3.0, 3.0))
    free = within(broken)
    with pytest.raises(jf.InputError, match="potential is not finite"):
        free.predict(free.init(gen()), 0.1, gen())
    with pytest.raises(jf.InputError, match="bounds hold no mass of the prior"):
        jf.GridFilter(
            ou(prior=Independent(Uniform(tensor([0.0, 0.0]), tensor([1.0, 1.0])), 1)), bounds=(2.0, 3.0), cells=60
        ).init(gen())
    filter_ = jf.GridFilter(ou(), bounds=(-5.0, 5.0), cells=60)
    belief = filter_.init(gen())
    for bad, argument in ((math.inf, "y"), (-math.inf, "y")):
        with pytest.raises(jf.InputError, match=argument):
            filter_.update(belief, tensor([bad, 0.0]), gen())
    other = jf.GridFilter(ou(), bounds=(-5.0, 5.0), cells=(60, 61)).init(gen())
    with pytest.raises(jf.InputError, match="belief must lie on this filter's own bounds"):
        filter_.predict(other, 0.1, gen())
    with pytest.raises(jf.InputError, match="belief must be a GridBelief2D"):
        filter_.predict(jf.KalmanFilter(ou()).init(gen()), 0.1, gen())
    with pytest.raises(jf.InputError, match="x must be a tensor"):
        belief.log_prob(torch.zeros(3, 1))
    with pytest.raises(jf.InputError, match="coordinate must be between 0 and 1"):
        belief.quantile(0.5, 2)


@pytest.mark.parametrize("bounds", [(-5.0, 5.0), None])
@pytest.mark.parametrize("value", [NAN, -math.inf])
def test_likelihood_that_is_nan_or_zero_everywhere(bounds, value):
    class Broken:
        def log_likelihood(self, y, x):
            return torch.full((x.shape[0],), value, dtype=x.dtype)

        def sample(self, x, generator):
            return x

    filter_ = jf.GridFilter(ou(observation=Broken()), bounds=bounds, cells=60)
    with pytest.raises(jf.FilterError, match="likelihood"):
        filter_.update(filter_.init(gen()), tensor([0.0, 0.0]), gen())
