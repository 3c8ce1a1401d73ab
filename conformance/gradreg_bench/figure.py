"""The figure of the results, drawn with Matplotlib without a window or global state."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradreg_bench.task import Result, model_title
from gradreg_bench.variants import BASELINES, PLAIN
from gradreg_core.cli.files import replacing

__all__ = ["draw", "picture"]

_OURS, _OTHERS, _LIMIT = "#0072b2", "#8c8c8c", "#d55e00"
"""Colours of Okabe and Ito, which are distinguishable in grey too."""
_COLUMNS, _DPI = 3, 150
_LABEL_WIDTH = 66
"""The number of letters of the label that fit per column of panels."""


def draw(results: Sequence[Result], *paths: Path) -> None:
    """A panel per result: a bar for each variant's ratio, a whisker for its quartiles, a mark at the limit."""
    if not results:
        return
    figure = picture(results)
    for path in paths:
        with replacing(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:])


def picture(results: Sequence[Result]) -> Figure:
    """The figure that :func:`draw` saves."""
    columns = min(_COLUMNS, len(results))
    rows = -(-len(results) // columns)
    tallest = max(len(result.measurements) for result in results)
    label = fill(_label(results), _LABEL_WIDTH * columns)
    height = (0.24 * tallest + 1.1) * rows + 0.15 * label.count("\n")
    figure = Figure(figsize=(4.6 * columns, height), dpi=_DPI, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    highest = max(
        (row.ratio.high for result in results for row in result.measurements if row.ratio is not None), default=2.0
    )
    for panel, result in zip(panels, results, strict=False):
        _panel(panel, result, max(highest, 2.0))
    for panel in panels[len(results) :]:
        panel.set_axis_off()
    figure.supxlabel(label, fontsize=9)
    return figure


def _label(results: Sequence[Result]) -> str:
    """The axis label, with the meaning of the marks in the figure."""
    rows = [row for result in results for row in result.measurements if row.ratio is not None]
    limit = "; |: limit of exact double backpropagation" if any(row.limit is not None for row in rows) else ""
    grey = "; grey: baselines" if any(row.name in BASELINES for row in rows) else ""
    return f"time of a step as a multiple of the plain step (log scale), median and quartiles{limit}{grey}"


def _panel(axes: Axes, result: Result, highest: float) -> None:
    rows = [row for row in result.measurements if row.ratio is not None and row.name != PLAIN]
    for place, row in enumerate(rows):
        assert row.ratio is not None
        median, low, high = row.ratio.median, row.ratio.low, row.ratio.high
        colour = _OTHERS if row.name in BASELINES else _OURS
        axes.barh(place, median, color=colour, height=0.7)
        axes.plot([low, high], [place, place], color="black", linewidth=1)
        if row.limit is not None:
            axes.plot([row.limit] * 2, [place - 0.42, place + 0.42], color=_LIMIT, linewidth=2.2)
        axes.annotate(f" {median:.2f}", (max(median, high, row.limit or 0), place), va="center", fontsize=7)
    axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xscale("log", base=2)
    ticks = [tick for tick in (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64) if tick <= 1.3 * highest]
    axes.set_xlim(0.9, 1.6 * highest)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=8)
    axes.minorticks_off()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.set_title(f"{model_title(result.task.model, result.task.batch)}, {result.task.framework}", fontsize=9)
