"""The losses of the same run in several frameworks, step by step, and how far they drift apart."""

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gradreg_experiments.drawing import COLOURS, new_figure, plain, save
from gradreg_experiments.job import Job
from gradreg_experiments.results import Results

__all__ = ["DTYPES", "Curves", "curve_table", "draw_curves", "recorded_curves"]

DTYPES = ("float32", "float64")
_APART = (1e-5, 1e-3, 1e-1)


class Curves(NamedTuple):
    """The losses of one run in one arithmetic."""

    name: str
    dtype: str
    losses: dict[str, Any]
    """Backend -> the loss of each step."""

    @property
    def reference(self) -> str:
        """The first backend, which the others are compared with."""
        return next(iter(self.losses))

    def drift(self, backend: str, reference: str | None = None) -> Any:
        """The largest relative difference to the reference up to each step."""
        base = self.losses[reference or self.reference]
        return np.maximum.accumulate(np.abs(self.losses[backend] - base) / np.abs(base))

    def together(self, backend: str, reference: str | None = None) -> dict[float, int | None]:
        """For each limit of the relative difference, the first step (from 0) that exceeds it, or None."""
        drift = self.drift(backend, reference)
        return {limit: int(np.argmax(drift > limit)) if (drift > limit).any() else None for limit in _APART}


def recorded_curves(jobs: Sequence[Job], results: Results, name: Callable[[Job], str]) -> list[Curves]:
    """The recorded losses, by name and arithmetic, if at least two backends have been run."""
    losses: dict[tuple[str, str], dict[str, Any]] = {}
    for job in jobs:
        result = results.get(job.key)
        if result is not None:
            own = losses.setdefault((name(job), job.protocol.dtype), {})
            own[job.backend] = np.asarray(result["every_loss"])
    return [Curves(*names, by_backend) for names, by_backend in losses.items() if len(by_backend) > 1]


def curve_table(curves: Sequence[Curves]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(headings, rows): per pair of frameworks, the first step at which their losses differ by more than each limit."""
    headings = ("run", "arithmetic", "framework", "first step", *(f"above {limit:g}" for limit in _APART))
    rows = []
    for curve in curves:
        for reference, backend in combinations(curve.losses, 2):
            steps = curve.together(backend, reference).values()
            rows.append(
                (
                    curve.name,
                    curve.dtype,
                    f"{backend} against {reference}",
                    f"{curve.drift(backend, reference)[0]:.0e}",
                    *("never" if step is None else f"step {step}" for step in steps),
                )
            )
    return headings, rows


def draw_curves(stem: Path, curves: Sequence[Curves], kinds: Sequence[str] = ("png", "svg")) -> list[Path]:
    """The losses of the frameworks, and below them how far each has drifted from the first."""
    names = list(dict.fromkeys(curve.name for curve in curves))
    figure = new_figure(4.5 * len(names), 5.6)
    panels = figure.subplots(2, len(names), squeeze=False)
    for column, name in enumerate(names):
        top, bottom = panels[:, column]
        top.set_title(name, fontsize=10)
        for curve in (curve for curve in curves if curve.name == name):
            for index, (backend, losses) in enumerate(curve.losses.items()):
                style = {"color": COLOURS[index % len(COLOURS)], "linewidth": max(2.4 - 0.7 * index, 0.5)}
                if curve.dtype == "float32":
                    top.plot(losses, label=backend, linestyle=("-", "--", ":")[index % 3], **style)
                if index:
                    drift = curve.drift(backend)
                    bottom.plot(
                        np.where(drift > 0, drift, np.nan),
                        color=COLOURS[index % len(COLOURS)],
                        linestyle="-" if curve.dtype == "float32" else "--",
                        label=f"{backend}, {curve.dtype}",
                    )
        top.set_ylabel("total loss, float32")
        bottom.set_yscale("log")
        bottom.set_ylim(1e-17, 10)
        bottom.set_ylabel("largest relative difference so far")
        bottom.set_xlabel("step")
        for axes in (top, bottom):
            axes.legend(frameon=False, fontsize=8)
            plain(axes, "both")
    return save(figure, stem, kinds)
