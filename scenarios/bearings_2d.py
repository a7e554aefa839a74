"""A hidden walker between three wells of the plane, seen from a station by a good rangefinder and a poor compass.

V = -log of a mixture of three Gaussians, beta 1, so that the mixture is the stationary law; prior N(0, 1.3^2 I). The
station stands to the north-west, about as far from one well as from another, and looks south-east, which puts the jump
of its bearings behind it, where the walker never is. A distance good to 0.25 and a bearing good to 0.4 radian make
posteriors that are arcs, cut into pieces by the wells. The reference is the grid filter of the plane.
"""

import torch

import jkofilter as jf

WELLS = torch.tensor([[-1.6, -0.4], [1.5, -0.5], [0.1, 1.6]], dtype=torch.float64)
WIDTH = 0.6
FACING = -0.6
SUBSTEP = 0.01

MODEL = jf.StateSpaceModel(
    prior=torch.distributions.MultivariateNormal(
        torch.zeros(2, dtype=torch.float64), 1.3**2 * torch.eye(2, dtype=torch.float64)
    ),
    sde=jf.LangevinSDE(
        jf.GaussianMixture(WELLS, WIDTH**2 * torch.eye(2, dtype=torch.float64).expand(3, 2, 2), torch.ones(3))
    ),
    observation=jf.RangeBearing([-4.5, 3.0], range_deviation=0.25, bearing_deviation=0.4, boresight=FACING),
)


def jko(model: jf.StateSpaceModel) -> jf.JKOFilter:
    steps = jf.RidgeEngine(cells=16, directions=10, refinements=0)
    update = jf.UpdateSettings(engine=jf.RidgeEngine(cells=12, directions=10))
    return jf.JKOFilter(model, step=0.1, pool=2500, transport=steps, assimilation=update)


SCENARIO = jf.Scenario(
    name="bearings_2d",
    description="a walker between three wells, seen by range and bearing from a station",
    model=MODEL,
    times=[0.4 * k for k in range(1, 7)],
    filters={
        "JKO": jko,
        "tempered": jf.TemperedParticleFilter,
        "guided": jf.GuidedParticleFilter,
        "particles, 100000": lambda model: jf.ParticleFilter(model, 100_000, substep=SUBSTEP),
        "ensemble Kalman": lambda model: jf.EnsembleKalmanFilter(model, 10_000, substep=SUBSTEP),
        "unscented Kalman": jf.UnscentedKalmanFilter,
        "grid": lambda model: jf.GridFilter(model, cells=200, step=0.01),
    },
    matched={
        "tempered, same time": jf.TemperedParticleFilter,
        "particles, same time": lambda model, n: jf.ParticleFilter(model, n, substep=SUBSTEP),
    },
    reference="grid",
    time_label="time",
    state_label="position",
    reading_label="range; angle, rad",
    readings_on_state_axis=False,
)

if __name__ == "__main__":
    SCENARIO.main()
