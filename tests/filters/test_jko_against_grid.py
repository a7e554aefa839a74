"""The JKO filter against the Chang-Cooper grid on a double well, where neither is Gaussian and no formula helps."""

import pytest
import torch

import jkofilter as jf

TIMES, READINGS = (0.5, 1.0, 1.5, 2.0), (0.8, -0.3, 1.1, -0.9)
# beta, noise variance, times, readings, grid cells, grid step
CASES = {
    "plain": (1.0, 0.25, TIMES, READINGS, 6000, 5e-4),
    "hot": (0.1, 0.25, TIMES, READINGS, 6000, 5e-4),
    "cold": (20.0, 0.25, TIMES, READINGS, 6000, 5e-4),
    "noise sd 1e-3": (1.0, 1e-6, TIMES, READINGS, 6000, 5e-4),
    "gap of 100": (1.0, 0.25, (1.0, 101.0, 101.5), (1.0, 0.5, -0.5), 3000, 2e-3),
    "reading 20 sd out": (1.0, 1.0, TIMES, (0.8, 25.0, 0.3, -0.5), 6000, 5e-4),
}


@pytest.mark.parametrize(
    ("settings", "divergence", "evidence"),
    [
        pytest.param({}, 1e-6, 1e-3, id="default"),
        pytest.param({"scheme": "sdirk4", "tolerance": 1e-5}, 1e-8, 5e-5, id="sdirk4"),
    ],
)
@pytest.mark.parametrize("name", CASES)
def test_laws_and_evidence_agree(name: str, settings: dict[str, object], divergence: float, evidence: float) -> None:
    beta, variance, times, readings, cells, step = CASES[name]
    model = jf.StateSpaceModel(
        torch.distributions.MultivariateNormal(torch.zeros(1).double(), torch.eye(1).double()),
        jf.LangevinSDE(jf.DoubleWell(1), beta),
        jf.LinearGaussian([[1.0]], [[variance]]),
    )
    series = jf.ObservationSeries(list(times), list(readings))
    jko = jf.JKOFilter(model, **settings).run(series, keep_beliefs=True)  # type: ignore[arg-type]
    grid = jf.GridFilter(model, cells=cells, step=step).run(series, keep_beliefs=True)
    for ours, exact in zip(jko.beliefs, grid.beliefs, strict=True):
        assert jf.metrics.kl(exact, ours) < divergence
        assert jf.metrics.kl(ours, exact) < divergence
    assert (jko.log_evidence - grid.log_evidence).abs().max() < evidence
