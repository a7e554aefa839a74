"""Every filter keeps the same habits: repeatable, without side effects, fed at once or step by step, kept on disk."""

from __future__ import annotations

import copy
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conformance import CASES, NAN, TIMES, VALUES, Case, gen, model_of_two_sensors, readings, result_of
from torch.distributions import Distribution

import jkofilter as jf


@pytest.fixture(scope="module", params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def case(name: str) -> Case:
    return CASES[name]


@pytest.fixture(scope="module")
def filter(case: Case) -> jf.Filter:
    return case.build(model_of_two_sensors())


@pytest.fixture(scope="module")
def result(name: str) -> jf.FilterResult:
    return result_of(name)


def _state(belief: jf.Belief) -> dict[str, object]:
    """Everything public in a belief, copied; what it is made of taken apart into tensors and numbers."""
    return copy.deepcopy(_parts(belief))


def _parts(thing: Any, name: str = "") -> dict[str, object]:
    if isinstance(thing, tuple):
        return {k: v for i, part in enumerate(thing) for k, v in _parts(part, f"{name}.{i}").items()}
    if is_dataclass(thing) or isinstance(thing, Distribution):
        public = {f.name for f in fields(thing)} if is_dataclass(thing) else {k for k in vars(thing) if k[0] != "_"}
        kind = {f"{name}.kind": type(thing).__name__}
        return kind | {k: v for part in public for k, v in _parts(getattr(thing, part), f"{name}.{part}").items()}
    return {name: thing}


def _same(a: dict[str, object], b: dict[str, object]) -> bool:
    def equal(u: object, v: object) -> bool:
        return torch.equal(u, v) if isinstance(u, torch.Tensor) and isinstance(v, torch.Tensor) else u == v

    return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)


def test_same_seed_same_result(filter: jf.Filter, result: jf.FilterResult) -> None:
    again = filter.run(readings(), until=3.5, seed=1, keep_beliefs=True)
    assert torch.equal(again.means, result.means)
    assert torch.equal(again.covariances, result.covariances)
    assert torch.equal(again.log_evidence, result.log_evidence)
    assert _same(_state(again.final), _state(result.final))


def test_seed_matters_only_where_chance_does(case: Case, filter: jf.Filter, result: jf.FilterResult) -> None:
    other = jf.run_filter(filter, readings(), until=3.5, seed=2)
    assert torch.equal(other.means, result.means) == (not (case.inflated or case.seeded))


def test_not_keeping_beliefs_changes_nothing(filter: jf.Filter, result: jf.FilterResult) -> None:
    lean = jf.run_filter(filter, readings(), until=3.5, seed=1)
    assert lean.beliefs == ()
    assert torch.equal(lean.means, result.means)
    assert _same(_state(lean.final), _state(result.final))


def test_track_equals_run(filter: jf.Filter, result: jf.FilterResult) -> None:
    tracker = filter.track(seed=1)
    for k, (time, y) in enumerate(zip(TIMES, VALUES, strict=True)):
        tracker.predict(time - tracker.belief.time)
        belief = tracker.update(y)
        assert torch.equal(belief.mean, result.means[k])
        assert torch.equal(belief.covariance, result.covariances[k])
        assert belief.log_evidence == result.log_evidence[k].item()
    tracker.predict(3.5 - tracker.belief.time)
    assert _same(_state(tracker.belief), _state(result.final))


def test_sampling_is_determined_by_its_generator(result: jf.FilterResult) -> None:
    belief = result.final
    assert torch.equal(belief.sample(50, gen(3)), belief.sample(50, gen(3)))
    assert not torch.equal(belief.sample(50, gen(3)), belief.sample(50, gen(4)))
    assert torch.equal(belief.sample(50), belief.sample(50))


def test_global_generators_are_untouched(filter: jf.Filter) -> None:
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    result = jf.run_filter(filter, readings(), until=3.2)
    result.final.sample(10)
    result.final.log_prob(torch.zeros(2, 1).double())
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_inputs_are_not_mutated(filter: jf.Filter) -> None:
    series = readings()
    times, values = series.times.clone(), series.values.clone()
    jf.run_filter(filter, series)
    assert torch.equal(series.times, times)
    np.testing.assert_array_equal(series.values.numpy(), values.numpy())
    belief = filter.init(gen())
    before = _state(belief)
    y = torch.tensor([0.5, NAN]).double()
    moved, _ = filter.predict(belief, 0.3, gen())
    assert _same(_state(belief), before)
    before = _state(moved)
    filter.update(moved, y, gen())
    assert _same(_state(moved), before)
    np.testing.assert_array_equal(y.numpy(), np.array([0.5, NAN]))


def test_missing_reading_is_no_update(filter: jf.Filter) -> None:
    belief, _ = filter.predict(filter.init(gen()), 0.2, gen())
    generator = gen(5)
    after, info = filter.update(belief, torch.tensor([NAN, NAN]).double(), generator)
    assert _same(_state(after), _state(belief))
    assert info.status == "skipped"
    assert info.log_evidence == 0.0
    assert torch.equal(generator.get_state(), gen(5).get_state())


def test_zero_duration_is_no_prediction(filter: jf.Filter) -> None:
    belief = filter.init(gen())
    after, info = filter.predict(belief, 0.0, gen())
    assert _same(_state(after), _state(belief))
    assert info.status == "skipped"


def test_evidence_is_the_sum_of_its_increments(result: jf.FilterResult) -> None:
    increments = np.cumsum([info.log_evidence for info in result.infos])
    np.testing.assert_allclose(result.log_evidence.numpy(), increments, rtol=1e-12, atol=1e-12)
    assert all(info.log_evidence == 0.0 for info in result.predict_infos)
    assert [info.status for info in result.infos] == ["ok", "ok", "skipped", "ok", "ok", "ok"]


def test_frame(result: jf.FilterResult) -> None:
    frame = result.to_frame()
    assert len(frame) == len(result)
    np.testing.assert_array_equal(frame["time"], TIMES)
    np.testing.assert_array_equal(frame["mean0"], result.means[:, 0])
    np.testing.assert_allclose(frame["sd0"] ** 2, result.covariances[:, 0, 0])
    np.testing.assert_array_equal(frame["log_evidence"], result.log_evidence)
    assert (frame["seconds"] >= 0).all()


def test_xarray(result: jf.FilterResult) -> None:
    pytest.importorskip("xarray")
    data = result.to_xarray(samples=6, seed=2)
    assert data["draws"].dims == ("time", "sample", "state")
    assert data["draws"].shape == (len(TIMES), 6, 1)
    np.testing.assert_array_equal(data["mean"], result.means)


def test_save_and_load(result: jf.FilterResult, tmp_path: Path) -> None:
    result.save(tmp_path / "result.pt")
    back = jf.FilterResult.load(tmp_path / "result.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["result.pt"]
    for name in ("times", "means", "covariances", "log_evidence"):
        assert torch.equal(getattr(back, name), getattr(result, name))
    assert back.infos == result.infos
    assert back.predict_infos == result.predict_infos
    assert len(back.beliefs) == len(result.beliefs)
    assert type(back.final) is type(result.final)
    assert _same(_state(back.final), _state(result.final))
    x = torch.linspace(-2, 2, 9).double().unsqueeze(-1)
    assert torch.equal(back.beliefs[2].log_prob(x), result.beliefs[2].log_prob(x))
    assert torch.equal(back.final.sample(5), result.final.sample(5))
