"""Predictions in potentials that ridges find hard, at default settings on one thread, in processor seconds.

In the plane the law is held against finite volumes, in shells against finite volumes of the radius (KL both ways), in
more dimensions by the distribution of V against 50,000 particles of the diffusion itself (Kolmogorov-Smirnov distance,
beside the mean distance of two such samples of one law). Run as
``OMP_NUM_THREADS=1 python tests/benchmark_wild.py [part of a name ...]``; all of it takes some twenty minutes.
"""

import math
import sys
from dataclasses import dataclass
from time import process_time

import numpy as np
import torch
from scipy.linalg import expm
from scipy.stats import ks_2samp
from torch.distributions import MultivariateNormal

import jkofilter as jf

PARTICLES, DRAWS = 50_000, 4_000
NOISE = math.sqrt(math.pi / 2) * math.log(2)
"""Mean Kolmogorov-Smirnov distance of two samples of one law, times sqrt(n m / (n + m))."""


def mueller_brown(x, barrier):
    """Four bent Gaussians (Mueller & Brown 1979), scaled to a highest barrier of ``barrier``."""
    tops = (-200.0, 1, 0, -1, 0, -10), (-100.0, 0, 0.5, -1, 0, -10), (-170.0, -0.5, 1.5, -6.5, 11, -6.5)
    total = 0.0
    for height, u, v, a, b, c in (*tops, (15.0, -1, 1, 0.7, 0.6, 0.7)):
        p, q = x[..., 0] - u, x[..., 1] - v
        total = total + height * (a * p * p + b * p * q + c * q * q).exp()
    return barrier / 106 * total


def shell(x, height):
    """A sphere of radius 2."""
    return height * (x.square().sum(-1) - 4).square()


def waves(x, product):
    """Egg-boxes in a wide bowl: a sum or a product of cosines."""
    crests = 3 * (2 * x).cos().prod(-1) if product else 1.5 * (2.5 * x).cos().sum(-1)
    return crests + 0.1 * x.square().sum(-1)


def network(dim, seed, width=32):
    """Two random layers of tanh in a bowl."""
    draws = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draws, dtype=torch.float64)

    first, shift, second = 1.2 * normal(width, dim), normal(width), 1.5 * normal(width, width) / math.sqrt(width)
    bias, out = 0.5 * normal(width), 4 * normal(width) / math.sqrt(width)

    def value(x):
        return ((x @ first.mT + shift).tanh() @ second.mT + bias).tanh() @ out + 0.25 * x.square().sum(-1)

    return value


def links(x):
    """Differences of neighbours on a ring."""
    return x - x.roll(1, -1)


def rotors(x):
    """A ring of planar rotors with a weak spring each."""
    return (0.1 * x.square() - 2 * links(x).cos()).sum(-1)


def wells_on_a_ring(x, height, coupling):
    """phi^4: double wells, neighbours tied."""
    return (height * (x.square() - 1).square() + 0.5 * coupling * links(x).square()).sum(-1)


def discs(x):
    """Four Lennard-Jones discs with softened cores in a bowl."""
    place = x.reshape(*x.shape[:-1], 4, 2)
    one, two = torch.triu_indices(4, 4, 1)
    near = ((place[..., one, :] - place[..., two, :]).square().sum(-1) + 0.7) ** -3
    return 8 * (near * near - near).sum(-1) + 0.25 * x.square().sum(-1)


@dataclass(frozen=True)
class Problem:
    """Prior N(mean, sd^2 I) carried to ``time`` at beta = 1."""

    dim: int
    potential: object
    sd: float
    time: float
    mean: float | tuple = 0.0
    radial: object = None

    @property
    def model(self):
        zero, eye = torch.zeros(self.dim).double(), torch.eye(self.dim).double()
        prior = MultivariateNormal(zero + torch.as_tensor(self.mean).double(), self.sd**2 * eye)
        sde = jf.LangevinSDE(jf.Potential(self.potential, self.dim))
        return jf.StateSpaceModel(prior, sde, jf.LinearGaussian(eye, eye))


def shells(dim):
    return Problem(dim, lambda x: shell(x, 0.5), 1.0, 0.4, radial=lambda r: 0.5 * (r * r - 4) ** 2)


