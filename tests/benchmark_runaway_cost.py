"""Processor seconds of what once cost far too much: calibrations, a sharp reading on the plane, two of four sharp.

Run as ``OMP_NUM_THREADS=1 python tests/benchmark_runaway_cost.py [calibrate] [plane] [wells]``; all of it takes some
minutes. Calibrations are of two runs, and told for twenty.
"""

import sys
from time import process_time

import numpy as np
import torch

import jkofilter as jf

TIMES = 0.1 * np.arange(1, 301)
RUNS = 2


def model(potential: jf.Potential, noise: torch.Tensor, beta: float = 1.0) -> jf.StateSpaceModel:
    d = potential.dim
    eye = torch.eye(d, dtype=torch.float64)
    prior = torch.distributions.MultivariateNormal(torch.zeros(d, dtype=torch.float64), eye)
    return jf.StateSpaceModel(prior, jf.LangevinSDE(potential, beta), jf.LinearGaussian(eye[: len(noise)], noise))


def quartic(x: torch.Tensor) -> torch.Tensor:
    """Of a user's own, which torch differentiates."""
    return ((x**2 - 1) ** 2).sum(-1)


def coupled(x: torch.Tensor) -> torch.Tensor:
    """Quartic wells in a chain."""
    return quartic(x) + 0.5 * (x[..., 1:] - x[..., :-1]).square().sum(-1)


def calibrations() -> None:
    noise = torch.tensor([[0.1]], dtype=torch.float64)
    for name, potential in (("OU", jf.Quadratic(0.0, 1.0)), ("own quartic", jf.Potential(quartic, 1))):
        for kind in (jf.JKOFilter, jf.GridFilter, jf.ParticleFilter, jf.EnsembleKalmanFilter, jf.UnscentedKalmanFilter):
            start = process_time()
            found = jf.calibrate(kind(model(potential, noise)), TIMES, RUNS)
            seconds = (process_time() - start) * 20 / RUNS
            print(f"calibrate, {name}, {kind.__name__}: {seconds:.0f} s for 20 runs; coverage {found.coverage():.3f}")


def plane() -> None:
    filter = jf.GridFilter(model(jf.DoubleWell(2), 1e-4 * torch.eye(2, dtype=torch.float64)))
    tracker = filter.track()
    tracker.update(torch.tensor([0.3, -0.2], dtype=torch.float64))
    start = process_time()
    tracker.predict(0.7)
    print(f"plane: {process_time() - start:.2f} s for .7 units after a reading of sd .01; {tracker.info.details}")
    print("  ", tracker.belief.mean.tolist(), tracker.belief.covariance.tolist())


def wells() -> None:
    sharp = model(jf.Potential(coupled, 4), 2.5e-3 * torch.eye(2, dtype=torch.float64))
    _, series = jf.simulate(sharp, 0.2 * np.arange(1, 6), seed=1)
    start = process_time()
    result = jf.JKOFilter(sharp).run(series, seed=0)
    print(f"wells: {process_time() - start:.1f} s for five readings of two sharp coordinates of four")
    print("  ", result.means[-1].tolist(), f"log evidence {result.log_evidence[-1].item():.3f}")
    for predicted in result.predict_infos:
        print("  ", predicted.details)


PARTS = {"calibrate": calibrations, "plane": plane, "wells": wells}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
