"""Makes the reference of scenarios/double_well_mixed_nd.py: large tempered runs that have to agree among seeds.

Run as ``OMP_NUM_THREADS=1 python tests/reference_mixed_wells.py 2 4 8``; it takes
some minutes. Every run is stored, so that their spread is the error of what they say.
"""

import argparse
import json
import sys
from pathlib import Path
from time import process_time

import torch

import jkofilter as jf

sys.path.insert(0, str(Path(__file__).parent.parent / "scenarios"))

import double_well_mixed_nd as study

FIRST_SEED = 1_000
"""Far from the seeds of the comparisons."""


def one(d: int, particles: int, seed: int) -> dict[str, object]:
    start = process_time()
    found = jf.TemperedParticleFilter(study.model(d), particles).run(study.series(d), seed=seed)
    print(f"d = {d}, seed {seed}: {found.final.log_evidence:.4f}, {process_time() - start:.0f} s", flush=True)
    return {
        "seed": seed,
        "means": found.means.tolist(),
        "variances": torch.diagonal(found.covariances, dim1=-2, dim2=-1).tolist(),
        "log_evidence": found.log_evidence.tolist(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dims", type=int, nargs="+")
    parser.add_argument("--particles", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for d in options.dims:
        runs = [one(d, options.particles, FIRST_SEED + k) for k in range(options.runs)]
        stored = {"particles": options.particles, "readings": study.series(d).values.tolist(), "runs": runs}
        study.stored(d).write_text(json.dumps(stored))
