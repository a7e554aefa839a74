"""JKO beside the particle filters at equal processor time: rotated double wells, both sets of readings, coupled chain.

Run as ``OMP_NUM_THREADS=1 python tests/benchmark_rivals.py --problems wells mixed chain --dims 8 16 --seeds 3``. JKO
runs at default settings, or ``--jko N`` with a pool of N; every rival then takes as many particles as fit into the
processor time that JKO took on the same seed (``--seconds S`` leaves JKO out and gives each of them S seconds). Printed
are medians over the seeds of the root mean square error of the means after all readings (posterior sd of the
reference), of the same after the last, the root mean square error of the last log evidence, and seconds. The reference
is exact for wells, the stored runs for mixed, and for the chain a tempered filter of 30,000 particles.
"""

import argparse
import sys
from dataclasses import replace
from math import sqrt
from pathlib import Path
from statistics import median
from time import process_time

import torch

import jkofilter as jf

sys.path.insert(0, str(Path(__file__).parent.parent / "scenarios"))

import double_well_filter_nd as wells
import double_well_mixed_nd as mixed
import ginzburg_landau_filter_nd as chain

TRIAL, MOST = 500, 400_000
"""Particles of the run that tells what one costs, and the most that a rival is given."""


def posed(problem, d, seed):
    """Model, series, reference and the rotation that the block filter is told."""
    if problem == "wells":
        model = wells.model(d)
        series = jf.simulate(model, wells.TIMES, seed=seed)[1]
        return model, series, wells.exact(model).run(series), wells.rotation(d)
    if problem == "mixed":
        model, series = mixed.model(d), mixed.series(d)
        return model, series, jf.run_filter(mixed.Stored(model), series), mixed.wells(d)
    model = chain.model(d)
    series = jf.simulate(model, chain.TIMES, seed=seed)[1]
    return model, series, jf.TemperedParticleFilter(model, 30_000).run(series, seed=1_000 + seed), None


def timed(item, series, seed):
    start = process_time()
    result = item.run(series, seed=seed)
    return result, process_time() - start


def judged(result, exact):
    deviations = torch.diagonal(exact.covariances, dim1=-2, dim2=-1).sqrt()
    error = ((result.means - exact.means) / deviations).square().mean(-1)
    return error.mean().sqrt().item(), error[-1].sqrt().item(), (result.log_evidence - exact.log_evidence)[-1].item()


def compared(problem, d, seed, options):
    """Rows of figures by the name of the filter."""
    model, series, exact, turn = posed(problem, d, seed)
    rows, seconds = {}, options.seconds
    if seconds is None:
        item = jf.JKOFilter(model) if options.jko is None else jf.JKOFilter(model, pool=options.jko)
        result, seconds = timed(item, series, seed)
        rows["JKO"] = (*judged(result, exact), seconds, None)
    rivals = {
        "tempered": jf.TemperedParticleFilter(model),
        "guided": jf.GuidedParticleFilter(model),
        "block": jf.BlockParticleFilter(model, rotation=turn),
        "bootstrap": jf.ParticleFilter(model),
    }
    for name, rival in rivals.items():
        trial = replace(rival, particles=TRIAL)
        timed(trial, series, seed)
        # What a run costs whatever its size, and what a particle adds.
        small, large = timed(trial, series, seed)[1], timed(replace(rival, particles=4 * TRIAL), series, seed)[1]
        each = max((large - small) / (3 * TRIAL), 1e-2 * large / (4 * TRIAL))
        n = int(min(max(TRIAL, TRIAL + (seconds - small) / each), MOST))
        result, took = timed(replace(rival, particles=n), series, seed)
        rows[name] = (*judged(result, exact), took, n)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=["wells", "mixed", "chain"])
    parser.add_argument("--dims", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--jko", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for problem in options.problems:
        for d in [8] if problem == "chain" else options.dims:
            runs = [compared(problem, d, seed, options) for seed in range(options.seeds)]
            print(f"{problem}, d = {d}, seeds 0 to {options.seeds - 1}", flush=True)
            for name in runs[0]:
                means, lasts, evidences, seconds, particles = zip(*(run[name] for run in runs), strict=True)
                rms = sqrt(sum(one**2 for one in evidences) / len(evidences))
                size = "" if particles[0] is None else f", {median(particles):.0f} particles"
                print(
                    f"  {name:10s} mean {median(means):.4f} (last reading {median(lasts):.4f}), "
                    f"log evidence rms {rms:.3f}, {median(seconds):.1f} s{size}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
