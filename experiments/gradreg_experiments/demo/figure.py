"""The demo's pictures, drawn by Matplotlib without a window or global state."""

from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from gradreg_core.cli.files import replacing
from gradreg_experiments.demo.compare import DTYPES, REGULARIZER, Comparison
from gradreg_experiments.demo.experiment import Results
from gradreg_experiments.demo.methods import METHODS
from gradreg_experiments.demo.report import summarise

__all__ = ["draw_comparison", "draw_curves"]

_OTHER, _GRADIENT = "#595959", "#0072b2"
_CURVES = (("#0072b2", "-"), ("#e69f00", "--"), ("#cc79a7", ":"))
"""Colours of Okabe and Ito, told apart without colour too."""
_DPI = 200


def draw_comparison(path: Path, results: Results) -> None:
    """Accuracy and Jacobian norm of every method, a point for each seed and a bar at the mean."""
    rows = summarise(results)
    figure = Figure(figsize=(8, 3.9), dpi=_DPI, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for place, (row, method) in enumerate(zip(rows, METHODS, strict=True)):
        colour = _GRADIENT if method.gradient else _OTHER
        norms = [each.jacobian for each in results.outcomes[row.method]]
        for axes, values, mean in ((left, row.accuracies, row.mean), (right, norms, row.jacobian)):
            axes.scatter(values, [place] * len(values), s=34, color=colour, alpha=0.45, linewidths=0)
            axes.plot([mean, mean], [place - 0.32, place + 0.32], color=colour, linewidth=2.6, solid_capstyle="butt")
        left.annotate(f"{row.mean:.1f}", (row.mean, place - 0.34), ha="center", va="bottom", color=colour, fontsize=9)
        right.annotate(
            f"{row.jacobian:.2g}", (row.jacobian, place - 0.34), ha="center", va="bottom", color=colour, fontsize=9
        )
    left.axvline(rows[0].mean, color=_OTHER, linewidth=0.8, linestyle=":", zorder=0)
    left.set_yticks(
        range(len(rows)), [row.method if row.chosen == "-" else f"{row.method}\n{row.chosen}" for row in rows]
    )
    left.set_ylim(len(rows) - 0.5, -0.8)
    left.tick_params(axis="y", labelsize=9)
    for label, method in zip(left.get_yticklabels(), METHODS, strict=True):
        label.set_color(_GRADIENT if method.gradient else "black")
    left.set_xlabel("test accuracy, %")
    right.set_xlabel("mean Jacobian norm ||J||$_F$ (log scale)")
    right.set_xscale("log")
    right.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6, 8)))
    right.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    right.xaxis.set_minor_formatter(NullFormatter())
    for axes in (left, right):
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="0.92")
        axes.set_axisbelow(True)
    settings = results.settings
    figure.suptitle(
        f"{results.data}, {settings.train_size} training images: {settings.seeds} seeds (dots) and their mean (bar)",
        fontsize=11,
    )
    figure.supxlabel("test images; weights chosen on validation images; blue: gradient regularization", fontsize=9)
    _save(figure, path)


def draw_curves(path: Path, comparison: Comparison, data: str) -> None:
    """Training losses by backend, and how far each has drifted from the first (log scale)."""
    figure = Figure(figsize=(8, 3.4), dpi=_DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = dict(zip(comparison.curves[DTYPES[0]], cycle(_CURVES), strict=False))
    for index, (name, losses) in enumerate(comparison.curves["float32"].items()):
        colour, style = styles[name]
        left.plot(losses, color=colour, linestyle=style, linewidth=2.8 - 0.7 * index, label=name)
    for dtype, curves in comparison.curves.items():
        for name in [each for each in curves if each != comparison.reference]:
            drift = comparison.drift(dtype, name)
            colour, style = styles[name]
            width = 2.0 if dtype == "float32" else 1.1
            shown = np.where(drift > 0, drift, np.nan)
            right.plot(shown, color=colour, linestyle=style, linewidth=width, label=f"{name}, {dtype}")
    left.set_title("total loss, float32", fontsize=10)
    left.set_ylim(bottom=0)
    right.set_title(f"largest relative difference to {comparison.reference} so far", fontsize=10)
    right.set_yscale("log")
    right.set_ylim(1e-17, 1)
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92")
    left.legend(frameon=False, fontsize=9)
    right.legend(frameon=False, fontsize=9, loc="center", bbox_to_anchor=(0.6, 0.36))
    figure.suptitle(f"{data}: one run in each framework, {REGULARIZER!r}, dropout 0.5", fontsize=11)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
