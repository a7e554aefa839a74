"""One JKO step as a problem over convex potentials, on a pool of particles that carry their density."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from jkofilter._typing import Points, Scalars
from jkofilter.errors import FilterError
from jkofilter.models.sde import LangevinSDE
from jkofilter.transport.maps.convex import ConvexPotential, Pool, Pushed, push


@dataclass(frozen=True, eq=False)
class StepProblem:
    """Find the convex psi that minimises, over the pool x ~ rho,

        E[ |grad psi - z|^2 / (2 h) + V(grad psi) ] + (1/beta) E[ -log det H + tr(R H) + s . grad psi ],   H = Hess psi.

    Without its last two terms this is the JKO step (Mokrov et al. 2021, eq. 10) with a shifted centre z(x) in place of
    x, as higher-order schemes ask for. Those two terms are a control variate. For a map T with T# rho = q, R = (DT)^-1
    and s(x) = grad log q(T(x)), integration by parts gives E_rho[tr(R D v) + s . v] = 0 for every field v, so in the
    limit of many particles they change nothing; on finitely many they cancel the sampling noise of the log
    determinant, exactly where T is the solution itself, and the solution is then the one whose optimality residual
    is orthogonal to all admissible directions. They are linear in psi, so that the problem stays convex wherever the
    JKO step is.

    Attributes:
        sde: the diffusion.
        pool: particles of rho with their log density and score.
        centre: z, (n, d).
        h: length of the implicit step, in the SDE's unit of time.
        inverse_jacobian: R, (n, d, d), or None for the identity.
        score: s, (n, d).
    """

    sde: LangevinSDE
    pool: Pool
    centre: Points
    h: float
    inverse_jacobian: Float[Tensor, "n d d"] | None
    score: Points

    @staticmethod
    def start(sde: LangevinSDE, pool: Pool, centre: Points, h: float) -> StepProblem:
        """The problem with the identity as reference of its control variate."""
        return StepProblem(sde, pool, centre, h, None, pool.score)

    @property
    def beta(self) -> float:
        """Inverse temperature."""
        return float(self.sde.beta)

    def around(self, pushed: Pushed) -> StepProblem:
        """The same problem with a better reference: the map that made ``pushed`` of this pool."""
        return replace(self, inverse_jacobian=pushed.inverse_hessian, score=pushed.pool.score)

    def without_control_variate(self) -> StepProblem:
        """The problem as it is on these particles, sampling noise and all."""
        none = self.pool.x.new_zeros(*self.pool.x.shape, self.pool.x.shape[1])
        return replace(self, inverse_jacobian=none, score=torch.zeros_like(self.score))

    def subset(self, index: Tensor | slice) -> StepProblem:
        """The problem on some of the particles."""
        pool = Pool(self.pool.x[index], self.pool.log_prob[index], self.pool.score[index])
        jacobian = None if self.inverse_jacobian is None else self.inverse_jacobian[index]
        return replace(self, pool=pool, centre=self.centre[index], inverse_jacobian=jacobian, score=self.score[index])

    def energies(self, y: Points, hessian: Float[Tensor, "n d d"], log_det: Scalars) -> Scalars:
        """The terms of the objective, one a particle, (n,)."""
        transport = (y - self.centre).square().sum(-1) / (2 * self.h) + self.sde.potential(y)
        if self.inverse_jacobian is None:
            linear = hessian.diagonal(dim1=-2, dim2=-1).sum(-1)
        else:
            linear = (self.inverse_jacobian * hessian).sum((-1, -2))
        return transport + (linear - log_det + (self.score * y).sum(-1)) / self.beta

    def residual(self, y: Points, score: Points) -> Points:
        """(y - z)/h + grad V(y) + grad log rho'(y)/beta: zero where y solves the step and ``score`` is that of its law.

        For z = x this is the optimality condition (T(x) - x)/tau + grad V + (1/beta) grad log rho of the JKO step.
        """
        return (y - self.centre) / self.h + self.sde.potential.gradient(y) + score / self.beta

    def solved_by(self, psi: ConvexPotential) -> tuple[Pushed, Points]:
        """The pool pushed through ``psi``, and the optimality residual there.

        Raises:
            FilterError: the Jacobian of the map is not positive definite, or the residual is not finite.
        """
        pushed = push(psi, self.pool)
        residual = self.residual(pushed.pool.x, pushed.pool.score)
        if not torch.isfinite(residual).all():
            raise FilterError("the optimality residual of a JKO step is not finite.")
        return pushed, residual
