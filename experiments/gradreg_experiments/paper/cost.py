"""What a step of each cell costs, measured side by side by :mod:`gradreg_bench`, beside the accuracy that it keeps."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gradreg_bench.report import as_json, machine
from gradreg_bench.run import run
from gradreg_bench.task import Result, Task
from gradreg_core.cli.files import write_json
from gradreg_core.errors import DataFileError
from gradreg_experiments.paper.experiments import Cell
from gradreg_experiments.paper.summary import Summary

__all__ = ["HEADINGS", "Point", "measure", "points", "read", "rows"]

HEADINGS = (
    "setting",
    "cost of a step",
    "seeds",
    "accuracy % (sd)",
    "gain over none",
    "p of gain",
    "part of the full gain",
)
_FULL = "every=1"


class Point(NamedTuple):
    """A cell of the experiment "cost"."""

    summary: Summary
    cost: float
    """The average step's time as a ratio to the plain step's, 1 for the cell without penalty."""
    part: float | None
    """Its gain as a ratio to that of the cell with the whole penalty at every step."""


def measure(path: Path, cells: Sequence[Cell], backend: str, repeats: int = 20) -> None:
    """Time a step of each cell, on one core of this machine, and write the ratios to `path`.

    Raises:
        GradregError: the process that measures failed.
    """
    own = {cell.name: reg.to_dict() for cell in cells if (reg := cell.make(1)) is not None}
    texts = tuple((name, json.dumps(each)) for name, each in own.items())
    framework = "jax-fast" if backend == "jax" else backend  # the convolution that the runs are trained with
    task = Task(framework, "lenet", cells[0].protocol.batch, (1,), (), repeats, 1, regularizers=texts)
    load = machine()["load"]
    write_json(path, as_json([run(task)], [load]))


def read(path: Path) -> dict[str, float]:
    """Cell -> ratio to a plain step, from a file of :func:`measure`; empty if there is none.

    Raises:
        DataFileError: the file is not one of :func:`measure`.
    """
    if not path.exists():
        return {}
    try:
        (result,) = json.loads(path.read_text(encoding="utf-8"))["results"]
        found = Result.from_dict(result).measurements
    except (ValueError, KeyError, TypeError) as error:
        raise DataFileError(
            f"{path}: expected the costs of steps as reproduce writes them, got {error!r}. Remove the file and run "
            "gradreg reproduce cost again, which measures them."
        ) from error
    return {each.name: each.ratio.median for each in found if each.ratio is not None}


def points(summaries: Sequence[Summary], costs: dict[str, float]) -> list[Point]:
    """Cost and gain of the cells that have both."""
    full = {each.cell.row: each.gain for each in summaries if each.cell.column == _FULL}
    found = []
    for each in summaries:
        cost = 1.0 if each.cell.column == "none" else costs.get(each.cell.name)
        if cost is not None and each.mean is not None:
            whole = full.get(each.cell.row)
            part = each.gain / whole if each.gain is not None and whole else None
            found.append(Point(each, cost, part))
    return found


def rows(found: Sequence[Point]) -> list[tuple[Any, ...]]:
    """Under :data:`HEADINGS`."""

    def text(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return [
        (
            each.summary.cell.name,
            f"{each.cost:.2f}",
            str(len(each.summary.values)),
            text(each.summary.mean, ".2f") + (f" ({each.summary.deviation:.2f})" if each.summary.deviation else ""),
            text(each.summary.gain, "+.2f"),
            text(each.summary.p_gain, ".3f"),
            text(each.part, ".0%").replace("%", " %"),
        )
        for each in found
    ]
