"""What a run tells of itself: notes of predicts and updates, and what little errors come to together."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch
from filter_problems import EYE, NAN, ZERO, gen, normals, seen
from torch import Tensor

import jkofilter as jf
from jkofilter.beliefs.base import Belief
from jkofilter.filters import jko_pool
from jkofilter.filters.base import Runnable
from jkofilter.transport.time_steps import WORTH_A_NOTE


@dataclass(frozen=True)
class Telling(Runnable):
    """A Kalman filter whose steps tell what they are told to, by the time at which they end."""

    inner: jf.KalmanFilter
    predicts: dict[float, jf.StepInfo] = field(default_factory=dict)
    updates: dict[float, jf.StepInfo] = field(default_factory=dict)

    @property
    def model(self) -> jf.StateSpaceModel:
        return self.inner.model

    def init(self, generator: torch.Generator) -> Belief:
        return self.inner.init(generator)

    def predict(self, belief: Belief, duration: float, generator: torch.Generator) -> tuple[Belief, jf.StepInfo]:
        after, info = self.inner.predict(belief, duration, generator)
        told = self.predicts.get(after.time, info)
        return (after if told.status == "ok" else belief), told

    def update(self, belief: Belief, y: Tensor, generator: torch.Generator) -> tuple[Belief, jf.StepInfo]:
        after, info = self.inner.update(belief, y, generator)
        return after, self.updates.get(after.time, info)


SERIES = jf.ObservationSeries([0.5, 1.0, 1.5], [0.3, -0.4, 1.0])


def test_the_frame_shows_the_notes_of_predict_and_update(ou_model: jf.StateSpaceModel) -> None:
    predicts = {0.5: jf.StepInfo(note="far"), 1.0: jf.StepInfo(note="wide"), 2.0: jf.StepInfo(note="late")}
    filter = Telling(jf.KalmanFilter(ou_model), predicts, {1.0: jf.StepInfo(note="sharp")})
    assert filter.run(SERIES).to_frame()["note"].tolist() == ["far", "wide; sharp", ""]
    result = filter.run(SERIES, until=2.0)
    assert result.to_frame()["note"].tolist() == ["far", "wide; sharp", "late"]
    assert result.note == "time 0.5: far; time 1: wide; sharp; after the last reading: late"


def test_a_failed_predict_to_the_end_is_told_by_status_and_note(ou_model: jf.StateSpaceModel) -> None:
    filter = Telling(jf.KalmanFilter(ou_model), {2.0: jf.StepInfo(status="the step stumbled.")})
    result = filter.run(SERIES, until=2.0)
    assert result.status == "the step stumbled."
    assert result.note == "after the last reading: the step stumbled."
    assert result.to_frame()["status"].tolist() == ["ok"] * 3
    assert result.to_frame()["note"].tolist() == ["", "", "the step stumbled."]


def test_a_run_without_remarks_has_no_note(ou_model: jf.StateSpaceModel) -> None:
    result = jf.KalmanFilter(ou_model).run(SERIES, until=2.0)
    assert result.note == ""
    assert result.to_frame()["note"].tolist() == [""] * 3


def test_what_every_predict_adds_a_little_of_is_noted_in_sum(ou_model: jf.StateSpaceModel) -> None:
    little = jf.StepInfo(details={"kl": 0.4 * WORTH_A_NOTE})
    once = Telling(jf.KalmanFilter(ou_model), {0.5: little, 1.0: little}).run(SERIES)
    assert once.note == ""
    thrice = Telling(jf.KalmanFilter(ou_model), {0.5: little, 1.0: little, 1.5: little}).run(SERIES)
    assert thrice.note == f"the fits of all steps may add up to {1.2 * WORTH_A_NOTE:.2g} nats of KL"


def test_many_notes_are_counted(ou_model: jf.StateSpaceModel) -> None:
    times = [0.5 * k for k in range(1, 8)]
    updates = {time: jf.StepInfo(note="sharp") for time in times}
    result = Telling(jf.KalmanFilter(ou_model), {}, updates).run(jf.ObservationSeries(times, [0.1] * 7))
    assert result.note == "time 0.5: sharp; time 1: sharp; time 1.5: sharp; and 4 more notes"


def rough(step: float) -> jf.JKOFilter:
    """Maps of one straight direction cannot bend a law into the four wells of the plane."""
    turn = torch.linalg.qr(normals(2, 2, seed=1))[0]
    model = seen(jf.DoubleWell(2, turn), jf.LinearGaussian(EYE, EYE))
    return jf.JKOFilter(model, step=step, pool=256, transport=jf.RidgeEngine(cells=4, directions=1, refinements=0))


def test_shorter_steps_do_not_silence_the_note_of_a_predict() -> None:
    """The fit adds so many nats a unit of time, whatever the steps: none of the short ones is worth a note alone."""
    filter = rough(0.002)
    _, info = filter.predict(filter.init(gen()), 0.02, gen())
    assert info.details["steps"] >= 10
    assert info.details["kl_rate"] * 0.002 < WORTH_A_NOTE
    assert info.details["kl"] > WORTH_A_NOTE
    assert info.note.startswith(f"the fits of the steps may add up to {info.details['kl']:.2g} nats of KL; ")
    assert info.status == "ok"


def test_a_product_passes_on_what_its_coordinates_note() -> None:
    model = seen(jf.Quadratic(ZERO, EYE), jf.LinearGaussian(EYE, EYE))
    one = jf.StateSpaceModel(
        torch.distributions.MultivariateNormal(ZERO[:1], EYE[:1, :1]),
        jf.LangevinSDE(jf.Quadratic([0.0], [[1.0]])),
        jf.LinearGaussian([[1.0]], [[1.0]]),
    )
    noted = Telling(jf.KalmanFilter(one), {0.5: jf.StepInfo(note="far")}, {})
    product = jf.ProductFilter(model, EYE, (jf.KalmanFilter(one), noted))
    belief, info = product.predict(product.init(gen()), 0.5, gen())
    assert info.note == "coordinate 1: far"
    _, info = product.update(belief, torch.tensor([NAN, NAN]).double(), gen())
    assert info.status == "skipped"


# --- missing readings ------------------------------------------------------------------------------------------------


def turned_wells() -> jf.StateSpaceModel:
    turn = torch.linalg.qr(normals(2, 2, seed=1))[0]
    prior = torch.distributions.MultivariateNormal(ZERO + 0.5, EYE)
    return seen(jf.DoubleWell(2, turn), jf.LinearGaussian(EYE, 0.25 * EYE), prior)


def test_missing_readings_leave_a_chain_of_few_maps_that_is_as_true(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve of them; KL to the grid as without any law fitted on the way, to the noise of the fits."""
    times = [0.1 * k for k in range(1, 14)]
    series = jf.ObservationSeries(times, [[0.8, -0.4]] + [[NAN, NAN]] * 12)
    model = turned_wells()
    exact = jf.GridFilter(model, cells=80, step=0.02).run(series).final
    steps = jf.RidgeEngine(cells=8, directions=4, refinements=0)
    filter, x = jf.JKOFilter(model, pool=1000, step=0.05, transport=steps), exact.sample(2000, gen(3))
    short = filter.run(series, seed=1, keep_beliefs=True)
    most = max(int(info.details.get("steps", 0)) for info in short.predict_infos)
    assert max(len(belief.maps) for belief in short.beliefs) <= jko_pool.MOST_MAPS + most
    assert sum("agreement" in info.details for info in short.predict_infos) >= 2
    monkeypatch.setattr(jko_pool, "MOST_MAPS", 10**6)
    long = filter.run(series, seed=1)
    assert len(long.final.maps) == 24
    gap = [(exact.log_prob(x) - result.final.log_prob(x)).mean().item() for result in (short, long)]
    # A law of some ten parameters, fitted twice to a thousand particles, costs 10 / 2 / 1000 nats each time.
    assert gap[0] < gap[1] + 1e-2
    assert gap[0] < 2e-2
    # The particles are those of the flow all the same; the law fitted to them has their mean.
    difference = short.final.sample(20_000, gen(4)).mean(0) - short.final.mean
    sd = short.final.covariance.diagonal().sqrt()
    assert (difference.abs() / sd).max() < 4 / math.sqrt(20_000) + 4 / math.sqrt(1000)


