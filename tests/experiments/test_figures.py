"""Figures of runs against values worked out by hand: laws, costs and failures are written down, not computed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fixed_laws import MODEL, NORMAL, ONE, Fixed, scenario

import jkofilter as jf
from jkofilter.baselines import particle_flow
from jkofilter.experiments import runs
from jkofilter.experiments.flow_study import stationary_share
from jkofilter.experiments.sweep.runner import run_here
from jkofilter.models.motion import Moved

REFERENCE = Fixed(0.0, 1.0, gains=(-1.0, -2.0))
OTHER = Fixed(1.0, 4.0, gains=(-1.5, -2.0), ess=(40.0, 90.0))


def made(one: Any) -> dict[str, dict[str, Any]]:
    return {record["filter"]: record for record in run_here(one).records}


def test_a_filter_is_measured_against_the_reference_and_not_the_other_way_round() -> None:
    """The reference says N(0, 1) and log evidence -3, the filter N(1, 4) and -3.5."""
    (figures,) = made(scenario({"other": OTHER, "exact": REFERENCE}))["other"]["figures"]
    assert figures["time"] == 2.0
    assert figures["kl_reference"] == pytest.approx(0.5 * (math.log(4) + 2 / 4 - 1), abs=1e-9)
    assert figures["kl_filter"] == pytest.approx(0.5 * (-math.log(4) + 5 - 1), abs=1e-9)
    assert figures["mean_error"] == pytest.approx(1.0)
    assert figures["sd_ratio"] == pytest.approx(2.0)
    assert figures["log_evidence"] == -3.5
    assert figures["log_evidence_error"] == -0.5
    assert figures["least_ess"] == 40.0
    # log q - log p = x^2 3/8 + x/4 - 1/8 - log 2 of x ~ N(0, 1): mean -.443, variance .344; 4,000 draws give .012.
    expected = math.sqrt(0.34375 + (0.375 - 0.125 - math.log(2)) ** 2)
    assert figures["log_density_error"] == pytest.approx(expected, abs=0.05)


def test_the_reference_itself_has_evidence_and_no_errors() -> None:
    (figures,) = made(scenario({"other": OTHER, "exact": REFERENCE}))["exact"]["figures"]
    assert figures == {"time": 2.0, "log_evidence": -3.0}


# --- time ------------------------------------------------------------------------------------------------------------


@dataclass
class Clock:
    """Wall and processor time, s, that pass when told."""

    wall: float = 0.0
    processor: float = 0.0

    def takes(self, wall: float, processor: float) -> Callable[[], None]:
        def cost() -> None:
            self.wall += wall
            self.processor += processor

        return cost


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(runs, "perf_counter", lambda: clock.wall)
    monkeypatch.setattr(runs, "process_time", lambda: clock.processor)
    monkeypatch.setattr(particle_flow, "clock", SimpleNamespace(process_time=lambda: clock.processor))
    return clock


class Stubborn(jf.GaussianBelief):
    """A law that takes its time to be evaluated, and fails then."""

    cost: Callable[[], None]

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        self.cost()
        raise jf.FilterError("no density today.")


def stubborn(clock: Clock) -> Stubborn:
    law = Stubborn(2.0, ONE[0], ONE)
    object.__setattr__(law, "cost", clock.takes(1000.0, 1000.0))
    return law


def test_times_are_of_the_run_alone_also_where_judging_fails(clock: Clock) -> None:
    class Stumbling(Fixed):
        def law(self, time: float, log_evidence: float) -> jf.GaussianBelief:
            return stubborn(clock)

    costly = Stumbling(1.0, 4.0, cost=clock.takes(7.0, 3.0))
    record = made(scenario({"costly": costly, "exact": REFERENCE}))["costly"]
    assert record["status"] == "cannot be compared with the reference: no density today."
    assert (record["seconds"], record["processor_seconds"]) == (14.0, 6.0)

    def method(case: jf.FlowCase, seed: int, seconds: float) -> jf.Carried:
        clock.takes(7.0, 3.0)()
        return jf.Carried(lambda time: stubborn(clock))

    case = jf.FlowCase("one", NORMAL, MODEL.sde, (2.0,), samples=10)
    record = made(jf.FlowStudy("flow", [case], {"costly": method}))["costly"]
    assert record["status"] == "cannot be judged: no density today."
    assert (record["seconds"], record["processor_seconds"]) == (7.0, 3.0)


def sized(clock: Clock, asked: list[int], **more: Any) -> Callable[[Any, int], Fixed]:
    """A filter whose particles take a millisecond of processor time each and reading."""

    def make(model: Any, n: int) -> Fixed:
        asked.append(n)
        return Fixed(1.0, 4.0, cost=clock.takes(n * 1e-2, n * 1e-3), particles=n, **more)

    return make


def test_a_matched_filter_gets_as_many_particles_as_fit_into_the_leads_processor_time(clock: Clock) -> None:
    """The lead takes 2 x 5 s; 2,000 particles take 4: 5,000 fit. Its wall time, 2 x 70 s, says nothing."""
    lead, asked = Fixed(1.0, 4.0, cost=clock.takes(70.0, 5.0)), list[int]()
    one = scenario({"lead": lead, "exact": REFERENCE}, matched={"same time": sized(clock, asked)})
    record = made(one)["same time"]
    assert asked == [2000, 5000]
    assert record["remark"] == "5000 particles"
    assert record["settings"]["particles"] == 5000
    assert record["processor_seconds"] == pytest.approx(10.0)


def test_particles_of_a_flow_get_the_first_methods_processor_time(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A particle's step takes a microsecond, the way 50 of them, the first method 1.5 s: 30,000 particles."""

    def moved(sde: Any, x: torch.Tensor, duration: float, generator: Any, substep: float) -> Moved:
        clock.takes(0.0, 1e-6 * len(x) * round(duration / substep))()
        return Moved(x, round(duration / substep), 0, 0.0)

    def lead(case: jf.FlowCase, seed: int, seconds: float) -> jf.Carried:
        assert seconds == 0.0
        clock.takes(40.0, 1.5)()
        return jf.Carried(lambda time: jf.GaussianBelief(time, 0 * ONE[0], ONE))

    monkeypatch.setattr(particle_flow, "move", moved)
    assert particle_flow.affordable_particles(NORMAL, MODEL.sde, 0.5, 0.01, 6.0) == pytest.approx(120_000)
    case = jf.FlowCase("one", NORMAL, MODEL.sde, (0.5,), samples=20)
    records = made(jf.FlowStudy("flow", [case], {"lead": lead, "particles": jf.particles(0.01)}))
    count, word = records["particles"]["remark"].split()
    assert (int(count), word) == (pytest.approx(30_000, abs=1), "particles")


