"""Hidden paths and their readings."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jkofilter.errors import FilterError, InputError
from jkofilter.models.line_diffusion import LineDiffusion
from jkofilter.models.line_motion import LineMover
from jkofilter.models.motion import Mover, coarse_note
from jkofilter.models.potential_checks import nan_branch_around
from jkofilter.models.series import ObservationSeries, checked_times
from jkofilter.models.state_space import StateSpaceModel, probed_prior, sample_prior
from jkofilter.numerics.draws import stream
from jkofilter.numerics.threads import one_thread


@one_thread()
def simulate(
    model: StateSpaceModel, times: Tensor, seed: int = 0, substep: float | None = None, start: float | None = None
) -> tuple[Tensor, ObservationSeries]:
    """A hidden path and its readings.

    The path moves by Heun's scheme, of second weak order, exact for a linear drift, and reflected at the walls of the
    potential's domain; that of a LineDiffusion by Strang's splitting, of second weak order as well.

    Args:
        model: what to simulate.
        times: increasing, at or after the start, (m,), in the SDE's unit of time.
        seed: the same seed gives the same path and readings.
        substep: longest step, time; None chooses steps from the curvature where the path is.
        start: when the prior holds; None is time zero, unless times lie so far from it that another must be meant.

    Returns:
        The path at ``times``, (m, d), and the readings.

    Raises:
        InputError: bad ``times`` or ``substep``, a ``substep`` too long for the potential (on average the gradient
            changes along a step by more than .3 of the step's own scale), or a path to where the potential is infinite
            or jumps.
    """
    if substep is not None and not 0 < substep < math.inf:
        raise InputError(f"substep must be positive and finite, or None, got {substep!r}.")
    clock = checked_times(times, start=start)
    generator = stream(seed, "simulation", model.device)
    x = sample_prior(model.prior, 1, generator)
    sde = model.sde
    mover = LineMover(sde, generator) if isinstance(sde, LineDiffusion) else Mover(sde, generator)
    path, values, now, steps, coarse = [], [], start or 0.0, 0, 0.0
    for time in clock.tolist():
        try:
            moved = mover.move(x, time - now, substep)
        except FilterError as error:
            line = isinstance(sde, LineDiffusion)
            trouble = "" if line else nan_branch_around(sde.potential, probed_prior(model.prior))
            raise InputError(
                trouble
                or f"{'sde' if line else 'potential'} cannot be simulated between time {now:g} and {time:g}: {error}"
            ) from error
        x, now = moved.points, time
        steps, coarse = steps + moved.steps, coarse + moved.steps * moved.coarseness
        path.append(x[0])
        values.append(model.observation.sample(x, generator)[0])
    if too_long := coarse_note(coarse / max(steps, 1), substep):
        raise InputError(f"{too_long}.")
    return torch.stack(path), ObservationSeries(clock, torch.stack(values), start=start)
