"""Domains: what a user may write, mirrors, and potentials that know their walls."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import jkofilter as jf
from jkofilter.numerics.domain import Domain, as_domain

INF = math.inf


@pytest.mark.parametrize(
    ("written", "dim", "sides"),
    [
        ((0, 3), 1, ((0.0, 3.0),)),
        ((0, INF), 2, ((0.0, INF), (0.0, INF))),
        (((0, 1), (2, 5)), 2, ((0.0, 1.0), (2.0, 5.0))),
        (((0, 1), None, (-INF, 2)), 3, ((0.0, 1.0), (-INF, INF), (-INF, 2.0))),
        ((torch.tensor([0.0, 2.0]), torch.tensor([1.0, 5.0])), 2, ((0.0, 1.0), (2.0, 5.0))),
        ((np.zeros(3), np.ones(3)), 3, ((0.0, 1.0),) * 3),
        (((0, 3),), 1, ((0.0, 3.0),)),
    ],
)
def test_a_domain_is_read_as_it_is_written(written, dim, sides) -> None:
    assert as_domain(written, dim) == Domain(sides)


@pytest.mark.parametrize("written", [None, (-INF, INF), (None, None), ((-INF, INF), None)])
def test_a_box_without_an_end_is_the_whole_space(written) -> None:
    assert as_domain(written, 2) is None


@pytest.mark.parametrize("written", [(3, 0), (0, 0), (0,), "ab", 3, (0, math.nan), ((0, 1, 2),), ((0, 1), (0, 1)), {}])
def test_a_domain_that_cannot_be_read_is_named(written) -> None:
    with pytest.raises(jf.InputError, match="domain"):
        jf.Potential(lambda x: 0 * x.sum(-1), 1, domain=written)


def test_points_are_mirrored_at_walls() -> None:
    box = Domain(((0.0, 3.0), (0.0, INF), (-INF, 1.0), (-INF, INF)))
    x = torch.tensor([[3.5, -2.0, 1.5, -7.0], [-0.25, 2.0, 0.5, 7.0], [10.0, 0.0, 1.0, 0.0]]).double()
    # 10 is mirrored at 3 (to -4), at 0 (to 4) and at 3 again (to 2).
    wanted = torch.tensor([[2.5, 2.0, 0.5, -7.0], [0.25, 2.0, 0.5, 7.0], [2.0, 0.0, 1.0, 0.0]]).double()
    assert torch.allclose(box.reflect(x), wanted, atol=1e-12)
    assert box.contains(box.reflect(x)).all()
    assert box.contains(x).tolist() == [False, False, False]
    assert torch.isnan(box.reflect(torch.full((1, 4), math.nan))).all()


def test_mirrors_leave_points_inside_as_they_are() -> None:
    x = torch.rand(1000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    assert torch.equal(Domain(((0.0, 3.0),)).reflect(x), x)


def test_a_potential_is_infinite_outside_and_its_gradient_inside_is_not_spoilt() -> None:
    barrier = jf.Potential(lambda x: (x - x.log()).sum(-1), 1, domain=(0, INF))
    x = torch.tensor([[-1.0], [0.5], [2.0]]).double()
    assert barrier(x).tolist() == pytest.approx([INF, 0.5 - math.log(0.5), 2 - math.log(2)])
    assert barrier.gradient(x)[1:, 0].tolist() == pytest.approx([-1.0, 0.5])
    assert barrier.hessian(x)[1:, 0, 0].tolist() == pytest.approx([4.0, 0.25])


def test_built_in_potentials_take_walls() -> None:
    built = [
        jf.Quadratic(torch.zeros(1), torch.eye(1), domain=(0, 3)),
        jf.DoubleWell(1, domain=(0, 3)),
        jf.SineQuadratic(1, domain=(0, 3)),
        jf.GaussianMixture(torch.zeros(1, 1), torch.ones(1, 1, 1), torch.ones(1), domain=(0, 3)),
    ]
    for potential in built:
        assert potential.domain == Domain(((0.0, 3.0),))
        assert potential(torch.tensor([[-1.0], [1.0]]).double()).isinf().tolist() == [True, False]


def test_walls_turn_with_a_rotation_that_keeps_them_on_the_axes() -> None:
    scalar = jf.Potential(lambda x: x.sum(-1), 1, domain=(0, 3))
    flip = torch.tensor([[0.0, -1.0], [1.0, 0.0]]).double()
    turned = jf.Rotated(scalar, flip)
    assert turned.domain == Domain(((0.0, 3.0), (-3.0, 0.0)))
    # R x = (-x_2, x_1) = (1, 2).
    assert turned(torch.tensor([[2.0, -1.0]]).double()).item() == pytest.approx(3.0)
    c = math.sqrt(0.5)
    with pytest.raises(jf.InputError, match="rotation"):
        jf.Rotated(scalar, torch.tensor([[c, -c], [c, c]]).double())
