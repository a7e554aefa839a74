"""Random problems of the stress run, in units where state and time are of order one, and what is true of them.

Each is a diffusion on the line, a rotated product of such lines, or a linear-Gaussian model of a few dimensions, with
readings that may be sharp, absurd, masked or missing. The library sees it in units of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from oracles import Chain
from scipy import stats
from scipy.linalg import expm
from scipy.special import logsumexp
from stress_shapes import INF, SHAPES, Array, Prior, Rng, Sensor, Shape, a_prior, a_sensor, power

NAN = math.nan
FAR = 60.0
"""Where a law that leaves has left."""


# --- problems of lines -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A diffusion on the line with readings y (m,), NaN where missing, at times (m,)."""

    shape: Shape
    beta: float
    prior: Prior
    sensor: Sensor
    times: Array
    path: Array
    values: Array

    @cached_property
    def ends(self) -> tuple[float, float]:
        """Where nothing of the law comes, or the walls."""
        reach = 12 * self.prior.sd if self.prior.kind != "laplace" else 40 * self.prior.sd
        places = [self.shape.bulk[0], self.shape.bulk[1], self.prior.mean - reach, self.prior.mean + reach]
        for y, z in zip(self.values, self.path, strict=True):
            places += [c + s * 12 * w for c, w in self.sensor.around(y, z) for s in (-1, 1)]
        low, high = min(places), max(places)
        diffused = 8 * math.sqrt(2 * self.times[-1] / self.beta)
        rises = [self.shape.energy(np.array(end)) * self.beta for end in (low, high)]
        bottom = float(np.min(self.shape.energy(np.linspace(low, high, 2001)) * self.beta))
        low, high = (
            end if rise - bottom > 60 else end + side * diffused
            for end, rise, side in zip((low, high), rises, (-1, 1), strict=True)
        )
        low = -FAR if self.shape.falls[0] else low
        high = FAR if self.shape.falls[1] else high
        return max(low, self.shape.walls[0]), min(high, self.shape.walls[1])

    def chain(self, cells: int) -> Chain:
        """Narrow cells where the law may be narrow."""
        low, high = self.ends
        places = [(self.prior.mean, self.prior.sd), *self.shape.features]
        for y, z in zip(self.values, self.path, strict=True):
            places += self.sensor.around(y, z)
        places = [(c, max(w, 1e-9)) for c, w in places if low <= c <= high]
        fine = np.unique(
            np.concatenate(
                [np.linspace(low, high, 4001)]
                + [c + s * w * np.sinh(np.linspace(0, 30, 600)) for c, w in places for s in (-1, 1)]
            ).clip(low, high)
        )
        middle = 0.5 * (fine[1:] + fine[:-1])
        bulk = (middle > self.shape.bulk[0]) & (middle < self.shape.bulk[1])
        wanted = 0.2 / (high - low) + np.where(bulk, 0.2 / self.shape.scale, 0.0)
        for c, w in places:
            wanted += 1.0 / (w + np.abs(middle - c))
        share = np.append(0.0, np.cumsum(wanted * np.diff(fine)))
        edges = np.interp(np.linspace(0, share[-1], cells + 1), share, fine)
        edges = edges[np.append(True, np.diff(edges) > 4e-16 * np.abs(edges[1:]))]
        energy = self.shape.energy(0.5 * (edges[1:] + edges[:-1]))
        return Chain(edges, energy, self.beta, self.shape.falls)


@dataclass(frozen=True)
class Truth:
    """Means (m, d), sds (m, d) and log evidence (m,) after every reading, with the oracle's own error of each."""

    means: Array
    sds: Array
    evidence: Array
    error: float = 0.0
    """Of mean and sd, in sds."""
    evidence_error: float = 0.0
    gone: float = 0.0
    """Share of the law that has left."""


def _by_chain(line: Line, cells: int, levels: tuple[int, ...]) -> tuple[Array, Array, Array, float]:
    chain = replace(line.chain(cells), levels=levels)
    with np.errstate(all="ignore"):
        log_p = line.prior.log_density(chain.x)
        p = np.exp(log_p - log_p.max()) * chain.widths
    p, now, evidence, gone, rows = p / p.sum(), 0.0, 0.0, 0.0, []
    for time, y in zip(line.times, line.values, strict=True):
        if time > now:
            p, now = chain.later(p, time - now), time
            gone = max(gone, 1 - p.sum())
        with np.errstate(divide="ignore"):
            joint = np.log(p / p.sum()) + line.sensor.log_likelihood(y, chain.x)
        total = float(logsumexp(joint))
        evidence, p = evidence + total, np.exp(joint - total)
        mean = p @ chain.x
        rows.append((mean, math.sqrt(max(p @ (chain.x - mean) ** 2, 0.0)), evidence))
    means, sds, evidences = np.array(rows).T
    return means, sds, evidences, gone


