"""Laws that a short chain of convex potentials carries to the standard normal, and fitting one to particles.

Fitting is a JKO step of infinite length towards N(0, I): with phi convex, minimise
E[ |grad phi(x)|^2 / 2 - log det Hess phi(x) ] over particles x of the law; then (grad phi)^-1 # N(0, I) stands for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Generator, Size, Tensor
from torch.distributions import Distribution, constraints

from jkofilter._typing import Matrix, Points, State
from jkofilter.errors import FilterError
from jkofilter.models.potentials import Quadratic
from jkofilter.models.sde import LangevinSDE
from jkofilter.numerics.linalg import safe_cholesky
from jkofilter.numerics.weights import effective_sample_size
from jkofilter.transport.maps.convex import ConvexPotential, Pool, factorised, inverse, log_det, push
from jkofilter.transport.maps.ridge import RidgeSpline
from jkofilter.transport.steps.problem import StepProblem
from jkofilter.transport.steps.ridge_engine import RidgeEngine

HALF = 0.5
"""|y|^2 / 2 is taken as half potential, half transport cost from the origin in a step of length 1/HALF, so that the JKO
step's solver sees a transport term of the size it expects."""


class FittedLaw(Distribution):
    """The law of x for which grad phi_L( ... grad phi_1(x)) is standard normal.

    Args:
        mean: of x, (d,).
        root: symmetric square root of the covariance of x, (d, d); phi_1 acts on x whitened by both.
        layers: phi_1, ..., phi_L, the one next to x first.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.real_vector

    def __init__(self, mean: State, root: Matrix, layers: tuple[ConvexPotential, ...] = ()) -> None:
        self.centre = mean
        self.root = root
        self.layers = layers
        self._unroot = torch.linalg.inv(root)
        self.whitening_log_det = -torch.linalg.slogdet(root).logabsdet
        super().__init__(batch_shape=Size(), event_shape=mean.shape, validate_args=False)

    @property
    def dim(self) -> int:
        """State dimension d."""
        return self.centre.numel()

    def whitened(self, x: Points) -> Points:
        """What the first layer sees, (n, d)."""
        return (x - self.centre) @ self._unroot

    def normalise(self, x: Points) -> Points:
        """The map to the standard normal, (n, d)."""
        u = self.whitened(x)
        for phi in self.layers:
            u = phi.gradient(u)
        return u

    def restore(self, u: Points, strict: bool = True) -> Points:
        """Its inverse, (n, d); unless ``strict``, NaN where a layer cannot be inverted.

        Raises:
            FilterError: a layer cannot be inverted there, if ``strict``.
        """
        for phi in reversed(self.layers):
            u, _ = inverse(phi, u, strict)
        return self.centre + u @ self.root

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density at points (n, d), (n,); differentiable."""
        u, total = self.whitened(value), self.whitening_log_det
        for phi in self.layers:
            u, hessian = phi.gradient_and_hessian(u)
            total = total + log_det(factorised(hessian))
        return total - 0.5 * u.square().sum(-1) - 0.5 * self.dim * math.log(2 * math.pi)

    def sample(self, sample_shape: Size | list[int] | tuple[int, ...] = Size()) -> Tensor:  # noqa: B008
        """Draws, from torch's global generator as with any distribution."""
        u = torch.randn(*sample_shape, self.dim, dtype=self.centre.dtype, device=self.centre.device)
        return self.restore(u.reshape(-1, self.dim)).reshape(*sample_shape, self.dim)

    def pool(self, x: Points) -> Pool:
        """Particles with their log density and score under this law."""
        u = self.whitened(x)
        passed: list[tuple[Points, Tensor]] = []
        total = self.whitening_log_det
        for phi in self.layers:
            image, hessian = phi.gradient_and_hessian(u)
            factor = factorised(hessian)
            passed.append((u, factor))
            u, total = image, total + log_det(factor)
        log_prob = total - 0.5 * u.square().sum(-1) - 0.5 * self.dim * math.log(2 * math.pi)
        score = -u
        for phi, (below, factor) in zip(reversed(self.layers), reversed(passed), strict=True):
            hessian = factor @ factor.mT
            bent = phi.log_det_gradient(below, torch.cholesky_inverse(factor))
            score = (hessian @ score.unsqueeze(-1)).squeeze(-1) + bent
        return Pool(x, log_prob, score @ self._unroot)


def gaussian_law(x: Points) -> FittedLaw:
    """The normal law with the mean and covariance of some particles."""
    mean = x.mean(0)
    centred = x - mean
    factor, _ = safe_cholesky(centred.mT @ centred / len(x))
    values, vectors = torch.linalg.eigh(factor @ factor.mT)
    return FittedLaw(mean, (vectors * values.sqrt()) @ vectors.mT)


def fitted_laws(
    pool: Pool, directions: Points, engine: RidgeEngine, most: int, generator: Generator, controlled: bool = True
) -> Iterator[FittedLaw]:
    """Laws of one, two, ... layers fitted to a pool, and last the normal law of its moments.

    Args:
        pool: particles, equally weighted, with their log density and score.
        directions: ridge directions to start from, (k, d); may be none.
        engine: fits the layers.
        most: layers.
        generator: the engine's.
        controlled: whether the scores may take the sampling noise out of the fit. They may not where the density
            jumps: the control variate integrates by parts and knows nothing of an edge.
    """
    law = gaussian_law(pool.x)
    white = Pool(law.whitened(pool.x), pool.log_prob - law.whitening_log_det, pool.score @ law.root)
    turned, normal = directions @ law.root, law
    target = LangevinSDE(Quadratic(torch.zeros_like(law.centre), HALF * torch.eye(law.dim).to(law.centre)))
    while len(law.layers) < most:
        start = None
        if len(turned):
            unit = turned / turned.norm(dim=1, keepdim=True)
            start = RidgeSpline.identity(engine.spanning(white.x, unit))
        problem = StepProblem.start(target, white, torch.zeros_like(white.x), 1 / HALF)
        solver = engine
        if not controlled:
            problem, solver = problem.without_control_variate(), replace(engine, refinements=0)
        try:
            phi = solver.solve(problem, engine.begin(target, white, start), generator).psi
            white = push(phi, white).pool
        except FilterError:
            # The layers so far are a law all the same, and how far it agrees will be seen.
            break
        law = FittedLaw(law.centre, law.root, (*law.layers, phi))
        yield law
    yield normal


def refit(
    pool: Pool, directions: Points, engine: RidgeEngine, enough: float, most: int, generator: Generator
) -> FittedLaw:
    """The first of ``fitted_laws`` with an agreement of ``enough``, or the best of them."""
    best, best_agreement = gaussian_law(pool.x), -1.0
    for law in fitted_laws(pool, directions, engine, most, generator):
        found = agreement(law, pool)
        if found > best_agreement:
            best, best_agreement = law, found
        if found >= enough:
            break
    return best


def agreement(law: FittedLaw, pool: Pool) -> float:
    """Effective share of the particles weighted from their own law to this one, in (0, 1]."""
    return effective_sample_size(law.log_prob(pool.x) - pool.log_prob) / len(pool.x)
