"""Elements, eigenbases, and laws on elements, against closed forms."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from jkofilter.numerics.eigenbasis import Eigenbasis
from jkofilter.numerics.elements import DEGREE, NODES, WEIGHTS, Elements, lagrange
from jkofilter.numerics.nodal_fit import fitted
from jkofilter.numerics.nodal_law import NodalLaw
from jkofilter.numerics.reversible_line import ReversibleLine

INFINITE = (-math.inf, math.inf)


def basis_of(log_speed, low, high, count=24):
    elements = Elements(np.linspace(low, high, count + 1))
    return Eigenbasis.of(elements, log_speed(elements.nodes), np.ones(elements.size))


def test_quadrature_is_exact_for_polynomials():
    for power in range(2 * DEGREE):
        assert WEIGHTS @ NODES**power == pytest.approx(0.0 if power % 2 else 2.0 / (power + 1), abs=1e-14)


def test_deposits_keep_integrals_of_polynomials():
    elements = Elements(np.array([-1.0, 0.2, 0.5, 2.0]))
    x, masses = np.array([-0.9, 0.3, 0.31, 1.9]), np.array([0.1, 0.4, 0.3, 0.2])
    for power in (0, 1, DEGREE):
        # On one element a polynomial; across elements one polynomial is one on each.
        assert elements.deposited(x, masses) @ elements.nodes**power == pytest.approx(masses @ x**power, rel=1e-12)
    assert lagrange(NODES) == pytest.approx(np.eye(DEGREE + 1), abs=0)


def test_ornstein_uhlenbeck_moves_exactly():
    basis = basis_of(lambda x: -0.5 * x**2, -10.0, 10.0, 40)
    assert basis.rates[:6] == pytest.approx(np.arange(6), abs=1e-9)
    x, weights = basis.elements.nodes, basis.elements.weights
    for duration in (1e-3, 0.3, 50.0):
        after = basis.later(weights * norm.pdf(x, 1.0, 0.5), duration)
        decay = math.exp(-duration)
        exact = norm.pdf(x, decay, math.sqrt(0.25 * decay**2 + 1.0 - decay**2))
        assert after / weights == pytest.approx(exact, abs=1e-9)
        assert basis.transition(duration) @ (weights * norm.pdf(x, 1.0, 0.5)) == pytest.approx(after, abs=1e-14)


def test_detailed_balance_stationarity_and_mass_to_rounding():
    basis = basis_of(lambda x: -((x * x - 1) ** 2), -2.6, 2.6, 16)
    flow = basis.transition(0.2) * basis.masses
    assert np.abs(flow - flow.T).max() < 1e-15
    assert basis.transition(0.2) @ basis.masses == pytest.approx(basis.masses, abs=1e-14)
    assert basis.transition(0.2).sum(0) == pytest.approx(np.ones(basis.elements.size), abs=1e-9)


def test_two_steps_are_one_of_their_sum():
    basis = basis_of(lambda x: -((x * x - 1) ** 2), -2.6, 2.6, 16)
    assert basis.transition(0.1) @ basis.transition(0.3) == pytest.approx(basis.transition(0.4), abs=1e-10)


@pytest.mark.parametrize("barrier", [5.0, 20.0, 30.0])
def test_rates_over_high_barriers_are_those_of_the_mean_first_passage(barrier):
    """Twice the rate of escape from either well: 2 / T, T = int exp(V) over the barrier times the mass of a well.

    To the order of 1 / barrier, by quadrature of Kramers's integrals.
    """
    x = np.linspace(-1.7, 1.7, 20_001)
    v = barrier * (x * x - 1) ** 2
    well = np.trapezoid(np.exp(-v) * (x > 0), x)
    over = np.trapezoid(np.exp(v)[np.abs(x) < 1], x[np.abs(x) < 1])
    basis = basis_of(lambda x: -barrier * (x * x - 1) ** 2, -1.7, 1.7, 40)
    assert basis.rates[1] == pytest.approx(2.0 / (well * over), rel=1.0 / barrier)


def test_elements_follow_powers_at_walls_and_kinks():
    gamma = ReversibleLine(lambda x: 1.5 * np.log(x) - 2.0 * x, lambda x: x, 0.0, math.inf, 600)
    basis = gamma.basis(*gamma.confined(1.0, 1.0), 0)
    # dX = (2.5 - 2 X) dt + sqrt(2 X) dW: the modes are Laguerre polynomials, with rates 2 k.
    assert basis.rates[:4] == pytest.approx(2.0 * np.arange(4), abs=1e-6)
    laplace = ReversibleLine(lambda x: -np.abs(x), np.ones_like, *INFINITE, 600)
    low, high = laplace.confined(0.3, 1.0)
    # On an interval so much wider than the law the continuum begins at 1/4.
    assert laplace.basis(low, high, 0).rates[1] == pytest.approx(0.25 + (math.pi / (high - low) * 2) ** 2, abs=5e-3)


def test_a_speed_density_without_mass_has_no_home():
    flat = ReversibleLine(lambda x: 0.0 * x, np.ones_like, *INFINITE, 600)
    assert flat.confined(0.0, 1.0) == INFINITE


def test_fitted_laws_find_sharp_peaks_between_nodes():
    def log_density(x):
        return np.logaddexp(norm.logpdf(x, 0.123, 1e-5), norm.logpdf(x, -0.777, 1e-5)) - math.log(2)

    law, total = fitted(log_density, -3.0, 3.0, INFINITE, 600)
    assert total == pytest.approx(0.0, abs=1e-8)
    assert law.masses @ law.elements.nodes == pytest.approx(0.5 * (0.123 - 0.777), abs=1e-9)


def test_laws_on_elements_evaluate_continue_and_invert():
    law, _ = fitted(lambda x: norm.logpdf(x, 0.4, 0.7), -2.0, 2.0, INFINITE, 600)
    nodal = NodalLaw(law.elements, law.masses, *INFINITE)
    x = np.array([-9.0, -1.0, 0.3, 2.0, 15.0])
    assert nodal.log_density(x) == pytest.approx(norm.logpdf(x, 0.4, 0.7), rel=1e-7)
    u = np.array([1e-6, 0.025, 0.5, 0.9])
    assert nodal.inverse(u) == pytest.approx(norm.ppf(u, 0.4, 0.7), abs=1e-7)


def test_walls_and_nan():
    law, _ = fitted(lambda x: -x, 0.0, 60.0, (0.0, math.inf), 600)
    value = NodalLaw(law.elements, law.masses, 0.0, math.inf).log_density(np.array([-0.1, 0.0, 2.0, np.nan]))
    assert value[0] == -math.inf
    assert value[1:3] == pytest.approx([0.0, -2.0], abs=1e-8)
    assert np.isnan(value[3])
