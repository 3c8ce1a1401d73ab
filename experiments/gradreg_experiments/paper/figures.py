"""The figures, as PNG and SVG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gradreg_experiments.drawing import COLOURS, MARKERS, new_figure, plain, save
from gradreg_experiments.paper.summary import Summary

__all__ = ["CostPoint", "draw_cost", "draw_sizes", "draw_table", "draw_toy"]


class CostPoint(NamedTuple):
    """One cell of the experiment "cost"."""

    summary: Summary
    cost: float
    """The average step's time as a ratio to the plain step's, 1 for the cell without penalty."""
    part: float | None
    """Its gain relative to the cell with the whole penalty at every step."""


def draw_table(stem: Path, title: str, summaries: Sequence[Summary]) -> list[Path]:
    """Every seed as a dot and the mean as a bar, the paper's mean and deviation beside them in grey."""
    shown = [row for row in summaries if row.values or row.cell.paper]
    figure = new_figure(8, 0.36 * len(shown) + 1.2)
    axes = figure.subplots()
    for place, row in enumerate(shown):
        if row.cell.paper:
            mean, deviation = row.cell.paper
            axes.errorbar(mean, place + 0.18, xerr=deviation, color="0.55", marker="D", markersize=4, linewidth=1)
        axes.scatter(list(row.values.values()), [place - 0.1] * len(row.values), s=22, color=COLOURS[1], alpha=0.5)
        if row.mean is not None:
            axes.plot([row.mean] * 2, [place - 0.32, place + 0.1], color=COLOURS[1], linewidth=2.4)
    axes.set_yticks(range(len(shown)), [f"{row.cell.row}: {row.cell.column}" for row in shown])
    axes.set_ylim(len(shown) - 0.5, -0.6)
    axes.set_xlabel("test accuracy, %   (dots: our seeds, bar: their mean, grey: the paper's mean and sd)")
    plain(axes, "x")
    figure.suptitle(title, fontsize=11)
    return save(figure, stem)


def draw_sizes(stem: Path, title: str, summaries: Sequence[Summary]) -> list[Path]:
    """Figure 1, left: mean accuracy by training set size, deviations as bars."""
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    for index, column in enumerate(dict.fromkeys(row.cell.column for row in summaries)):
        line = [row for row in summaries if row.cell.column == column and row.mean is not None]
        if line:
            axes.errorbar(
                [int(row.cell.row) for row in line],
                [row.mean or 0.0 for row in line],
                yerr=[row.deviation or 0 for row in line],
                color=COLOURS[index % len(COLOURS)],
                marker=MARKERS[index % len(MARKERS)],
                markersize=5,
                linewidth=1.4,
                capsize=2,
                label=column,
            )
    axes.set_xscale("log")
    sizes = sorted({int(row.cell.row) for row in summaries if row.values})
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("training images")
    axes.set_ylabel("test accuracy, %")
    axes.legend(frameon=False)
    plain(axes, "both")
    figure.suptitle(title, fontsize=11)
    return save(figure, stem)


