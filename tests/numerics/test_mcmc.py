"""Kernels for N(z; 0, I) exp(g(z)) against closed-form posteriors, quadrature and densities written out."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import oracles
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from jkofilter.numerics.mcmc import (
    AuxiliaryFunction,
    LogTarget,
    Transition,
    auxiliary_metropolis,
    crank_nicolson,
    elliptical_slice,
    independence,
    root_of_misfit,
)

N = 20_000
SWEEPS = 25


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=gen(seed), dtype=torch.float64)


def towards(z: Tensor, c: Tensor) -> Tensor:
    """A phi of the user's own: bent, and neither zero nor along the diagonal."""
    return 0.4 * torch.tanh(z.flip(-1)) + 0.1 * torch.cos(c).unsqueeze(-1)


KERNELS = {
    "elliptical slice": elliptical_slice,
    "crank-nicolson .3": partial(crank_nicolson, step=0.3),
    "crank-nicolson .8": partial(crank_nicolson, step=0.8),
    "independence": partial(auxiliary_metropolis, phi=independence),
    "root of misfit": partial(auxiliary_metropolis, phi=root_of_misfit),
    "user's phi": partial(auxiliary_metropolis, phi=towards),
}
PHIS = {"zero": independence, "root of misfit": root_of_misfit, "user's": towards}


@pytest.fixture(params=KERNELS.values(), ids=KERNELS.keys())
def kernel(request: pytest.FixtureRequest) -> Callable[..., Transition]:
    return request.param


def swept(kernel: Callable[..., Transition], z: Tensor, target: LogTarget, sweeps: int, seed: int = 100) -> Tensor:
    generator, value = gen(seed), target(z)
    for _ in range(sweeps):
        moved = kernel(z=z, value=value, log_target=target, generator=generator)
        z, value = moved.z, moved.value
        assert torch.equal(value, target(z))
    return z


# --- what is left invariant ------------------------------------------------------------------------------------------

GAINS = torch.tensor([[1.0, -0.4], [0.3, 0.8]]).double()
NOISE = torch.tensor([[0.6, 0.2], [0.2, 0.9]]).double()
READING = torch.tensor([1.2, -0.7]).double()


def gaussian_target(z: Tensor) -> Tensor:
    return MultivariateNormal(READING, NOISE).log_prob(z @ GAINS.mT)


def gaussian_posterior() -> MultivariateNormal:
    precision = torch.eye(2).double() + GAINS.mT @ torch.linalg.inv(NOISE) @ GAINS
    covariance = torch.linalg.inv(precision)
    return MultivariateNormal(covariance @ GAINS.mT @ torch.linalg.inv(NOISE) @ READING, covariance)


def assert_moments(z: Tensor, law: MultivariateNormal) -> None:
    """Mean and covariance of independent particles within five standard errors."""
    white = torch.linalg.solve_triangular(law.scale_tril, (z - law.mean).mT, upper=False).mT
    n, d = z.shape
    assert white.mean(0).abs().max() < 5 / math.sqrt(n)
    excess = white.mT @ white / n - torch.eye(d).double()
    assert excess.abs().max() < 5 * math.sqrt(2 / n)


def test_particles_of_a_gaussian_posterior_stay_particles_of_it(kernel: Callable[..., Transition]) -> None:
    law = gaussian_posterior()
    z = law.mean + normals(N, 2) @ law.scale_tril.mT
    after = swept(kernel, z, gaussian_target, 5)
    assert not torch.equal(after, z)
    assert_moments(after, law)


def test_particles_of_the_prior_become_particles_of_a_gaussian_posterior(kernel: Callable[..., Transition]) -> None:
    if kernel is KERNELS["root of misfit"]:
        pytest.skip("it accepts one proposal in thirty here")
    after = swept(kernel, normals(N, 2), gaussian_target, 120 if kernel is KERNELS["crank-nicolson .3"] else SWEEPS)
    assert_moments(after, gaussian_posterior())


