"""Small work runs on one thread of torch, whatever the caller allows, and leaves the caller's number as it was."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

import jkofilter as jf
from jkofilter.baselines.dual_jko import DualSettings, solve_dual_jko
from jkofilter.baselines.particle_flow import affordable_particles, solve_particles
from jkofilter.baselines.svgd import svgd
from jkofilter.experiments.sweep.runner import run_here
from jkofilter.numerics import threads
from jkofilter.numerics.mixtures import mixture_log_prob
from jkofilter.numerics.threads import LARGE, in_threads, one_thread, threads_for

ALLOWED = 3
WAIT = 30.0


@pytest.fixture(autouse=True)
def allowed() -> Iterator[None]:
    """The caller allows three threads, and finds three afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(ALLOWED)
    yield
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert after == ALLOWED


def test_small_work_has_one_thread_and_large_work_what_the_caller_allows() -> None:
    for size, expected in ((0, 1), (LARGE - 1, 1), (LARGE, ALLOWED)):
        with threads_for(size):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == ALLOWED


def test_the_number_is_back_when_the_work_raises() -> None:
    with pytest.raises(ZeroDivisionError), one_thread():
        _ = 1 / 0
    assert torch.get_num_threads() == ALLOWED


def test_blocks_within_blocks_go_by_the_caller_of_the_outermost() -> None:
    with one_thread():
        with threads_for(LARGE):
            assert torch.get_num_threads() == ALLOWED
            with one_thread():
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == ALLOWED
        assert torch.get_num_threads() == 1
    torch.set_num_threads(2)
    with one_thread(), threads_for(LARGE):
        assert torch.get_num_threads() == 2
    torch.set_num_threads(ALLOWED)


def test_other_threads_keep_their_own_numbers() -> None:
    seen: dict[str, int] = {}
    set_own, inside, left = threading.Event(), threading.Event(), threading.Event()

    def other() -> None:
        torch.set_num_threads(2)
        # Asking is what makes a number a thread's own.
        assert torch.get_num_threads() == 2
        set_own.set()
        assert inside.wait(WAIT)
        seen["while another is inside"] = torch.get_num_threads()
        with one_thread():
            seen["inside"] = torch.get_num_threads()
            left.set()
        seen["after"] = torch.get_num_threads()

    with ThreadPoolExecutor(1) as elsewhere:
        running = elsewhere.submit(other)
        assert set_own.wait(WAIT)
        with one_thread():
            inside.set()
            assert left.wait(WAIT)
            running.result(WAIT)
            assert torch.get_num_threads() == 1
    assert seen == {"while another is inside": 2, "inside": 1, "after": 2}


def test_blocks_of_work_are_shared_among_all_that_the_caller_allows_each_on_one_thread() -> None:
    together = threading.Barrier(ALLOWED, timeout=WAIT)

    def work(_: int) -> int:
        together.wait()
        return torch.get_num_threads()

    with one_thread():
        assert in_threads(work, range(ALLOWED)) == [1] * ALLOWED


def test_within_one_allowed_thread_nothing_is_shared() -> None:
    torch.set_num_threads(1)
    with one_thread():
        assert set(in_threads(lambda _: threading.get_ident(), range(4))) == {threading.get_ident()}
    torch.set_num_threads(ALLOWED)


class Watched(jf.Potential):
    """A parabola that notes the number of threads wherever it is asked for its gradient."""

    def __init__(self, dim: int) -> None:
        self.seen: set[int] = set()
        super().__init__(self._value, dim)
        self.seen.clear()

    def _value(self, x: Tensor) -> Tensor:
        self.seen.add(torch.get_num_threads())
        return 0.5 * x.square().sum(-1)


class Failing:
    """A sensor whose second reading cannot be judged."""

    broken = False

    def log_likelihood(self, y: Tensor, x: Tensor) -> Tensor:
        return torch.full((len(x),), torch.nan if self.broken else 0.0, dtype=x.dtype)

    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x


def normal(dim: int) -> torch.distributions.MultivariateNormal:
    return torch.distributions.MultivariateNormal(torch.zeros(dim).double(), torch.eye(dim).double())


def model_of(potential: jf.Potential, observation: Any = None) -> jf.StateSpaceModel:
    eye = torch.eye(potential.dim).double()
    return jf.StateSpaceModel(
        normal(potential.dim), jf.LangevinSDE(potential), observation or jf.LinearGaussian(eye, eye)
    )


def readings(dim: int) -> jf.ObservationSeries:
    return jf.ObservationSeries(torch.tensor([0.01, 0.02]).double(), torch.zeros(2, dim).double())


