"""Rotated double wells whose readings mix the wells, d = 2 to 8: five readings, noise 0.5, one every 0.5.

V(x) = sum_i v((R x)_i) with v(u) = (u^2 - 1)^2, prior N(0, I), readings y = H x + noise with H another rotation than R:
every reading couples all wells, nothing separates, and blocks are never independent. Beyond the plane no exact answer
is to be had: the reference are the means over five tempered runs of 20,000 particles, stored with their spread
(``tests/reference_mixed_wells.py`` makes them). All seeds read the same readings.
"""

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

import jkofilter as jf

DIMS = (2, 4, 8)
NOISE = 0.5
TIMES = [0.5, 1.0, 1.5, 2.0, 2.5]
SUBSTEP = 0.01


def rotation(d: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]


def wells(d: int) -> Tensor:
    """The rotation R, that of double_well_filter_nd."""
    return rotation(d, d)


def model(d: int) -> jf.StateSpaceModel:
    eye = torch.eye(d, dtype=torch.float64)
    prior = torch.distributions.MultivariateNormal(torch.zeros(d, dtype=torch.float64), eye)
    sensor = jf.LinearGaussian(rotation(d, 1_000 + d), NOISE**2 * eye)
    return jf.StateSpaceModel(prior, jf.LangevinSDE(jf.DoubleWell(d, rotation=wells(d))), sensor)


def stored(d: int) -> Path:
    """Where the readings and the reference of a dimension lie."""
    return Path(__file__).parent / "data" / f"double_well_mixed_{d}.json"


@cache
def reference(d: int) -> dict[str, Any]:
    return json.loads(stored(d).read_text())  # type: ignore[no-any-return]


def series(d: int) -> jf.ObservationSeries:
    """The readings: those stored, else simulated."""
    if stored(d).exists():
        return jf.ObservationSeries(TIMES, reference(d)["readings"])
    return jf.simulate(model(d), TIMES, seed=0)[1]


def spread(d: int) -> tuple[float, float]:
    """Standard errors of the reference after the last reading: of means, in posterior sd, and of the log evidence."""
    runs = reference(d)["runs"]
    means = torch.tensor([run["means"][-1] for run in runs])
    deviations = torch.tensor([run["variances"][-1] for run in runs]).mean(0).sqrt()
    evidence = torch.tensor([run["log_evidence"][-1] for run in runs])
    root = len(runs) ** 0.5
    return (means.std(0) / deviations).square().mean().sqrt().item() / root, evidence.std().item() / root


@dataclass(frozen=True)
class Stored:
    """The stored moments as a filter: after readings those of the reference, in between those of the last reading."""

    model: jf.StateSpaceModel

    def init(self, generator: Generator) -> jf.GaussianBelief:
        prior = self.model.prior
        return jf.GaussianBelief(0.0, prior.mean, prior.covariance_matrix)

    def predict(
        self, belief: jf.GaussianBelief, duration: float, generator: Generator
    ) -> tuple[jf.GaussianBelief, jf.filters.StepInfo]:
        return replace(belief, time=belief.time + duration), jf.filters.StepInfo()

    def update(
        self, belief: jf.GaussianBelief, y: Tensor, generator: Generator
    ) -> tuple[jf.GaussianBelief, jf.filters.StepInfo]:
        at = min(range(len(TIMES)), key=lambda k: abs(TIMES[k] - belief.time))
        runs = reference(self.model.dim)["runs"]
        mean, variance, evidence = (
            torch.tensor([run[name][at] for run in runs], dtype=torch.float64)
            for name in ("means", "variances", "log_evidence")
        )
        # The mean of evidences, of which each is unbiased, not of their logarithms.
        known = (evidence.logsumexp(0) - torch.tensor(float(len(runs))).log()).item()
        after = jf.GaussianBelief(belief.time, mean.mean(0), torch.diag(variance.mean(0)), known)
        return after, jf.filters.StepInfo(log_evidence=known - belief.log_evidence)


def jko(whole: jf.StateSpaceModel) -> jf.JKOFilter:
    d = whole.dim
    # As for double_well_filter_nd, but that the mixed readings call for twice as many directions.
    cells, step = (16, 0.125) if d <= 8 else (12, 0.25)
    steps = jf.RidgeEngine(cells=cells, directions=d, refinements=0)
    update = jf.UpdateSettings(engine=jf.RidgeEngine(cells=10, directions=2 * d))
    return jf.JKOFilter(whole, step=step, pool=2500, transport=steps, assimilation=update)


def case(d: int) -> jf.Scenario:
    return jf.Scenario(
        name=f"d = {d}",
        model=model(d),
        filters={
            "JKO": jko,
            "JKO, default": jf.JKOFilter,
            "tempered": jf.TemperedParticleFilter,
            "guided": jf.GuidedParticleFilter,
            "block": lambda m: jf.BlockParticleFilter(m, rotation=wells(d)),
            "particles, 100000": lambda m: jf.ParticleFilter(m, 100_000, substep=SUBSTEP),
            "ensemble Kalman": lambda m: jf.EnsembleKalmanFilter(m, 10_000, substep=SUBSTEP),
            "unscented Kalman": jf.UnscentedKalmanFilter,
            "reference": Stored,
        },
        matched={
            "tempered, same time": jf.TemperedParticleFilter,
            "particles, same time": lambda m, n: jf.ParticleFilter(m, n, substep=SUBSTEP),
        },
        reference="reference",
        series=series(d),
        seeds=5,
        kl=False,
    )


SCENARIO = jf.FilterStudy(
    name="double_well_mixed_nd",
    scenarios=[case(d) for d in DIMS],
    description="rotated double wells, readings that mix them, five readings with noise 0.5",
)

if __name__ == "__main__":
    SCENARIO.main()
