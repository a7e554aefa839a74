"""The logistic regression scenario: its data as their authors define them, its posterior, the measures of its cases."""

import math
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

import jkofilter as jf
from jkofilter.experiments.command.run import write_files
from jkofilter.experiments.report.tables import run_table
from jkofilter.experiments.sweep.runner import run_here

FILE = Path(__file__).parents[2] / "scenarios" / "logistic_regression.py"
MANY = 40_000


@pytest.fixture(scope="module")
def scenario() -> ModuleType:
    study = jf.Scenario.load(FILE)
    assert isinstance(study, jf.FlowStudy)
    assert [case.dim for case in study.cases] == [21, 21, 22, 3, 31]
    return sys.modules["scenario_logistic_regression"]


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def share_within(errors: torch.Tensor, expected: float) -> bool:
    """Within four standard errors of a share."""
    return abs(errors.double().mean().item() - expected) < 4 * math.sqrt(expected / len(errors))


def test_twonorm_has_its_bayes_error(scenario: ModuleType) -> None:
    data = scenario.twonorm(MANY, source())
    # The sum of the coordinates is N(+-20 a, 20), 20 a / sqrt(20) = 2.
    exact = Normal(0.0, 1.0).cdf(torch.tensor(-2.0)).item()
    assert exact == pytest.approx(0.023, abs=5e-4)
    assert share_within(torch.sign(data.x.sum(1)) != data.y, exact)
    one = data.x[data.y > 0]
    assert (one.mean(0) - 2 / math.sqrt(20)).abs().max() < 5 / math.sqrt(len(one))
    assert (torch.cov(one.mT) - torch.eye(20)).abs().max() < 7 / math.sqrt(len(one))


def test_ringnorm_has_its_bayes_error(scenario: ModuleType) -> None:
    data = scenario.ringnorm(MANY, source())
    zero, a = torch.zeros(20).double(), torch.full((20,), 2 / math.sqrt(20)).double()
    eye = torch.eye(20).double()
    odds = MultivariateNormal(zero, 4 * eye).log_prob(data.x) - MultivariateNormal(a, eye).log_prob(data.x)
    assert (torch.sign(odds) != data.y).double().mean().item() == pytest.approx(0.013, abs=2e-3)
    assert data.x[data.y > 0].var(0).mean().item() == pytest.approx(4.0, rel=0.01)
    assert data.x[data.y < 0].mean().item() == pytest.approx(2 / math.sqrt(20), abs=0.01)


def test_waveform_has_the_moments_of_mixed_triangles(scenario: ModuleType) -> None:
    data = scenario.waveform(MANY, source())
    assert data.x.shape == (MANY, 21)
    assert share_within(data.y > 0, 1 / 3)
    at = torch.arange(1, 22).double()
    waves = [(6 - (at - peak).abs()).clamp(min=0) for peak in (11, 15)]
    one = data.x[data.y > 0]
    # u w1 + (1 - u) w2 has mean (w1 + w2)/2 and variance (w1 - w2)^2/12, with unit noise on top.
    assert (one.mean(0) - (waves[0] + waves[1]) / 2).abs().max() < 5 * math.sqrt(4 / len(one))
    torch.testing.assert_close(one.var(0), 1 + (waves[0] - waves[1]).square() / 12, rtol=0.06, atol=0.0)


def test_bananas_lie_on_their_half_circles(scenario: ModuleType) -> None:
    data = scenario.banana(MANY, source())
    one, other = data.x[data.y > 0], data.x[data.y < 0]
    mean = torch.tensor([0.0, 2 / math.pi]).double()
    for centred in (one - mean, torch.tensor([1.0, 0.5]).double() - other - mean):
        assert centred.mean(0).abs().max() < 5 * 0.8 / math.sqrt(len(centred))
        # |arc|^2 = 1 and noise of variance 0.09 in both coordinates.
        assert (centred + mean).square().sum(1).mean().item() == pytest.approx(1.18, abs=0.03)


def test_the_real_set_is_split_without_loss_and_standardised_by_its_training_part(scenario: ModuleType) -> None:
    train, test = scenario.breast_cancer(source(3))
    assert (len(train.y), len(test.y)) == (455, 114)
    assert ((train.y > 0).sum() + (test.y > 0).sum()).item() == 212
    torch.testing.assert_close(train.x.mean(0), torch.zeros(30).double(), rtol=0.0, atol=1e-10)
    torch.testing.assert_close(train.x.std(0), torch.ones(30).double())
    table = pd.read_csv(scenario.DATA)
    assert table.shape == (569, 31)
    assert table["mean_radius"].iloc[0] == 17.99