def misread(z: Tensor, value: Tensor, log_target: LogTarget, generator: torch.Generator) -> Transition:
    """Crank-Nicolson for another target than the one asked for: nothing but a test's test."""
    moved = crank_nicolson(z, 1.3 * value, lambda x: 1.3 * log_target(x), 0.8, generator)
    return Transition(moved.z, log_target(moved.z), moved.acceptance, 1.0)


def test_a_kernel_of_another_target_does_not_pass() -> None:
    with pytest.raises(AssertionError):
        assert_moments(swept(misread, normals(N, 2), gaussian_target, SWEEPS), gaussian_posterior())


def two_humps(z: Tensor) -> Tensor:
    """|z| read as 1.6 with noise .5, and a little more on the right."""
    return -0.5 * ((z[:, 0].abs() - 1.6) / 0.5).square() + 0.3 * z[:, 0]


def test_both_humps_of_a_bimodal_law_keep_their_mass_and_shape(kernel: Callable[..., Transition]) -> None:
    """Against quadrature: mean, variance, and the shares of sixteen equally likely bins by chi-square at 1e-6."""
    x = np.linspace(-8, 8, 20_001)
    _, law = oracles.bayes_by_quadrature(
        lambda x: stats.norm.logpdf(x) + two_humps(torch.from_numpy(x)[:, None]).numpy(), x
    )
    assert law.density[np.abs(x) < 0.1].max() < 0.05 * law.density.max()
    start = np.interp((np.arange(N) + 0.5) / N, law.cdf_table, x)
    z = torch.from_numpy(np.random.default_rng(0).permutation(start))[:, None]
    after = swept(kernel, z, two_humps, SWEEPS)[:, 0]
    moved = (after - z[:, 0]).abs() > 1e-12
    assert moved.double().mean() > 0.9
    assert ((after > 0) != (z[:, 0] > 0)).any()
    assert after.mean().item() == pytest.approx(law.mean, abs=5 * math.sqrt(law.variance / N))
    fourth = ((x - law.mean) ** 4 * law.density).sum() * (x[1] - x[0])
    assert after.var().item() == pytest.approx(law.variance, abs=5 * math.sqrt((fourth - law.variance**2) / N))
    counts = np.bincount((law.cdf(after.numpy()) * 16).astype(int).clip(0, 15), minlength=16)
    # The start is spread evenly over the bins, so that counts can only vary less than at random.
    assert ((counts - N / 16) ** 2 / (N / 16)).sum() < stats.chi2.isf(1e-6, 15)


@pytest.mark.parametrize("d", [1, 8])
def test_without_a_likelihood_nothing_is_rejected_and_the_normal_law_stays(
    kernel: Callable[..., Transition], d: int
) -> None:
    if kernel in (KERNELS["user's phi"], KERNELS["root of misfit"]):
        pytest.skip("their proposals are not the target's even then")
    z = normals(N, d)
    moved = kernel(z=z, value=torch.zeros(N).double(), log_target=lambda x: x.new_zeros(len(x)), generator=gen(3))
    assert moved.acceptance == 1.0
    assert moved.evaluations == 1.0
    assert (moved.z != z).all()
    assert_moments(moved.z, MultivariateNormal(torch.zeros(d).double(), torch.eye(d).double()))


# --- the ratio of auxiliary_metropolis -------------------------------------------------------------------------------


def written_out(z: Tensor, proposal: Tensor, phi: AuxiliaryFunction, g: LogTarget) -> Tensor:
    """log of pi(z') q(z | z') / (pi(z) q(z' | z)), every density in full."""

    def log_target(x: Tensor) -> Tensor:
        return Normal(0.0, 1.0).log_prob(x).sum(-1) + g(x)

    def log_proposal(to: Tensor, at: Tensor) -> Tensor:
        return Normal(phi(at, -2 * g(at)), 1.0).log_prob(to).sum(-1)

    return log_target(proposal) + log_proposal(z, proposal) - log_target(z) - log_proposal(proposal, z)


