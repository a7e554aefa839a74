"""What all pictures share: colours, lines, sizes, labels, legends and logarithmic axes.

Figures are plain objects: nothing global is touched, nothing is shown.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from jkofilter._typing import Array
from jkofilter.beliefs.base import Belief
from jkofilter.numerics.arrays import as_array

# Okabe & Ito's palette: told apart with every common kind of colour vision. Black is kept for the reference.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#7A7A00")
LINES: tuple[Any, ...] = (
    "-",
    "--",
    "-.",
    (0, (5, 1, 1, 1, 1, 1)),
    (0, (3, 1)),
    (0, (8, 2)),
    (0, (1, 1)),
    (0, (9, 2, 3, 2)),
)
ORANGE, SKY = COLOURS[4], COLOURS[5]
DPI = 110
FONT = 11
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
LETTER = 0.073
"""Width of a legend's letters, inches."""


@dataclass(frozen=True)
class Labels:
    """Axis labels, units included in the text, and the title."""

    time: str = "time"
    state: str = "state"
    reading: str = "reading"
    title: str = ""


DEFAULT_LABELS = Labels()


def styles(names: Sequence[str] | Mapping[str, object], reference: str) -> dict[str, dict[str, Any]]:
    """Colour and line of each filter; those of the reference are its own, so that pictures agree with each other."""
    others = [name for name in names if name != reference]
    looks = {
        name: {"color": COLOURS[k % len(COLOURS)], "linestyle": LINES[k % len(LINES)]} for k, name in enumerate(others)
    }
    return looks | {reference: {"color": "black", "linestyle": ":"}}


def label_axes(axis: Axes, x: str, y: str) -> None:
    """Labels of both axes, and their ticks, in the size of all pictures."""
    axis.set_xlabel(x, fontsize=FONT)
    axis.set_ylabel(y, fontsize=FONT)
    axis.tick_params(labelsize=FONT - 1)


def wrapped(title: str, width: int = 95) -> str:
    """A title over as many lines as it needs."""
    return textwrap.fill(title, width)


def legend_below(figure: Figure, handles: Iterable[Artist], labels: Iterable[str]) -> None:
    """A legend under the panels, in as many columns, four at most, as fit the figure's width."""
    names = list(labels)
    column = 0.6 + LETTER * max(map(len, names), default=0)
    columns = min(max(int(figure.get_figwidth() / column), 1), 4)
    figure.legend(list(handles), names, loc="outside lower center", ncols=columns, fontsize=FONT - 1, frameon=False)


def ticks_apart(axis: Axes) -> None:
    """Plain numbers along a logarithmic x axis, few enough not to run into each other."""
    low, high = axis.get_xlim()
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 300 * low else (1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def a_decade_at_least(axis: Axes, *ways: Literal["x", "y"]) -> None:
    """Widen logarithmic axes that show less than a decade, where a small difference would look like a large one."""
    for way in ways:
        low, high = getattr(axis, f"get_{way}lim")()
        if high < 10 * low:
            middle = (low * high) ** 0.5
            getattr(axis, f"set_{way}lim")(middle / 10**0.5 * 0.95, middle * 10**0.5 * 1.05)


def log_density_at(belief: Belief, state: Array) -> Array:
    """Log density at ``state`` (n,), whatever the device and precision of the belief."""
    points = torch.as_tensor(state).to(belief.mean).unsqueeze(-1)
    return as_array(belief.log_prob(points))
