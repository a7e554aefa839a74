"""Ridge bases in their few slots, second derivatives of a step, and dictionaries chosen by potential and velocity."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import jkofilter as jf
from jkofilter.transport.maps.convex import Pool
from jkofilter.transport.maps.ridge import Ridges, RidgeSpline
from jkofilter.transport.steps import ridge_fit
from jkofilter.transport.steps.families import Flow, crossed, potential_ridges, resolving, spread
from jkofilter.transport.steps.problem import StepProblem
from jkofilter.transport.steps.ridge_design import RidgeDesign
from jkofilter.transport.steps.ridge_engine import RidgeEngine


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bent() -> tuple[Tensor, RidgeSpline, RidgeDesign]:
    """Knots that end within the particles, and coefficients of all sizes."""
    x = 1.5 * normals(300, 3)
    directions = torch.nn.functional.normalize(normals(5, 3, seed=1), dim=1)
    still = RidgeSpline.identity(Ridges.spanning(x[:40], directions, 9))
    share = torch.rand(5, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.1
    psi = RidgeSpline(still.quadratic, still.shift + 0.3, still.ridges, still.coefficients * share)
    return x, psi, RidgeDesign.build(x, psi.ridges, 0.1)


def test_slots_give_the_map_of_the_spline_within_and_beyond_the_knots() -> None:
    x, psi, design = bent()
    theta = design.pack(psi)
    for found, exact in zip(design.map(theta), psi.gradient_and_hessian(x), strict=True):
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)
    torch.testing.assert_close(design.spline(theta).gradient(x), psi.gradient(x), rtol=0, atol=1e-12)


def test_the_hessian_of_a_step_is_the_difference_of_its_gradients() -> None:
    x, psi, design = bent()
    problem = StepProblem.start(jf.LangevinSDE(jf.DoubleWell(3), 2.0), Pool(x, -x.square().sum(-1), -x), x, 0.1)
    theta = design.pack(psi)

    def at(theta: Tensor) -> tuple[Tensor, Tensor]:
        state = ridge_fit._evaluate(problem, design, theta, 0.0)
        assert state is not None
        local = ridge_fit._Local.at(problem, design, state, 0.0)
        return ridge_fit._gradient(problem, design, state, local), ridge_fit._hessian(problem, design, local)

    way, small = normals(len(theta), seed=3) * theta.abs(), 1e-5
    difference = (at(theta + small * way)[0] - at(theta - small * way)[0]) / (2 * small)
    metric = torch.eye(3).double() / 0.1 + jf.DoubleWell(3).hessian(psi.gradient(x))
    # Where the potential is too concave the metric is made positive; not here.
    assert not torch.linalg.cholesky_ex(metric).info.any()
    torch.testing.assert_close(at(theta)[1] @ way, difference, rtol=1e-6, atol=1e-6)


def test_compiled_and_dense_second_derivatives_agree() -> None:
    x, psi, design = bent()
    inverse = torch.linalg.inv(psi.hessian(x))
    pulled, strained = (
        (psi.ridges.directions @ each).transpose(0, 1).contiguous() for each in (jf.DoubleWell(3).hessian(x), inverse)
    )
    dense = design._dense_products(pulled, strained, 0.5).permute(0, 2, 1, 3).reshape(40, 40)
    torch.testing.assert_close(design._products(pulled, strained, 0.5), dense, rtol=0, atol=1e-10)


def test_the_ridges_of_a_potential_are_found_and_none_where_it_has_none() -> None:
    chain = jf.Potential(lambda x: -torch.cos(x - torch.roll(x, 1, -1)).sum(-1) + 0.1 * x.square().sum(-1), 5)
    found = potential_ridges(chain, 2 * normals(400, 5))
    links = torch.nn.functional.normalize(torch.eye(5).double() - torch.eye(5).double().roll(1, 1), dim=1)
    assert len(found) == 5
    assert (found @ links.mT).abs().amax(1).min() > 1 - 1e-6
    assert (found @ links.mT).abs().amax(0).min() > 1 - 1e-6
    assert len(potential_ridges(jf.Potential(lambda x: (x.square().sum(-1) - 4).square(), 3), normals(400, 3))) == 0
    assert len(potential_ridges(jf.Quadratic(torch.zeros(3).double(), torch.eye(3).double()), normals(400, 3))) == 0


@pytest.mark.parametrize("dim", [2, 3, 4])
def test_directions_are_spread_evenly_enough_to_average_squares(dim: int) -> None:
    a = spread(24, dim)
    torch.testing.assert_close(a.mT @ a * dim / 24, torch.eye(dim).double(), rtol=0, atol=0.1)


def test_knots_follow_the_waves_of_the_velocity() -> None:
    x, weights = 2 * normals(2048, 2), torch.ones(2048, dtype=torch.float64)
    for waves, fewest, most in ((1.0, 24, 24), (5.0, 48, 72)):
        flow = Flow(x, torch.sin(waves * x), weights, 1e-2)
        chosen = resolving(flow, torch.eye(2).double(), 24, None)
        assert fewest <= chosen.cells <= most
        assert flow.fit(chosen).mean_square < 1e-2


def test_ridges_that_are_not_orthogonal_are_joined_by_their_sums_and_differences() -> None:
    x, eye = normals(2048, 5), torch.eye(5).double()
    flow = Flow(x, torch.sin(x), torch.ones(2048, dtype=torch.float64), 1e-2)
    straight = Ridges.spanning(x, eye, 16)
    assert crossed(flow, straight) is straight
    two = Ridges.spanning(x, torch.stack((eye[0], (eye[0] + eye[1]) / 2**0.5)), 16)
    joined = crossed(flow, two)
    # e_1 plus or minus (e_1 + e_2) / sqrt(2): at an eighth of a turn, at pi / 8 and 5 pi / 8.
    angle = torch.tensor([0.0, 2.0, 1.0, 5.0]).double() * torch.pi / 8
    around = torch.stack((angle.cos(), angle.sin()), 1)
    torch.testing.assert_close((joined.directions[:, :2] * around).sum(1).abs(), torch.ones(4).double())
    assert joined.cells == 24
    assert crossed(replace(flow, x=x[:80]), two) is two


def test_a_velocity_that_no_few_ridges_follow_is_refused_and_one_of_ridges_is_not() -> None:
    x = normals(2048, 6)
    pool = Pool(x, -0.5 * x.square().sum(-1), -x)
    waves = jf.Potential(lambda x: 6 * (2 * x).cos().prod(-1), 6)
    engine = RidgeEngine()
    with pytest.raises(jf.FilterError, match="miss .* of the velocity"):
        engine.require_captured(jf.LangevinSDE(waves), pool, 1.0)
    # In so short a time it adds next to nothing.
    engine.require_captured(jf.LangevinSDE(waves), pool, 1e-3)
    engine.require_captured(jf.LangevinSDE(jf.DoubleWell(6)), pool, 1.0)
