"""The figures, as PNG and SVG, drawn by Matplotlib without a window or global state."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from gradreg_core.cli.files import replacing
from gradreg_experiments.paper.cost import Point
from gradreg_experiments.paper.frameworks import Curves
from gradreg_experiments.paper.summary import Summary

__all__ = ["draw_cost", "draw_curves", "draw_sizes", "draw_table", "draw_toy"]

_COLOURS = ("#000000", "#0072b2", "#e69f00", "#cc79a7", "#009e73", "#d55e00", "#56b4e9")
"""Of Okabe and Ito, told apart without colour by their markers too."""
_MARKERS = "osD^vP*"


def draw_table(stem: Path, title: str, summaries: Sequence[Summary]) -> list[Path]:
    """Every seed as a dot and the mean as a bar, the paper's mean and deviation beside them in grey."""
    shown = [each for each in summaries if each.values or each.cell.paper]
    figure = Figure(figsize=(8, 0.36 * len(shown) + 1.2), layout="constrained")
    axes = figure.subplots()
    for place, each in enumerate(shown):
        if each.cell.paper:
            mean, deviation = each.cell.paper
            axes.errorbar(mean, place + 0.18, xerr=deviation, color="0.55", marker="D", markersize=4, linewidth=1)
        axes.scatter(list(each.values.values()), [place - 0.1] * len(each.values), s=22, color=_COLOURS[1], alpha=0.5)
        if each.mean is not None:
            axes.plot([each.mean] * 2, [place - 0.32, place + 0.1], color=_COLOURS[1], linewidth=2.4)
    axes.set_yticks(range(len(shown)), [f"{each.cell.row}: {each.cell.column}" for each in shown])
    axes.set_ylim(len(shown) - 0.5, -0.6)
    axes.set_xlabel("test accuracy, %   (dots: our seeds, bar: their mean, grey: the paper's mean and sd)")
    _plain(axes, "x")
    figure.suptitle(title, fontsize=11)
    return _save(figure, stem)


