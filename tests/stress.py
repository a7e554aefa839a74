"""The stress run: random models on every filter that applies; each outcome is right, an error with a cure, or noted.

    python tests/stress.py --seeds 0:1000 --out stress

prints counts for every filter and writes a line for every outcome to OUT/outcomes.jsonl, failures also to
OUT/failures.jsonl; ``--only SEED`` replays one. Right is judged by oracles of NumPy and SciPy (``stress_problems``): a
Kalman filter, or a chain of thousands of cells that knows its own error. Where that is too large nothing is judged.

Outcomes: "right"; "noted" (off, and a note says so); "error" (InputError or FilterError); and the failures: "silent"
(off, or not finite, and nothing tells), "crash" (another exception), "stall" (more than the limit of processor time).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import numpy as np
import pandas as pd
import torch
from stress_problems import Line, Problem, Sensor, Truth, problem

import jkofilter as jf

LIMIT = 60.0
"""Processor seconds that one run of a filter may take."""
PARTICLES = 1_000
PLANE_CELLS, GRID_STEP = 120, 0.02
FAILURES = ("silent", "crash", "stall")
GONE, ALL_HERE = 5e-3, 1e-5
"""Shares of a law that has left from which on this must be told, and up to which it need not."""


# --- the library's view of a problem ---------------------------------------------------------------------------------


def t(x: object) -> torch.Tensor:
    return torch.as_tensor(np.asarray(x), dtype=torch.float64)


def potential_of(p: Problem) -> jf.Potential:
    """V_x(x) = unit^2 / pace V(x / unit), so that x = unit z and time goes at another pace."""
    energy = p.unit**2 / p.pace
    if p.linear is not None:
        return jf.Quadratic(t(p.linear.centre * p.unit), t(p.linear.precision / p.pace))
    shape = p.lines[0].shape
    domain = (
        tuple(wall * p.unit for wall in shape.walls) if shape.stated and shape.walls != (-math.inf, math.inf) else None
    )
    line = jf.Potential(lambda x: energy * shape.v(x[..., 0] / p.unit), 1, domain=domain)
    return line if p.dim == 1 else jf.Rotated(line, t(p.rotation))


def sensor_of(one: Sensor, unit: float) -> object:
    noise = t([[(one.noise * unit) ** 2]])
    if one.kind == "linear":
        return jf.LinearGaussian(t([[one.gain]]), noise)
    if one.kind == "student":
        return jf.StudentT(lambda x: one.gain * x[:, :1], one.noise * unit, 3.0)
    if one.kind == "poisson":
        return jf.Poisson(lambda x: torch.exp(one.gain * x[:, :1] / unit))
    if one.kind == "square":
        return jf.NonlinearGaussian(lambda x: unit * (x[:, :1] / unit) ** 2, noise)
    return jf.NonlinearGaussian(lambda x: unit * torch.sin(x[:, :1] / unit), noise)


def model_of(p: Problem) -> jf.StateSpaceModel:
    beta = (p.linear.beta if p.linear is not None else p.lines[0].beta) * p.pace / p.unit**2
    sde = jf.LangevinSDE(potential_of(p), beta)
    normal = torch.distributions.MultivariateNormal
    if p.linear is not None:
        prior = normal(t(p.linear.mean * p.unit), t(p.linear.covariance * p.unit**2))
        return jf.StateSpaceModel(prior, sde, jf.LinearGaussian(t(p.linear.matrix), t(p.linear.noise * p.unit**2)))
    if p.dim == 1:
        return jf.StateSpaceModel(p.lines[0].prior.of_torch(p.unit), sde, sensor_of(p.lines[0].sensor, p.unit))
    means, variances, gains, noises = (
        np.array(one)
        for one in zip(*((a.prior.mean, a.prior.sd**2, a.sensor.gain, a.sensor.noise**2) for a in p.lines), strict=True)
    )
    r = p.rotation
    covariance = (r.T * variances) @ r * p.unit**2
    prior = normal(t(r.T @ means * p.unit), t(0.5 * (covariance + covariance.T)))
    return jf.StateSpaceModel(prior, sde, jf.LinearGaussian(t(gains[:, None] * r), t(np.diag(noises) * p.unit**2)))


def scale_of_readings(p: Problem) -> float:
    return 1.0 if p.lines and p.lines[0].sensor.kind == "poisson" else p.unit


def series_of(p: Problem) -> jf.ObservationSeries:
    times, values = p.times * p.pace, p.values * scale_of_readings(p)
    if p.odd == "repeated time":
        times = np.append(times, times[-1])
    elif p.odd == "unsorted times":
        times = np.append(times, 0.5 * times[-1] - 1e-3)
    elif p.odd == "missing time":
        times = np.append(times, np.nan)
    elif p.odd == "infinite reading":
        times = np.append(times, times[-1] + 1.0)
    elif p.odd == "far clock":
        times = times + 1.5e9
    if len(times) > len(values):
        values = np.append(
            values, np.full((1, values.shape[1]), np.inf if p.odd == "infinite reading" else 1.0), axis=0
        )
    if p.masked:
        values = np.ma.masked_array(np.where(np.isnan(values), -9999.0, values), np.isnan(values))
    if p.clock == "dates" and p.odd in ("", "repeated time"):
        base = pd.Timestamp("2024-03-30 12:00")
        dates = pd.DatetimeIndex([base + pd.Timedelta(days=one) for one in times])
        return jf.ObservationSeries(dates, values, unit="day", origin=base, start=base)
    if p.clock == "years" and not p.odd:
        return jf.ObservationSeries(times + 2025.0, values, start=2025.0)
    return jf.ObservationSeries(times, values)


# --- filters ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A filter, which problems it is for, and how far off it may be.

    Attributes:
        build: of the problem and the model.
        applies: whether it is run at all.
        sds: bar of a mean in sds, and of the logarithm of an sd; None where only sane numbers are asked for.
        nats: bar of the log evidence for each reading, beside a thousandth of its size.
        monte_carlo: whether standard errors of its own effective sample sizes come on top, five of them.
    """

    build: Callable[[Problem, jf.StateSpaceModel], jf.Filter]
    applies: Callable[[Problem], bool]
    sds: float | None
    nats: float = 0.03
    monte_carlo: bool = False

    def judges(self, p: Problem) -> bool:
        return self.sds is not None