@pytest.mark.parametrize("phi", PHIS.values(), ids=PHIS.keys())
def test_auxiliary_metropolis_accepts_exactly_where_densities_written_out_say(phi: AuxiliaryFunction) -> None:
    """The kernel's own draws, in its order: the proposal's noise, then the uniform."""
    z, value = normals(N, 2, seed=5), gaussian_target(normals(N, 2, seed=5))
    moved = auxiliary_metropolis(z, value, gaussian_target, phi, gen(8))
    replay = gen(8)
    proposal = phi(z, -2 * value) + torch.randn(N, 2, generator=replay, dtype=torch.float64)
    uniform = torch.rand(N, generator=replay, dtype=torch.float64)
    log_ratio = written_out(z, proposal, phi, gaussian_target)
    accept = uniform.log() < log_ratio
    assert 0.02 < accept.double().mean() < 0.98
    # Rounding may turn a decision that is a tie to ten digits.
    clear = (uniform.log() - log_ratio).abs() > 1e-10
    assert torch.equal(moved.z[clear], torch.where(accept[:, None], proposal, z)[clear])
    assert moved.acceptance == pytest.approx(accept.double().mean().item(), abs=1e-3)


@pytest.mark.parametrize("phi", PHIS.values(), ids=PHIS.keys())
def test_auxiliary_metropolis_balances_in_detail(phi: AuxiliaryFunction) -> None:
    """From the target itself, as many particles go from the left half to the right as back, in every pair of bins."""
    law = gaussian_posterior()
    z = law.mean + normals(4 * N, 2, seed=9) @ law.scale_tril.mT
    moved = auxiliary_metropolis(z, gaussian_target(z), gaussian_target, phi, gen(10))
    edges = torch.from_numpy(stats.norm(law.mean[0].item(), law.stddev[0].item()).ppf([0.25, 0.5, 0.75]))
    before, after = (torch.bucketize(x[:, 0].contiguous(), edges) for x in (z, moved.z))
    flow = torch.bincount(4 * before + after, minlength=16).reshape(4, 4).double()
    compared = 0
    for i in range(4):
        for j in range(i):
            there, back = flow[i, j].item(), flow[j, i].item()
            compared += there + back > 40
            assert abs(there - back) < 5 * math.sqrt(there + back) + 5
    assert compared >= 4


def test_root_of_misfit_is_the_root_of_minus_twice_g_shared_by_the_coordinates() -> None:
    c = torch.tensor([0.0, 4.0, -1.0, math.inf]).double()
    centre = root_of_misfit(torch.zeros(4, 2).double(), c)
    assert centre.shape == (4, 2)
    assert centre[:3].norm(dim=-1).tolist() == pytest.approx([0.0, 2.0, 0.0])
    assert torch.isfinite(centre).all()


# --- regions of zero probability -------------------------------------------------------------------------------------


def half_plane(z: Tensor) -> Tensor:
    return torch.where(z[:, 0] > 0, 0.5 * z[:, 1], -math.inf)


def test_a_region_of_zero_probability_is_never_entered(kernel: Callable[..., Transition]) -> None:
    z = normals(N, 2)
    z[:, 0] = z[:, 0].abs()
    after = swept(kernel, z, half_plane, 10)
    assert (after[:, 0] > 0).all()
    assert torch.isfinite(after).all()
    # On it the first coordinate is half normal, the second N(.5, 1).
    assert after[:, 0].mean().item() == pytest.approx(math.sqrt(2 / math.pi), abs=5 * math.sqrt((1 - 2 / math.pi) / N))
    assert after[:, 0].square().mean().item() == pytest.approx(1.0, abs=5 * math.sqrt(2 / N))