def draw_sizes(stem: Path, title: str, summaries: Sequence[Summary]) -> list[Path]:
    """Figure 1, left: mean accuracy by training set size, deviations as bars."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for index, column in enumerate(dict.fromkeys(each.cell.column for each in summaries)):
        line = [each for each in summaries if each.cell.column == column and each.mean is not None]
        if line:
            axes.errorbar(
                [int(each.cell.row) for each in line],
                [each.mean for each in line],
                yerr=[each.deviation or 0 for each in line],
                color=_COLOURS[index % len(_COLOURS)],
                marker=_MARKERS[index % len(_MARKERS)],
                markersize=5,
                linewidth=1.4,
                capsize=2,
                label=column,
            )
    axes.set_xscale("log")
    sizes = sorted({int(each.cell.row) for each in summaries if each.values})
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("training images")
    axes.set_ylabel("test accuracy, %")
    axes.legend(frameon=False)
    _plain(axes, "both")
    figure.suptitle(title, fontsize=11)
    return _save(figure, stem)


def draw_cost(stem: Path, title: str, found: Sequence[Point]) -> list[Path]:
    """Mean accuracy over the cost of a step, one panel for each row, the error of the mean as bars.

    A setting that is worse than none by more than a few times what the best gains is an arrow at the lower edge.
    """
    names = list(dict.fromkeys(each.summary.cell.row for each in found))
    figure = Figure(figsize=(5 * len(names), 4.6), layout="constrained")
    means = [each.summary.mean or 0.0 for each in found]
    none = max((each.summary.mean or 0.0 for each in found if each.summary.cell.column == "none"), default=min(means))
    margin = max(max(means) - none, 0.1)
    floor = max(min(means), none - 3 * margin)
    for axes, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        rows = [each for each in found if each.summary.cell.row == name]
        for index, kind in enumerate(("none", "every", "fraction", "jvp", "difference")):
            own = [each for each in rows if each.summary.cell.column.partition("=")[0] == kind]
            shown = sorted((each.cost, each.summary) for each in own if (each.summary.mean or 0.0) >= floor)
            style = {"color": _COLOURS[index], "marker": _MARKERS[index], "markersize": 5, "capsize": 2, "linewidth": 1}
            if shown:
                errors = [(each.deviation or 0) / max(1, len(each.values)) ** 0.5 for _, each in shown]
                axes.errorbar(
                    *zip(*((cost, each.mean) for cost, each in shown), strict=True), errors, label=kind, **style
                )
            for cost, each in shown:
                number = each.cell.column.partition("=")[2]
                axes.annotate(number, (cost, each.mean), (4, 5), textcoords="offset points", fontsize=8)
            for each in (each for each in own if (each.summary.mean or 0.0) < floor):
                axes.plot(each.cost, floor - 0.3 * margin, color=_COLOURS[index], marker="v")
                text = f"{each.summary.cell.column}: {each.summary.mean:.1f}"
                place = (each.cost, floor - 0.3 * margin)
                axes.annotate(text, place, (6, -3), textcoords="offset points", fontsize=8)
        for column, line in (("none", ":"), ("every=1", "--")):
            for each in rows:
                if each.summary.cell.column == column:
                    axes.axhline(each.summary.mean, color="0.6", linestyle=line, linewidth=1, zorder=0)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("cost of a step, plain step = 1")
        axes.set_ylim(floor - 0.6 * margin, max(means) + 0.5 * margin)
        axes.margins(x=0.12)
        _plain(axes, "both")
    figure.axes[-1].legend(frameon=False, fontsize=8, loc="lower right")
    figure.axes[0].set_ylabel("test accuracy, %")
    figure.suptitle(title, fontsize=11)
    return _save(figure, stem)


def draw_toy(stem: Path, runs: Sequence[dict[str, Any]], weights: Sequence[float]) -> list[Path]:
    """Figure 1, right: the first seed's functions, and mean gradients at training and random points for all seeds.

    Args:
        stem: path without ending.
        runs: results of :func:`gradreg_experiments.paper.toy.run_toy`.
        weights: of each run, in the paper's units.
    """
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    x = np.linspace(-1, 1, len(runs[0]["curve"]))
    left.plot(x, np.sin(5 * x), color="0.6", linewidth=3, label="sin(5x)")
    first = min(run["seed"] for run in runs)
    values = sorted(set(weights))
    for index, weight in enumerate(values):
        colour = _COLOURS[index % len(_COLOURS)]
        for run, each in zip(runs, weights, strict=True):
            if each == weight and run["seed"] == first:
                left.plot(x, run["curve"], color=colour, linewidth=1.3, label=f"{weight:g}")
    left.set_xlabel("x")
    left.set_ylabel("learnt function")
    left.legend(frameon=False, fontsize=8, title="weight", loc="upper left", bbox_to_anchor=(1, 1))
    for index, name in enumerate(("train", "random")):
        means = [np.mean([r["gradient"][name] for r, w in zip(runs, weights, strict=True) if w == v]) for v in values]
        label = "100 training points" if name == "train" else "1,000 random points"
        places = [index_ + 0.12 * (index - 0.5) for index_ in range(len(values))]
        right.plot(places, means, color=_COLOURS[index + 1], marker=_MARKERS[index], linewidth=1.2, label=label)
    right.set_xticks(range(len(values)), [f"{value:g}" for value in values])
    right.set_yscale("log")
    right.set_xlabel("weight of SpectReg")
    right.set_ylabel("mean |dz/dx|")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        _plain(axes, "both")
    return _save(figure, stem)


def draw_curves(stem: Path, found: Sequence[Curves]) -> list[Path]:
    """The losses of the frameworks, and below them how far each has drifted from the first."""
    names = list(dict.fromkeys(each.name for each in found))
    figure = Figure(figsize=(4.5 * len(names), 5.6), layout="constrained")
    panels = figure.subplots(2, len(names), squeeze=False)
    for column, name in enumerate(names):
        top, bottom = panels[:, column]
        top.set_title(name, fontsize=10)
        for each in (each for each in found if each.name == name):
            for index, (backend, losses) in enumerate(each.losses.items()):
                style = {"color": _COLOURS[index], "linewidth": 2.4 - 0.7 * index}
                if each.dtype == "float32":
                    top.plot(losses, label=backend, linestyle=("-", "--", ":")[index % 3], **style)
                if index:
                    drift = each.drift(backend)
                    bottom.plot(
                        np.where(drift > 0, drift, np.nan),
                        color=_COLOURS[index],
                        linestyle="-" if each.dtype == "float32" else "--",
                        label=f"{backend}, {each.dtype}",
                    )
        top.set_ylabel("total loss, float32")
        bottom.set_yscale("log")
        bottom.set_ylim(1e-17, 10)
        bottom.set_ylabel("largest relative difference so far")
        bottom.set_xlabel("step")
        for axes in (top, bottom):
            axes.legend(frameon=False, fontsize=8)
            _plain(axes, "both")
    return _save(figure, stem)


def _plain(axes: Any, lines: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=lines, color="0.92")
    axes.set_axisbelow(True)


def _save(figure: Figure, stem: Path) -> list[Path]:
    paths = []
    for kind in ("png", "svg"):
        path = stem.with_name(f"{stem.name}.{kind}")
        with replacing(path) as temporary, rc_context({"svg.hashsalt": "gradreg"}):
            metadata = {"Date": None} if kind == "svg" else None
            figure.savefig(temporary, format=kind, dpi=160, metadata=metadata)
        paths.append(path)
    return paths
