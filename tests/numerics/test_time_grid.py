"""Equal steps and the step that a time falls into, by hand."""

import math

import pytest

from jkofilter.errors import InputError
from jkofilter.numerics.time_grid import equal_steps, step_of


@pytest.mark.parametrize(
    ("duration", "longest", "count"), [(1.0, 0.3, 4), (0.9, 0.3, 3), (0.3, 0.1, 3), (0.0105, 0.01, 2), (0.05, 1.0, 1)]
)
def test_equal_steps_cover_the_duration_and_none_is_too_long(duration: float, longest: float, count: int) -> None:
    found, length = equal_steps(duration, longest)
    assert found == count
    assert length == pytest.approx(duration / count, rel=1e-15)


def test_no_steps_cover_no_time() -> None:
    assert equal_steps(0.0, 0.1)[0] == 0


def test_a_time_falls_into_the_step_begun_last() -> None:
    times = (0.0, 0.1, 0.3, 1.0)
    assert step_of(times, 0.0) == (0, 0.0)
    assert step_of(times, 0.3) == (2, 0.0)
    assert step_of(times, 0.1 + 0.2) == (2, 0.0)
    assert step_of(times, 1.0) == (3, 0.0)
    done, since = step_of(times, 0.25)
    assert done == 1
    assert since == pytest.approx(0.15)
    for time in (-0.01, 1.01, math.nan):
        with pytest.raises(InputError, match="time must be between 0 and 1"):
            step_of(times, time)
