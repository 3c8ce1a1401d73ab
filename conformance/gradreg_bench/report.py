"""Shows results in the terminal and as JSON."""

import os
import platform
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from gradreg_bench.modes import as_json as modes_as_json
from gradreg_bench.modes import over_modes
from gradreg_bench.run import cores
from gradreg_bench.task import Measurement, Result, model_title
from gradreg_bench.variants import BASELINES, PLAIN
from gradreg_core.cli.terminal import make_table
from gradreg_core.cli.versions import module_version
from gradreg_core.plugins.discovery import backends

__all__ = ["as_json", "machine", "print_notes", "print_result"]

_CLOCKS = {"wall": "wall time", "cpu": "processor time of the process"}


def machine() -> dict[str, Any]:
    """The machine: processor, cores, load over the last minute."""
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
    used = {result.task.backend for result in results}
    modules = {
        module
        for record in backends()
        if record.description is not None and record.name in used
        for module in record.description.modules
    }
    names = ("gradreg", "numpy", *sorted(modules))
    versions = {"python": platform.python_version()} | {name: module_version(name) for name in names}
    rows = [result.to_dict() | {"load": load} for result, load in zip(results, loads, strict=True)]
    values = {"machine": machine(), "versions": versions, "results": rows}
    modes = over_modes(results)
    return values | ({"modes": modes_as_json(modes)} if modes else {})


def print_result(console: Console, result: Result) -> None:
    """The table of one model in one framework, or of the host's share of a call."""
    task = result.task
    if result.host:
        _print_host(console, result)
        return
    plain = next(row for row in result.measurements if row.name == PLAIN)
    share = "unknown" if result.first_layer_share is None else f"{result.first_layer_share:.2f}"
    seconds = 1e3 * (plain.seconds or 0)
    title = f"{model_title(task.model, task.batch)} in {task.framework}: plain step {seconds:.1f} ms, f = {share}"
    headings = ["time", "quartiles", "limit", "share of it"] + (["memory"] if plain.memory else [])
    table = make_table(["variant", *headings], right=headings, title=title)
    for row in result.measurements:
        if row.ratio is not None:
            table.add_row(*_cells(row, plain.memory), style="dim" if row.name in BASELINES else None)
    console.print(table)
    for row in result.measurements:
        if row.ratio is None:
            console.print(f"left out: {row.name}: {row.failed}", style="yellow")


def _print_host(console: Console, result: Result) -> None:
    task = result.task
    headings = ["by hand, us", "loss, us", "more, us", "calls by hand", "more calls", "operations by hand", "more"]
    title = f"the host's share of a call in {task.framework}, eagerly, on {task.device}"
    table = make_table(["case", *headings], right=headings, title=title)
    for row in result.host:
        counts = ["", ""]
        if row.operations is not None and row.operations_by_hand is not None:
            counts = [f"{row.operations_by_hand}", f"{row.operations - row.operations_by_hand:+d}"]
        calls = [f"{row.calls_by_hand:.0f}", f"{row.python_calls - row.calls_by_hand:+.0f}"]
        times = [f"{row.by_hand:.0f}", f"{row.microseconds:.0f}", f"{row.overhead:+.0f}"]
        table.add_row(row.name, *times, *calls, *counts)
    console.print(table)
    if result.draws_agree is not None:
        console.print("draws: the published bits" if result.draws_agree else "draws: OTHER BITS than published")


def _cells(row: Measurement, plain_memory: int | None) -> list[str]:
    """One row of the table; the plain step is the unit, so most of its cells are empty."""
    assert row.ratio is not None
    cells = [row.name, f"{row.ratio.median:.2f}", "", "", ""]
    if row.name != PLAIN:
        cells[2] = f"{row.ratio.low:.2f} - {row.ratio.high:.2f}"
        cells[3] = "" if row.limit is None else f"{row.limit:.2f}"
        cells[4] = "" if row.share_of_limit is None else f"{100 * row.share_of_limit:.0f} %"
    if plain_memory:
        cells.append("" if row.memory is None else f"{row.memory / plain_memory:.2f}")
    return cells


def print_notes(console: Console, result: Result) -> None:
    """The explanation of the tables."""
    notes = [
        "time: the median over the rounds of a step's time divided by the plain step's in the same round; forward and "
        "backward pass, no optimizer",
        "limit: (3 + 3k - f) / (3 - f) for k rows, f the first layer's share of a forward pass (0 if it is unknown)",
        "memory: peak of a step above the memory before it, as a multiple of the plain step's, in a fresh process",
        f"allocator: {result.allocator}",
        f"threads: {result.task.threads}; clock: {_CLOCKS[result.task.clock]}",
        *(f"{name}: {text}" for name, text in BASELINES.items() if any(r.name == name for r in result.measurements)),
    ]
    for note in notes:
        console.print(note, style="dim")
