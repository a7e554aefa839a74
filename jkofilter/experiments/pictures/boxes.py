"""Box plots of runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jkofilter._typing import Array
from jkofilter.experiments.measures import ERRORS, MEASURES
from jkofilter.pictures.style import DPI, FONT, label_axes, styles


def box_plots(runs: pd.DataFrame, names: Sequence[str], reference: str) -> Figure:
    """Errors and seconds of every filter over the seeds, one box a filter, every run that did not fail a point.

    Args:
        runs: of one case, as of ``tables.run_table``, failed ones included.
        names: of the filters, in order.
        reference: whose own errors, zero by definition, are left out.
    """
    good = runs[runs["status"] == "ok"]
    panels = [*(measure for measure in ERRORS if good[measure].notna().any()), "seconds"]
    looks = styles(names, reference)
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(max(10.0, 2.0 * len(names)), 3.0 * rows), dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False).ravel().tolist()
    for axis, measure in zip(axes, panels, strict=False):
        groups = {}
        for name in names:
            values = good.loc[good["filter"] == name, measure].abs().dropna().to_numpy(dtype=float)
            if values.size and (name != reference or measure == "seconds"):
                groups[name] = values
        boxes(axis, groups, {name: style["color"] for name, style in looks.items()})
        label_axes(axis, "", MEASURES[measure])
    for axis in axes[len(panels) :]:
        axis.remove()
    seeds, failed = runs["seed"].nunique(), len(runs) - len(good)
    note = f"against {reference}; {seeds} seed{'s' * (seeds != 1)}; boxes: quartiles and median, points: runs"
    figure.suptitle(note + (f"; {failed} failed, not shown" if failed else ""), fontsize=FONT)
    return figure


def boxes(axis: Axes, groups: Mapping[str, Array], colours: Mapping[str, str]) -> None:
    """One box and its points for each group, on a log axis; says how many values such an axis cannot show.

    Args:
        axis: to draw on.
        groups: values by name.
        colours: by name.
    """
    axis.set_yscale("log")
    drawn = {name: values[np.isfinite(values) & (values > 0)] for name, values in groups.items()}
    hidden = sum(groups[name].size - drawn[name].size for name in groups)
    drawn = {name: values for name, values in drawn.items() if values.size}
    if hidden:
        axis.set_title(f"{hidden} not shown (zero or infinite)", fontsize=FONT - 1, loc="right")
    if not drawn:
        axis.text(0.5, 0.5, "nothing to show", ha="center", transform=axis.transAxes, fontsize=FONT)
        axis.set_xticks([])
        return
    axis.boxplot(
        list(drawn.values()), widths=0.5, showfliers=False, medianprops={"color": "black", "linewidth": 1.8}
    )  # fmt: skip
    for k, (name, values) in enumerate(drawn.items()):
        # A fixed spread instead of random jitter: the same records give the same picture.
        offsets = 0.16 * np.sin(2.4 * np.arange(values.size))
        axis.scatter(k + 1 + offsets, values, s=20, color=colours[name], alpha=0.75, zorder=3)
    crowded = sum(len(name) for name in drawn) > 30
    axis.set_xticks(range(1, len(drawn) + 1), [_broken(name) if crowded else name for name in drawn])
    axis.grid(axis="y", alpha=0.3)


def _broken(name: str) -> str:
    """A name over two lines, parted at its first space or hyphen."""
    return re.sub(r"[ ]|(?<=-)", "\n", name, count=1)