def truth_of_line(line: Line) -> Truth:
    """By the chain; one with half the cells and fewer time steps tells its error."""
    rough, fine = _by_chain(line, 3000, (40, 80, 160)), _by_chain(line, 6000, (40, 80, 160, 320))
    sds = np.maximum(fine[1], 1e-300)
    error = max((np.abs(rough[0] - fine[0]) / sds).max(), np.abs(np.log(rough[1] / sds)).max())
    evidence_error = float(np.abs(rough[2] - fine[2]).max())
    if not np.isfinite([error, evidence_error]).all():
        error = evidence_error = INF
    return Truth(fine[0][:, None], fine[1][:, None], fine[2], error, evidence_error, fine[3])


# --- linear-Gaussian problems ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Linear:
    """V = (z - centre)' A (z - centre)/2, Gaussian prior, y = H z + N(0, R)."""

    centre: Array
    precision: Array
    beta: float
    mean: Array
    covariance: Array
    matrix: Array
    noise: Array
    times: Array
    values: Array


def truth_of_linear(p: Linear) -> Truth:
    """The Kalman filter, its covariance update in Joseph's form."""
    m, c, now, evidence, rows = p.mean, p.covariance, 0.0, 0.0, []
    rates, vectors = np.linalg.eigh(p.precision)
    for time, y in zip(p.times, p.values, strict=True):
        gap, now = time - now, time
        flow = expm(-gap * p.precision)
        added = (vectors * (-np.expm1(-2 * rates * gap) / (p.beta * rates))) @ vectors.T
        m, c = p.centre + flow @ (m - p.centre), flow @ c @ flow.T + added
        there = ~np.isnan(y)
        if there.any():
            h, r = p.matrix[there], p.noise[np.ix_(there, there)]
            s = h @ c @ h.T + r
            evidence += float(stats.multivariate_normal.logpdf(y[there], h @ m, s, allow_singular=True))
            gain = np.linalg.solve(s, h @ c).T
            m = m + gain @ (y[there] - h @ m)
            left = np.eye(len(m)) - gain @ h
            c = left @ c @ left.T + gain @ r @ gain.T
        rows.append((m, np.sqrt(np.diag(c)), evidence))
    means, sds, evidences = zip(*rows, strict=True)
    return Truth(np.array(means), np.array(sds), np.array(evidences))


# --- a random problem ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """What a seed makes.

    Attributes:
        lines: of every coordinate of u = R z, or none for a linear problem.
        linear: or None.
        rotation: R, (d, d).
        unit: of the state, as the library sees it.
        pace: of time.
        clock: "numbers", "dates" or "years".
        masked: whether missing readings are masked instead of NaN.
        odd: what is wrong with the series, or empty.
    """

    seed: int
    name: str
    lines: tuple[Line, ...]
    linear: Linear | None
    rotation: Array
    unit: float
    pace: float
    clock: str
    masked: bool
    odd: str

    @property
    def dim(self) -> int:
        return len(self.rotation)

    @property
    def times(self) -> Array:
        return self.linear.times if self.linear is not None else self.lines[0].times

    @property
    def values(self) -> Array:
        """(m, p), in units where the state is of order one."""
        return self.linear.values if self.linear is not None else np.stack([line.values for line in self.lines], -1)

    @cached_property
    def truth(self) -> Truth:
        if self.linear is not None:
            return truth_of_linear(self.linear)
        parts = [truth_of_line(line) for line in self.lines]
        means = np.concatenate([part.means for part in parts], -1) @ self.rotation
        variances = np.concatenate([part.sds for part in parts], -1) ** 2 @ self.rotation**2
        return Truth(
            means,
            np.sqrt(variances),
            np.sum([part.evidence for part in parts], 0),
            max(part.error for part in parts),
            sum(part.evidence_error for part in parts),
            max(part.gone for part in parts),
        )


def _times(rng: Rng) -> Array:
    m = int(rng.integers(1, 7))
    gaps = 10 ** rng.uniform(-2, 0.5, m) if rng.random() < 0.9 else 10 ** rng.uniform(0, 1, m)
    gaps[0] *= rng.random() < 0.8
    return np.cumsum(gaps)


def _walk(shape: Shape, beta: float, z: float, duration: float, rng: Rng) -> float:
    """Metropolis steps of a diffusion's size: a plausible path, whatever the potential."""
    step = math.sqrt(2 * duration / beta / 200)
    here = float(shape.energy(np.array(z)))
    for _ in range(200):
        there = z + min(step, shape.scale) * rng.normal()
        if not shape.walls[0] < there < shape.walls[1] or abs(there) > FAR / 2:
            continue
        value = float(shape.energy(np.array(there)))
        if math.log(rng.random()) < beta * (here - value):
            z, here = there, value
    return z


