"""Benes diffusions in two and four dimensions: a law of two modes a coordinate, known in closed form.

V(x) = -s^2 sum_i log cosh(k x_i) with s^2 = 2/beta = 1 and k = 1: the drift s^2 k tanh(k x) takes the state away from
zero, to either side. The prior is of the family that the diffusion keeps, cosh(k x) N(x; 0, 0.3) up to its constant,
and five readings of every coordinate with noise 2 leave both sides possible for a while: 2^d modes. The reference is
the exact filter of Benes, one a coordinate.
"""

import torch

import jkofilter as jf

DIMS = (2, 4)
KAPPA, BETA, VARIANCE = 1.0, 2.0, 0.3
NOISE = 2.0
TIMES = [0.5, 1.0, 1.5, 2.0, 2.5]
SUBSTEP = 0.01


def model(d: int) -> jf.StateSpaceModel:
    eye = torch.eye(d, dtype=torch.float64)
    steepness = KAPPA * torch.ones(d, dtype=torch.float64)
    sde = jf.LangevinSDE(jf.LogCosh(steepness, BETA), BETA)
    return jf.StateSpaceModel(jf.benes_prior(0.0, VARIANCE, steepness), sde, jf.LinearGaussian(eye, NOISE**2 * eye))


def exact(whole: jf.StateSpaceModel) -> jf.ProductFilter:
    d = whole.dim
    return jf.ProductFilter(whole, torch.eye(d, dtype=torch.float64), (jf.BenesFilter(model(1)),) * d)


def jko(whole: jf.StateSpaceModel) -> jf.JKOFilter:
    d = whole.dim
    steps = jf.RidgeEngine(cells=16, directions=d, refinements=0)
    update = jf.UpdateSettings(engine=jf.RidgeEngine(cells=16, directions=d))
    return jf.JKOFilter(whole, step=0.125, transport=steps, assimilation=update)


def case(d: int) -> jf.Scenario:
    # A grid of the whole law is to be had on the plane alone.
    grid = {"grid": lambda m: jf.GridFilter(m, cells=200, step=0.01)} if d == 2 else {}
    return jf.Scenario(
        name=f"d = {d}",
        model=model(d),
        filters={
            "JKO": jko,
            "tempered": jf.TemperedParticleFilter,
            "guided": jf.GuidedParticleFilter,
            "particles, 100000": lambda m: jf.ParticleFilter(m, 100_000, substep=SUBSTEP),
            "ensemble Kalman": lambda m: jf.EnsembleKalmanFilter(m, 10_000, substep=SUBSTEP),
            "unscented Kalman": jf.UnscentedKalmanFilter,
            **grid,
            "exact": exact,
        },
        matched={
            "tempered, same time": jf.TemperedParticleFilter,
            "particles, same time": lambda m, n: jf.ParticleFilter(m, n, substep=SUBSTEP),
        },
        reference="exact",
        times=TIMES,
        seeds=5,
    )


SCENARIO = jf.FilterStudy(
    name="benes_nd",
    scenarios=[case(d) for d in DIMS],
    description="Benes diffusions of two modes a coordinate, five readings with noise 2",
)

if __name__ == "__main__":
    SCENARIO.main()