def draw_cost(stem: Path, title: str, points: Sequence[CostPoint]) -> list[Path]:
    """Mean accuracy over the cost of a step, one panel per row, the error of the mean as bars.

    A setting worse than none by more than a few times the best gain is an arrow at the lower edge.
    """
    names = list(dict.fromkeys(point.summary.cell.row for point in points))
    figure = new_figure(5 * len(names), 4.6)
    means = [_mean(point) for point in points]
    none = max((_mean(point) for point in points if point.summary.cell.column == "none"), default=min(means))
    margin = max(max(means) - none, 0.1)
    floor = max(min(means), none - 3 * margin)
    for axes, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        rows = [point for point in points if point.summary.cell.row == name]
        for index, kind in enumerate(("none", "every", "fraction", "jvp", "difference")):
            own = [point for point in rows if point.summary.cell.column.partition("=")[0] == kind]
            _draw_costs(axes, index, kind, [point for point in own if _mean(point) >= floor])
            for point in (point for point in own if _mean(point) < floor):
                place = (point.cost, floor - 0.3 * margin)
                axes.plot(*place, color=COLOURS[index], marker="v")
                text = f"{point.summary.cell.column}: {point.summary.mean:.1f}"
                axes.annotate(text, place, (6, -3), textcoords="offset points", fontsize=8)
        for column, line in (("none", ":"), ("every=1", "--")):
            for point in rows:
                if point.summary.cell.column == column:
                    axes.axhline(_mean(point), color="0.6", linestyle=line, linewidth=1, zorder=0)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("cost of a step, plain step = 1")
        axes.set_ylim(floor - 0.6 * margin, max(means) + 0.5 * margin)
        axes.margins(x=0.12)
        plain(axes, "both")
    figure.axes[-1].legend(frameon=False, fontsize=8, loc="lower right")
    figure.axes[0].set_ylabel("test accuracy, %")
    figure.suptitle(title, fontsize=11)
    return save(figure, stem)


def _mean(point: CostPoint) -> float:
    return point.summary.mean or 0.0


def _draw_costs(axes: Any, index: int, kind: str, points: Sequence[CostPoint]) -> None:
    """One line of the figure: the settings of a kind, by their cost."""
    shown = sorted((point.cost, point.summary) for point in points)
    if shown:
        errors = [(row.deviation or 0) / max(1, len(row.values)) ** 0.5 for _, row in shown]
        style = {"color": COLOURS[index], "marker": MARKERS[index], "markersize": 5, "capsize": 2, "linewidth": 1}
        axes.errorbar(*zip(*((cost, row.mean) for cost, row in shown), strict=True), errors, label=kind, **style)
    for cost, row in shown:
        number = row.cell.column.partition("=")[2]
        axes.annotate(number, (cost, row.mean), (4, 5), textcoords="offset points", fontsize=8)


def draw_toy(stem: Path, runs: Sequence[dict[str, Any]], weights: Sequence[float]) -> list[Path]:
    """Figure 1, right: the first seed's functions, and mean gradients at training and random points for all seeds.

    Args:
        stem: the path without its ending.
        runs: results of :func:`gradreg_experiments.paper.experiments.figure1_right.run_toys`.
        weights: the weight of each run, in the paper's units.
    """
    figure = new_figure(9, 3.8)
    left, right = figure.subplots(1, 2)
    x = np.linspace(-1, 1, len(runs[0]["curve"]))
    left.plot(x, np.sin(5 * x), color="0.6", linewidth=3, label="sin(5x)")
    first = min(run["seed"] for run in runs)
    values = sorted(set(weights))
    for index, weight in enumerate(values):
        colour = COLOURS[index % len(COLOURS)]
        for run, own in zip(runs, weights, strict=True):
            if own == weight and run["seed"] == first:
                left.plot(x, run["curve"], color=colour, linewidth=1.3, label=f"{weight:g}")
    left.set_xlabel("x")
    left.set_ylabel("learnt function")
    left.legend(frameon=False, fontsize=8, title="weight", loc="upper left", bbox_to_anchor=(1, 1))
    for index, name in enumerate(("train", "random")):
        means = [np.mean([r["gradient"][name] for r, w in zip(runs, weights, strict=True) if w == v]) for v in values]
        label = "100 training points" if name == "train" else "1,000 random points"
        places = [index_ + 0.12 * (index - 0.5) for index_ in range(len(values))]
        right.plot(places, means, color=COLOURS[index + 1], marker=MARKERS[index], linewidth=1.2, label=label)
    right.set_xticks(range(len(values)), [f"{value:g}" for value in values])
    right.set_yscale("log")
    right.set_xlabel("weight of SpectReg")
    right.set_ylabel("mean |dz/dx|")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        plain(axes, "both")
    return save(figure, stem)