# --- what failed -----------------------------------------------------------------------------------------------------


def test_a_reference_that_failed_and_said_so_is_no_yardstick() -> None:
    broken = Fixed(0.0, 1.0, status="stumbled.")
    records = made(scenario({"other": OTHER, "exact": broken}))
    assert records["exact"]["status"] == "stumbled."
    assert records["other"]["status"].startswith("not compared: the run of its reference, exact, failed")
    assert set(records["other"]["figures"][0]) == {"time", "log_evidence", "least_ess"}


@pytest.mark.parametrize("raises", [False, True])
def test_a_trial_that_failed_sizes_nothing(clock: Clock, raises: bool) -> None:
    def fail() -> None:
        raise jf.FilterError("stumbled.")

    asked = list[int]()

    def make(model: Any, n: int) -> Fixed:
        asked.append(n)
        return Fixed(1.0, 4.0, cost=fail if raises else lambda: None, status="stumbled.", particles=n)

    lead = Fixed(1.0, 4.0, cost=clock.takes(5.0, 5.0))
    record = made(scenario({"lead": lead, "exact": REFERENCE}, matched={"same time": make}))["same time"]
    assert record["status"] == "not run: its trial with 2000 particles failed: stumbled."
    assert asked == [2000]
    assert (record["seconds"], record["figures"]) == (None, [])


