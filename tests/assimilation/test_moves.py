"""Sweeps of kernels in the particles' own coordinates, and when they are enough."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from jkofilter.assimilation.moves import MOST_SWEEPS, WIDER, Frame, Kernels, Move, drifting
from jkofilter.numerics.mcmc import independence

N = 4_000


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=gen(seed), dtype=torch.float64)


def far(u: Tensor) -> Tensor:
    """A reading of u at (30, -30) with noise of variance .1: posterior mean 30 / 1.1, variance .1 / 1.1."""
    return -0.5 * (u - torch.tensor([30.0, -30.0]).to(u)).square().sum(-1) / 0.1


MEAN, VARIANCE = torch.tensor([30.0, -30.0]).double() / 1.1, 0.1 / 1.1


def kernels(*moves: Move, sweeps: int = 2) -> Kernels:
    return Kernels(moves, sweeps, independence, gen(9))


def test_a_frame_takes_out_mean_and_covariance_but_for_what_is_added() -> None:
    u = normals(N, 3) @ normals(3, 3, seed=2) + 7
    frame = Frame.around(u)
    v = frame.into(u)
    assert v.mean(0).abs().max() < 1e-12
    torch.testing.assert_close(WIDER**2 * torch.cov(v.mT, correction=0), torch.eye(3).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(frame.out(v), u, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [1, 3, 14])
def test_a_frame_around_few_particles_has_their_variances_alone(n: int) -> None:
    u = normals(n, 3) @ normals(3, 3, seed=2)
    frame = Frame.around(u)
    assert (frame.factor - torch.diag(frame.factor.diagonal())).abs().max() == 0
    variances = (u - u.mean(0)).square().mean(0)
    torch.testing.assert_close(frame.factor.diagonal() / WIDER, variances.sqrt(), rtol=1e-6, atol=2e-6)


def test_particles_that_are_moved_by_chance_alone_do_not_drift_and_others_do() -> None:
    before, after = normals(N, 2), normals(N, 2, seed=1)
    assert not drifting(before, after)
    assert not drifting(before, before)
    assert drifting(before, after + torch.tensor([0.0, 0.2]).double())
    assert drifting(before, 1.2 * after)


@pytest.mark.parametrize(
    ("moves", "away", "width"),
    [
        (("elliptical-slice",), 10, 0.3),
        (("crank-nicolson", "elliptical-slice"), 10, 0.3),
        (("crank-nicolson",), 3, 0.6),
    ],
)
def test_particles_short_of_a_sharp_law_are_swept_until_they_are_there(
    moves: tuple[Move, ...], away: float, width: float
) -> None:
    """They start deviations off and narrower than the law, as the collapsed do; closed-form moments."""
    sd = math.sqrt(VARIANCE)
    u = MEAN + away * sd * torch.tensor([-1.0, 1.0]).double() + width * sd * normals(N, 2)
    sweeper = kernels(*moves)
    after, value = sweeper.settled(u, far(u), far)
    torch.testing.assert_close(value, far(after), rtol=1e-6, atol=1e-6)
    assert ((after.mean(0) - MEAN) / sd).abs().max() < 0.2
    assert (after.std(0) / sd - 1).abs().max() < 0.2
    assert 2 < sweeper.most <= 2 * MOST_SWEEPS
    assert set(sweeper.acceptance) == set(moves)
    assert len(sweeper.acceptance[moves[0]]) == sweeper.most


def test_settled_particles_are_swept_as_often_as_asked_for_and_keep_their_law() -> None:
    u = MEAN + math.sqrt(VARIANCE) * normals(N, 2)
    sweeper = kernels("elliptical-slice", sweeps=3)
    after, _ = sweeper.settled(u, far(u), far)
    assert sweeper.most == 3
    assert ((after.mean(0) - MEAN) / math.sqrt(VARIANCE)).abs().max() < 5 / math.sqrt(N)
    assert (after.var(0) / VARIANCE - 1).abs().max() < 5 * math.sqrt(2 / N)


def test_global_moves_alone_leave_particles_where_they_are() -> None:
    u = normals(20, 2)
    sweeper = kernels("global")
    after, value = sweeper.settled(u, far(u), far)
    assert torch.equal(after, u)
    assert torch.equal(value, far(u))
    assert sweeper.evaluations == 0
