"""Rotated double wells, V(x) = sum_i ((R x)_i^2 - 1)^2, from N(0, I), at t = 0.5: non-Gaussian in every direction.

The law is a product of one-dimensional ones in rotated coordinates; a fine one-dimensional grid gives each.
"""

from functools import cache

import torch

import jkofilter as jf

DIMS = (2, 8, 32)
T = 0.5


def normal(d: int) -> torch.distributions.MultivariateNormal:
    return torch.distributions.MultivariateNormal(
        torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
    )


@cache
def one_coordinate(time: float) -> jf.Belief:
    one = torch.eye(1, dtype=torch.float64)
    model = jf.StateSpaceModel(normal(1), jf.LangevinSDE(jf.DoubleWell(1)), jf.LinearGaussian(one, one))
    grid, generator = jf.GridFilter(model, cells=4000, step=1e-3), torch.Generator()
    return grid.predict(grid.init(generator), time, generator)[0]


def case(d: int) -> jf.FlowCase:
    generator = torch.Generator().manual_seed(d)
    rotation = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]
    sde = jf.LangevinSDE(jf.DoubleWell(d, rotation=rotation))

    def exact(time: float) -> jf.ProductLaw:
        return jf.ProductLaw((one_coordinate(time),) * d, rotation)

    return jf.FlowCase(f"d = {d}", normal(d), sde, (T,), exact=exact)


def network(d: int) -> jf.ICNNEngine:
    if d == 2:
        return jf.ICNNEngine((32, 32), iterations=300, batch=256, ridge=None)
    return jf.ICNNEngine((64, 32), iterations=600, batch=256, learning_rate=2e-2, ridge=None)


PROTOTYPE = {2: (5e-4, 0.7), 8: (3e-3, 19.0), 32: (0.019, 277.0)}
PUBLISHED = tuple(
    jf.PublishedFigure("prototype", "ridge spline, five steps", "JKO ridge spline", measure, value, f"d = {d}")
    for d, figures in PROTOTYPE.items()
    for measure, value in zip(("kl_exact", "seconds"), figures, strict=True)
)

SCENARIO = jf.FlowStudy(
    name="double_well_nd",
    cases=[case(d) for d in DIMS],
    methods={
        "JKO ridge spline": jf.jko(0.1),
        "JKO ICNN alone": lambda problem, seed, seconds: jf.jko(
            0.1, transport=network(problem.dim), pool=4096 if problem.dim == 2 else 8192
        )(problem, seed, seconds),
        "particles + KDE": jf.particles(),
    },
    skip=frozenset({("JKO ICNN alone", "d = 32")}),
    published=PUBLISHED,
    description="rotated double wells from a standard normal, t = 0.5",
)

if __name__ == "__main__":
    SCENARIO.main()
