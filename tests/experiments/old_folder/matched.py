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


SCENARIO = scenario("matched", matched={"same time": particles})
