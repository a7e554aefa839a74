"""Laws over each other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from jkofilter.beliefs.base import Belief
from jkofilter.errors import InputError
from jkofilter.pictures.style import DEFAULT_LABELS, DPI, FONT, Labels, label_axes, log_density_at, styles, wrapped

STATE_POINTS = 1200
# Log densities are compared where the reference exceeds this share of its maximum.
COMPARED_ABOVE = 1e-6


def final_densities(
    densities: Mapping[str, Belief], reference: str, labels: Labels = DEFAULT_LABELS, truth: float | None = None
) -> Figure:
    """Final one-dimensional laws over each other, and below how far each log density is from the reference's.

    Args:
        densities: beliefs by filter name, of dimension 1.
        reference: the name the others are measured against.
        labels: axis labels.
        truth: the true state then.

    Raises:
        InputError: ``reference`` is not among ``densities``.
    """
    if reference not in densities:
        raise InputError(f"reference {reference!r} is not among the densities: {', '.join(densities)}.")
    ends = [belief.quantile(q) for belief in densities.values() for q in (1e-4, 1.0 - 1e-4)]
    margin = 0.1 * (max(ends) - min(ends))
    state = np.linspace(min(ends) - margin, max(ends) + margin, STATE_POINTS)
    exact = log_density_at(densities[reference], state)
    compared = exact > exact.max() + np.log(COMPARED_ABOVE)
    figure = Figure(figsize=(10, 6.0), dpi=DPI, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    bottom.set_yscale("log")
    looks = styles(densities, reference)
    for name in [*(n for n in densities if n != reference), reference]:
        value = log_density_at(densities[name], state)
        width, label = (1.6, f"{name} (reference)") if name == reference else (2.4, name)
        top.plot(state, np.exp(value), label=label, linewidth=width, **looks[name])
        if name != reference:
            error = np.abs(value - np.where(compared, exact, np.nan))
            error[~np.isfinite(error) | (error == 0)] = np.nan
            bottom.plot(state, error, label=name, linewidth=1.5, **looks[name])
    if truth is not None:
        top.axvline(truth, color="grey", linewidth=1.2, label="truth")
    top.legend(fontsize=FONT - 1)
    top.set_title(wrapped(labels.title), fontsize=FONT + 1)
    label_axes(top, "", f"density at t = {densities[reference].time:g}")
    label_axes(bottom, labels.state, f"|log density ratio|\nto {reference}, nats")
    bottom.grid(axis="y", alpha=0.3)
    figure.align_ylabels([top, bottom])
    return figure
