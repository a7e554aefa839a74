"""Paths as maps of normal numbers: derivatives against torch's own, finer paths against the same Brownian path."""

import math
from dataclasses import replace

import pytest
import torch

import jkofilter as jf
from jkofilter.assimilation.path_moves import PathMover, PathTarget
from jkofilter.assimilation.paths import PathMap, path_map, refinement
from jkofilter.models.motion import PlannedStep, planned_steps
from jkofilter.models.turned import turned
from jkofilter.numerics.heun import Linear

F64 = torch.float64


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=gen(seed), dtype=F64)


def rotation(d: int) -> torch.Tensor:
    return torch.linalg.qr(normals(d, d, seed=d))[0]


def stiff() -> PathMap:
    """Steps with a full matrix A, and a potential that torch differentiates."""
    matrix = rotation(3)
    linear = Linear(torch.tensor([0.0, 2.0, 9.0], dtype=F64), matrix)
    potential = jf.Potential(lambda x: (x.square() - 1).square().sum(-1) + x[..., 0] * x[..., 1] * x[..., 2], 3)
    return path_map(jf.LangevinSDE(potential, beta=1.7), (PlannedStep(0.03, linear), PlannedStep(0.02, linear)))


def wells() -> PathMap:
    """Steps with a multiple of the identity for A, and derivatives in closed form."""
    linear = Linear(torch.full((3,), 4.0, dtype=F64))
    sde = jf.LangevinSDE(jf.DoubleWell(3, rotation=rotation(3)))
    return path_map(sde, (PlannedStep(0.03, linear), PlannedStep(0.02, linear)))


def compiled(rates: float = 4.0) -> PathMap:
    """The wells in turned coordinates, where compiled code takes them."""
    linear = Linear(rates * torch.tensor([0.5, 1.0, 2.0], dtype=F64))
    turn, sde = turned(jf.LangevinSDE(jf.DoubleWell(3, rotation=rotation(3))))
    return path_map(sde, (PlannedStep(0.03, linear), PlannedStep(0.02, linear)), turn)


@pytest.mark.parametrize("path", [stiff(), wells(), compiled()], ids=["stiff", "wells", "compiled"])
def test_pulled_back_derivatives_are_those_of_differences(path: PathMap) -> None:
    x, z, slope = 0.5 * normals(5, 3), normals(2, 5, 3, seed=1), normals(5, 3, seed=2)
    end, pull_back = path.linearised(x, z)
    assert torch.allclose(end, path.end(x, z), atol=1e-14)
    by_start, by_noise = pull_back(slope)
    dx, dz, h = normals(5, 3, seed=3), normals(2, 5, 3, seed=4), 1e-6
    change = (path.end(x + h * dx, z + h * dz) - path.end(x - h * dx, z - h * dz)) / (2 * h)
    foreseen = (by_start * dx).sum(-1) + (by_noise * dz).sum((0, 2))
    assert torch.allclose((slope * change).sum(-1), foreseen, atol=1e-7)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_compiled_paths_are_those_of_torch(dtype: torch.dtype) -> None:
    # The same potential as a function, which compiled code does not know; one path is so far out that it is mended.
    path = compiled().to(torch.empty(0, dtype=dtype))
    wells = jf.Potential(lambda x: (x.square() - 1).square().sum(-1), 3)
    slow = replace(path, sde=jf.LangevinSDE(wells))
    x, z, slope = (normals(*shape, seed=k).to(dtype) for k, shape in enumerate(((6, 3), (2, 6, 3), (6, 3))))
    x[2] *= 12
    end, pull_back = path.linearised(x, z)
    expected, expected_pull = slow.linearised(x, z)
    tolerance = 100 * torch.finfo(dtype).eps
    assert torch.allclose(end, expected, rtol=tolerance, atol=tolerance)
    for found, right in zip(pull_back(slope), expected_pull(slope), strict=True):
        assert torch.allclose(found, right, rtol=tolerance, atol=tolerance)
    assert not torch.equal(pull_back(slope)[0][0], torch.zeros(3, dtype=dtype))


def test_turned_coordinates_carry_the_same_forces() -> None:
    sde = jf.LangevinSDE(jf.DoubleWell(3, rotation=rotation(3)), beta=2.0)
    turn, plain = turned(sde)
    x = normals(5, 3)
    assert torch.allclose(plain.potential(x @ turn.mT), sde.potential(x))
    assert torch.allclose(plain.drift(x @ turn.mT) @ turn, sde.drift(x))
    assert plain.beta == 2.0