def _spoiled(values: Array, noise: Array, rng: Rng, counts: bool) -> Array:
    """Some readings missing, some absurd."""
    values = values.copy()
    if rng.random() < 0.3:
        values[rng.random(values.shape) < 0.3] = NAN
    if rng.random() < 0.2:
        row = int(rng.integers(len(values)))
        shift = power(rng, 0.7, 4)
        values[row] = values[row] + (np.round(shift) if counts else rng.choice([-1, 1]) * shift * noise)
    return values


def a_line(rng: Rng, shape: Shape, times: Array, in_product: bool) -> Line:
    beta = power(rng, -0.5, 0.7)
    prior = a_prior(rng, shape, ("normal",) if in_product else PRIORS)
    sensor = a_sensor(rng, ("linear",) if in_product else SENSORS, min(1.0, shape.bulk[1] - shape.bulk[0]))
    z, now, path = prior.mean + (prior.sd * rng.normal() if shape.walls[0] == -INF else 0.0), 0.0, []
    for time in times:
        z = _walk(shape, beta, z, time - now, rng) if time > now else z
        path.append(z)
        now = time
    values = np.array([sensor.draw(z, rng) for z in path])
    spoiled = _spoiled(values[:, None], np.array([sensor.noise]), rng, sensor.kind == "poisson")[:, 0]
    return Line(shape, beta, prior, sensor, times, np.array(path), spoiled)


def _turned(rng: Rng, d: int) -> Array:
    return np.linalg.qr(rng.normal(size=(d, d)))[0]


def a_linear(rng: Rng, d: int, times: Array) -> Linear:
    p = int(rng.integers(1, d + 2))
    turn, matrix = _turned(rng, d), rng.normal(size=(p, d))
    precision = (turn * 10 ** rng.uniform(-1, 2, d)) @ turn.T
    beta = power(rng, -0.5, 0.7)
    spread = rng.normal(size=(d, d)) * power(rng, -2, 0.5)
    covariance = spread @ spread.T + 1e-4 * np.eye(d)
    rough = rng.normal(size=(p, p)) * power(rng, -2.5, 0.5)
    noise = rough @ rough.T + 1e-6 * np.eye(p)
    mean, centre = rng.normal(size=d), rng.normal(size=d)
    rates, vectors = np.linalg.eigh(precision)
    z, now, values = rng.multivariate_normal(mean, covariance), 0.0, []
    for time in times:
        gap, now = time - now, time
        own = vectors.T @ (z - centre)
        own = np.exp(-rates * gap) * own + np.sqrt(-np.expm1(-2 * rates * gap) / (beta * rates)) * rng.normal(size=d)
        z = centre + vectors @ own
        values.append(matrix @ z + rng.multivariate_normal(np.zeros(p), noise))
    spoiled = _spoiled(np.array(values), np.sqrt(np.diag(noise)), rng, False)
    return Linear(centre, 0.5 * (precision + precision.T), beta, mean, covariance, matrix, noise, times, spoiled)


PRIORS = ("normal", "normal", "normal", "normal", "normal", "mixture", "laplace", "uniform")
SENSORS = ("linear", "linear", "square", "sine", "student", "poisson")
ODD = ("repeated time", "unsorted times", "missing time", "infinite reading", "far clock")


def problem(seed: int) -> Problem:
    """The problem of a seed."""
    rng = np.random.default_rng(seed)
    times = _times(rng)
    kind = rng.choice(["line", "product", "linear"], p=[0.75, 0.1, 0.15])
    d = {"line": 1, "product": int(rng.integers(2, 4)), "linear": int(rng.choice([1, 1, 2, 3, 5]))}[str(kind)]
    lines, linear, rotation = [], None, np.eye(d)
    if kind == "linear":
        linear, name = a_linear(rng, d, times), f"linear, d = {d}"
    else:
        shape = SHAPES[int(rng.integers(len(SHAPES)))](rng)
        while kind == "product" and (not shape.smooth or any(shape.falls)):
            shape = SHAPES[int(rng.integers(len(SHAPES)))](rng)
        first = a_line(rng, shape, times, d > 1)
        lines = [first]
        for _ in range(d - 1):
            other = a_line(rng, shape, times, True)
            lines.append(Line(shape, first.beta, other.prior, other.sensor, times, other.path, other.values))
        name = shape.name + ("" if d == 1 else f", d = {d}")
        if d > 1 and shape.walls == (-INF, INF):
            rotation = _turned(rng, d)
    plain = rng.random() < 0.5
    unit = 1.0 if plain else 10.0 ** int(rng.integers(-12, 13))
    pace = 1.0 if plain or rng.random() < 0.7 else 10.0 ** int(rng.integers(-3, 4))
    clock = str(rng.choice(["numbers", "dates", "years"], p=[0.8, 0.1, 0.1]))
    odd = str(rng.choice(ODD)) if rng.random() < 0.04 else ""
    return Problem(seed, name, tuple(lines), linear, rotation, unit, pace, clock, bool(rng.random() < 0.3), odd)
