"""Wall time of a sweep of three scenarios, three or four filters each, and ten seeds: two workers against one.

Run as ``python tests/benchmark_sweep.py`` on an idle machine of at least two cores; it takes a quarter of an hour.
``--seeds 2`` is quicker; ``--also-threads`` gives the one worker all cores as threads, too.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from jkofilter.experiments.sweep.plan import load_all
from jkofilter.experiments.sweep.records import key_of
from jkofilter.experiments.sweep.runner import Sweep, run_sweep

SCENARIOS = ("sine_1d", "glacial_1d", "benes_nd")
FILTERS = ("jko", "particle-kde", "particle-transition", "grid", "particle", "exact", "particles, 100000")
FILTERS += ("ensemble Kalman", "unscented Kalman")


def figures(records: list[dict[str, Any]]) -> dict[str, str]:
    return {str(key_of(one)): json.dumps(one["figures"]) for one in records}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--also-threads", action="store_true")
    options = parser.parse_args()
    folder = Path(__file__).parent.parent / "scenarios"
    loaded = load_all([str(folder / f"{name}.py") for name in SCENARIOS])
    ways = [(1, 1), (2, 1)] + [(1, os.cpu_count() or 1)] * options.also_threads
    seconds: dict[tuple[int, int], float] = {}
    found: dict[tuple[int, int], dict[str, str]] = {}
    for workers, threads in ways:
        with tempfile.TemporaryDirectory() as out:
            start = perf_counter()
            seeds = range(options.seeds)
            made = run_sweep(Sweep(loaded, FILTERS, seeds, workers=workers, threads=threads, out=out))
            seconds[workers, threads] = perf_counter() - start
        found[workers, threads] = figures(made)
        computing = sum(one["seconds"] or 0.0 for one in made)
        print(f"{workers} workers, {threads} threads: {seconds[workers, threads]:.1f} s for {len(made)} runs, ", end="")
        print(f"of which {computing:.1f} s inside the filters, load {os.getloadavg()[0]:.1f}", flush=True)
    print(f"two workers / one worker: {seconds[2, 1] / seconds[1, 1]:.2f}, figures equal: {found[2, 1] == found[1, 1]}")


if __name__ == "__main__":
    main()
