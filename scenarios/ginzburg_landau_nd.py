"""A coupled chain, V(u) = sum_i (u_i^2 - 1)^2 + kappa/2 sum_i (u_i - u_{i+1})^2, from N(0, I).

In two dimensions against the two-dimensional grid at t = 0.5. In eight dimensions, at t = 6, the law has all but
reached exp(-V)/Z: importance weights against exp(-V), which need no Z, say how closely.
"""

from functools import cache

import torch
from torch import Tensor

import jkofilter as jf

KAPPAS = (1.0, 4.0)


def normal(d: int) -> torch.distributions.MultivariateNormal:
    return torch.distributions.MultivariateNormal(
        torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
    )


def chain(d: int, kappa: float) -> jf.LangevinSDE:
    def energy(u: Tensor) -> Tensor:
        bonds = (u[..., 1:] - u[..., :-1]).square().sum(-1)
        return (u.square() - 1).square().sum(-1) + 0.5 * kappa * bonds

    return jf.LangevinSDE(jf.Potential(energy, d))


def small(kappa: float) -> jf.FlowCase:
    sde, eye = chain(2, kappa), torch.eye(2, dtype=torch.float64)

    @cache
    def exact(time: float) -> jf.Belief:
        model = jf.StateSpaceModel(normal(2), sde, jf.LinearGaussian(eye, eye))
        grid, generator = jf.GridFilter(model, bounds=(-4.5, 4.5), cells=400, step=5e-3), torch.Generator()
        return grid.predict(grid.init(generator), time, generator)[0]

    return jf.FlowCase(f"d = 2, kappa = {kappa:g}", normal(2), sde, (0.5,), exact=exact)


def large(kappa: float) -> jf.FlowCase:
    return jf.FlowCase(f"d = 8, kappa = {kappa:g}", normal(8), chain(8, kappa), (6.0,))


SCENARIO = jf.FlowStudy(
    name="ginzburg_landau_nd",
    cases=[*(small(kappa) for kappa in KAPPAS), *(large(kappa) for kappa in KAPPAS)],
    methods={
        "JKO ridge spline": lambda problem, seed, seconds: jf.jko(0.1 if problem.dim == 2 else 0.25)(
            problem, seed, seconds
        ),
        "particles + KDE": jf.particles(),
    },
    description="coupled chain of double wells: d = 2 at t = 0.5, d = 8 at t = 6",
)

if __name__ == "__main__":
    SCENARIO.main()