def _on_lines(p: Problem, model: jf.StateSpaceModel) -> jf.Filter:
    """Grids for the coordinates of a product."""
    return jf.ProductFilter(model, t(p.rotation), tuple(jf.GridFilter(model_of(_alone(p, one))) for one in p.lines))


def _by_blocks(p: Problem, model: jf.StateSpaceModel) -> jf.Filter:
    """Particles with a block for every coordinate of a product, which is exact."""
    return jf.BlockParticleFilter(model, PARTICLES, rotation=t(p.rotation))


def _alone(p: Problem, line: Line) -> Problem:
    return Problem(p.seed, p.name, (line,), None, np.eye(1), p.unit, p.pace, p.clock, p.masked, p.odd)


def gaussian_noise(p: Problem) -> bool:
    return not p.lines or p.lines[0].sensor.kind in ("linear", "square", "sine")


CASES: dict[str, Case] = {
    "spectral": Case(lambda p, m: jf.SpectralFilter(m), lambda p: p.dim == 1, 0.01, 0.01),
    "grid": Case(lambda p, m: jf.GridFilter(m, step=GRID_STEP), lambda p: p.dim == 1, 0.03),
    "grid of the plane": Case(lambda p, m: jf.GridFilter(m, cells=PLANE_CELLS), lambda p: p.dim == 2, 0.05, 0.1),
    "jko": Case(lambda p, m: jf.JKOFilter(m), lambda p: p.dim == 1, 0.03),
    # What maps cannot bend in more dimensions is not this run's to find.
    "jko ridge": Case(lambda p, m: jf.JKOFilter(m, pool=1024), lambda p: p.dim > 1 and p.seed % 3 == 0, 0.3, 0.5, True),
    "particle": Case(lambda p, m: jf.ParticleFilter(m, PARTICLES), lambda p: True, 0.03, 0.03, True),
    "tempered": Case(lambda p, m: jf.TemperedParticleFilter(m, PARTICLES), lambda p: p.seed % 3 == 1, 0.05, 0.05, True),
    "block": Case(_by_blocks, lambda p: p.dim > 1 and bool(p.lines), 0.03, 0.03, True),
    "kalman": Case(lambda p, m: jf.KalmanFilter(m), lambda p: p.linear is not None, 1e-6, 1e-6),
    "unscented": Case(lambda p, m: jf.UnscentedKalmanFilter(m), gaussian_noise, 1e-3, 1e-3),
    "ensemble": Case(lambda p, m: jf.EnsembleKalmanFilter(m, PARTICLES), gaussian_noise, 0.2, 0.2, True),
    "product of grids": Case(_on_lines, lambda p: p.dim > 1 and bool(p.lines), 0.03),
    # Published methods of first order, on a few hundred points.
    "proximal": Case(lambda p, m: jf.ProximalFilter(m), lambda p: p.dim == 1 and p.seed % 5 == 0, 0.3, 0.5),
    "dual": Case(lambda p, m: jf.DualJKOFilter(m), lambda p: p.dim == 1 and p.seed % 5 == 1, 0.3, 0.5),
}
EXACT_FOR_LINEAR = ("unscented", "ensemble")


