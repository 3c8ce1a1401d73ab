"""Compares the modes of a framework: times as multiples of its fastest plain step.

A compiler may slow down a plain step; then every ratio to it looks better than it is.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from gradreg_bench.task import Result, Task, model_title
from gradreg_bench.variants import PLAIN
from gradreg_core.cli.terminal import make_table

__all__ = ["ModeRow", "as_json", "over_modes", "print_modes"]

_EAGER = "first"


@dataclass(frozen=True)
class ModeRow:
    """A variant on one model in the modes of one backend."""

    backend: str
    model: str
    batch: int
    variant: str
    times: dict[str, float]
    """The seconds per mode, relative to the plain step in its fastest mode."""

    @property
    def fastest(self) -> str:
        """The mode in which the variant is fastest."""
        return min(self.times, key=self.times.__getitem__)


def over_modes(results: Sequence[Result]) -> list[ModeRow]:
    """The variants of every model timed in several modes of a backend under otherwise equal conditions."""
    groups: dict[Any, list[Result]] = {}
    for result in results:
        groups.setdefault(_alike(result.task), []).append(result)
    rows = []
    for (backend, model, batch, *_), group in groups.items():
        seconds = {
            (row.name, result.task.mode or _EAGER): row.seconds
            for result in group
            for row in result.measurements
            if row.seconds is not None
        }
        plain = [value for (name, _), value in seconds.items() if name == PLAIN]
        if len(plain) < 2:
            continue
        for name in dict.fromkeys(name for name, _ in seconds):
            times = {mode: value / min(plain) for (other, mode), value in seconds.items() if other == name}
            rows.append(ModeRow(backend, model, batch, name, times))
    return rows


def _alike(task: Task) -> tuple[Any, ...]:
    return task.backend, task.model, task.batch, task.threads, task.clock, task.device, task.precision


def as_json(rows: Sequence[ModeRow]) -> list[dict[str, Any]]:
    """As JSON values."""
    return [asdict(row) | {"fastest": row.fastest} for row in rows]


def print_modes(console: Console, rows: Sequence[ModeRow]) -> None:
    """A table of all modes, as multiples of the plain step in its fastest mode."""
    if not rows:
        return
    modes = list(dict.fromkeys(mode for row in rows for mode in row.times))
    title = "times relative to the plain step in its fastest mode (first: the backend's first mode)"
    table = make_table(["backend", "model", "variant", *modes, "fastest"], right=modes, title=title)
    for row in rows:
        cells = [f"{row.times[mode]:.2f}" if mode in row.times else "" for mode in modes]
        table.add_row(row.backend, model_title(row.model, row.batch), row.variant, *cells, row.fastest)
    console.print(table)
