"""What the quantile JKO filter costs on the line: 2,000 readings over 200 units, by tolerance, on one thread.

Run as ``OMP_NUM_THREADS=1 python tests/benchmark_line_jko.py [readings]``; processor seconds, in one run.
"""

import sys
from time import process_time

import torch

import jkofilter as jf

READINGS, UNITS = 2000, 200.0


def main(readings: int) -> None:
    prior = torch.distributions.MultivariateNormal(torch.zeros(1).double(), torch.eye(1).double())
    noise = torch.tensor([[0.25]], dtype=torch.float64)
    for name, potential in (("double well", jf.DoubleWell(1)), ("OU", jf.Quadratic([0.0], [[1.0]]))):
        model = jf.StateSpaceModel(prior, jf.LangevinSDE(potential), jf.LinearGaussian([[1.0]], noise))
        times = UNITS / READINGS * torch.arange(1, readings + 1, dtype=torch.float64)
        _, series = jf.simulate(model, times, seed=0)
        exact = jf.SpectralFilter(model).run(series)
        for label, options in (("default", {}), ("tolerance 1e-2", {"tolerance": 1e-2})):
            start = process_time()
            result = jf.JKOFilter(model, **options).run(series)
            seconds = process_time() - start
            means = ((result.means - exact.means) / exact.covariances[..., 0].sqrt()).abs().max().item()
            evidence = (result.log_evidence - exact.log_evidence).abs().max().item()
            print(f"{name}, {label}: {seconds:.2f} s for {readings}; evidence off by {evidence:.1e}, ", end="")
            print(f"means by {means:.1e} sd", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else READINGS)