# --- one outcome -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    seed: int
    problem: str
    filter: str
    outcome: str
    detail: str
    seconds: float


class Stalled(BaseException):
    """Raised by the clock; no ``except Exception`` may swallow it."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise Stalled after so much processor time, wherever Python next looks."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Stalled

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def run_of(p: Problem, case: Case) -> jf.FilterResult:
    model = model_of(p)
    return case.build(p, model).run(series_of(p), seed=p.seed)


def misses(p: Problem, name: str, result: jf.FilterResult) -> str:
    """How the result is off; empty where it is right, "?" where the oracle cannot tell."""
    case, truth = CASES[name], p.truth
    means = result.means.numpy() / p.unit
    covariances = result.covariances.numpy() / p.unit**2
    variances = np.diagonal(covariances, axis1=1, axis2=2)
    readings = 0.0 if scale_of_readings(p) == 1.0 else math.log(p.unit)
    evidence = result.log_evidence.numpy() + readings * np.cumsum((~np.isnan(p.values)).sum(1))
    if not (np.isfinite(means).all() and np.isfinite(covariances).all() and np.isfinite(evidence).all()):
        return "not finite"
    if (variances < 0).any():
        return f"variance {variances.min():.3g}"
    if case.sds is None or (name in EXACT_FOR_LINEAR and p.linear is None):
        return "?"
    if truth.gone > GONE:
        return f"{truth.gone:.2g} of the law has left"
    return _apart(p, case, result, truth, means, np.sqrt(variances), evidence)


def _apart(
    p: Problem,
    case: Case,
    result: jf.FilterResult,
    truth: Truth,
    means: np.ndarray,
    sds: np.ndarray,
    evidence: np.ndarray,
) -> str:
    assert case.sds is not None
    if truth.gone > ALL_HERE or truth.error > 0.5 * case.sds or truth.evidence_error > 0.5 * case.nats:
        return "?"
    sampled = sampled_evidence = np.zeros(len(means))
    if case.monte_carlo:
        ess = np.array([info.ess or PARTICLES / 2 for info in result.infos])
        sampled = 5 * np.sqrt(np.cumsum(1 / ess))
        sampled_evidence = 5 * np.sqrt(np.cumsum(np.maximum(1 / ess - 1 / PARTICLES, 0) + 1 / PARTICLES))
        if result.infos[-1].ess is None:
            # An ensemble has no weights; the error of its gain and of its spread goes with how far a reading pulls.
            start = truth.means[:1] if p.linear is None else p.linear.mean[None]
            moves = np.abs(np.diff(truth.means, axis=0, prepend=start)) / truth.sds
            sampled = sampled * (1 + np.maximum.accumulate(moves.max(1)))
            sampled_evidence = sampled_evidence + 5 * math.sqrt(2 / PARTICLES) * np.abs(truth.evidence)
    bars = (case.sds + sampled)[:, None]
    with np.errstate(all="ignore"):
        off_mean = np.abs(means - truth.means) / truth.sds
        off_sd = np.abs(np.log(sds / truth.sds))
    off_evidence = np.abs(evidence - truth.evidence)
    size = 1e-3 * np.maximum.accumulate(np.abs(truth.evidence))
    bar = case.nats * np.arange(1, len(evidence) + 1) + size + sampled_evidence
    found = []
    # The rounding of a mean far from zero is no error of the filter's.
    for k in range(len(means)):
        rounding = 1e-9 * np.abs(truth.means[k]) / truth.sds[k]
        if (off_mean[k] > bars[k] + rounding).any():
            i = int(off_mean[k].argmax())
            found.append(f"reading {k}: mean {means[k, i]:.6g} for {truth.means[k, i]:.6g} (sd {truth.sds[k, i]:.3g})")
        if (off_sd[k] > bars[k] + rounding).any() or not np.isfinite(off_sd[k]).all():
            i = int(np.nan_to_num(off_sd[k], nan=np.inf).argmax())
            found.append(f"reading {k}: sd {sds[k, i]:.4g} for {truth.sds[k, i]:.4g}")
        if off_evidence[k] > bar[k]:
            found.append(f"reading {k}: evidence {evidence[k]:.5g} for {truth.evidence[k]:.5g}")
    return "; ".join(found[:3])


def outcome_of(p: Problem, name: str, limit: float = LIMIT) -> Outcome:
    """Run a filter on a problem, in so many processor seconds at most, and judge what comes out."""
    start = time.process_time()

    def told(outcome: str, detail: str) -> Outcome:
        return Outcome(p.seed, p.name, name, outcome, detail, round(time.process_time() - start, 3))

    try:
        with limited(limit):
            result = run_of(p, CASES[name])
    except Stalled:
        return told("stall", f"more than {limit:g} s")
    except (jf.InputError, jf.FilterError) as error:
        return told("error", f"{type(error).__name__}: {error}")
    except Exception as error:
        # Compiled code that the alarm interrupts ends in a SystemError caused by it.
        if isinstance(error.__cause__ or error.__context__, Stalled) or "with an exception set" in str(error):
            return told("stall", f"more than {limit:g} s")
        return told("crash", f"{type(error).__name__}: {error}")
    if p.odd:
        return told("silent", f"a series with {p.odd} is taken")
    with np.errstate(all="ignore"):
        missed = misses(p, name, result)
    if result.status != "ok":
        return told("error", result.status)
    if missed == "":
        return told("right", result.note)
    if missed == "?":
        return told("unjudged", result.note)
    return told("noted", f"{result.note} | {missed}") if result.note else told("silent", missed)


def outcomes(seed: int, filters: list[str], limit: float = LIMIT) -> Iterator[Outcome]:
    p = problem(seed)
    for name in filters:
        if CASES[name].applies(p):
            yield outcome_of(p, name, limit)


# --- the run ---------------------------------------------------------------------------------------------------------


def table(found: list[Outcome]) -> str:
    """Counts per filter and outcome, the slowest run, and what errors say."""
    columns = ("right", "noted", "error", "unjudged", *FAILURES)
    counts = Counter((one.filter, one.outcome) for one in found)
    frame = pd.DataFrame([[counts[name, column] for column in columns] for name in CASES], list(CASES), columns)
    frame["right but noted"] = [
        sum(o.filter == n and o.outcome == "right" and bool(o.detail) for o in found) for n in CASES
    ]
    frame["slowest"] = [max((o.seconds for o in found if o.filter == name), default=0.0) for name in CASES]
    words = Counter((o.filter, re.sub(r"[-+]?\d[\d.e+-]*", "#", o.detail)[:110]) for o in found if o.outcome == "error")
    lines = [f"{n:5d}  {name}: {text}" for (name, text), n in words.most_common(60)]
    return frame.to_string() + "\n\nerrors\n" + "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0:1000", help="FIRST:LAST or FIRST:LAST:STEP, the last left out")
    parser.add_argument("--out", type=Path, default=Path("stress"), help="folder of outcomes.jsonl and failures.jsonl")
    parser.add_argument("--only", type=int, help="replay this seed alone and print what comes out")
    parser.add_argument("--filters", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument(
        "--table", nargs="*", type=Path, help="only print the counts of outcomes that lie in these folders"
    )
    parser.add_argument("--limit", type=float, default=LIMIT, help="processor seconds that a run may take")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.table:
        lines = [line for folder in asked.table for line in (folder / "outcomes.jsonl").read_text().splitlines()]
        print(table([Outcome(**json.loads(line)) for line in lines]))
        return
    if asked.only is not None:
        p = problem(asked.only)
        print(p)
        for one in outcomes(asked.only, asked.filters, asked.limit):
            print(f"{one.filter}: {one.outcome} ({one.seconds:.1f} s) {one.detail}")
        return
    seeds = range(*(int(one) for one in asked.seeds.split(":")))
    asked.out.mkdir(parents=True, exist_ok=True)
    found: list[Outcome] = []
    with (asked.out / "outcomes.jsonl").open("w") as every, (asked.out / "failures.jsonl").open("w") as failures:
        for seed in seeds:
            for one in outcomes(seed, asked.filters, asked.limit):
                found.append(one)
                line = json.dumps(asdict(one)) + "\n"
                every.write(line)
                every.flush()
                if one.outcome in FAILURES:
                    failures.write(line)
                    failures.flush()
                    print(f"seed {one.seed} ({one.problem}) {one.filter}: {one.outcome}: {one.detail}", flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
