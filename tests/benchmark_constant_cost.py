"""Processor seconds and memory of each of a thousand readings in four dimensions: the cost must not grow.

Run as ``python tests/benchmark_constant_cost.py``; it takes some minutes.
"""

import resource
from time import process_time

import torch

import jkofilter as jf

DIM, READINGS, GAP = 4, 1000, 0.1


def main() -> None:
    eye = torch.eye(DIM, dtype=torch.float64)
    prior = torch.distributions.MultivariateNormal(torch.zeros(DIM, dtype=torch.float64), eye)
    model = jf.StateSpaceModel(prior, jf.LangevinSDE(jf.DoubleWell(DIM)), jf.LinearGaussian(eye, 0.25 * eye))
    times = GAP * torch.arange(1, READINGS + 1, dtype=torch.float64)
    path, series = jf.simulate(model, times, seed=0)
    engine = jf.RidgeEngine(cells=12, directions=DIM, refinements=0)
    update = jf.UpdateSettings(engine=jf.RidgeEngine(cells=10, directions=DIM))
    tracker = jf.JKOFilter(model, step=GAP, pool=500, transport=engine, assimilation=update).track(seed=0)
    seconds, errors, memory = [], [], []
    for k in range(READINGS):
        start = process_time()
        tracker.predict(GAP)
        tracker.update(series.values[k])
        seconds.append(process_time() - start)
        errors.append((tracker.belief.mean - path[k]).square().mean().sqrt().item())
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        if (k + 1) % 100 == 0:
            spent = sum(seconds[k - 99 : k + 1])
            print(f"readings {k - 98} to {k + 1}: {spent:.1f} s, peak {memory[-1]:.0f} MiB, ", end="")
            print(f"error of the mean against the truth {sum(errors[k - 99 : k + 1]) / 100:.3f}", flush=True)
    print(f"last hundred / second hundred: {sum(seconds[-100:]) / sum(seconds[100:200]):.2f}")


if __name__ == "__main__":
    main()
