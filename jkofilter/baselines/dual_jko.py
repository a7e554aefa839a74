"""The JKO flow by its entropic dual, with potentials expanded in a kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from jkofilter._typing import Matrix, Points, Scalars, State
from jkofilter.baselines.entropic import entropy_temperature, require_regularisation
from jkofilter.baselines.stepped import (
    ParticleStep,
    ParticleStepper,
    WeightedParticleFlow,
    check_flow,
    flow_by_equal_steps,
)
from jkofilter.baselines.weighted_particles import (
    FEWEST_POINTS,
    WeightedParticles,
    prior_particles,
    reweighted,
    transition,
)
from jkofilter.errors import FilterError
from jkofilter.models.checks import require_count, require_positive
from jkofilter.models.sde import LangevinSDE, refuse_walls
from jkofilter.numerics.draws import stream
from jkofilter.numerics.linalg import safe_cholesky, symmetrised, weighted_moments
from jkofilter.numerics.resampling import resample

_ITERATIONS, _BACKTRACKS = 60, 40
_DECREMENT = 1e-8
_LARGEST = 600.0
_RANK = 1e-8


@dataclass(frozen=True)
class DualSettings:
    """How a dual JKO step is solved.

    Attributes:
        points: particles that the integrals are taken over.
        centres: of the Gaussian kernel, chosen among the points.
        length: of the Gaussian kernel, in standard deviations of the law.
        regularisation: gamma, the weight of the coupling's entropy, in units of 1/beta.
        corrected: whether the temperature that the regularisation adds is taken off the entropy of the law; False is
            the scheme as published, whose law is too wide by the factor 1 + regularisation/2 at stationarity.
        nodes: quadrature nodes for each source point: Gauss-Hermite in one dimension, antithetic normal draws in more.
        ridge: weight of the squared norm of the potential in the kernel's space, energy.

    Raises:
        InputError: a setting out of range.
    """

    points: int = 1000
    centres: int = 40
    length: float = 0.3
    regularisation: float = 0.5
    corrected: bool = True
    nodes: int = 4
    ridge: float = 1e-2

    def __post_init__(self) -> None:
        require_count("points", self.points, FEWEST_POINTS)
        require_count("centres", self.centres, 0)
        require_count("nodes", self.nodes, 2)
        require_regularisation(self.regularisation, self.corrected)
        for name in ("length", "ridge"):
            require_positive(name, getattr(self, name))


@dataclass(frozen=True, eq=False)
class Expansion:
    """Functions in the space of the kernel (1 + u.v)^2 + exp(-|u - v|^2 / (2 length^2)) of whitened points u, v.

    The polynomial part holds the potentials of Gaussian laws exactly and continues the others beyond the particles. The
    Gaussian part is spanned by the kernel at the centres, in an orthonormal basis of its space.

    Attributes:
        mean: (d,).
        unroot: u = (x - mean) unroot, (d, d).
        centres: whitened, (m, d).
        length: in whitened units.
    """

    mean: State
    unroot: Matrix
    centres: Points
    length: float

    def features(self, x: Points) -> Tensor:
        """1, u_i, u_i u_j and the orthonormal functions, (n, p)."""
        u = (x - self.mean) @ self.unroot
        rows, columns = torch.triu_indices(u.shape[1], u.shape[1], device=x.device).unbind()
        bumps = self._kernel(u) @ self._basis
        return torch.cat([torch.ones_like(u[:, :1]), u, u[:, rows] * u[:, columns], bumps], dim=1)

    @cached_property
    def penalised(self) -> Scalars:
        """One for the coefficients whose squares add up to the squared norm of the Gaussian part, else zero, (p,)."""
        d = self.mean.numel()
        plain = torch.zeros(1 + d + d * (d + 1) // 2).to(self.mean)
        return torch.cat([plain, torch.ones(self._basis.shape[1]).to(self.mean)])

    @cached_property
    def _basis(self) -> Tensor:
        values, vectors = torch.linalg.eigh(self._kernel(self.centres))
        kept = values > _RANK * len(values)
        return vectors[:, kept] / values[kept].sqrt()

    def _kernel(self, u: Points) -> Tensor:
        v = self.centres
        squares = (u.square().sum(1, keepdim=True) - 2 * u @ v.mT + v.square().sum(1)).clamp(min=0)
        return torch.exp(-0.5 * squares / self.length**2)


@dataclass(frozen=True, eq=False)
class DualPotential:
    """g of one step; the law after it is exp(-(g + V)/temperature - 1) (Frogner & Poggio 2020).

    Attributes:
        expansion: the functions g is made of.
        coefficients: of g.
        sde: gives V.
        temperature: weight of the entropy in the free energy.
    """

    expansion: Expansion
    coefficients: Scalars
    sde: LangevinSDE
    temperature: float

    def __call__(self, x: Points) -> Scalars:
        """g(x), (n,)."""
        return self.expansion.features(x) @ self.coefficients

    def log_density(self, x: Points) -> Scalars:
        """Log density after the step, (n,); its integral is one but for the error of the step's own quadrature."""
        return -(self(x) + self.sde.potential(x)) / self.temperature - 1.0


