"""The figure of a monitor's records, drawn with Matplotlib without a window or global state."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradreg_core.errors import InputError
from gradreg_monitor.writers import read_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw", "plot"]

_COLOURS = ("#0072b2", "#e69f00", "#cc79a7", "#009e73", "#d55e00", "#56b4e9", "#000000")
"""Colours of Okabe and Ito, and markers that distinguish the lines without colour."""
_MARKERS = "osD^vP*"
_PANELS = (
    ("loss and penalty", ("loss", "penalty"), "log"),
    ("norms of the Jacobian, mean over samples", ("jacobian/",), "log"),
    ("the penalty in the gradient of the parameters", ("gradient/",), "linear"),
)
"""The title, name prefixes and scale of each panel."""
_MANY = 30
"""The number of records from which lines have no markers."""


def plot(
    records: "Sequence[Mapping[str, float]] | str | os.PathLike[str]", path: "str | os.PathLike[str] | None" = None
) -> "Figure":
    """Plot records over the steps: losses and penalties, norms of the Jacobian, the penalty's share.

    Args:
        records: ``monitor.records``, or the path of a file of :class:`CsvWriter`.
        path: also write the figure to this file; the ending sets the format.

    Returns:
        The matplotlib Figure.

    Raises:
        InputError: there are no records.
        DataFileError: the file is not a monitor's.
        ImportError: Matplotlib is not installed: ``pip install "gradreg[monitor]"``.
    """
    from matplotlib.figure import Figure

    rows = read_csv(records) if isinstance(records, str | os.PathLike) else list(records)
    if not rows:
        raise InputError("plot: there are no records yet. Call the monitor at a step divisible by its every=.")
    figure = Figure(figsize=(11, 3.1), layout="constrained")
    draw(figure, rows)
    if path is not None:
        figure.savefig(Path(path), dpi=160)
    return figure


def draw(figure: "Figure", rows: Sequence[Mapping[str, float]]) -> None:
    """Draw records into a figure, replacing its contents."""
    figure.clear()
    names = [name for name in rows[-1] if name not in ("step", "seconds")]
    panels = [
        (title, own, scale)
        for title, beginnings, scale in _PANELS
        if (own := [name for name in names if name.startswith(beginnings)])
    ]
    for axes, (title, own, scale) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for index, name in enumerate(own):
            _line(axes, rows, name, index)
        positive = any(row.get(name, 0.0) > 0 for row in rows for name in own)
        axes.set_yscale(scale if positive else "linear")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("step", fontsize=9)
        axes.tick_params(which="both", labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
        axes.legend(fontsize=8, frameon=False)


def _line(axes: Any, rows: Sequence[Mapping[str, float]], name: str, index: int) -> None:
    pairs = [(row["step"], row[name]) for row in rows if name in row]
    label = name.removeprefix("jacobian/").removeprefix("gradient/").replace("_", " ")
    axes.plot(
        [step for step, _ in pairs],
        [value for _, value in pairs],
        color=_COLOURS[index % len(_COLOURS)],
        marker=_MARKERS[index % len(_MARKERS)] if len(pairs) < _MANY else "",
        markersize=3,
        linewidth=1.2,
        label=label,
    )