@pytest.mark.parametrize("whitened", [False, True])
def test_the_derivatives_of_the_posterior_are_those_of_autograd(scenario: ModuleType, whitened: bool) -> None:
    potential = scenario.LogisticPosterior(scenario.waveform(60, source()))
    if whitened:
        potential = scenario.Whitened(potential)
    x = 0.5 * torch.randn(5, 22, generator=source(1), dtype=torch.float64)
    torch.testing.assert_close(potential.gradient(x), jf.Potential.gradient(potential, x))
    torch.testing.assert_close(potential.hessian(x), jf.Potential.hessian(potential, x))


def one_attribute(scenario: ModuleType) -> jf.Potential:
    x = torch.tensor([[0.5], [-1.0], [2.0], [1.5], [-0.3]]).double()
    return scenario.LogisticPosterior(scenario.TwoClasses(x, torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0]).double()))


def quadrature(potential: jf.Potential) -> tuple[float, torch.Tensor]:
    """Log evidence and means of (w, log alpha), by the trapezoidal rule."""
    w, log_alpha = torch.linspace(-60, 60, 6001).double(), torch.linspace(-12, 10, 1101).double()
    grid = torch.stack(torch.meshgrid(w, log_alpha, indexing="ij"), -1).reshape(-1, 2)
    log_density = -potential(grid)
    cell = math.log((w[1] - w[0]) * (log_alpha[1] - log_alpha[0]))
    return log_density.logsumexp(0).item() + cell, torch.softmax(log_density, 0) @ grid


def test_the_evidence_is_the_likelihood_averaged_over_the_prior(scenario: ModuleType) -> None:
    potential = one_attribute(scenario)
    n, generator = 400_000, source()
    alpha = torch.distributions.Gamma(scenario.SHAPE, scenario.RATE)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        precision = alpha.sample((n,)).double()
    w = torch.randn(n, generator=generator, dtype=torch.float64) / precision.sqrt()
    likelihood = torch.sigmoid(w[:, None] * potential.signed[:, 0]).prod(1)
    error = 4 * likelihood.std().item() / math.sqrt(n) / likelihood.mean().item()
    assert quadrature(potential)[0] == pytest.approx(likelihood.mean().log().item(), abs=error + 1e-3)


@pytest.mark.slow
def test_jko_and_importance_sampling_find_the_posterior_of_quadrature(scenario: ModuleType) -> None:
    potential = scenario.Whitened(one_attribute(scenario))
    log_evidence, mean = quadrature(potential.posterior)
    exact = scenario.adaptive_importance_sampling(potential, 0, rounds=5, count=5000, last=40_000)
    assert exact.log_evidence == pytest.approx(log_evidence, abs=4 / math.sqrt(exact.share * 40_000))
    found = exact.weights @ potential.state(exact.points)
    deviation = torch.linalg.inv(potential.posterior.hessian(potential.centre[None])[0]).diagonal().sqrt()
    assert ((found - mean) / deviation).abs().max() < 0.05
    prior = MultivariateNormal(torch.zeros(2).double(), 2.25 * torch.eye(2).double())
    law = jf.solve_jko(prior, jf.LangevinSDE(potential), 12.0, 2.0, "implicit-euler", pool=2000).final
    draws = potential.state(law.sample(20_000, source()))
    assert ((draws.mean(0) - mean) / deviation).abs().max() < 0.1
    assert scenario.log_evidence(potential, law) == pytest.approx(log_evidence, abs=0.03)


@pytest.mark.slow
def test_measures_of_a_case_are_columns_and_a_picture_and_nan_where_a_law_has_no_density(
    scenario: ModuleType, tmp_path: Path
) -> None:
    draw = scenario.banana
    case = scenario.case("small", draw(60, source()), draw(200, source(1)), "")

    def points(problem: jf.FlowCase, seed: int, seconds: float) -> jf.Carried:
        return jf.Carried(lambda time: scenario.Points(scenario.noise(300, problem.dim, source(seed))))

    methods = {"JKO": jf.jko(2.0, "implicit-euler", pool=300), "points": points}
    study = jf.FlowStudy("small", [case], methods)
    ran = run_here(study)
    records = run_table(ran.records).set_index("filter")
    assert (records["status"] == "ok").all()
    assert records.loc[["JKO", "points"], "accuracy"].between(0.5, 1.0).all()
    assert records["log_evidence"].isna().tolist() == [False, True]
    assert records["ess"].isna().tolist() == [False, True]
    assert records.loc["JKO", "mean_error"] < records.loc["points", "mean_error"]
    assert tmp_path / "measures.png" in write_files(study, ran, tmp_path)
