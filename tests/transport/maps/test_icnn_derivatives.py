"""The hand-written derivatives of input-convex networks, against automatic differentiation and against each other."""

import math

import pytest
import torch
from torch import Tensor

from jkofilter.numerics.threads import BLOCK
from jkofilter.transport.maps import icnn_jacobians as ij
from jkofilter.transport.maps.convex import trainable_log_det
from jkofilter.transport.maps.icnn import ICNN

SHAPES = [(1, (5,), 1), (2, (7, 6), 2), (3, (4, 9, 5), 3), (5, (1, 2, 3, 4), 1), (12, (64, 64), 1)]
POINTS = 2 * BLOCK + 7


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(d: int, widths: tuple[int, ...], rank: int) -> ICNN:
    return ICNN.random(normals(300, d), widths, rank, 0.6, torch.Generator().manual_seed(1))


def by_passes(psi: ICNN, x: Tensor) -> tuple[Tensor, Tensor]:
    (gradient,) = torch.autograd.grad(psi(x).sum(), x, create_graph=True)
    rows = [torch.autograd.grad(gradient[:, i].sum(), x, create_graph=True)[0] for i in range(x.shape[1])]
    return gradient, torch.stack(rows, 1)


@pytest.mark.parametrize(("d", "widths", "rank"), SHAPES)
def test_training_gradients_are_those_of_d_autograd_passes(d: int, widths: tuple[int, ...], rank: int) -> None:
    parameters = network(d, widths, rank).parameters()
    to_gradient, to_hessian = normals(POINTS, d, seed=2), normals(POINTS, d, d, seed=3)
    found = []
    for passes in (True, False):
        leaves = {name: value.clone().requires_grad_(True) for name, value in parameters.items()}
        x = normals(POINTS, d, seed=4).requires_grad_(True)
        psi = ICNN.from_parameters(leaves)
        gradient, hessian = by_passes(psi, x) if passes else psi.gradient_and_hessian(x)
        value = (to_gradient * gradient).sum() + (to_hessian * hessian).sum()
        found.append(torch.autograd.grad(value, [x, *leaves.values()]))
    for expected, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10 * POINTS)


def bending(weights: ij.Weights, n: int, dtype: torch.dtype) -> ij.Bending:
    w, r, _ = weights.skip.shape
    parts = (normals(n, w, seed=5).sigmoid(), normals(n, w, r, seed=6), normals(n, w, seed=7).exp())
    return ij.Bending(*(part.to(dtype) for part in parts))


def typed(psi: ICNN, dtype: torch.dtype) -> ij.Weights:
    return ICNN.from_parameters({name: value.to(dtype) for name, value in psi.parameters().items()})._weights()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
@pytest.mark.parametrize(("d", "widths", "rank"), SHAPES)
def test_compiled_and_array_expressions_agree(
    d: int, widths: tuple[int, ...], rank: int, dtype: torch.dtype, tolerance: float
) -> None:
    weights = typed(network(d, widths, rank), dtype)
    at = bending(weights, POINTS, dtype)
    ours, theirs = ij._compiled_jacobians(weights, at), ij._array_jacobians(weights, at)
    symmetric = normals(POINTS, d, d, seed=8).to(dtype)
    symmetric = symmetric + symmetric.mT
    back = [
        adjoints(weights, at, theirs[0].clone(), symmetric) for adjoints in (ij._compiled_adjoints, ij._array_adjoints)
    ]
    fields = [[a.linear, a.skip, *a.hidden, a.slope, a.projected, a.pull] for a in back]
    for mine, other in [*zip(ours, theirs, strict=True), *zip(*fields, strict=True)]:
        assert mine.dtype == dtype
        torch.testing.assert_close(mine, other, rtol=0, atol=tolerance * (1 + other.abs().max().item()))


def test_sums_over_points_do_not_depend_on_the_number_of_threads() -> None:
    weights = network(3, (8, 6), 1)._weights()
    at, before = bending(weights, POINTS, torch.float64), torch.get_num_threads()
    symmetric = torch.eye(3, dtype=torch.float64).expand(POINTS, 3, 3)
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(ij.jacobian_adjoints(weights, at, ij.jacobians(weights, at)[0], symmetric))
    finally:
        torch.set_num_threads(before)
    for one, three in zip(*([a.linear, a.skip, *a.hidden, a.slope] for a in found), strict=True):
        assert torch.equal(one, three)


def test_no_points_have_no_derivatives_and_no_adjoints() -> None:
    leaves = {name: value.requires_grad_(True) for name, value in network(3, (5, 4), 1).parameters().items()}
    gradient, hessian = ICNN.from_parameters(leaves).gradient_and_hessian(normals(0, 3))
    assert (gradient.shape, hessian.shape) == ((0, 3), (0, 3, 3))
    (gradient.sum() + hessian.sum()).backward()
    assert all(leaf.grad is None or leaf.grad.abs().max() == 0 for leaf in leaves.values())


def test_the_log_determinant_in_training_is_differentiated_by_the_inverse() -> None:
    root = normals(6, 4, 4)
    hessian = (root @ root.mT + torch.eye(4, dtype=torch.float64)).requires_grad_(True)
    expected, ours = torch.logdet(hessian), trainable_log_det(hessian)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    weights = normals(6, seed=9)
    gradients = [torch.autograd.grad((weights * value).sum(), hessian)[0] for value in (ours, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-10)


def test_the_log_determinant_of_what_is_not_positive_definite_is_minus_infinity() -> None:
    saddle = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    assert trainable_log_det(torch.stack([saddle, saddle @ saddle])).tolist() == [-math.inf, 0.0]
