"""Figures with Matplotlib, without a window or global state."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from gradreg_core.cli.files import replacing

__all__ = ["COLOURS", "MARKERS", "new_figure", "plain", "save"]

COLOURS = ("#000000", "#0072b2", "#e69f00", "#cc79a7", "#009e73", "#d55e00", "#56b4e9")
"""Colours of Okabe and Ito, and markers that distinguish the lines without colour."""
MARKERS = "osD^vP*"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; the size is in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def plain(axes: Any, lines: Any) -> None:
    """Remove the frame, and draw light grid lines: "x", "y" or "both"."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=lines, color="0.92")
    axes.set_axisbelow(True)


def save(figure: Figure, stem: Path, kinds: Sequence[str] = ("png", "svg"), dpi: int = 160) -> list[Path]:
    """Write the figure atomically in each format; equal figures give equal SVG files."""
    paths = []
    for kind in kinds:
        path = stem.with_name(f"{stem.name}.{kind}")
        with replacing(path) as temporary, rc_context({"svg.hashsalt": "gradreg"}):
            metadata = {"Date": None} if kind == "svg" else None
            figure.savefig(temporary, format=kind, dpi=dpi, metadata=metadata)
        paths.append(path)
    return paths
