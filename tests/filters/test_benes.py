"""The exact filter of the Benes diffusion against the grid, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

import jkofilter as jf
from jkofilter.numerics import metrics

KAPPA, BETA, CENTRE, VARIANCE = 0.9, 1.6, -0.2, 0.5
NAN = math.nan
GAINS, NOISE = [[1.0], [0.5]], [[1.5, 0.2], [0.2, 1.1]]
SERIES = jf.ObservationSeries([0.0, 0.4, 0.9, 1.5], [[0.4, NAN], [-0.8, 0.3], [NAN, NAN], [1.3, 0.9]])


def model(kappa: float = KAPPA) -> jf.StateSpaceModel:
    return jf.StateSpaceModel(
        jf.benes_prior(CENTRE, VARIANCE, kappa),
        jf.LangevinSDE(jf.LogCosh(kappa, BETA), BETA),
        jf.LinearGaussian(GAINS, NOISE),
    )


def law(kappa: float = 1.3, centre: float = 0.15, variance: float = 1.7) -> jf.BenesBelief:
    return jf.BenesBelief(
        0.0, torch.tensor([centre], dtype=torch.float64), torch.tensor([[variance]], dtype=torch.float64), kappa
    )


@pytest.mark.parametrize("kappa", [0.9, -0.9, 1.5])
def test_agrees_with_the_grid_at_every_reading(kappa: float) -> None:
    """Readings at time zero, of two components, with one and with all of them missing."""
    problem = model(kappa)
    exact = jf.BenesFilter(problem).run(SERIES, until=1.8, keep_beliefs=True)
    grid = jf.GridFilter(problem, cells=3000, step=2e-3).run(SERIES, until=1.8, keep_beliefs=True)
    assert (exact.log_evidence - grid.log_evidence).abs().max() < 1e-4
    for ours, other in zip((*exact.beliefs, exact.final), (*grid.beliefs, grid.final), strict=True):
        assert metrics.symmetric_kl(ours, other) < 1e-8
        assert (ours.mean - other.mean).abs().item() < 1e-4
        assert (ours.covariance - other.covariance).abs().item() < 1e-4


@pytest.mark.parametrize(("kappa", "centre"), [(1.3, 0.15), (-1.3, 0.15), (0.0, -2.0), (1.0, 30.0), (400.0, 1.0)])
def test_the_belief_is_one_law(kappa: float, centre: float) -> None:
    """Density, moments, quantiles and draws belong together, also where cosh would overflow."""
    belief = law(kappa, centre)
    scale = math.sqrt(1.7)
    middles = [centre + kappa * 1.7, centre - kappa * 1.7]

    # Both components, or the two together where they overlap: the trapezoid is exact to rounding for such densities.
    spans = [(m - 12 * scale, m + 12 * scale) for m in sorted(middles)]
    if spans[1][0] < spans[0][1]:
        spans = [(spans[0][0], spans[1][1])]
    grids = [torch.linspace(low, high, 4001, dtype=torch.float64) for low, high in spans]

    def moment(power: int) -> float:
        about = belief.mean.item() if power == 2 else 0.0
        parts = [torch.trapezoid((x - about) ** power * belief.log_prob(x.unsqueeze(-1)).exp(), x) for x in grids]
        return sum(part.item() for part in parts)

    assert moment(0) == pytest.approx(1, abs=1e-9)
    assert moment(1) == pytest.approx(belief.mean.item(), rel=1e-9, abs=1e-8)
    assert moment(2) == pytest.approx(belief.covariance.item(), rel=1e-8)
    draws = belief.sample(20_000, torch.Generator().manual_seed(1))
    deviation = math.sqrt(belief.covariance.item())
    assert abs(draws.mean().item() - belief.mean.item()) < 5 * deviation / math.sqrt(20_000)
    for q in (1e-6, 0.1, 0.5, 0.93):
        at = belief.quantile(q)
        below = (draws < at).double().mean().item()
        assert abs(below - q) < 5 * math.sqrt(q * (1 - q) / 20_000) + 1e-12
        assert metrics.pit(belief, at).item() == pytest.approx(q, rel=1e-6)


def test_the_prior_is_the_tilted_gaussian() -> None:
    x = torch.linspace(-4, 4, 50).double().unsqueeze(-1)
    prior = jf.benes_prior(0.15, 1.7, 1.3)
    assert (prior.log_prob(x) - law().log_prob(x)).abs().max() < 1e-12
    wide = jf.benes_prior(torch.tensor([0.15, -1.0], dtype=torch.float64), 1.7, 1.3)
    assert wide.event_shape == (2,)
    halves = law().log_prob(x) + law(centre=-1.0).log_prob(x)
    assert (wide.log_prob(x.expand(50, 2)) - halves).abs().max() < 1e-6


def test_a_product_of_them_is_exact_in_the_plane() -> None:
    eye = torch.eye(2, dtype=torch.float64)
    kappa = torch.tensor([1.0, 0.6], dtype=torch.float64)
    plane = jf.StateSpaceModel(
        jf.benes_prior([0.2, 0.0], 0.4, kappa), jf.LangevinSDE(jf.LogCosh(kappa, 2.0), 2.0), jf.LinearGaussian(eye, eye)
    )
    lines = [
        jf.BenesFilter(
            jf.StateSpaceModel(
                jf.benes_prior(m, 0.4, k), jf.LangevinSDE(jf.LogCosh(k, 2.0), 2.0), jf.LinearGaussian([[1.0]], [[1.0]])
            )
        )
        for m, k in zip((0.2, 0.0), kappa, strict=True)
    ]
    series = jf.ObservationSeries([0.5, 1.0], [[0.4, NAN], [-0.3, 1.0]])
    exact = jf.ProductFilter(plane, eye, tuple(lines)).run(series)
    grid = jf.GridFilter(plane, cells=160, step=0.02).run(series)
    assert (exact.log_evidence - grid.log_evidence).abs().max() < 1e-3
    assert metrics.kl(exact.final, grid.final, 4000) < 1e-5


def test_results_are_saved_and_loaded(tmp_path: Path) -> None:
    result = jf.BenesFilter(model()).run(SERIES, keep_beliefs=True)
    result.save(tmp_path / "run.pt")
    again = jf.FilterResult.load(tmp_path / "run.pt")
    x = torch.linspace(-3, 3, 9).double().unsqueeze(-1)
    assert torch.equal(again.final.log_prob(x), result.final.log_prob(x))
    assert again.final.log_evidence == result.final.log_evidence


def test_refuses_other_models() -> None:
    good = model()
    normal = MultivariateNormal(torch.zeros(1).double(), torch.eye(1).double())
    wrong = {
        "LogCosh": jf.StateSpaceModel(good.prior, jf.LangevinSDE(jf.DoubleWell(1)), good.observation),
        "beta": jf.StateSpaceModel(good.prior, jf.LangevinSDE(good.sde.potential, 1.0), good.observation),
        "prior": jf.StateSpaceModel(normal, good.sde, good.observation),
        "kappa": jf.StateSpaceModel(jf.benes_prior(CENTRE, VARIANCE, 1.1), good.sde, good.observation),
        "LinearGaussian": jf.StateSpaceModel(good.prior, good.sde, jf.StochasticVolatility()),
    }
    for named, problem in wrong.items():
        with pytest.raises(jf.InputError, match=named):
            jf.BenesFilter(problem)
    with pytest.raises(jf.InputError, match="StateSpaceModel"):
        jf.BenesFilter(3)  # type: ignore[arg-type]
    with pytest.raises(jf.InputError, match="variance"):
        jf.benes_prior(0.0, -1.0, 1.0)
    with pytest.raises(jf.InputError, match="one length"):
        jf.benes_prior(np.zeros(2), np.ones(3), 1.0)
    tracker = jf.BenesFilter(good).track()
    with pytest.raises(jf.InputError, match="2 components"):
        tracker.update([1.0])