def test_paths_of_an_ornstein_uhlenbeck_process_have_its_transition_law() -> None:
    precision = torch.tensor([[3.0, 1.0], [1.0, 9.0]], dtype=F64)
    sde = jf.LangevinSDE(jf.Quadratic(torch.zeros(2, dtype=F64), precision), beta=2.0)
    x, n = torch.tensor([[1.0, -2.0]], dtype=F64), 40_000
    path = path_map(sde, planned_steps(sde, x, 0.3, gen()))
    end = path.end(x.expand(n, 2), normals(len(path.steps), n, 2))
    decay = torch.linalg.matrix_exp(-0.3 * precision)
    covariance = torch.linalg.solve(precision, torch.eye(2, dtype=F64) - decay @ decay) / 2.0
    assert torch.allclose(end.mean(0), (x @ decay)[0], atol=5 * math.sqrt(covariance.max().item() / n))
    assert torch.allclose(end.mT.cov(), covariance, atol=5 * covariance.max().item() * math.sqrt(2 / n))


@pytest.mark.parametrize("path", [stiff(), wells()], ids=["stiff", "wells"])
def test_finer_paths_follow_the_same_noise(path: PathMap) -> None:
    # With a linear drift exponential steps of any length are exact, so that both must end at the same place.
    rates = path.steps[0].linear
    basis = torch.eye(3, dtype=F64) if rates.basis is None else rates.basis
    matrix = (basis * rates.rates) @ basis.mT
    quadratic = jf.Potential(lambda x: 0.5 * ((x @ matrix) * x).sum(-1), 3)
    linear = PathMap(jf.LangevinSDE(quadratic, beta=float(path.sde.beta)), path.steps)
    x, z = normals(6, 3), normals(2, 6, 3, seed=1)
    finer = refinement(linear, 3)
    assert torch.allclose(finer.path.end(x, finer.noises(z, gen())), linear.end(x, z), atol=1e-13)


def test_noises_of_finer_paths_are_standard_normal() -> None:
    n = 40_000
    numbers = refinement(stiff(), 2).noises(normals(2, n, 3), gen(1))
    columns = numbers.permute(1, 0, 2).reshape(n, 12)
    assert torch.allclose(columns.mT @ columns / n, torch.eye(12, dtype=F64), atol=5 * math.sqrt(2 / n))


def test_a_path_that_blows_up_is_taken_in_pieces() -> None:
    sde = jf.LangevinSDE(jf.DoubleWell(1))
    path = path_map(sde, (PlannedStep(0.1, Linear(torch.zeros(1, dtype=F64))),) * 2)
    x, z = torch.tensor([[12.0], [1.0]], dtype=F64), torch.zeros(2, 2, 1, dtype=F64)
    # u' = -4 u (u^2 - 1): u^2 = 1 / (1 - (1 - u0^-2) exp(-8 t)).
    exact = (1 - (1 - 12.0**-2) * math.exp(-8 * 0.2)) ** -0.5
    end, pull_back = path.linearised(x, z)
    assert end[0].item() == pytest.approx(exact, rel=0.05)
    assert end[1].item() == pytest.approx(1.0)
    by_start, by_noise = pull_back(torch.ones(2, 1, dtype=F64))
    assert torch.isfinite(by_start).all()
    assert torch.isfinite(by_noise).all()


def test_gradients_that_moves_keep_are_those_of_the_paths_after_swaps() -> None:
    n, end = 64, torch.ones(3, dtype=F64)
    target = PathTarget(wells(), lambda x: -2 * (x - end).square().sum(-1), None)
    paths, mover = target.begin(normals(n, 3), gen(1)), PathMover(target, gen(2))
    mover.sweep(paths, "hmc", 0.5)
    mover.swap(paths, normals(n, 3, seed=5), torch.zeros(n, dtype=F64), 0.5)
    assert 0 < paths.known.sum() < n
    fresh = target.value_and_slope(paths.origin, paths.numbers)[2]
    assert torch.allclose(paths.slope[:, paths.known], fresh[:, paths.known], atol=1e-12)
