"""A coupled chain of double wells, half of its sites seen: ten readings, noise 0.5, one every 0.3.

V(u) = sum_i (u_i^2 - 1)^2 + kappa/2 sum_i (u_i - u_{i+1})^2 with kappa = 1, prior N(0, I), readings of sites 0, 2,
4, ...: what is known of the others comes through the bonds. Nothing separates, so no exact answer is to be had beyond
the plane: in two dimensions the grid filter is the reference, in eight a particle filter of 400,000.
"""

from collections.abc import Callable

import torch
from torch import Tensor

import jkofilter as jf

KAPPA = 1.0
NOISE = 0.5
TIMES = [round(0.3 * k, 10) for k in range(1, 11)]
SUBSTEP = 0.01


class Chain(jf.Potential):
    """The energy above, with derivatives written out."""

    def __init__(self, d: int) -> None:
        super().__init__(self._energy, d)

    def _energy(self, u: Tensor) -> Tensor:
        bonds = (u[..., 1:] - u[..., :-1]).square().sum(-1)
        return (u.square() - 1).square().sum(-1) + 0.5 * KAPPA * bonds

    @staticmethod
    def _bent(u: Tensor) -> Tensor:
        """Minus the second differences, times kappa."""
        bonds = KAPPA * (u[..., 1:] - u[..., :-1])
        return torch.nn.functional.pad(bonds, (1, 0)) - torch.nn.functional.pad(bonds, (0, 1))

    def gradient(self, u: Tensor) -> Tensor:
        return 4 * u * (u.square() - 1) + self._bent(u)

    def linearised(self, u: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        curvature = 12 * u.square() - 4
        return self.gradient(u), lambda v: curvature * v + self._bent(v)

    def hessian(self, u: Tensor) -> Tensor:
        bent = self._bent(torch.eye(self.dim, dtype=u.dtype, device=u.device))
        return torch.diag_embed(12 * u.square() - 4) + bent


def chain(d: int) -> jf.Potential:
    return Chain(d)


def model(d: int) -> jf.StateSpaceModel:
    eye = torch.eye(d, dtype=torch.float64)
    prior = torch.distributions.MultivariateNormal(torch.zeros(d, dtype=torch.float64), eye)
    sensor = jf.LinearGaussian(eye[::2], NOISE**2 * torch.eye((d + 1) // 2, dtype=torch.float64))
    return jf.StateSpaceModel(prior, jf.LangevinSDE(chain(d)), sensor)


def jko(whole: jf.StateSpaceModel) -> jf.JKOFilter:
    d = whole.dim
    # Bonds bend the law along differences of neighbours too: more directions than sites.
    steps = jf.RidgeEngine(cells=16 if d == 2 else 12, directions=3 * d if d == 2 else 2 * d, refinements=0)
    update = jf.UpdateSettings(engine=jf.RidgeEngine(cells=10, directions=3 * d if d == 2 else 2 * d))
    return jf.JKOFilter(whole, step=0.15, pool=2500, transport=steps, assimilation=update)


def case(d: int) -> jf.Scenario:
    plane = d == 2
    reference = "grid" if plane else "particles, 400000"
    exact = (
        (lambda m: jf.GridFilter(m, cells=200, step=0.01))
        if plane
        else (lambda m: jf.ParticleFilter(m, 400_000, substep=SUBSTEP))
    )
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
            reference: exact,
        },
        matched={
            "tempered, same time": jf.TemperedParticleFilter,
            "particles, same time": lambda m, n: jf.ParticleFilter(m, n, substep=SUBSTEP),
        },
        reference=reference,
        times=TIMES,
        seeds=3,
        kl=plane,
        state_label="site u",
    )


SCENARIO = jf.FilterStudy(
    name="ginzburg_landau_filter_nd",
    scenarios=[case(2), case(8)],
    description="coupled chain of double wells, every other site seen, ten readings with noise 0.5",
)

if __name__ == "__main__":
    SCENARIO.main()
