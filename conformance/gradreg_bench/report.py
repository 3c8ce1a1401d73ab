"""Shows results in the terminal and as JSON."""

import os
import platform
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gradreg_bench.run import cores
from gradreg_bench.task import FRAMEWORKS, Result
from gradreg_bench.variants import BASELINES, PLAIN
from gradreg_core.cli.main import module_version

__all__ = ["as_json", "machine", "print_notes", "print_result"]


_CLOCKS = {"wall": "the wall's", "cpu": "processor time of the process"}


def machine() -> dict[str, Any]:
    """Where it was measured: processor, cores, load over the last minute."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "processor": _processor(),
        "cores": len(cores()) or os.cpu_count(),
        "system": platform.platform(),
        "load": None if load is None else round(load, 2),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def as_json(results: Sequence[Result], loads: Sequence[float | None]) -> dict[str, Any]:
    """All numbers, with versions and machine."""
    backends = {FRAMEWORKS[each.task.framework][0] for each in results}
    names = ("gradreg", "numpy", *sorted(backends))
    versions = {"python": platform.python_version()} | {name: module_version(name) for name in names}
    rows = [each.to_dict() | {"load": load} for each, load in zip(results, loads, strict=True)]
    return {"machine": machine(), "versions": versions, "results": rows}


def print_result(console: Console, result: Result) -> None:
    """The table of one model in one framework."""
    task = result.task
    plain = next(each for each in result.measurements if each.name == PLAIN)
    share = "unknown" if result.first_share is None else f"{result.first_share:.2f}"
    seconds = 1e3 * (plain.seconds or 0)
    title = f"{task.model} in {task.framework}, batch {task.batch}: plain step {seconds:.1f} ms, f = {share}"
    table = Table(title=title, box=SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("variant", no_wrap=True)
    memory = plain.memory
    headings = ["time", "quartiles", "limit", "share of it"] + (["memory"] if memory else [])
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    failed = []
    for row in result.measurements:
        if row.ratio is None:
            failed.append(f"{row.name}: {row.failed}")
            continue
        cells = [
            row.name,
            f"{row.ratio.median:.2f}",
            "" if row.name == PLAIN else f"{row.ratio.low:.2f} - {row.ratio.high:.2f}",
            "" if row.limit is None or row.name == PLAIN else f"{row.limit:.2f}",
            "" if row.achieved is None or row.name == PLAIN else f"{100 * row.achieved:.0f} %",
        ]
        if memory:
            cells.append("" if row.memory is None else f"{row.memory / memory:.2f}")
        table.add_row(*cells, style="dim" if row.name in BASELINES else None)
    console.print(table)
    for line in failed:
        console.print(f"left out: {line}", style="yellow", highlight=False, markup=False, soft_wrap=True)


def print_notes(console: Console, result: Result) -> None:
    """What is to be known to read the tables."""
    notes = [
        "time: the median over the rounds of a step's time divided by the plain step's in the same round; forward and "
        "backward pass, no optimizer",
        "limit: (3 + 3k - f) / (3 - f) for k rows, f the first layer's share of a forward pass (0 where it is unknown)",
        "memory: peak of a step beyond what is there before it, as a multiple of the plain step's, in a fresh process",
        f"allocator: {result.allocator}",
        f"threads: {result.task.threads}; clock: {_CLOCKS[result.task.clock]}",
        *(f"{name}: {text}" for name, text in BASELINES.items() if any(r.name == name for r in result.measurements)),
    ]
    for note in notes:
        console.print(note, style="dim", highlight=False, markup=False, soft_wrap=True)
