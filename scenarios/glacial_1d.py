"""Greenland's climate of the last glacial: a double-well diffusion behind delta-18-O of the GISP2 ice core.

507 readings at irregular ages between 90,000 and 12,000 years before 1950; time runs forward, in thousands of years
since 90,000. The state is the climate's delta-18-O in permil, the reading adds noise. Source and provenance:
scenarios/data/README.md; the double-well picture is that of Kwasniok & Lohmann, Phys. Rev. E 80, 066104 (2009).
Look for the jumps between the cold (stadial, near -40.9) and the mild (interstadial, near -38) well.

The reading noise is set to 0.7 permil. With it, the quartic well beta V = 0.356 ((u^2 - 1)^2 + 0.441 u),
u = (x + 39.37)/1.494, maximises the likelihood of the readings taken as independent draws of the stationary law, and
1/beta = 1.64 permil^2 per thousand years then maximises the evidence of the series. The data alone would rather have
less noise and no barrier (the evidence is 35 nats higher at 0.5 permil): the wells are a way of looking at them.
"""

from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

import jkofilter as jf

CENTRE, WIDTH, HEIGHT, TILT = -39.367, 1.494, 0.3556, 0.4409
DIFFUSIVITY, NOISE = 1.64, 0.7
OLDEST, YOUNGEST = 90_000.0, 12_000.0


class TiltedDoubleWell(jf.Potential):
    """V(x) = D h ((u^2 - 1)^2 + tilt u), u = (x - centre)/width, with its derivatives."""

    def __init__(self) -> None:
        super().__init__(self._energy, 1)

    def _energy(self, x: Tensor) -> Tensor:
        u = (x[..., 0] - CENTRE) / WIDTH
        return DIFFUSIVITY * HEIGHT * ((u * u - 1).square() + TILT * u)

    def gradient(self, x: Tensor) -> Tensor:
        """V'(x), (..., 1)."""
        u = (x - CENTRE) / WIDTH
        return DIFFUSIVITY * HEIGHT / WIDTH * (4 * u * (u * u - 1) + TILT)

    def hessian(self, x: Tensor) -> Tensor:
        """V''(x), (..., 1, 1)."""
        u = (x.unsqueeze(-1) - CENTRE) / WIDTH
        return DIFFUSIVITY * HEIGHT / WIDTH**2 * (12 * u * u - 4)


def ice_core() -> jf.ObservationSeries:
    """Glacial delta-18-O, oldest first, at thousands of years since 90,000 years before 1950."""
    table = pd.read_csv(Path(__file__).parent / "data" / "gisp2_d18o.csv")
    table = table[table["age_yr_bp"].between(YOUNGEST, OLDEST)].sort_values("age_yr_bp", ascending=False)
    table["time"] = (OLDEST - table["age_yr_bp"]) / 1000.0
    return jf.ObservationSeries.from_frame(table, time="time", values=["d18o_permil"])


MODEL = jf.StateSpaceModel(
    prior=torch.distributions.MultivariateNormal(
        torch.tensor([-39.6], dtype=torch.float64), torch.tensor([[1.6**2]], dtype=torch.float64)
    ),
    sde=jf.LangevinSDE(TiltedDoubleWell(), beta=1.0 / DIFFUSIVITY),
    observation=jf.LinearGaussian([[1.0]], [[NOISE**2]]),
)

SCENARIO = jf.Scenario(
    name="glacial_1d",
    description="stadials and interstadials in the GISP2 ice core",
    model=MODEL,
    series=ice_core(),
    filters={
        "jko": lambda model: jf.JKOFilter(model, scheme="sdirk4", tolerance=1e-4),
        "tempered": jf.TemperedParticleFilter,
        "guided": jf.GuidedParticleFilter,
        "particle": lambda model: jf.ParticleFilter(model, particles=10_000, substep=0.02),
        "grid": lambda model: jf.GridFilter(model, bounds=(-50.0, -29.0), cells=2000, step=2e-3),
    },
    reference="grid",
    time_label="time, thousand years since 90,000 BP",
    state_label="delta-18-O, permil",
    reading_label="reading, permil",
)

if __name__ == "__main__":
    SCENARIO.main()