PROBLEMS = {
    "mueller-brown 6": Problem(2, lambda x: mueller_brown(x, 6.0), 0.6, 0.1, (-0.3, 0.7)),
    "egg-box sum": Problem(2, lambda x: waves(x, False), 2.0, 0.3),
    "egg-box product": Problem(2, lambda x: waves(x, True), 2.0, 0.3),
    "tanh net 0": Problem(2, network(2, 0), 1.5, 0.5),
    "tanh net 1": Problem(2, network(2, 1), 1.5, 0.5),
    "shell d = 3": shells(3),
    "shell d = 4": shells(4),
    "rotors d = 8": Problem(8, rotors, 2.0, 0.5),
    "phi4 d = 16": Problem(16, lambda x: wells_on_a_ring(x, 0.25, 1.0), 1.0, 0.4),
    "weak chain d = 48": Problem(48, lambda x: wells_on_a_ring(x, 1.0, 0.1), 1.0, 0.3),
    "discs d = 8": Problem(8, discs, 1.5, 0.1),
}


def apart(log_density, draws, law):
    """KL of a reference and a law, both ways."""
    back, log_prob = law.sample_with_log_prob(DRAWS, torch.Generator().manual_seed(5))
    gap = log_prob - log_density(back)
    there = (log_density(draws) - law.log_prob(draws)).mean().item()
    return f"KL {there:.4f} / {gap[torch.isfinite(gap)].mean().item():.4f}"


def in_the_plane(problem, law):
    grid, generator = jf.GridFilter(problem.model, cells=240, step=0.01), torch.Generator().manual_seed(1)
    exact, _ = grid.predict(grid.init(generator), problem.time, generator)
    return apart(exact.log_prob, exact.sample(DRAWS, generator), law)


def in_shells(problem, law, cells=500, reach=6.0):
    """The radius r has the law of a diffusion with drift -V'(r) + (d - 1)/r, a chain of cells that keeps r^(d-1) pi."""
    width = reach / cells
    r, faces = (np.arange(cells) + 0.5) * width, np.arange(1, cells) * width
    height, power = problem.radial(r), problem.dim - 1
    drop = np.diff(height)
    rate = faces**power / width**2
    ahead = rate * drop / np.expm1(drop) / r[:-1] ** power
    behind = rate * -drop / np.expm1(-drop) / r[1:] ** power
    chain = np.diag(ahead, -1) + np.diag(behind, 1)
    chain -= np.diag(chain.sum(0))
    start = r**power * np.exp(-0.5 * (r / problem.sd) ** 2)
    mass = expm(problem.time * chain) @ (start / start.sum())
    area = 2 * math.pi ** (problem.dim / 2) / math.gamma(problem.dim / 2) * r**power
    table = np.log(np.maximum(mass, 1e-300) / (width * area))
    random = np.random.default_rng(0)
    radius = r[random.choice(cells, DRAWS, p=mass.clip(0) / mass.clip(0).sum())] + width * (random.random(DRAWS) - 0.5)
    way = random.standard_normal((DRAWS, problem.dim))
    draws = torch.from_numpy(radius[:, None] * way / np.linalg.norm(way, axis=1, keepdims=True))
    return apart(lambda x: torch.from_numpy(np.interp(x.norm(dim=-1).numpy(), r, table)), draws, law)


def in_many_dimensions(problem, law):
    rival, generator = jf.ParticleFilter(problem.model, PARTICLES, substep=0.002), torch.Generator().manual_seed(1)
    moved, _ = rival.predict(rival.init(generator), problem.time, generator)
    exact, ours = (problem.potential(x).numpy() for x in (moved.particles, law.sample(PARTICLES, generator)))
    distance, chance = ks_2samp(exact, ours).statistic, NOISE * math.sqrt(2 / PARTICLES)
    return f"KS {distance:.4f} (chance {chance:.4f}), E[V] {ours.mean():.3f} for {exact.mean():.3f}"


def measured(name, problem):
    start = process_time()
    try:
        flow = jf.solve_jko(problem.model.prior, problem.model.sde, problem.time)
    except jf.FilterError as error:
        return f"{name}: refused in {process_time() - start:.1f} s: {error}"
    seconds = process_time() - start
    judge = in_shells if problem.radial else in_the_plane if problem.dim == 2 else in_many_dimensions
    added = sum(info.details["kl"] for info in flow.infos)
    return (
        f"{name}: {seconds:.1f} s, {judge(problem, flow.final)}; {len(flow.maps)} steps, fits may add {added:.2g} nats"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, problem in PROBLEMS.items():
        if len(sys.argv) == 1 or any(part in name for part in sys.argv[1:]):
            print(measured(name, problem), flush=True)
