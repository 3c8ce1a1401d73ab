"""The picture of a search: score and norm over the weight, drawn by Matplotlib without a window or global state."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw"]

_SCORE, _NORM, _BEST = "#0072b2", "#e69f00", "#d55e00"
"""From Okabe and Ito; their markers distinguish them without colour too."""


def draw(result: Any, advised: tuple[float, float]) -> "Figure":
    """The scores with their standard errors, and below them the norms, if they are known.

    Args:
        result: a :class:`gradreg_core.tuning.trials.SearchResult`.
        advised: the range of norms to mark, as shares of the norm without a regularizer.
    """
    from matplotlib.figure import Figure

    tried = [candidate for candidate in result.candidates if candidate.regularizer is not None]
    has_norms = bool(result.none.norm) and any(candidate.norm is not None for candidate in tried)
    figure = Figure(figsize=(5, 4.6 if has_norms else 3.2), layout="constrained")
    panels = figure.subplots(2 if has_norms else 1, 1, sharex=True, squeeze=False)[:, 0]
    _scores(panels[0], result, tried)
    if has_norms:
        _norms(panels[1], result.none.norm, tried, advised)
    for axes in panels:
        axes.set_xscale("log")
        axes.tick_params(which="both", labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
        axes.legend(fontsize=8, frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    panels[-1].set_xlabel("weight", fontsize=9)
    return figure


def _scores(axes: Any, result: Any, tried: Sequence[Any]) -> None:
    finite = [candidate for candidate in tried if candidate.is_finite]
    errors = [result.standard_error(candidate) or 0.0 for candidate in finite]
    weights, scores = [candidate.weight for candidate in finite], [candidate.score for candidate in finite]
    axes.errorbar(weights, scores, errors, fmt="o-", color=_SCORE, capsize=3, linewidth=1.2, label="score")
    none, error = result.none.score, result.standard_error(result.none)
    if result.none.is_finite:
        axes.axhline(none, color="0.4", linestyle="--", linewidth=1, label="without a regularizer")
        if error is not None:
            axes.axhspan(none - error, none + error, color="0.9")
    if result.best.regularizer is not None and result.best.is_finite:
        axes.plot(result.best.weight, result.best.score, "*", color=_BEST, markersize=13, zorder=3, label="chosen")
    axes.set_ylabel("score", fontsize=9)


def _norms(axes: Any, none: float, tried: Sequence[Any], advised: tuple[float, float]) -> None:
    known = [(candidate.weight, candidate.norm) for candidate in tried if candidate.norm is not None]
    axes.axhspan(*advised, color="0.92", label="where the best weights were")
    shares = [norm / none for _, norm in known]
    axes.plot([weight for weight, _ in known], shares, "s-", color=_NORM, linewidth=1.2, label="norm of the Jacobian")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("share of that without", fontsize=9)