def dual_step(
    sde: LangevinSDE, source: WeightedParticles, tau: float, settings: DualSettings, generator: Generator
) -> ParticleStep:
    """One entropic JKO step, by the concave dual in one potential.

    With the coupling pi of the old law's y and the new law's x, the step minimises
    E|x - y|^2 / (2 tau) + E V(x) + T E log rho(x) + gamma E log pi. Maximising the dual over the old law's potential in
    closed form leaves, up to constants,

        D(g) = -T int exp(-(g + V)/T - 1) dx - gamma E_y log E_z exp(g(y + sqrt(gamma tau) z)/gamma),  z ~ N(0, I),

    concave in g, whose maximiser gives rho = exp(-(g + V)/T - 1) (Frogner & Poggio 2020, who ascend it by
    stochastic gradients; here it is a sum over fixed points, solved by Newton's method). The integral is taken by
    importance sampling over the points, one drawn from each source point's Euler-Maruyama step; the points keep their
    weights, so that from step to step the expectations of all functions of the expansion are carried without noise.

    Raises:
        FilterError: the step is too long, or Newton's method does not converge.
    """
    temperature = entropy_temperature(sde, settings.regularisation, settings.corrected)
    gamma = settings.regularisation / float(sde.beta)
    source = source.refreshed(generator)
    mixture = transition(sde, source, tau)
    x = mixture.one_each(generator)
    log_guess = mixture.log_prob(x)
    log_volumes = source.log_masses - log_guess
    expansion = _expansion(WeightedParticles(x, source.log_masses), settings, generator)
    features = expansion.features(x)
    energy = sde.potential(x)
    start = _least_squares(expansion, features, -temperature * (log_guess + 1.0) - energy, source.log_masses)
    inner, log_inner = _inner_nodes(expansion, start, source, gamma, tau, settings.nodes, generator)
    problem = _Dual(
        features, energy, log_volumes, expansion.features(inner), log_inner, source.log_masses, temperature, gamma,
        settings.ridge * expansion.penalised,
    )  # fmt: skip
    coefficients, iterations = problem.solve(start, tau)
    potential = DualPotential(expansion, coefficients, sde, temperature)
    particles = reweighted(x, log_volumes + potential.log_density(x), tau)
    return ParticleStep(particles, potential, mixture, iterations)


def _expansion(particles: WeightedParticles, settings: DualSettings, generator: Generator) -> Expansion:
    mean, covariance = weighted_moments(particles.points, particles.log_masses)
    root, _ = safe_cholesky(covariance)
    eye = torch.eye(len(mean)).to(mean)
    unroot = torch.linalg.solve_triangular(root, eye, upper=False).mT
    count = min(settings.centres, len(particles.points))
    order = particles.points[:, 0].argsort()
    chosen = order[resample(particles.log_masses[order], "systematic", generator, count)] if count else order[:0]
    return Expansion(mean, unroot, (particles.points[chosen] - mean) @ unroot, settings.length)


def _least_squares(expansion: Expansion, features: Tensor, target: Scalars, log_masses: Scalars) -> Scalars:
    """Coefficients that fit the target at the points: where Newton's method starts."""
    weighted = features * log_masses.exp().unsqueeze(1)
    factor, _ = safe_cholesky(symmetrised(features.mT @ weighted) + torch.diag(1e-6 * expansion.penalised))
    return torch.cholesky_solve((weighted.mT @ target).unsqueeze(1), factor).squeeze(1)


