"""Box plots of runs."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jkofilter._typing import Array
from jkofilter.pictures.style import DPI, FONT, label_axes, styles


def box_plots(records: pd.DataFrame, reference: str) -> Figure:
    """Errors and seconds of every filter over the seeds, one box a filter, every run that did not fail a point.

    Args:
        records: columns filter, seed, status, kl_reference, kl_filter, log_evidence_error, seconds.
        reference: whose own errors, zero by definition, are left out.
    """
    panels = (
        ("kl_reference", f"KL({reference} \u2016 filter), nats"),
        ("kl_filter", f"KL(filter \u2016 {reference}), nats"),
        ("log_evidence_error", "|log evidence error|, nats"),
        ("seconds", "seconds per run"),
    )
    names = [str(name) for name in records["filter"].drop_duplicates()]
    looks = styles(names, reference)
    good = records[records["status"] == "ok"]
    figure = Figure(figsize=(max(10.0, 2.0 * len(names)), 6.0), dpi=DPI, layout="constrained")
    for axis, (column, label) in zip(figure.subplots(2, 2).ravel(), panels, strict=True):
        groups = {}
        for name in names:
            values = good.loc[good["filter"] == name, column].abs().to_numpy(dtype=float)
            values = values[~np.isnan(values)]
            if values.size and (name != reference or column == "seconds"):
                groups[name] = values
        boxes(axis, groups, {name: style["color"] for name, style in looks.items()})
        label_axes(axis, "", label)
    seeds, failed = records["seed"].nunique(), len(records) - len(good)
    note = f"{seeds} seed{'s' * (seeds != 1)}; boxes: quartiles and median, points: runs"
    figure.suptitle(note + (f"; {failed} failed, not shown" if failed else ""), fontsize=FONT)
    return figure


def boxes(axis: Axes, groups: Mapping[str, Array], colours: Mapping[str, str], slanted: bool = False) -> None:
    """One box and its points for each group, on a log axis; says how many values such an axis cannot show.

    Args:
        axis: to draw on.
        groups: values by name.
        colours: by name.
        slanted: write the names at an angle, where they are many or long.
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
    if slanted:
        axis.set_xticks(range(1, len(drawn) + 1), list(drawn), rotation=30, ha="right", rotation_mode="anchor")
    axis.grid(axis="y", alpha=0.3)


def _broken(name: str) -> str:
    """A name over two lines, parted at its first space or hyphen."""
    return re.sub(r"[ ]|(?<=-)", "\n", name, count=1)
