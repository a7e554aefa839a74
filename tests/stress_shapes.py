"""Random parts of the stress run: potentials (wells, walls, kinks, jumps, escapes), sensors and priors of the line."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from oracles import mixture_log_density
from scipy import stats

Array = NDArray[np.float64]
Rng = np.random.Generator
INF = math.inf


@dataclass(frozen=True)
class Shape:
    """A potential of the line.

    Attributes:
        v: of torch, point by point.
        bulk: where its wells are.
        scale: the shortest length on which it bends there.
        walls: of its domain.
        stated: whether the library is told of the walls.
        falls: on which sides V falls without bound, so that laws leave.
        centre: where a prior may well sit.
        breaks: whether it jumps or kinks.
        smooth: whether a product of such lines is worth trying in more dimensions.
    """

    name: str
    v: Callable[[torch.Tensor], torch.Tensor]
    bulk: tuple[float, float] = (-3.0, 3.0)
    scale: float = 1.0
    walls: tuple[float, float] = (-INF, INF)
    stated: bool = True
    falls: tuple[bool, bool] = (False, False)
    centre: float = 0.0
    features: tuple[tuple[float, float], ...] = ()
    smooth: bool = True

    def energy(self, z: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(self.v(torch.as_tensor(z, dtype=torch.float64)).numpy(), dtype=np.float64)


def power(rng: Rng, low: float, high: float) -> float:
    """10 to a uniform exponent."""
    return float(10 ** rng.uniform(low, high))


def double_well(rng: Rng) -> Shape:
    h = power(rng, -0.5, 0.6)
    return Shape("double well", lambda z: h * (z * z - 1) ** 2, (-2, 2), 0.4, centre=rng.choice([-1.0, 0.0, 1.0]))


def multi_well(rng: Rng) -> Shape:
    h, k = rng.uniform(0.2, 2), rng.uniform(2, 8)
    return Shape("multi-well", lambda z: h * torch.cos(k * z) + z * z / 4, (-4, 4), 0.5 / k)


def two_scales(rng: Rng) -> Shape:
    w, depth, c = power(rng, -2.3, -0.3), rng.uniform(0.5, 4), rng.uniform(-1, 1)

    def v(z: torch.Tensor) -> torch.Tensor:
        return z * z / 2 - depth * torch.exp(-((z - c) ** 2) / (2 * w * w))

    return Shape(f"narrow well {w:.2g}", v, (-4, 4), w, features=((c, w),))


def narrow_barrier(rng: Rng) -> Shape:
    w, height = power(rng, -2, -0.3), rng.uniform(0.5, 4)

    def v(z: torch.Tensor) -> torch.Tensor:
        return z * z / 4 + height * torch.exp(-(z**2) / (2 * w * w))

    return Shape(f"narrow barrier {w:.2g}", v, (-4, 4), w, features=((0.0, w),), centre=rng.choice([-1.0, 1.0]))


def steep(rng: Rng) -> Shape:
    power = int(rng.choice([4, 6]))
    return Shape(f"power {power}", lambda z: z**power / power, (-2, 2), 0.3, centre=rng.uniform(-2, 2))


def stiff(rng: Rng) -> Shape:
    k = power(rng, 2, 4.5)
    return Shape("stiff", lambda z: k * z * z / 2, (-6 / k**0.5, 6 / k**0.5), k**-0.5, centre=rng.uniform(-1, 1))


def kink(rng: Rng) -> Shape:
    a = rng.uniform(0.5, 4)
    return Shape("kink", lambda z: a * z.abs(), (-4, 4), 0.2, centre=rng.uniform(-1, 1), features=((0.0, 0.01),))


def hinge(rng: Rng) -> Shape:
    a = rng.uniform(1, 8)
    return Shape("hinge", lambda z: a * z.clamp(min=0) + z * z / 8, (-6, 2), 0.2, features=((0.0, 0.01),))


def soft_step(rng: Rng) -> Shape:
    w = power(rng, -2, 0)
    return Shape("soft step", lambda z: torch.tanh(z / w) + z * z / 4, (-4, 4), w, features=((0.0, w),))


def jump(rng: Rng) -> Shape:
    size = rng.uniform(0.5, 20)

    def v(z: torch.Tensor) -> torch.Tensor:
        return torch.where(z > 0, size, 0.0) + z * z / 4

    return Shape("jump", v, (-4, 4), 0.05, features=((0.0, 1e-3),), smooth=False, centre=rng.choice([-1.0, 1.0]))


def box(rng: Rng) -> Shape:
    return Shape("box", lambda z: 0 * z, (0, 3), 0.5, (0.0, 3.0), centre=rng.uniform(0.5, 2.5))


def walled(rng: Rng) -> Shape:
    c, high = rng.uniform(-1, 1), rng.choice([2.0, INF])
    return Shape("walled", lambda z: (z - c) ** 2, (0, min(high, 4)), 0.3, (0.0, high), centre=1.0)


def log_barrier(rng: Rng) -> Shape:
    a = power(rng, -1, 0.7)
    top = math.sqrt(a) + 0.5
    return Shape("log barrier", lambda z: z * z / 2 - a * torch.log(z), (0, top + 4), 0.2, (0.0, INF), centre=top)


def two_log_barriers(rng: Rng) -> Shape:
    a = power(rng, -1, 0.5)
    return Shape("two log barriers", lambda z: -a * torch.log(z * (1 - z)), (0, 1), 0.1, (0.0, 1.0), centre=0.5)


def unstated_barrier(rng: Rng) -> Shape:
    a = rng.uniform(0.5, 6)
    top = math.sqrt(a)
    return Shape(
        "unstated log barrier", lambda z: z * z / 2 - a * torch.log(z), (0, top + 4), 0.2, (0.0, INF), False, centre=top
    )


def unstated_wall(rng: Rng) -> Shape:
    def v(z: torch.Tensor) -> torch.Tensor:
        return torch.where((z > 0) & (z < 3), 0 * z, torch.inf)

    return Shape("unstated wall", v, (0, 3), 0.3, (0.0, 3.0), False, centre=1.5, smooth=False)


def lennard_jones(rng: Rng) -> Shape:
    e = rng.uniform(0.5, 3)
    return Shape(
        "Lennard-Jones", lambda z: e * (z**-12 - z**-6) + z / 2, (0.8, 4), 0.1, (0.0, INF), centre=1.5, smooth=False
    )


def cubic_escape(rng: Rng) -> Shape:
    c = rng.uniform(0.5, 4)
    return Shape("cubic escape", lambda z: z**3 / 3 - c * z, (-3, 3), 0.3, falls=(True, False), centre=math.sqrt(c))


def inverted_quartic(rng: Rng) -> Shape:
    c = rng.choice([0.0, 4.0])
    return Shape("inverted quartic", lambda z: c * z * z - z**4, (-2, 2), 0.3, falls=(True, True))


def flat(rng: Rng) -> Shape:
    return Shape("flat", lambda z: 0 * z, (-0.5, 0.5), 0.5, centre=rng.uniform(-1, 1))


def periodic(rng: Rng) -> Shape:
    return Shape("periodic", lambda z: torch.cos(2 * math.pi * z), (-3, 3), 0.1)


def heavy_tail(rng: Rng) -> Shape:
    a = rng.uniform(0.5, 3)
    return Shape("heavy tail", lambda z: a * torch.log1p(z * z), (-3, 3), 0.3, centre=rng.uniform(-2, 2))


SHAPES: tuple[Callable[[Rng], Shape], ...] = (
    double_well, multi_well, two_scales, narrow_barrier, steep, stiff, kink, hinge, soft_step, jump, box, walled,
    log_barrier, two_log_barriers, unstated_barrier, unstated_wall, lennard_jones, cubic_escape, inverted_quartic, flat,
    periodic, heavy_tail,
)  # fmt: skip


# --- sensors ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sensor:
    """Of one coordinate: y = g(z) + noise of a kind, or counts of a rate.

    Attributes:
        kind: "linear", "square", "sine", "student" or "poisson".
        gain: H of the linear one, slope of log rate of counts.
        noise: standard deviation or scale.
    """

    kind: str
    gain: float
    noise: float

    def mean(self, z: Array) -> Array:
        if self.kind == "square":
            return np.asarray(z * z)
        return np.asarray(np.sin(z) if self.kind == "sine" else self.gain * z)

    def log_likelihood(self, y: float, z: Array) -> Array:
        """Log density (Poisson: log probability) at z (n,); zero where y is missing."""
        if math.isnan(y):
            return np.zeros_like(z)
        if self.kind == "poisson":
            return np.asarray(stats.poisson.logpmf(y, np.exp(np.clip(self.gain * z, -700, 700))))
        if self.kind == "student":
            return np.asarray(stats.t.logpdf(y, 3.0, self.mean(z), self.noise))
        return np.asarray(stats.norm.logpdf(y, self.mean(z), self.noise))

    def draw(self, z: float, rng: Rng) -> float:
        if self.kind == "poisson":
            return float(rng.poisson(math.exp(min(self.gain * z, 12.0))))
        noise = rng.standard_t(3.0) if self.kind == "student" else rng.normal()
        return float(self.mean(np.array(z)) + self.noise * noise)

    def around(self, y: float, z: float) -> list[tuple[float, float]]:
        """Places and widths where a posterior may sit, given a reading and the true state."""
        places = [(z, max(self.noise, 1e-6))]
        if self.kind in ("linear", "student") and not math.isnan(y):
            places.append((y / self.gain, self.noise / self.gain))
        if self.kind == "square" and y > 0:
            root = math.sqrt(y)
            places += [(side * root, self.noise / (2 * root)) for side in (1, -1)]
        return places


def a_sensor(rng: Rng, kinds: tuple[str, ...], scale: float) -> Sensor:
    kind = str(rng.choice(kinds))
    if kind == "poisson":
        return Sensor(kind, rng.uniform(0.3, 1.5), 0.3)
    return Sensor(kind, float(rng.choice([1.0, 0.5, 2.0])), scale * power(rng, -2.5, 0.5))


# --- priors ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prior:
    """Of one coordinate: "normal", "laplace", "uniform" or "mixture" of two normals at mean +- 2 sd."""

    kind: str
    mean: float
    sd: float

    def log_density(self, z: Array) -> Array:
        if self.kind == "mixture":
            ends = np.array([self.mean - 2 * self.sd, self.mean + 2 * self.sd])
            return mixture_log_density(z, np.array([0.5, 0.5]), ends, np.array([self.sd, self.sd]))
        if self.kind == "laplace":
            return np.asarray(stats.laplace.logpdf(z, self.mean, self.sd))
        if self.kind == "uniform":
            return np.asarray(stats.uniform.logpdf(z, self.mean - 2 * self.sd, 4 * self.sd))
        return np.asarray(stats.norm.logpdf(z, self.mean, self.sd))

    def of_torch(self, unit: float) -> torch.distributions.Distribution:
        mean, sd = torch.tensor(self.mean * unit).double(), torch.tensor(self.sd * unit).double()
        if self.kind == "mixture":
            halves = torch.distributions.Normal(torch.stack([mean - 2 * sd, mean + 2 * sd]), sd)
            return torch.distributions.MixtureSameFamily(
                torch.distributions.Categorical(torch.ones(2).double()), halves
            )
        if self.kind == "laplace":
            return torch.distributions.Laplace(mean, sd)
        if self.kind == "uniform":
            return torch.distributions.Uniform(mean - 2 * sd, mean + 2 * sd)
        return torch.distributions.Normal(mean, sd)


def a_prior(rng: Rng, shape: Shape, kinds: tuple[str, ...]) -> Prior:
    kind = str(rng.choice(kinds))
    sd = power(rng, -2, 0.3)
    room = min(shape.centre - shape.walls[0], shape.walls[1] - shape.centre)
    if room < INF:
        kind, sd = ("uniform", min(sd, room / 2.2)) if kind == "uniform" else ("normal", min(sd, room / 8))
    if any(shape.falls):
        kind, sd = "normal", min(sd, 0.2)
    return Prior(kind, shape.centre, sd)