def _inner_nodes(
    expansion: Expansion,
    start: Scalars,
    source: WeightedParticles,
    gamma: float,
    tau: float,
    nodes: int,
    generator: Generator,
) -> tuple[Points, Tensor]:
    """Nodes (n nodes, d) and log weights (n, nodes) for E_z exp(g(y + sqrt(gamma tau) z)/gamma) of every y.

    They are moved by tau grad g, as the mass is, and weigh the difference: the integrand is then nearly constant.
    """
    y = source.points
    with torch.enable_grad():
        leaf = y.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad((expansion.features(leaf) @ start).sum(), leaf)
    width = math.sqrt(gamma * tau)
    shift = (tau / width) * slope.unsqueeze(1)
    if y.shape[1] == 1:
        z, weights = (torch.as_tensor(part).to(y) for part in _gauss_hermite(nodes))
        z, log_weights = z.reshape(1, -1, 1), weights.log()
    else:
        half = torch.randn(len(y), (nodes + 1) // 2, y.shape[1], generator=generator, dtype=y.dtype, device=y.device)
        z, log_weights = torch.cat([half, -half], 1), y.new_tensor(-math.log(2 * half.shape[1]))
    moved = z + shift
    log_ratio = 0.5 * (z.square() - moved.square()).sum(-1)
    return (y.unsqueeze(1) + width * moved).reshape(-1, y.shape[1]), log_weights + log_ratio


def _gauss_hermite(nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights for the standard normal."""
    off = torch.arange(1, nodes, dtype=torch.float64).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return values, vectors[0].square()


@dataclass(frozen=True, eq=False)
class _Dual:
    """-D as a convex function of the coefficients.

    Attributes:
        features: at the points, (n, p).
        energy: V there, (n,).
        log_volumes: log quadrature weights of the points, (n,).
        inner: features at the inner nodes, (n nodes, p).
        log_inner: their log weights, (n, nodes).
        log_masses: of the source points, (n,).
        temperature: T.
        gamma: the regularisation, energy.
        penalty: weights of the squared coefficients, (p,).
    """

    features: Tensor
    energy: Scalars
    log_volumes: Scalars
    inner: Tensor
    log_inner: Tensor
    log_masses: Scalars
    temperature: float
    gamma: float
    penalty: Scalars

    def _parts(self, coefficients: Scalars) -> tuple[Scalars, Tensor]:
        """Log masses of the points, (n,), and log terms of the inner sums, (n, nodes)."""
        log_rho = -(self.features @ coefficients + self.energy) / self.temperature - 1.0
        terms = self.log_inner + (self.inner @ coefficients).reshape(self.log_inner.shape) / self.gamma
        return self.log_volumes + log_rho, terms

    def value(self, coefficients: Scalars) -> float:
        outer, terms = self._parts(coefficients)
        if not outer.max() < _LARGEST:
            return math.inf
        spread = self.log_masses.exp() @ terms.logsumexp(1)
        norm = 0.5 * self.penalty @ coefficients.square()
        return (self.temperature * outer.exp().sum() + self.gamma * spread + norm).item()

    def derivatives(self, coefficients: Scalars) -> tuple[Scalars, Matrix]:
        outer, terms = self._parts(coefficients)
        mass = outer.exp()
        shares = terms.softmax(1)
        source = self.log_masses.exp()
        coupling = (source.unsqueeze(1) * shares).reshape(-1)
        weighted = self.inner * coupling.unsqueeze(1)
        centre = (shares.unsqueeze(2) * self.inner.reshape(*shares.shape, -1)).sum(1)
        gradient = weighted.sum(0) - mass @ self.features + self.penalty * coefficients
        within = self.inner.mT @ weighted - (centre * source.unsqueeze(1)).mT @ centre
        hessian = (self.features * mass.unsqueeze(1)).mT @ self.features / self.temperature + within / self.gamma
        return gradient, symmetrised(hessian) + torch.diag(self.penalty)

    def solve(self, coefficients: Scalars, tau: float) -> tuple[Scalars, int]:
        """The minimiser by damped Newton, and the iterations it took."""
        value = self.value(coefficients)
        for iteration in range(_ITERATIONS):
            gradient, hessian = self.derivatives(coefficients)
            if not torch.isfinite(hessian).all():
                break
            factor, _ = safe_cholesky(hessian)
            direction = -torch.cholesky_solve(gradient.unsqueeze(1), factor).squeeze(1)
            decrement = -(gradient @ direction).item()
            if decrement < _DECREMENT * self.temperature:
                return coefficients, iteration
            share = 1.0
            for _ in range(_BACKTRACKS):
                trial = self.value(coefficients + share * direction)
                if trial <= value - 0.1 * share * decrement:
                    break
                share *= 0.5
            else:
                # Rounding keeps the value from falling further: this is the minimum to double precision.
                if decrement < 1e-6 * self.temperature:
                    return coefficients, iteration
                break
            coefficients, value = coefficients + share * direction, trial
        raise FilterError(f"the dual of a JKO step of length {tau:g} is not solved; try half the step.")


def solve_dual_jko(
    prior: Distribution,
    sde: LangevinSDE,
    duration: float,
    step: float = 0.05,
    settings: DualSettings = DualSettings(),  # noqa: B008
    seed: int = 0,
) -> WeightedParticleFlow:
    """Carry a prior through a Langevin diffusion by entropic JKO steps solved in the dual (Frogner & Poggio 2020).

    Of first order in the step, as the JKO scheme is. With the quadratic potential of an Ornstein-Uhlenbeck process the
    only other errors are those of sampling the prior and of the regularisation.

    Args:
        prior: event_shape (d,), with sample and log_prob.
        sde: the diffusion.
        duration: in the SDE's unit of time.
        step: longest time step; the steps are equal.
        settings: how a step is solved.
        seed: draws the points.

    Returns:
        The flow; ``flow.at(time)`` is a density.

    Raises:
        InputError: an argument cannot be used.
        FilterError: a step cannot be solved.
    """
    prior = check_flow(prior, sde, duration, step)
    refuse_walls(sde, "solve_dual_jko")
    generator = stream(seed, "baseline")
    start = prior_particles(prior, settings.points, generator)
    return flow_by_equal_steps(stepper(sde, settings), prior, start, duration, step, generator, seed)


def stepper(sde: LangevinSDE, settings: DualSettings) -> ParticleStepper:
    """``dual_step`` of one diffusion with these settings."""
    return lambda particles, tau, generator: dual_step(sde, particles, tau, settings, generator)
