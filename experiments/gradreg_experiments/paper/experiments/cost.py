"""The gain that cheaper settings keep, and the cost of their steps, with dropout and Table 1's weights.

SpectReg shares the loss's pass and draws a direction per sample. "every" applies the penalty at every n-th step, n
times as much, "fraction" for a part of each batch, and "jvp" and "difference" act along random directions in the input;
see :class:`gradreg_core.spec.Term`. :mod:`gradreg_bench` measures the costs of the steps side by side.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradreg_bench.report import as_json, machine
from gradreg_bench.run import run
from gradreg_bench.task import Task
from gradreg_core.cli.files import write_json
from gradreg_core.errors import DataFileError, InputError
from gradreg_core.presets import DataGrad, SpectReg
from gradreg_core.schema import to_dict
from gradreg_core.spec import Regularizer
from gradreg_experiments.paper import tables
from gradreg_experiments.paper.cells import CellExperiment, no_penalty
from gradreg_experiments.paper.experiment import Page, Report, Settings
from gradreg_experiments.paper.figures import CostPoint, draw_cost, draw_table
from gradreg_experiments.paper.protocol import Choices, Protocol
from gradreg_experiments.paper.summary import Cell, Make, Summary

__all__ = ["EXPERIMENT", "points", "read_costs", "table_rows"]

_HEADINGS = (
    "setting",
    "cost of a step",
    "seeds",
    "accuracy % (sd)",
    "gain over none",
    "p of gain",
    "part of the full gain",
)
_FULL = "every=1"
_REPEATS = 20


@dataclass(frozen=True, kw_only=True)
class _CostExperiment(CellExperiment):
    """The cells with the cost of their steps."""

    def tables(self, settings: Settings, report: Report, rows: Sequence[Summary]) -> None:
        if settings.protocol.network != Protocol.network:
            raise InputError(f"reproduce cost: the cost of a step is that of {Protocol.network}; leave --network out.")
        stem, title = self.named(settings)
        numbers = report.out / f"{stem}.json"
        if not numbers.exists() and settings.train:
            with report.console.status("the cost of a step of each setting"):
                _measure(numbers, [row.cell for row in rows], settings.backend)
        measured = points(rows, read_costs(numbers))
        table = tables.markdown(_HEADINGS, table_rows(measured))
        path = report.write(stem, title, table)
        report.console.print(table)
        report.wrote([report.out / f"{stem}.md", *(draw_cost(path, title, measured) if measured else [])])

    def blocks(self, page: Page, rows: Sequence[Summary], backend: str) -> list[str]:
        name = f"{self.name}-{backend}"
        measured = points(rows, read_costs(page.out / f"{name}.json"))
        table = tables.markdown(_HEADINGS, table_rows(measured)) if measured else ""
        return [page.picture(name, self.title), table]


def _cells(base: Protocol, choices: Choices) -> list[Cell]:
    protocol = replace(base, before_last="dropout")
    settings: tuple[tuple[str, dict[str, Any]], ...] = (
        *((f"every={steps}", {"every": steps}) for steps in (1, 2, 4, 8, 16)),
        *((f"fraction=1/{parts}", {"fraction": 1 / parts}) for parts in (2, 4, 8)),
        ("jvp", {"side": "input"}),
        ("difference", {"side": "input", "method": "difference"}),
    )
    cells = []
    for row, kind, weight in (("DataGrad", DataGrad, 50.0), ("SpectReg", SpectReg, 0.01)):
        shared = replace(protocol, penalty_pass="shared") if row == "SpectReg" else protocol  # noqa: S106
        cells.append(Cell(row, "none", protocol, no_penalty))
        for column, options in settings:
            seeded = row == "SpectReg" or "every" not in options
            cells.append(Cell(row, column, shared, _cheap(kind, weight, options, seeded)))
    return cells


def _cheap(kind: Callable[..., Regularizer], weight: float, options: Mapping[str, Any], seeded: bool) -> Make:
    return lambda seed: kind(weight, **options, **({"seed": seed} if seeded else {}))


def _measure(path: Path, cells: Sequence[Cell], backend: str) -> None:
    """Time a step of each cell on one core of this machine, and write the ratios to `path`."""
    regularizers = {cell.name: to_dict(reg) for cell in cells if (reg := cell.make(1)) is not None}
    texts = tuple((name, json.dumps(reg)) for name, reg in regularizers.items())
    framework = "jax-fast" if backend == "jax" else backend  # the convolution used in the runs
    task = Task(framework, "lenet", cells[0].protocol.batch, (1,), (), _REPEATS, 1, regularizers=texts)
    load = machine()["load"]
    write_json(path, as_json([run(task)], [load]))


def read_costs(path: Path) -> dict[str, float]:
    """Cell -> ratio to a plain step, from the file of an earlier measurement; empty if there is none.

    Raises:
        DataFileError: the file is not such a file.
    """
    if not path.exists():
        return {}
    try:
        (result,) = json.loads(path.read_text(encoding="utf-8"))["results"]
        ratios = {measured["name"]: measured["ratio"] for measured in result["measurements"]}
        return {name: float(ratio["median"]) for name, ratio in ratios.items() if ratio is not None}
    except (ValueError, KeyError, TypeError) as error:
        raise DataFileError(
            f"{path}: expected the costs of steps as reproduce writes them, got {error!r}. Remove the file and run "
            "gradreg reproduce cost again, which measures them."
        ) from error


def points(summaries: Sequence[Summary], costs: dict[str, float]) -> list[CostPoint]:
    """Cost and gain of the cells that have both."""
    full = {summary.cell.row: summary.gain for summary in summaries if summary.cell.column == _FULL}
    measured = []
    for summary in summaries:
        cost = 1.0 if summary.cell.column == "none" else costs.get(summary.cell.name)
        if cost is not None and summary.mean is not None:
            whole = full.get(summary.cell.row)
            part = summary.gain / whole if summary.gain is not None and whole else None
            measured.append(CostPoint(summary, cost, part))
    return measured


def table_rows(measured: Sequence[CostPoint]) -> list[tuple[str, ...]]:
    """The rows of the table of costs and gains."""

    def text(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return [
        (
            summary.cell.name,
            f"{cost:.2f}",
            str(len(summary.values)),
            text(summary.mean, ".2f") + (f" ({summary.deviation:.2f})" if summary.deviation else ""),
            text(summary.gain, "+.2f"),
            text(summary.p_gain, ".3f"),
            text(part, ".0%").replace("%", " %"),
        )
        for summary, cost, part in measured
    ]


EXPERIMENT = _CostExperiment(
    name="cost",
    title="Accuracy over cost: MNIST, 2,000 training images, dropout",
    place=5,
    cells=_cells,
    draw=draw_table,
)
