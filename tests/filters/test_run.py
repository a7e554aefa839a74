"""The driver where steps fail and are reported, and the files that hold its results."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import jkofilter as jf
from jkofilter.beliefs.base import Belief
from jkofilter.filters.base import Runnable


@dataclass(frozen=True)
class Shaky(Runnable):
    """A Kalman filter whose predictions into the time from ``low`` to ``high`` fail and are reported."""

    inner: jf.KalmanFilter
    low: float = 0.0
    high: float = 0.0

    @property
    def model(self) -> jf.StateSpaceModel:
        return self.inner.model

    def init(self, generator: torch.Generator) -> Belief:
        return self.inner.init(generator)

    def predict(self, belief: Belief, duration: float, generator: torch.Generator) -> tuple[Belief, jf.StepInfo]:
        if self.low < belief.time + duration < self.high:
            return belief, jf.StepInfo(status="the step stumbled.")
        return self.inner.predict(belief, duration, generator)

    def update(self, belief: Belief, y: torch.Tensor, generator: torch.Generator) -> tuple[Belief, jf.StepInfo]:
        return self.inner.update(belief, y, generator)


TIMES, VALUES = (0.5, 1.0, 1.5, 2.0), (0.3, -0.4, 1.0, 0.2)


def test_reading_after_a_failed_predict_is_left_out(ou_model: jf.StateSpaceModel) -> None:
    """Taken at the belief's earlier time it would be taken for a reading of another state."""
    kalman = jf.KalmanFilter(ou_model)
    result = Shaky(kalman, 0.9, 1.1).run(jf.ObservationSeries(TIMES, VALUES), keep_beliefs=True)
    assert result.status == "the step stumbled."
    assert result.to_frame()["status"].tolist() == ["ok", "the step stumbled.", "ok", "ok"]
    assert [info.status for info in result.infos] == ["ok", "the step stumbled.", "ok", "ok"]
    assert [belief.time for belief in result.beliefs] == [0.5, 0.5, 1.5, 2.0]
    # The rest is what it is without the second reading.
    without = kalman.run(jf.ObservationSeries(TIMES, (0.3, math.nan, 1.0, 0.2)))
    np.testing.assert_allclose(result.means[2:], without.means[2:], rtol=1e-12)
    np.testing.assert_allclose(result.covariances[2:], without.covariances[2:], rtol=1e-12)
    assert result.final.log_evidence == pytest.approx(without.final.log_evidence, abs=1e-12)
    assert result.log_evidence[1] == result.log_evidence[0]


def test_status_of_a_run(ou_model: jf.StateSpaceModel) -> None:
    series = jf.ObservationSeries([0.0, 0.5], [0.3, math.nan])
    assert jf.KalmanFilter(ou_model).run(series, until=1.0).status == "ok"
    late = Shaky(jf.KalmanFilter(ou_model), 0.9, 1.1).run(series, until=1.0)
    assert late.status == "the step stumbled."
    assert late.final.time == 0.5
    assert late.to_frame()["status"].tolist() == ["ok", "skipped"]


def test_jko_filter_under_report(ou_model: jf.StateSpaceModel) -> None:
    steep = jf.LangevinSDE(jf.Potential(lambda x: -x.pow(4).sum(-1), 1))
    model = jf.StateSpaceModel(ou_model.prior, steep, ou_model.observation)
    result = jf.JKOFilter(model, on_failure="report").run(jf.ObservationSeries([0.5], [0.3]))
    assert "potential" in result.to_frame()["status"][0]
    assert result.final.time == 0.0
    assert result.final.log_evidence == 0.0


@pytest.mark.parametrize("y", [None, "cold", [[1.0], [2.0, 3.0]], object()])
def test_tracker_refuses_what_is_no_reading(y: Any, ou_model: jf.StateSpaceModel) -> None:
    tracker = jf.KalmanFilter(ou_model).track()
    with pytest.raises(jf.InputError, match=r"^y must be .*\.$"):
        tracker.update(y)


def test_effective_sample_size_is_that_of_updates(ou_model: jf.StateSpaceModel) -> None:
    tracker = jf.ParticleFilter(ou_model, particles=100, ess_threshold=1.0, substep=0.05).track()
    tracker.update(2.0)
    assert tracker.info.ess is not None
    assert tracker.info.ess < 99
    tracker.predict(0.1)
    assert tracker.info.details["resampled"] == 1.0
    assert tracker.info.ess is None


@pytest.fixture
def saved(ou_model: jf.StateSpaceModel, tmp_path: Path) -> Path:
    file = tmp_path / "result.pt"
    jf.KalmanFilter(ou_model).run(jf.ObservationSeries([0.5], [0.3]), keep_beliefs=True).save(file)
    return file


def _cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def _zipped(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "nothing here")


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


SPOILERS = {
    "empty": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("time,mean\n0.5,0.1\n"),
    "noise": lambda file: file.write_bytes(np.random.default_rng(0).bytes(2000)),
    "cut short": _cut_short,
    "zip": _zipped,
    "folder": _folder,
    "tensor": lambda file: torch.save(torch.zeros(2), file),
    "list": lambda file: torch.save([1.0], file),
    "number": lambda file: torch.save(3, file),
    "other dictionary": lambda file: torch.save({"infos": [{"fields": {"colour": 1}}], "predict_infos": []}, file),
    "code": lambda file: torch.save(Shaky, file),
}


@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS.keys())
def test_files_that_hold_no_result(spoil: Any, saved: Path) -> None:
    spoil(saved)
    with pytest.raises(jf.InputError, match=r"^path .* is not a result written by FilterResult\.save\(\)\.$"):
        jf.FilterResult.load(saved)


def test_load_hides_no_fault_of_its_own(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a bad file can cause is taken for one; results from a GPU are read where there is none."""
    asked: dict[str, Any] = {}

    def broken(path: Any, **options: Any) -> None:
        asked.update(options)
        raise MemoryError

    monkeypatch.setattr(torch, "load", broken)
    with pytest.raises(MemoryError):
        jf.FilterResult.load(saved)
    assert asked == {"map_location": "cpu", "weights_only": True}