def test_a_law_fitted_to_a_gaussian_chain_is_that_law() -> None:
    """The maps of an Ornstein-Uhlenbeck flow are linear, so that one Gaussian law says all that a chain does."""
    model = seen(jf.Quadratic([0.3, -0.2], [[1.0, 0.4], [0.4, 2.0]]), jf.LinearGaussian(EYE, EYE))
    filter, kalman = jf.JKOFilter(model, pool=500, step=0.1), jf.KalmanFilter(model)
    ours, exact = filter.init(gen()), kalman.init(gen())
    for _ in range(3):
        ours, info = filter.predict(ours, 1.0, gen())
        exact, _ = kalman.predict(exact, 1.0, gen())
    assert info.details["agreement"] == pytest.approx(1.0, abs=1e-3)
    assert len(ours.maps) == info.details["steps"]
    x = exact.sample(500, gen(1))
    torch.testing.assert_close(ours.log_prob(x), exact.log_prob(x), rtol=0, atol=5e-3)


def test_a_law_that_fits_a_chain_badly_is_noted() -> None:
    filter = rough(0.05)
    settings = jf.UpdateSettings(layers=0, agreement=0.99)
    filter = jf.JKOFilter(filter.model, step=0.05, pool=256, assimilation=settings)
    belief, _ = filter.predict(filter.init(gen()), 1.0, gen())
    after, info = filter.predict(belief, 0.05, gen())
    assert info.details["agreement"] < 0.99
    assert f"the law fitted to the chain of maps agrees with it to {info.details['agreement']:.0%}" in info.note
    assert info.details["kl"] >= -math.log(info.details["agreement"])
    assert len(after.maps) == info.details["steps"]
