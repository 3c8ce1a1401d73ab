"""The demo's picture."""

from pathlib import Path

from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from gradreg_experiments.demo.experiment import Outcome
from gradreg_experiments.demo.methods import METHODS
from gradreg_experiments.demo.report import summarise
from gradreg_experiments.drawing import new_figure, plain, save

__all__ = ["draw_comparison"]

_OTHER, _GRADIENT = "#595959", "#0072b2"


def draw_comparison(stem: Path, outcome: Outcome) -> list[Path]:
    """Draw accuracy and Jacobian norm of every method, a dot per seed and a bar at the mean."""
    rows = summarise(outcome)
    figure = new_figure(8, 3.9)
    left, right = figure.subplots(1, 2, sharey=True)
    for place, (row, method) in enumerate(zip(rows, METHODS, strict=True)):
        colour = _GRADIENT if method.gradient else _OTHER
        norms = [run["jacobian_frobenius"] for run in outcome.runs[row.method]]
        for axes, values, mean in ((left, row.accuracies, row.mean), (right, norms, row.jacobian)):
            axes.scatter(values, [place] * len(values), s=34, color=colour, alpha=0.45, linewidths=0)
            axes.plot([mean, mean], [place - 0.32, place + 0.32], color=colour, linewidth=2.6, solid_capstyle="butt")
            words = f"{mean:.1f}" if axes is left else f"{mean:.2g}"
            axes.annotate(words, (mean, place - 0.34), ha="center", va="bottom", color=colour, fontsize=9)
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
        plain(axes, "x")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    settings = outcome.settings
    figure.suptitle(
        f"{outcome.data}, {settings.train_size} training images: {settings.seeds} seeds (dots) and their mean (bar)",
        fontsize=11,
    )
    figure.supxlabel("test images; weights chosen on validation images; blue: gradient regularization", fontsize=9)
    return save(figure, stem, ("png",), dpi=200)
