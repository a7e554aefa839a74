"""Scenario files for the tests of the bench: tiny, quick, and one that goes wrong in every way."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MODEL = """
import os
import signal
import torch
import jkofilter as jf

EYE = torch.eye(1, dtype=torch.float64)
NORMAL = torch.distributions.MultivariateNormal(torch.zeros(1).double(), EYE)
SDE = jf.LangevinSDE(jf.Quadratic([0.0], [[1.0]]))
MODEL = jf.StateSpaceModel(NORMAL, SDE, jf.LinearGaussian([[1.0]], [[0.25]]))


def particles(model, n=300):
    return jf.ParticleFilter(model, particles=n, substep=0.05)


def ensemble(model):
    return jf.EnsembleKalmanFilter(model, 200, substep=0.05)


FILTERS = {
    "particles, 300": particles,
    "ensemble": ensemble,
    "unscented": jf.UnscentedKalmanFilter,
    "exact": jf.KalmanFilter,
}


def scenario(name, **more):
    settings = dict(model=MODEL, times=[0.5, 1.0], until=1.2, seeds=2, substep=0.05, filters=FILTERS, reference="exact")
    return jf.Scenario(name=name, **(settings | more))
"""

LINE = MODEL + 'SCENARIO = scenario("line", description="a small one")\n'

FAMILY = (
    MODEL
    + """
SCENARIO = jf.FilterStudy(
    "family",
    [scenario(f"gap = {gap:g}", times=[gap, 2 * gap], until=None) for gap in (0.25, 0.5)],
    "the same readings, closer and further apart",
)
"""
)

FLOW = (
    MODEL
    + """
def exact(time):
    return jf.GaussianBelief(time, torch.zeros(1).double(), EYE)


SCENARIO = jf.FlowStudy(
    name="flow",
    cases=[jf.FlowCase(f"t = {t:g}", NORMAL, SDE, (t / 2, t), exact=exact) for t in (0.25, 0.5)],
    methods={"200": jf.particles(0.05, count=200), "400": jf.particles(0.05, count=400)},
    skip=frozenset({("400", "t = 0.25")}),
    seeds=2,
)
"""
)

MATCHED = MODEL + 'SCENARIO = scenario("matched", matched={"same time": particles})\n'

TROUBLE = (
    MODEL
    + """
def raises(model):
    raise RuntimeError("a mistake of the user\\nin two lines")


def kills(model):
    if os.environ.get("BENCH_TEST_PARENT") != str(os.getpid()):
        os.kill(os.getpid(), signal.SIGKILL)


SCENARIO = scenario("trouble", filters={"raises": raises, "kills": kills, **FILTERS})
"""
)


SMALL = """
import torch
import jkofilter as jf
MODEL = jf.StateSpaceModel(
    torch.distributions.MultivariateNormal(torch.zeros(1).double(), torch.eye(1).double()),
    jf.LangevinSDE(jf.Quadratic([0.0], [[1.0]])), jf.LinearGaussian([[1.0]], [[0.25]]))
SCENARIO = jf.Scenario(
    name="small", model=MODEL, times=[0.5, 1.0], until=1.2, seeds=2, substep=0.05, description="a small one",
    filters={"jko": jf.JKOFilter, "particle": lambda m: jf.ParticleFilter(m, particles=200, substep=0.05),
             "kalman": jf.KalmanFilter}, reference="kalman")
if __name__ == "__main__":
    SCENARIO.main()
"""
"""The smallest scenario, whose file can be run."""


def write(folder: Path, **files: str) -> list[str]:
    """Write each text to a file of that name."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return [str(folder / f"{name}.py") for name in files]


def steady(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Records without what may differ from run to run, sorted."""
    varying = ("seconds", "processor_seconds", "started", "commit")
    return sorted(json.dumps({k: v for k, v in one.items() if k not in varying}) for one in records)


def lines(out: Path) -> list[dict[str, Any]]:
    """The records in a folder."""
    return [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
