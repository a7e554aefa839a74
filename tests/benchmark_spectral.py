"""What the spectral filter costs and how exact it is, at default settings on one thread, in processor seconds.

Run as ``OMP_NUM_THREADS=1 python tests/benchmark_spectral.py``; it takes a minute or two.
"""

import math
import sys
from pathlib import Path
from time import process_time

import numpy as np
import torch
from oracles import OrnsteinUhlenbeck
from scipy.stats import gamma, ncx2, norm

import jkofilter as jf

sys.path.insert(0, str(Path(__file__).parent.parent / "scenarios"))

import sine_1d
import volatility_1d

RATE, MEAN, SIGMA, NOISE = 1.0, 0.5, 0.6, 0.2
SHAPE = 2 * RATE * MEAN / SIGMA**2


def timed(filter, series, until=None):
    """The result of the second run of two, of filters made anew, and its processor seconds."""
    for _ in range(2):
        start = process_time()
        result = filter().run(series, until=until)
        seconds = process_time() - start
    return result, seconds


def sine():
    _, series = jf.simulate(sine_1d.MODEL, torch.as_tensor(sine_1d.SCENARIO.times).double(), seed=1)
    result, seconds = timed(lambda: jf.SpectralFilter(sine_1d.MODEL), series, until=5.0)
    exact = jf.SpectralFilter(sine_1d.MODEL, tolerance=1e-9, nodes=2000).run(series, until=5.0)
    grid = [jf.GridFilter(sine_1d.MODEL, cells=n, step=8 / n).run(series, until=5.0) for n in (8000, 16000)]
    extrapolated = (4 * grid[1].log_evidence - grid[0].log_evidence) / 3
    x = torch.linspace(-7, 7, 8001).double().unsqueeze(-1)
    p, q = exact.final.log_prob(x), result.final.log_prob(x)
    kl = torch.trapezoid(p.exp() * (p - q) - p.exp() + q.exp(), x[:, 0]).item()
    print(f"sine: {seconds:.3f} s, KL {kl:.1e}, evidence {_apart(result, exact.log_evidence):.1e}")
    print(f"  evidence against grids of 8,000 and 16,000 cells, extrapolated: {_apart(result, extrapolated):.1e}")


def _apart(result, evidence):
    return (result.log_evidence - evidence).abs().max().item()


def transition(x, gap):
    decay = math.exp(-RATE * gap)
    c = 2 * RATE / (SIGMA**2 * (1 - decay))
    return 2 * c * ncx2.pdf(2 * c * x[:, None], 2 * SHAPE, 2 * c * decay * x)


def cir():
    rng = np.random.default_rng(0)
    times, state, now, values = np.cumsum(0.05 + rng.exponential(0.25, 200)), 0.5, 0.0, []
    for time in times:
        c = 2 * RATE / (SIGMA**2 * (1 - math.exp(-RATE * (time - now))))
        noncentral = 2 * c * state * math.exp(-RATE * (time - now))
        state, now = ncx2.rvs(2 * SHAPE, noncentral, random_state=rng) / (2 * c), time
        values.append(state + NOISE * rng.normal())
    sde = jf.LineDiffusion(lambda x: RATE * (MEAN - x), lambda x: SIGMA * x.sqrt(), (0.0, math.inf))
    prior = torch.distributions.Gamma(torch.tensor(SHAPE).double(), torch.tensor(2 * RATE / SIGMA**2).double())
    model = jf.StateSpaceModel(prior, sde, jf.LinearGaussian([[1.0]], torch.tensor([[NOISE**2]]).double()))
    result, seconds = timed(lambda: jf.SpectralFilter(model), jf.ObservationSeries(times, values))
    u, weights = np.polynomial.legendre.leggauss(400)
    root = 0.5 * math.sqrt(5.0) * (u + 1)
    x, weights = root**2, math.sqrt(5.0) * weights * root
    p, evidence, now = gamma.pdf(x, SHAPE, scale=SIGMA**2 / (2 * RATE)), 0.0, 0.0
    for time, y in zip(times, values, strict=True):
        joint = transition(x, time - now) @ (weights * p) * norm.pdf(y, x, NOISE)
        total = weights @ joint
        evidence, p, now = evidence + math.log(total), joint / total, time
    print(f"CIR, 200 readings: {seconds:.3f} s, evidence {abs(result.log_evidence[-1].item() - evidence):.1e}")


def returns():
    series = volatility_1d.returns()
    result, seconds = timed(lambda: jf.SpectralFilter(volatility_1d.MODEL), series)
    exact = jf.SpectralFilter(volatility_1d.MODEL, tolerance=1e-9, nodes=2000).run(series)
    print(f"5,030 returns: {seconds:.3f} s, evidence {_apart(result, exact.log_evidence):.1e} from tolerance 1e-9")


def irregular():
    rng = np.random.default_rng(1)
    times, state, now, values = np.cumsum(rng.exponential(0.1, 20_000)), 0.0, 0.0, []
    for time in times:
        decay, now = math.exp(now - time), time
        state = decay * state + math.sqrt(1 - decay**2) * rng.normal()
        values.append(state + 0.5 * rng.normal())
    prior = torch.distributions.Normal(torch.tensor(0.0).double(), torch.tensor(1.0).double())
    sde = jf.LangevinSDE(jf.Quadratic([0.0], [[1.0]]))
    model = jf.StateSpaceModel(prior, sde, jf.LinearGaussian([[1.0]], [[0.25]]))
    result, seconds = timed(lambda: jf.SpectralFilter(model), jf.ObservationSeries(times, values))
    exact = OrnsteinUhlenbeck(1.0, 0.0, 1.0, 0.0, 1.0, noise=0.25).kalman(times.tolist(), values)[2]
    print(f"20,000 readings: {seconds:.2f} s, evidence {_apart(result, torch.from_numpy(exact)):.1e} from Kalman's")


if __name__ == "__main__":
    for part in (sine, cir, returns, irregular):
        part()
