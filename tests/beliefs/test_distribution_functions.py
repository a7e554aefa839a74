"""The distribution function of every belief: the inverse of its quantiles, and what ``metrics.pit`` asks for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm

import jkofilter as jf
from jkofilter.beliefs.benes import BenesBelief
from jkofilter.beliefs.gaussian import GaussianBelief
from jkofilter.beliefs.grid import GridBelief
from jkofilter.beliefs.grid_2d import GridBelief2D
from jkofilter.beliefs.nodal import NodalBelief
from jkofilter.beliefs.particle import ParticleBelief
from jkofilter.beliefs.product import ProductBelief
from jkofilter.beliefs.quantile import QuantileBelief
from jkofilter.errors import InputError
from jkofilter.numerics import metrics
from jkofilter.numerics.elements import Elements
from jkofilter.numerics.nodal_fit import fitted

F64 = torch.float64
CENTRES = np.linspace(-8.0, 8.0, 401)[:-1] + 0.02


def two_modes(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.logaddexp(math.log(0.3) + norm.logpdf(x, -1.0, 0.4), math.log(0.7) + norm.logpdf(x, 1.2, 0.6)))


def two_modes_below(x: float) -> float:
    return float(0.3 * norm.cdf(x, -1.0, 0.4) + 0.7 * norm.cdf(x, 1.2, 0.6))


def on_line() -> dict[str, Any]:
    log_density = torch.as_tensor(two_modes(CENTRES))
    plane = log_density[:, None] + torch.as_tensor(norm.logpdf(CENTRES, 0.5, 0.7))
    return {
        "quantile": QuantileBelief(0.0, torch.as_tensor(CENTRES), log_density),
        "grid": GridBelief(0.0, -8.0, 8.0, log_density),
        "grid-2d": GridBelief2D(0.0, (-8.0, -8.0), (8.0, 8.0), plane),
        "nodal": nodal(),
    }


def nodal() -> NodalBelief:
    elements = Elements(np.linspace(-7.0, 7.0, 57))
    masses = elements.weights * np.exp(two_modes(elements.nodes))
    return NodalBelief(0.0, torch.as_tensor(elements.edges), torch.as_tensor(masses))


def others() -> dict[str, Any]:
    draws = torch.randn(500, 1, dtype=F64, generator=torch.Generator().manual_seed(3))
    gaussian = GaussianBelief(0.0, torch.tensor([0.3], dtype=F64), torch.tensor([[2.0]], dtype=F64))
    one = torch.ones(1, 1, dtype=F64)
    return {
        "gaussian": gaussian,
        "benes": BenesBelief(0.0, torch.tensor([0.4], dtype=F64), one, 1.3),
        "benes-left": BenesBelief(0.0, torch.tensor([0.4], dtype=F64), one, -1.3),
        "particle": ParticleBelief(0.0, draws, torch.log_softmax(-draws[:, 0], 0)),
        "product": ProductBelief((gaussian,), one),
    }


@pytest.mark.parametrize("name", [*on_line(), *others()])
def test_levels_are_the_inverse_of_quantiles(name: str) -> None:
    belief = (on_line() | others())[name]
    tolerance = 1.1e-5 if name == "product" else 1e-9  # one of its hundred thousand draws
    # Below half the weight of the outermost particle there is one quantile for all levels.
    for q in (0.2, 0.5, 0.9) if name == "particle" else (1e-3, 0.2, 0.5, 0.9, 0.999):
        assert belief.cdf(belief.quantile(q)) == pytest.approx(q, abs=tolerance)


@pytest.mark.parametrize("name", list(on_line()))
@pytest.mark.parametrize("x", [-1.7, -0.3, 0.013, 2.9])
def test_levels_are_those_of_the_exact_law(name: str, x: float) -> None:
    # In cells of .04 the law is taken as exponential: its next term, h^2 / 12 times the curvature of the density. The
    # spline is off by h^4 / 384 times the fourth derivative of the logarithm, up to a hundred between the modes.
    spline, cells = 100 * 0.04**4 / 384, 3e-4
    # Polynomials of degree ten on elements of a quarter are exact but for rounding.
    tolerance = {"quantile": spline, "nodal": 1e-12}.get(name, cells)
    assert on_line()[name].cdf(x) == pytest.approx(two_modes_below(x), abs=tolerance)


def test_each_coordinate_has_its_own_levels() -> None:
    belief = GaussianBelief(0.0, torch.tensor([0.0, 5.0], dtype=F64), torch.diag(torch.tensor([1.0, 4.0], dtype=F64)))
    assert belief.cdf(1.0, 0) == pytest.approx(norm.cdf(1.0))
    assert belief.cdf(1.0, 1) == pytest.approx(norm.cdf(-2.0))
    assert on_line()["grid-2d"].cdf(0.5, 1) == pytest.approx(0.5, abs=3e-4)


@pytest.mark.parametrize("name", [*on_line(), *others()])
def test_pit_by_levels_is_pit_by_bisection(name: str) -> None:
    belief = (on_line() | others())[name]

    class OnlyQuantiles:
        dim = 1

        def quantile(self, q: float, coordinate: int = 0) -> float:
            return float(belief.quantile(q, coordinate))

    if name == "product":
        pytest.skip("a hundred thousand draws for each of the bisections")
    for x in (-1.1, 0.4, 1.9):
        by_levels = metrics._level(belief, x, 0)
        assert by_levels == pytest.approx(metrics.pit(OnlyQuantiles(), x).item(), abs=1e-9)


def test_beyond_all_particles_the_level_is_none_or_all() -> None:
    belief = others()["particle"]
    assert (belief.cdf(-50.0), belief.cdf(50.0)) == (0.0, 1.0)
    assert metrics.pit(belief, 50.0).item() == 1 - 1e-15


def test_levels_of_maps_are_those_of_their_pool() -> None:
    prior = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))
    belief = jf.solve_jko(prior, jf.LangevinSDE(jf.DoubleWell(2)), 0.02, 0.02, pool=300).final
    for q in (0.1, 0.77):
        assert belief.cdf(belief.quantile(q, 1), 1) == pytest.approx(q, abs=1e-12)


def test_no_level_of_nan_or_of_a_missing_coordinate() -> None:
    for belief in (on_line() | others()).values():
        with pytest.raises(InputError, match="x must not be NaN"):
            belief.cdf(math.nan)
        with pytest.raises(InputError, match="coordinate"):
            belief.cdf(0.0, 7)


def test_levels_beyond_the_elements_are_those_of_the_tails_or_of_walls() -> None:
    elements = Elements(np.linspace(-2.0, 2.0, 17))
    masses = elements.weights * norm.pdf(elements.nodes)
    edges, masses = torch.as_tensor(elements.edges), torch.as_tensor(masses)
    assert NodalBelief(0.0, edges, masses).cdf(-3.0) == pytest.approx(norm.cdf(-3.0), abs=1e-9)
    assert (NodalBelief(0.0, edges, masses).cdf(-60.0), NodalBelief(0.0, edges, masses).cdf(60.0)) == (0.0, 1.0)
    closed = NodalBelief(0.0, edges, masses, closed=True)
    assert (closed.cdf(-2.1), closed.cdf(2.1)) == (0.0, 1.0)
    assert closed.cdf(1.0) == pytest.approx((norm.cdf(1.0) - norm.cdf(-2.0)) / (1 - 2 * norm.cdf(-2.0)), abs=1e-9)


def test_a_law_that_ends_at_an_edge_is_not_continued_beyond_it() -> None:
    def exponential(x: np.ndarray) -> np.ndarray:
        return np.where((x >= 0.0) & (x <= 1.0), -x, -np.inf)

    (elements, masses), _ = fitted(exponential, -1.0, 3.0, (-math.inf, math.inf), 600)
    belief = NodalBelief(0.0, torch.as_tensor(elements.edges), torch.as_tensor(masses))
    exact = (1 - math.exp(-0.5)) / (1 - math.exp(-1.0))
    assert [belief.cdf(x) for x in (-1e-6, 0.5, 1.0 + 1e-6)] == pytest.approx([0.0, exact, 1.0], abs=1e-6)
    assert belief.log_prob(torch.tensor([[1.001]], dtype=F64)).item() < -50.0