def runs(watched: Watched) -> dict[str, Callable[[], Any]]:
    model, sde, prior = model_of(watched), jf.LangevinSDE(watched), normal(watched.dim)
    particles = jf.ParticleFilter(model, particles=100)
    settings = DualSettings(points=40)
    return {
        "run_filter": lambda: jf.run_filter(particles, readings(2)),
        "jko": lambda: jf.run_filter(jf.JKOFilter(model, pool=64, step=0.02), readings(2)),
        "track, predict": lambda: particles.track().predict(0.01),
        "solve_jko": lambda: jf.solve_jko(prior, sde, 0.01, pool=64),
        "simulate": lambda: jf.simulate(model, torch.tensor([0.01]).double()),
        "particle flow": lambda: solve_particles(prior, sde, [0.01], particles=100),
        "particles timed": lambda: affordable_particles(prior, sde, 1.0, 1e-3, 1.0),
        "dual": lambda: solve_dual_jko(prior, sde, 0.05, settings=settings),
        "svgd": lambda: svgd(lambda x: -watched(x), torch.eye(2).double(), steps=2),
    }


@pytest.mark.parametrize("name", runs(Watched(2)))
def test_runs_of_small_work_have_one_thread(name: str) -> None:
    watched = Watched(2)
    run = runs(watched)[name]
    # Settings are tried on the model when they are made, by the caller.
    watched.seen.clear()
    run()
    assert watched.seen == {1}


def test_runs_are_judged_on_one_thread() -> None:
    seen: set[int] = set()

    class Noting(jf.GaussianBelief):
        def log_prob(self, x: Tensor) -> Tensor:
            seen.add(torch.get_num_threads())
            return super().log_prob(x)

    class Remembered(jf.GridFilter):
        def update(self, *arguments: Any) -> Any:
            belief, info = super().update(*arguments)
            return Noting(belief.time, belief.mean, belief.covariance, belief.log_evidence), info

    scenario = jf.Scenario(
        name="judged",
        model=model_of(jf.DoubleWell(1)),
        times=[0.01],
        filters={"grid": jf.GridFilter, "noting": Remembered},
        reference="grid",
    )
    ran = run_here(scenario, threads=ALLOWED, keep=False)
    assert [record["status"] for record in ran.records] == ["ok", "ok"]
    assert seen == {1}


def test_beliefs_start_and_readings_are_taken_in_on_one_thread() -> None:
    seen: list[int] = []

    class Noting(jf.ParticleFilter):
        def init(self, generator: torch.Generator) -> Any:
            seen.append(torch.get_num_threads())
            return super().init(generator)

        def update(self, *arguments: Any) -> Any:
            seen.append(torch.get_num_threads())
            return super().update(*arguments)

    Noting(model_of(jf.DoubleWell(1)), particles=10).track().update(0.0)
    assert seen == [1, 1]


def test_moments_of_a_run_are_taken_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def mean(belief: jf.ParticleBelief) -> Tensor:
        seen.append(torch.get_num_threads())
        return belief.particles.mean(0)

    monkeypatch.setattr(jf.ParticleBelief, "mean", property(mean))
    jf.run_filter(jf.ParticleFilter(model_of(jf.DoubleWell(1)), particles=10), readings(1))
    assert seen
    assert set(seen) == {1}


def test_a_filter_that_fails_leaves_the_callers_number() -> None:
    sensor = Failing()
    failing = model_of(jf.DoubleWell(1), sensor)
    sensor.broken = True
    with pytest.raises(jf.FilterError):
        jf.run_filter(jf.ParticleFilter(failing, particles=10), readings(1))
    assert torch.get_num_threads() == ALLOWED


@pytest.mark.parametrize(("pool", "expected"), [(64, {1}), (65, {1, ALLOWED})])
def test_steps_of_large_pools_take_what_the_caller_allows(
    monkeypatch: pytest.MonkeyPatch, pool: int, expected: set[int]
) -> None:
    monkeypatch.setattr(threads, "LARGE", 65 * 2 * 2)
    watched = Watched(2)
    jf.solve_jko(normal(2), jf.LangevinSDE(watched), 0.01, pool=pool)
    assert watched.seen == expected


def test_sums_do_not_depend_on_how_many_threads_are_allowed() -> None:
    # More than 32,768 numbers: torch's threads share their sums, and round them otherwise.
    x = torch.randn(50_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for number in (1, 2):
        torch.set_num_threads(number)
        with one_thread():
            found.append(torch.stack([x.sum(), x.var(), x @ x]))
    torch.set_num_threads(ALLOWED)
    assert torch.equal(*found)


def test_mixtures_shared_out_among_threads_are_those_of_one() -> None:
    generator = torch.Generator().manual_seed(0)
    x, means = (torch.randn(n, 2, generator=generator, dtype=torch.float64) for n in (50, 100_000))
    log_weights = torch.full((len(means),), 1 / len(means), dtype=torch.float64).log()
    found = []
    for number in (1, 2):
        torch.set_num_threads(number)
        with one_thread():
            found.append(mixture_log_prob(x, means, log_weights, 0.3))
    torch.set_num_threads(ALLOWED)
    assert torch.equal(*found)
    assert mixture_log_prob(x[:0], means, log_weights, 0.3).shape == (0,)
