"""Times of a flow's steps: equal ones over a duration, and the one that a time falls into."""

from __future__ import annotations

import math

from jkofilter.errors import InputError


def equal_steps(duration: float, longest: float) -> tuple[int, float]:
    """How many equal steps of at most ``longest`` cover ``duration``, and their length; none cover zero."""
    # The slack keeps rounding of duration / longest from adding a step.
    count = math.ceil(duration / longest * (1 - 1e-12))
    return count, duration / count if count else longest


def step_of(times: tuple[float, ...], time: float) -> tuple[int, float]:
    """The last step begun at or before ``time``, and the time since.

    Args:
        times: where the steps begin and, last, where the last one ends; they start with zero.
        time: the time since is zero where this is the beginning of a step but for rounding.

    Raises:
        InputError: ``time`` is outside of them.
    """
    end = times[-1]
    slack = 1e-9 * max(end, 1e-300)
    if not -slack <= time <= end + slack:
        raise InputError(f"time must be between 0 and {end:g}, got {time!r}.")
    done = sum(1 for t in times[1:] if t <= time + slack)
    since = time - times[done]
    return done, since if since > slack else 0.0
