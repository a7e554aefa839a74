"""Stalls on the line: bounded work and the right values, or an early error whose cure works.

Issue 14, kinds 8 and 11.
"""

from __future__ import annotations

import math
import time as clock
from collections.abc import Callable

import pytest
import torch
from line_problems import chain_law, gen, model_of, normal, predicted, quantile_of
from torch import Tensor

import jkofilter as jf

# --- stalls ----------------------------------------------------------------------------------------------------------

KINKS: dict[str, tuple[Callable[[Tensor], Tensor], float, float, float, tuple[float, float]]] = {
    "2|x|": (lambda x: 2 * x.abs(), 1.5, 0.5, 0.2, (-5.0, 6.0)),
    "relu": (lambda x: x * x / 2 + 3 * torch.relu(x - 0.5), 1.0, 0.0, 1.0, (-8.0, 6.0)),
    "huber": (lambda x: torch.where(x.abs() < 1, x * x / 2, x.abs() - 0.5), 1.0, 0.0, 1.0, (-11.0, 11.0)),
}


@pytest.mark.parametrize("name", KINKS)
def test_kinked_potentials_are_right_and_quick(name: str) -> None:
    """One unit of time, within ten seconds of one processor where 170 s were not enough."""
    function, beta, mean, variance, box = KINKS[name]
    x, masses = chain_law(function, beta, mean, variance, 1.0, box, 2400)
    centre = float(masses @ x)
    sd = math.sqrt(masses @ (x - centre) ** 2)
    start = clock.process_time()
    belief = predicted(jf.JKOFilter(model_of(function, beta, mean, variance)), 1.0)
    assert clock.process_time() - start < 10
    assert belief.mean.item() == pytest.approx(centre, abs=1e-3 * sd)
    assert math.sqrt(belief.covariance.item()) == pytest.approx(sd, rel=1e-3)
    assert belief.quantile(0.001) == pytest.approx(quantile_of(x, masses, 0.001), abs=0.01)


@pytest.mark.slow
def test_a_needle_of_a_well_is_followed_with_more_nodes() -> None:
    """A well of four kT, a hundredth of a deviation wide."""

    def function(x: Tensor) -> Tensor:
        return x * x / 2 - 4 * torch.exp(-0.5 * ((x - 1) / 0.01) ** 2)

    x, masses = chain_law(function, 1.0, 0.0, 1.0, 1.0, (-6.0, 6.0), 4000)
    belief = predicted(jf.JKOFilter(model_of(function, 1.0, 0.0, 1.0)), 1.0)
    assert belief.mean.item() == pytest.approx(float(masses @ x), abs=3e-3)


HOPELESS: dict[str, tuple[Callable[[Tensor], Tensor], float, float, float, str, dict]] = {
    "log barriers": (
        lambda x: -torch.log(x) - torch.log(3 - x),
        1.0,
        1.5,
        0.04,
        r"not finite at x = .*GridFilter\(model, bounds",
        {"bounds": (1e-3, 3 - 1e-3)},
    ),
    "square root diffusion": (
        lambda x: -1.5 * torch.log(x) + x,
        1.0,
        2.0,
        0.1,
        r"not finite at x = .*GridFilter\(model, bounds",
        {"bounds": (1e-3, 15.0)},
    ),
    "cubic escape": (
        lambda x: x * x / 2 - x**3 / 6,
        2.0,
        0.0,
        0.2,
        r"runs off to infinity.*GridFilter\(model, bounds",
        {"bounds": (-5.0, 3.0)},
    ),
    "quartic escape": (
        lambda x: -(x**4),
        1.0,
        0.0,
        1.0,
        r"runs off to infinity.*GridFilter\(model, bounds",
        {"bounds": (-2.0, 2.0)},
    ),
    "jump": (
        lambda x: torch.where(x > 0.3, x * x + 5.0, x * x),
        1.0,
        0.0,
        1.0,
        r"jumps by 5 at x = 0\.3.*GridFilter\(",
        {},
    ),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_what_the_line_cannot_follow_is_an_early_error_whose_cure_works(name: str) -> None:
    function, beta, mean, variance, words, cure = HOPELESS[name]
    # Where the origin is no state, potentials are probed elsewhere than here.
    model = model_of(lambda x: torch.nan_to_num(function(x), nan=math.inf), beta, mean, variance)
    filter = jf.JKOFilter(model)
    start = clock.process_time()
    with pytest.raises(jf.FilterError, match=words) as caught:
        filter.predict(filter.init(gen()), 1.0, gen())
    assert clock.process_time() - start < 5
    assert str(caught.value).startswith("predicting from time 0: ")
    grid = jf.GridFilter(model, **cure)
    belief, _ = grid.predict(grid.init(gen()), 1.0, gen())
    assert math.isfinite(belief.mean.item())


def test_a_narrow_barrier_ends_in_bounded_work_with_the_grid_as_cure() -> None:
    def function(x: Tensor) -> Tensor:
        return x * x / 2 + 5 * torch.exp(-0.5 * (x / 0.02) ** 2)

    model = model_of(function, 1.0, -1.0, 0.2)
    filter = jf.JKOFilter(model)
    start = clock.process_time()
    try:
        belief, _ = filter.predict(filter.init(gen()), 1.0, gen())
    except jf.FilterError as error:
        assert "GridFilter(model) can carry it" in str(error)  # noqa: PT017
        grid = jf.GridFilter(model)
        belief, _ = grid.predict(grid.init(gen()), 1.0, gen())
    assert clock.process_time() - start < 40
    x, masses = chain_law(function, 1.0, -1.0, 0.2, 1.0, (-6.0, 5.0), 4000)
    assert belief.mean.item() == pytest.approx(float(masses @ x), abs=3e-3)


# --- cost ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [80, 400])
def test_a_looser_tolerance_takes_fewer_steps_and_iterations_on_any_mesh(nodes: int) -> None:
    """At 1e-2 at least three times fewer of both than at the usual 3e-4, and the evidence within 1e-3 nats."""
    model = jf.StateSpaceModel(
        normal(0.0, 1.0), jf.LangevinSDE(jf.SineQuadratic(1)), jf.LinearGaussian([[1.0]], [[1.0]])
    )
    series = jf.ObservationSeries([0.5, 1.0, 1.5, 2.0], [0.3, -1.2, 0.8, 0.1])
    usual, loose = (
        jf.JKOFilter(model, nodes=n, **kw).run(series) for n, kw in ((400, {}), (nodes, {"tolerance": 1e-2}))
    )
    for count in ("steps", "newton_iterations"):
        total, less = (sum(info.details[count] for info in run.predict_infos) for run in (usual, loose))
        assert less < 0.4 * total
    assert loose.log_evidence[-1].item() == pytest.approx(usual.log_evidence[-1].item(), abs=1e-3)