def test_without_the_lead_a_matched_filter_is_recorded_as_not_run(clock: Clock) -> None:
    asked = list[int]()
    lead = Fixed(1.0, 4.0, status="stumbled.")
    records = made(scenario({"lead": lead, "exact": REFERENCE}, matched={"same time": sized(clock, asked)}))
    assert list(records) == ["exact", "lead", "same time"]
    assert records["same time"]["status"].startswith("not run: the filter that sets its processor time failed")
    assert asked == []


# --- flows -----------------------------------------------------------------------------------------------------------


def test_the_stationary_share_weighs_by_beta() -> None:
    """V = x^2/2 and beta 2: exp(-beta V) is N(0, 1/2), whose own draws all weigh the same."""
    sde = jf.LangevinSDE(jf.Quadratic([0.0], [[1.0]]), beta=2.0)
    case = jf.FlowCase("one", NORMAL, sde, (1.0,), samples=20_000)
    own = jf.GaussianBelief(1.0, 0 * ONE[0], 0.5 * ONE)
    assert stationary_share(case, own) == pytest.approx(1.0, abs=1e-9)
    # Draws of N(0, 1) weigh exp(-x^2/2): their mean is 2^-1/2, that of their squares 3^-1/2.
    wide = jf.GaussianBelief(1.0, 0 * ONE[0], ONE)
    assert stationary_share(case, wide) == pytest.approx(3**0.5 / 2, abs=0.01)


def test_laws_are_held_against_the_exact_one_each_way() -> None:
    def method(case: jf.FlowCase, seed: int, seconds: float) -> jf.Carried:
        return jf.Carried(lambda time: jf.GaussianBelief(time, time * ONE[0], 4 * ONE), "a remark")

    exact = lambda time: jf.GaussianBelief(time, 0 * ONE[0], ONE)  # noqa: E731
    case = jf.FlowCase("one", NORMAL, MODEL.sde, (1.0, 2.0), exact=exact, stationary=exact(9.0))
    record = made(jf.FlowStudy("flow", [case], {"it": method}))["it"]
    assert record["remark"] == "a remark"
    for figures, time in zip(record["figures"], (1.0, 2.0), strict=True):
        forth = 0.5 * (math.log(4) + (1 + time**2) / 4 - 1)
        back = 0.5 * (-math.log(4) + 4 + time**2 - 1)
        assert figures["time"] == time
        assert figures["kl_exact"] == pytest.approx(forth, abs=1e-9)
        assert figures["kl_method"] == figures["kl_stationary"] == pytest.approx(back, abs=1e-9)
        assert figures["symmetric_kl"] == pytest.approx(forth + back, abs=1e-9)


def test_a_projection_shows_the_law_at_the_end() -> None:
    eye = torch.eye(2, dtype=torch.float64)
    sde = jf.LangevinSDE(jf.Quadratic([0.0, 0.0], eye))
    prior = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=torch.float64), eye)
    stationary = jf.GaussianBelief(9.0, 0 * eye[0], torch.diag(torch.tensor([4.0, 1.0]).double()))

    def method(case: jf.FlowCase, seed: int, seconds: float) -> jf.Carried:
        return jf.Carried(lambda time: jf.GaussianBelief(time, 100 * time * eye[0], 1e-6 * eye))

    case = jf.FlowCase("plane", prior, sde, (1.0, 3.0), stationary=stationary, samples=100)
    study = jf.FlowStudy("flow", [case], {"it": method}, projections=("plane",))
    ran = run_here(study)
    figure = study.exhibits(ran.kept, ran.seed)["projection_2"]
    _, panel, _ = figure.axes
    assert panel.get_title() == "it, t = 3"
    # The first principal component of the stationary law is the first coordinate.
    assert abs(panel.lines[0].get_xdata()).mean() == pytest.approx(300, abs=0.1)
    assert abs(panel.lines[0].get_ydata()).mean() < 10
