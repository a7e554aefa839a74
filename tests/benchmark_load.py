"""What other work on the same cores costs: four runs on an idle machine, and beside two processes that never rest.

Run as ``python tests/benchmark_load.py`` on an otherwise idle machine; minutes. ``--threads`` is what torch is allowed
(all cores by default), ``--runs`` picks some. A run beside N busy processes on C cores can at best have C / (N + 1) of
a core's time, so 1.5 times its idle wall time on two cores; the bar is 3. Processor time should hardly grow.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch

import jkofilter as jf

BUSY, BAR = 2, 3.0


def problem() -> tuple[jf.StateSpaceModel, jf.ObservationSeries]:
    scenario: Any = jf.Scenario.load(str(Path(__file__).parent.parent / "scenarios" / "sine_1d.py"))
    return scenario.model, scenario.data(0)[1]


MODEL, SERIES = problem()


def filtered(item: jf.Filter) -> float:
    return jf.run_filter(item, SERIES, until=5.0).log_evidence[-1].item()


def ridge() -> float:
    prior = torch.distributions.MultivariateNormal(torch.zeros(8).double(), torch.eye(8).double())
    flow = jf.solve_jko(prior, jf.LangevinSDE(jf.DoubleWell(8)), 0.1, 0.1, "implicit-euler")
    return flow.infos[-1].details["loss"]


RUNS: dict[str, Callable[[], float]] = {
    "particles, 50,000": lambda: filtered(jf.ParticleFilter(MODEL, particles=50_000)),
    "JKO": lambda: filtered(jf.JKOFilter(MODEL)),
    "JKO ridge, d = 8": ridge,
    "grid, 8,000 cells": lambda: filtered(jf.GridFilter(MODEL, cells=8000, step=1e-3)),
}


@contextmanager
def load(processes: int) -> Iterator[None]:
    """So many processes that keep a core busy each."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def measured(run: Callable[[], float]) -> tuple[float, float, float]:
    """Wall and processor seconds, and the figure found."""
    wall, processor = perf_counter(), process_time()
    figure = run()
    return perf_counter() - wall, process_time() - processor, figure


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", nargs="*", choices=RUNS, default=list(RUNS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads allowed, {os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}")
    for name in options.runs:
        # Libraries load, and loops compile, outside of the time that is measured.
        RUNS[name]()
        idle = measured(RUNS[name])
        with load(BUSY):
            loaded = measured(RUNS[name])
        ratio = loaded[0] / idle[0]
        print(
            f"{name:18s} idle {idle[0]:6.2f} s wall, {idle[1]:6.2f} s processor; "
            f"loaded {loaded[0]:6.2f} s, {loaded[1]:6.2f} s; wall {ratio:.1f} times"
            f"{'' if ratio <= BAR else ' (MORE THAN 3)'}, processor {loaded[1] / idle[1]:.2f} times"
            f"{'' if loaded[2] == idle[2] else '; FIGURES DIFFER'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