def test_particles_in_it_may_come_out_and_never_turn_nan(kernel: Callable[..., Transition]) -> None:
    """A phi that is NaN for c = inf, as the user's is, keeps them where they were."""
    z = normals(2_000, 2)
    after = swept(kernel, z, half_plane, 40)
    assert torch.isfinite(after).all()
    lost, before = ((x[:, 0] <= 0).double().mean().item() for x in (after, z))
    if kernel is KERNELS["user's phi"]:
        assert lost == before
    else:
        assert lost < 0.6 * before


def test_where_the_target_is_zero_everywhere_particles_stay(kernel: Callable[..., Transition]) -> None:
    z = normals(50, 3)
    nowhere = z.new_full((50,), -math.inf)
    moved = kernel(z=z, value=nowhere, log_target=lambda x: x.new_full((len(x),), -math.inf), generator=gen())
    assert torch.equal(moved.z, z)
    assert torch.equal(moved.value, nowhere)
    assert moved.acceptance == 0.0


# --- the rest --------------------------------------------------------------------------------------------------------


def test_equal_generators_move_alike_and_nothing_is_changed_in_place(kernel: Callable[..., Transition]) -> None:
    z = normals(500, 2)
    value = gaussian_target(z)
    z_before, value_before, state = z.clone(), value.clone(), torch.random.get_rng_state()
    one, two, other = (kernel(z=z, value=value, log_target=gaussian_target, generator=gen(seed)) for seed in (4, 4, 5))
    assert torch.equal(one.z, two.z)
    assert torch.equal(one.value, two.value)
    assert not torch.equal(one.z, other.z)
    assert torch.equal(z, z_before)
    assert torch.equal(value, value_before)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_crank_nicolson_with_step_one_is_the_independence_sampler() -> None:
    z = normals(3_000, 4)
    value = -0.5 * (z - 1).square().sum(-1)
    one = crank_nicolson(z, value, lambda x: -0.5 * (x - 1).square().sum(-1), 1.0, gen(6))
    other = auxiliary_metropolis(z, value, lambda x: -0.5 * (x - 1).square().sum(-1), independence, gen(6))
    assert torch.equal(one.z, other.z)
    assert one.acceptance == other.acceptance
    assert 0 < one.acceptance < 1


def test_crank_nicolson_moves_the_less_the_shorter_its_step() -> None:
    z, value = normals(3_000, 4), torch.zeros(3_000).double()
    for step in (0.01, 0.1, 0.5):
        moved = crank_nicolson(z, value, lambda x: x.new_zeros(len(x)), step, gen(6))
        # E |z' - z|^2 = (1 - sqrt(1 - step^2))^2 d + step^2 d, standard error of the mean below 3 %.
        expected = 4 * ((1 - math.sqrt(1 - step**2)) ** 2 + step**2)
        assert (moved.z - z).square().sum(-1).mean().item() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("width", [1.0, 1e-2, 1e-4])
def test_elliptical_slice_shrinks_onto_a_spike_in_a_bounded_number_of_evaluations(width: float) -> None:
    """Each miss shrinks the bracket to a uniform share of one side, so evaluations grow like log(1 / width)."""
    start = 1.0 + width * normals(2_000, 1)

    def spike(z: Tensor) -> Tensor:
        return -0.5 * ((z[:, 0] - 1.0) / width).square()

    moved = elliptical_slice(start, spike(start), spike, gen(2))
    assert moved.acceptance > 0.998
    assert (moved.z != start).double().mean().item() == moved.acceptance
    assert moved.evaluations < 3 + 2 * math.log(1 / width)


def test_elliptical_slice_gives_up_on_what_it_cannot_hit() -> None:
    """A target that only the particles' own places satisfy: forty looks each, then they stay."""
    z = normals(20, 2)
    calls = []

    def only_here(x: Tensor) -> Tensor:
        calls.append(len(x))
        return x.new_full((len(x),), -math.inf)

    moved = elliptical_slice(z, torch.zeros(20).double(), only_here, gen())
    assert torch.equal(moved.z, z)
    assert moved.acceptance == 0.0
    assert moved.evaluations == sum(calls) / 20 == len(calls)
    assert len(calls) <= 40
